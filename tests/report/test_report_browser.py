"""The report in a real browser: nothing fails, nothing leaves the page, and what should move moves."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastseg.evaluation.metrics import Sample
from fastseg.labels import SegmentationClass, cityscapes
from fastseg.report.compare import write_comparison
from fastseg.report.gallery import write_gallery
from fastseg.report.report import write_report

LONG = "unbroken" * 12
CLASSES = (*cityscapes().classes[:-1], SegmentationClass(LONG, (119, 11, 32), LONG))
FRAMES = 3
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two evaluations of the 19 classes and three frames."""
    folder = tmp_path_factory.mktemp("street")
    (folder / "classes.json").write_text(
        json.dumps([{"name": c.name, "color": c.color, "category": c.category} for c in CLASSES])
    )
    numbers = {"lr": 0.01, "images_per_second_per_gpu": 40.0, "waiting": 0.01, "memory": 2.0**30}
    lines = [{"event": "train", "step": s, "seconds": s, "epoch": s, "loss": 1 / s, **numbers} for s in range(1, 40)]
    ious = {c.name: None if c.name == "train" else ((7 * i) % 19) / 19 for i, c in enumerate(CLASSES)}
    scores = {
        "classes": ious,
        "boundary_iou": ious,
        "class_accuracy": ious,
        "categories": {"flat": 0.5, "object": 0.25, LONG: 0.125},
    }
    lines += [{"event": "eval", "step": s, "miou": s / 100, "accuracy": 0.5, "images": 3, **scores} for s in (20, 39)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rng = np.random.default_rng(0)
    matrix = rng.integers(1, 99, (19, 19))
    matrix[18, 0] = 999  # so that the long name is among the mistakes
    (folder / "confusion.json").write_text(json.dumps({"matrix": matrix.tolist()}))
    (folder / "environment.json").write_text(json.dumps({"command": "fastseg/train.py " + "--long-flag " * 40}))
    (folder / "config.json").write_text(json.dumps({"name": "street", "a_very_long_name": "x" * 300}))
    frames = [
        Sample(i / 10, i, rng.integers(0, 255, (64, 128, 3), np.uint8), *rng.integers(0, 19, (2, 64, 128), np.uint8))
        for i in range(FRAMES)
    ]
    write_gallery(folder / "overlays", frames, [f"key_{i}" for i in range(FRAMES)], CLASSES)
    return folder


@pytest.fixture
def page(browser: Any, run: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open report."""
    yield from opened(browser, write_report(run), request)


@pytest.fixture
def comparison(browser: Any, run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open page about the run and another of the same records."""
    other = shutil.copytree(run, tmp_path / "other")
    yield from opened(browser, write_comparison((run, other), tmp_path / "compare.html"), request)


def opened(browser: Any, path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page; afterwards nothing may have been complained of or asked for."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda sent: said.append(f"failed: {sent.url[:80]}"))
    page.on("request", lambda sent: said.append(sent.url) if not sent.url.startswith(("data:", "file:")) else None)
    page.goto(path.as_uri())
    yield page
    context.close()
    assert said == []


def cut(page: Any) -> float:
    """Where the layer over the current frame begins, in per cent of its width."""
    clip = page.locator(".slide.current .chosen").evaluate("e => getComputedStyle(e).clipPath")
    return float(clip.removeprefix("inset(").split()[3].rstrip("%)"))


def column(page: Any, index: int) -> list[str]:
    cells = page.locator("table.sortable").first.locator(f"tbody tr > :nth-child({index + 1})")
    return [text.strip() for text in cells.all_text_contents()]


def test_the_slider_follows_mouse_and_keys(page: Any) -> None:
    assert cut(page) == 50
    page.locator(".slide.current .stage").scroll_into_view_if_needed()
    box = page.locator(".slide.current .stage").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], y)
    page.mouse.up()
    assert cut(page) == pytest.approx(20, abs=0.5)
    page.mouse.move(box["x"] + 0.8 * box["width"], y)
    assert cut(page) == pytest.approx(20, abs=0.5)  # the button is up
    page.locator("input.cut").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    moved = cut(page)
    assert moved > 20.5
    page.keyboard.press("ArrowLeft")
    assert 20 < cut(page) < moved
    page.keyboard.press("End")
    assert cut(page) == 100


def test_the_cut_is_where_the_pixels_change(page: Any) -> None:
    """Left of the line is the image, right of it the truth."""
    page.get_by_role("button", name="truth").click()
    shown = page.locator(".slide.current .stage")
    at_half = shown.screenshot()
    page.locator("input.cut").focus()
    page.keyboard.press("End")
    only_image = shown.screenshot()
    page.keyboard.press("Home")
    only_truth = shown.screenshot()
    assert len({at_half, only_image, only_truth}) == 3


def test_layers_and_frames_by_keys_and_buttons(page: Any) -> None:
    def state() -> tuple[str, str]:
        slide = page.locator(".slide.current")
        return slide.get_attribute("data-key"), slide.locator(".chosen").get_attribute("data-layer")

    assert page.locator(".slide:visible").count() == 1
    assert state() == ("key_0", "prediction")
    page.locator("input.cut").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("3")
    assert state() == ("key_1", "errors")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("1")
    assert state() == ("key_0", "truth")
    assert cut(page) == 50
    page.get_by_role("button", name="Previous frame").click()
    assert state() == (f"key_{FRAMES - 1}", "truth")
    assert page.locator(".where").text_content() == f"{FRAMES} of {FRAMES}"
    page.locator(".thumbnails button").nth(1).click()
    page.get_by_role("button", name="errors").click()
    assert state() == ("key_1", "errors")
    assert page.get_by_role("button", name="errors").get_attribute("aria-pressed") == "true"
    page.locator("input.opacity").fill("30")
    assert page.locator(".slide.current .chosen").evaluate("e => getComputedStyle(e).opacity") == "0.3"


def test_a_chart_shows_its_numbers_to_mouse_keys_and_fingers(page: Any) -> None:
    plot = page.locator(".plot").first  # the loss is 1 / step
    chart, tip = plot.locator("svg"), plot.locator(".tip")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert not tip.is_visible()
    page.mouse.move(box["x"] + 0.99 * box["width"], box["y"] + box["height"] / 2)
    assert tip.inner_text().split() == ["epoch", "39", "total", "0.02564"]
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2)
    epoch, total = (float(tip.inner_text().split()[i]) for i in (1, 3))
    assert 15 < epoch < 25
    assert total == pytest.approx(1 / epoch, rel=1e-3)
    inside = tip.bounding_box()
    assert inside["x"] + inside["width"] <= box["x"] + box["width"] + 20
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    page.locator("nav a").last.focus()
    page.keyboard.press("Tab")
    assert tip.is_visible()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().split() == ["epoch", "2", "total", "0.5"]
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_the_classes_share_a_cursor(page: Any) -> None:
    group = page.locator(".multiples")
    values = [text.strip() for text in group.locator("output").all_text_contents()]
    assert values[1] == f"{100 * 7 / 19:.2f} %"
    group.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".moment").text_content() == "Numbers are those of epoch 20."
    assert group.locator("output").nth(1).text_content() == "36.84 %"
    page.keyboard.press("Tab")
    assert page.locator(".moment").text_content() == "Numbers are the last values."
    assert [text.strip() for text in group.locator("output").all_text_contents()] == values


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_finger_shows_the_numbers(page: Any) -> None:
    plot = page.locator(".plot").first
    box = plot.locator("svg").bounding_box()
    page.touchscreen.tap(box["x"] + 0.99 * box["width"], box["y"] + 20)
    assert plot.locator(".tip").inner_text().split()[:2] == ["epoch", "39"]
    page.touchscreen.tap(20, page.locator("h1").bounding_box()["y"] + 5)
    assert not plot.locator(".tip").is_visible()


