"""Names on pictures, in the letters that a font has."""

import pytest
from PIL import ImageFont

from fastseg.labels import SegmentationClass
from fastseg.report.pictures import names_in, open_font, shortened

PILLOWS = ImageFont.load_default(13)
CLASSES = [SegmentationClass(name, (0, 0, 0)) for name in ("traffic light", "Straße", "café", "道路")]


def test_letters_that_a_font_lacks_are_replaced() -> None:
    assert names_in(PILLOWS, CLASSES) == ["traffic light", "Strasse", "cafe", "class 3"]


def test_a_font_of_the_system_has_more_of_them() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 13)
    except OSError:
        pytest.skip("DejaVu Sans is not installed")
    assert names_in(open_font(13), CLASSES[:3]) == ["traffic light", "Straße", "café"]


def test_without_fonts_of_the_system_pillow_s_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError("cannot open resource")

    monkeypatch.setattr("PIL.ImageFont.truetype", none)
    monkeypatch.setattr("PIL.ImageFont.load_default", lambda size: PILLOWS if size == 13 else None)
    assert open_font(13) is PILLOWS


def test_what_is_too_long_ends_in_an_ellipsis() -> None:
    short = shortened("unbroken" * 40, PILLOWS, 100)
    assert short.startswith("unbroken")
    assert short.endswith("…")
    assert 80 < PILLOWS.getlength(short) <= 100
    assert shortened("sky", PILLOWS, 100) == "sky"
