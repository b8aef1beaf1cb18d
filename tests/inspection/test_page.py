"""The contact sheet's layout, and its page in a real browser: complete without a network, slider, phone."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg.data.augment import Window
from fastseg.inspection.measure import Crop, Entry, Inspection
from fastseg.inspection.page import COLUMNS, GAP, TILE, contact_sheet, image_url, shares, write_page
from fastseg.labels import IGNORE, SegmentationClass
from fastseg.shards.manifest import Split

CLASSES = (SegmentationClass("road", (128, 64, 128)), SegmentationClass("<b>sky</b>", (70, 130, 180)))
LONG = "unbroken" * 12
WINDOW = Window(0, 64, 0, 96, 64, 96, 0, 0, True)


def crop(number: int) -> Crop:
    """Green, the left third road, the right one ignored."""
    label = np.full((64, 96), 1, np.uint8)
    label[:, :32], label[:, 64:] = 0, IGNORE
    return Crop(f"key_{number}", (64, 96), WINDOW, np.full((64, 96, 3), (0, 200, 0), np.uint8), label)


INSPECTION = Inspection(
    crops=64,
    pixels=(300, 100, 100),
    showing=(64, 0, 32),
    unlabeled=0,
    padding=0.0,
    seen=0.3,
    shown=tuple(crop(number) for number in range(8)),
    entries=(Entry("key_0", (64, 96), 1234, 56, (0, IGNORE)),),
    shift=None,
)
SPLIT = Split((), sizes=((64, 96, 10),), pixels=(800, 0, 200))


def test_the_sheet_shows_each_crop_as_it_is_and_under_its_mask() -> None:
    sheet = np.asarray(contact_sheet(INSPECTION.shown, CLASSES))
    height = round(TILE * 64 / 96)
    assert sheet.shape[1] == COLUMNS * (TILE + GAP) - GAP
    assert sheet.shape[0] > 4 * height  # two rows of pairs, and a legend
    for column in (0, 1):
        left = column * (TILE + GAP)
        image, overlay = (sheet[20 + height // 2 + i * height, left : left + TILE] for i in (0, 1))
        assert (image == (0, 200, 0)).all()
        assert tuple(overlay[TILE // 2]) == tuple(
            round(0.45 * a + 0.55 * b) for a, b in zip((0, 200, 0), (70, 130, 180), strict=True)
        )
        assert tuple(overlay[-9]) == (0, 200, 0)  # ignored: the image shows
    legend = sheet[-28:].reshape(-1, 3).tolist()
    assert all(list(c.color) in legend for c in CLASSES)


def test_a_very_wide_crop_and_a_very_long_name_have_a_sheet() -> None:
    wide = crop(0)._replace(image=np.zeros((8, 16384, 3), np.uint8), label=np.zeros((8, 16384), np.uint8))
    sheet = contact_sheet([wide], (SegmentationClass(LONG, (1, 2, 3)),))
    assert sheet.size == (TILE, 2 + 20 + GAP + 28)
    assert image_url(Image.fromarray(wide.image)).startswith("data:image/jpeg")


def test_shares_before_and_after() -> None:
    road, sky, ignored = shares(INSPECTION, SPLIT, CLASSES)
    assert (road.before, road.after, road.ratio, road.crops) == (0.8, 0.6, "0.75", 1)
    assert (sky.before, sky.after, sky.ratio) == (0, 0.2, "–")
    assert (ignored.name, ignored.before, ignored.crops) == ("(ignored)", 0.2, 0.5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inspect")
    facts = [("set", f"shards/{LONG}"), ("crops", "64×96")]
    sentences = ["class '<b>sky</b>' never appeared in 64 crops", f"class '{LONG}' has no pixel"]
    inspection = replace(INSPECTION, pixels=(300, 100, 0, 100), showing=(64, 0, 0, 32))
    split = replace(SPLIT, pixels=(800, 0, 0, 200))
    classes = (*CLASSES, SegmentationClass(LONG, (0, 0, 142)))
    return write_page(folder, f"{LONG}, train", facts, sentences, inspection, split, classes)


def test_the_page_needs_nothing_beside_it(written: tuple[Path, Path]) -> None:
    sheet, page = written
    text = page.read_text()
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "&lt;b&gt;sky&lt;/b&gt;" in text
    assert "<b>sky" not in text
    assert text.count("data:image/png") == text.count("data:image/jpeg") == 8


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark"), (320, "light")])
def test_the_slider_fades_the_masks(browser, written: tuple[Path, Path], width: int, theme: str) -> None:
    page, complaints, requests = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url.partition(":")[0]))
    page.goto(written[1].as_uri())
    masks, slider = page.locator(".both img + img"), page.locator("#mask")
    assert masks.count() == 8
    assert float(masks.first.evaluate("e => getComputedStyle(e).opacity")) == 0.55
    slider.focus()
    slider.press("Home")
    assert float(masks.first.evaluate("e => getComputedStyle(e).opacity")) == 0
    image, mask = (page.locator(".both img").nth(i).bounding_box() for i in (0, 1))
    assert image == mask  # the mask lies exactly on its image
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert set(requests) <= {"file", "data"}
    page.close()