def test_tables_sort_up_down_and_back(page: Any) -> None:
    heads = page.locator("table.sortable").first.locator("thead th")
    names = column(page, 0)
    assert names == [c.name for c in CLASSES]
    assert heads.all_text_contents() == ["Class", "Category", "IoU", "Boundary IoU", "Accuracy", "Pixels"]
    iou = heads.nth(2).locator("button")
    iou.click()
    assert heads.nth(2).get_attribute("aria-sort") == "ascending"
    values = column(page, 2)
    assert values[-1] == "–"  # unknown ones come last
    rising = [float(value.rstrip(" %")) for value in values[:-1]]
    assert rising == sorted(rising)
    assert rising[0] < rising[-1]
    iou.focus()
    page.keyboard.press("Enter")
    assert heads.nth(2).get_attribute("aria-sort") == "descending"
    assert column(page, 2) == [*values[:-1][::-1], "–"]
    page.keyboard.press("Enter")
    assert column(page, 0) == names
    heads.nth(0).locator("button").click()
    assert column(page, 0) == sorted(names)
    assert heads.nth(2).get_attribute("aria-sort") == "none"


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
        PHONE,
        {**PHONE, "color_scheme": "dark"},
        {"viewport": {"width": 320, "height": 600}},
    ],
    ids=["desktop", "dark", "phone", "dark phone", "small phone"],
    indirect=True,
)
def test_nothing_overflows(page: Any, request: pytest.FixtureRequest) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (brightness < 60) == ("dark" in request.node.name)


