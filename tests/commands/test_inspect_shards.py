"""``fastseg-inspect`` as users type it, in this process: tables, findings, files, settings of recipes and runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import commands
from fastseg.commands import inspect_shards
from fastseg.config import Config, DataConfig
from fastseg.data.augment import Window
from fastseg.inspection.measure import Crop
from fastseg.labels import IGNORE, SegmentationClass


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A function that runs the command in a folder of its own and returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastseg-inspect", *map(str, arguments)])
        code: object = 0
        try:
            inspect_shards.main()
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


def test_a_set_is_shown_and_left_as_files(command, shards: Path, tmp_path: Path) -> None:
    code, out, err = command(shards, "--recipe", "demo", "--data.crop", "48", "48", "--samples", "16", "--show", "3")
    assert (code, err.count("error")) == (0, 0)
    for words in ("recipe demo", "48×48, ratio 0.75–1.5", "train: 11 frames in 3 shards", "traffic light", "(ignored)"):
        assert words in out
    assert out.count("'wall', 'fence'") == 1
    assert "never occur in train or val" in out
    page = (tmp_path / "runs" / "inspect" / shards.name / "index.html").read_text()
    assert page.count("<figure>") == 3
    assert (tmp_path / "runs" / "inspect" / shards.name / "contact_sheet.png").exists()


def test_an_inspection_replaces_an_earlier_one_and_nothing_else(command, shards: Path, tmp_path: Path) -> None:
    page, flags = tmp_path / "site" / "index.html", ("--crop", 32, 32, "--samples", 2, "--show", 1, "--out", "site")
    page.parent.mkdir()
    page.write_text("<title>mine</title>")
    code, _, err = command(shards, *flags)
    assert code == 2
    assert "site/index.html exists, and no inspection wrote it; name another --out or add --overwrite" in err
    assert page.read_text() == "<title>mine</title>"
    assert command(shards, *flags, "--overwrite")[0] == 0
    assert "fastseg-inspect" in page.read_text()
    assert command(shards, *flags)[0] == 0
    page.unlink()
    assert "site/contact_sheet.png exists" in command(shards, *flags)[2]


def test_a_set_that_is_smaller_than_a_batch(command, shards: Path) -> None:
    code, out, _ = command(shards, "--crop", 32, 32, "--batch", 12, "--samples", 3)
    assert code == 0
    assert "11 frames make no batch of 12: train with a smaller --data.batch" in out


def test_a_terminal_shows_a_picture() -> None:
    """Two rows of pixels a line: what is above is the ink, what is below the paper."""
    label = np.zeros((20, 20), np.uint8)
    label[10:] = IGNORE
    window = Window(0, 20, 0, 20, 20, 20, 0, 0, False)
    crop = Crop("a", (20, 20), window, np.full((20, 20, 3), 100, np.uint8), label)
    text = inspect_shards._preview((crop,), (SegmentationClass("red", (255, 0, 0)),), columns=21)
    lines = text.plain.splitlines()
    assert lines == ["▀" * 21] * 10
    assert str(text.spans[0].style) == "rgb(193,40,40) on rgb(193,40,40)"
    wide = crop._replace(image=np.zeros((8, 4096, 3), np.uint8), label=np.zeros((8, 4096), np.uint8))
    assert inspect_shards._preview(
        (wide,), (SegmentationClass("red", (255, 0, 0)),), columns=21
    ).plain.splitlines() == ["▀" * 21]
    assert str(text.spans[21 * 9].style) == "rgb(100,100,100) on rgb(100,100,100)"


def test_the_settings_of_a_run(command, shards: Path, tmp_path: Path) -> None:
    config = Config(name="mine", seed=5, data=DataConfig(batch=4, crop=(32, 40), scale=(1.0, 1.0), flip=0.0))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config.to_dict()))
    flags = ("--samples", 4, "--show", 2, "--out", "there")
    code, out, _ = command(shards, "--config", "mine", "--split", "val", *flags)
    assert code == 0
    for words in ("val: 5 frames", "32×40, ratio 1.0–1.0, mirrored 0%", "4 crops, seed 5"):
        assert words in out
    assert "mirrored<" not in (tmp_path / "there" / "index.html").read_text()


def test_the_recipe_for_a_set_is_the_one_named_like_it() -> None:
    assert [inspect_shards._recipe_for(name) for name in ("x/camvid", "shards/demo/", "s3://b/cityscapes", "mine")] == [
        "camvid",
        "demo",
        "cityscapes",
        "cityscapes",
    ]


def test_wrong_requests_are_one_sentence(command, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"data": {"crops": 3}, "model": {}, "name": "x", "seed": 0}')
    for arguments, says in (
        (("nowhere",), "nowhere holds no finished set of shards"),
        (("https://a.org/b",), "no such address can be read, only s3://, gs:// and az://"),
        ((shards, "--split", "test"), "has no masks; it can be predicted"),
        ((shards, "--recipe", "best"), "--recipe is 'best'; it must be one of: cityscapes"),
        ((shards, "--config", "gone"), "--config gone cannot be read"),
        ((shards, "--config", "config.json"), "holds no settings of a run"),
        ((shards, "--samples", 0), "--samples is 0; it must be from 1"),
        ((shards, "--show", 900), "--show is 900; it must be from 1 to 200"),
        ((shards, "--crop", 4, 4), "--data.crop is (4, 4)"),
        ((shards, "--out", "config.json"), "--out is config.json, which is a file; name a folder"),
        ((shards, "--out", "config.json/x"), "--out is config.json/x, but config.json is a file"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert says in err
        assert err.count("\n") == 1


def test_help_fits_a_screen(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = command("--help")
    assert code == 0
    assert "Example: fastseg-inspect" in out
    assert out.startswith("usage: fastseg-inspect [-h]")
    assert len(out.splitlines()) <= 48


def test_as_installed(shards: Path, tmp_path: Path) -> None:
    words = ("fastseg-inspect", shards, "--crop", 48, 48, "--samples", 4, "--out", tmp_path)
    result = commands.typed(*words)
    assert result.returncode == 0, result.stderr
    assert f"wrote {tmp_path}" in result.stdout
