"""The documents' pictures: what is taken from a run, and what is said without one."""

import json
from pathlib import Path

from PIL import Image

import commands
from bench.docs.pictures import held_out, resized
from fastseg.report.gallery import write_gallery
from fastseg.report.pictures import WRONG
from fastseg.report.run_folder import read_run
from report_pages import CLASSES, frame


def test_a_frame_of_the_run_beside_truth_prediction_and_errors(tmp_path: Path) -> None:
    classes = [{"name": c.name, "color": c.color, "category": c.category} for c in CLASSES]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    write_gallery(tmp_path / "overlays", [frame()], ["a"], CLASSES)
    picture = held_out(read_run(tmp_path))
    tile = (picture.width - 3 * 4) // 4
    assert picture.getpixel((picture.width - tile + 3, picture.height - 60)) == WRONG  # its corner is taken for sky
    assert picture.getpixel((tile + 40, picture.height - 5)) == CLASSES[0].color
    assert resized(Image.new("RGB", (300, 150)), 100).size == (100, 50)


def test_without_a_run_nothing_is_drawn(tmp_path: Path) -> None:
    done = commands.run("python", "-m", "bench.docs.pictures", "--run", tmp_path / "none", "--out", tmp_path)
    commands.refused(
        done, "metrics.jsonl is missing; run make hero demo, or name others with --hero, --run and --shards"
    )
    assert list(tmp_path.iterdir()) == []