@pytest.mark.parametrize("comparison", [{}, {**PHONE, "color_scheme": "dark"}], ids=["desktop", "phone"], indirect=True)
def test_frames_of_two_runs_move_together(comparison: Any) -> None:
    page = comparison
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    stages = page.locator(".slide.current .stage")
    assert stages.count() == 2
    page.get_by_role("button", name="errors").click()
    page.locator("input.cut").fill("30")
    for stage in stages.all():
        assert stage.locator(".layer:visible").count() == 2
        chosen = stage.locator(".chosen")
        assert chosen.get_attribute("data-layer") == "errors"
        assert chosen.evaluate("e => getComputedStyle(e).clipPath") == "inset(0px 0px 0px 30%)"
    page.get_by_role("button", name="truth").click()
    sources = [stage.locator(".chosen img").get_attribute("src") for stage in stages.all()]
    assert sources[0] == sources[1]
    tip = page.locator(".plot").first.locator(".tip")
    page.locator(".plot svg").first.focus()
    page.keyboard.press("End")
    assert len(tip.inner_text().split("\n")) == 5  # the epoch, and a name and a number for each run


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_every_picture_is_there(page: Any) -> None:
    assert page.locator(".layer img:visible").count() == 4 * FRAMES
    assert page.locator("button:visible, input:visible").count() == 0
    assert page.locator(".matrix td:visible").count() > 19 * 19


def test_printed_every_picture_is_there(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator(".layer img:visible").count() == 4 * FRAMES
    assert page.locator("button:visible, input:visible").count() == page.locator("thead button").count()


def test_all_is_reached_by_the_tab_key_and_its_focus_is_seen(page: Any) -> None:
    wanted = page.locator("a[href], button:visible, input:visible, summary, [tabindex='0']:visible").count()
    seen = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        outline, place = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            "return [s.outlineStyle + s.outlineWidth, [...document.querySelectorAll('*')].indexOf(e)] }"
        )
        assert outline == "solid3px"
        seen.add(place)
    assert len(seen) == wanted


def test_the_command_is_copied_and_the_matrix_read_out(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read"])
    page.get_by_role("button", name="copy the command").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == page.locator("#command").text_content().strip()
    page.locator(".matrix tbody tr").nth(1).locator("td").nth(0).hover()
    assert page.locator(".readout").text_content().startswith("sidewalk, predicted as road: ")
