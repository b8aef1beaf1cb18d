"""Make ``report.html``, one page about a run, from the run folder's files alone; it needs no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fastseg.files import write_atomic
from fastseg.report.facts import (
    about,
    changed_settings,
    evaluation_title,
    flatten,
    percent,
    recipe_of,
    scores,
    speeds,
    state,
    title,
)
from fastseg.report.figures import class_charts, figures
from fastseg.report.gallery import LAYERS
from fastseg.report.pictures import RIGHT, WRONG
from fastseg.report.run_folder import Run, Shown, read_run
from fastseg.report.tables import categories_of, classes_of, confusion_of, findings_of, means_of, present

NAME = "report.html"
PICTURE_BYTES = 3_000_000
"""Bytes of pictures at most; base64 adds a third, and the page stays under 5 MB."""


@dataclass(frozen=True)
class Slide:
    """One frame of the gallery as the page shows it."""

    key: str
    kind: str
    iou: str
    worst: str
    """Names and IoU of the classes with the most wrong pixels."""
    size: tuple[int, int]
    layers: dict[str, str]
    """Data URL of each picture."""


@dataclass(frozen=True)
class Gallery:
    """The frames whose pictures fit on the page, and how many do not."""

    slides: list[Slide]
    left_out: int


def gallery_of(frames: Sequence[Shown]) -> Gallery:
    """Read the frames' pictures, in order, up to :data:`PICTURE_BYTES`."""
    slides: list[Slide] = []
    room = PICTURE_BYTES
    for frame in frames:
        room -= sum(path.stat().st_size for path in frame.layers.values())
        if room < 0:  # keep the order: worst frames first
            break
        slides.append(slide(frame, frame.layers))
    return Gallery(slides, len(frames) - len(slides))


def slide(frame: Shown, layers: dict[str, Path]) -> Slide:
    """Return a frame with these of its pictures."""
    worst = ", ".join(f"{name} {percent(iou)}" for name, iou in frame.worst_classes)
    pictures = {name: _address(name, path.read_bytes()) for name, path in layers.items()}
    return Slide(frame.key, frame.kind, percent(frame.iou), worst, frame.size, pictures)


def _address(layer: str, data: bytes) -> str:
    kind = "png" if LAYERS[layer].endswith("png") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def render(template: str, **values: Any) -> str:
    """Return a page: everything that is put into the template is escaped, and a name that it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(percent=percent, right=RIGHT, wrong=WRONG, **values)


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write ``run_folder/report.html``, or ``out``, and return its path; parts that the folder lacks are left out.

    Raises :class:`fastseg.errors.UserError` if the folder does not exist or one of its files is damaged.
    """
    path = out or run_folder / NAME
    write_atomic(path, report_page(read_run(run_folder)))
    return path


def report_page(run: Run) -> str:
    """Return the page about a run."""
    classes = classes_of(run)
    return render(
        "report.html",
        run=run,
        title=title(run),
        state=state(run),
        about=about(run) if run.config or run.environment else {},
        headline=[*scores(run), *speeds(run)],
        figures=figures(run),
        class_charts=class_charts([run]),
        best=evaluation_title(run.best),
        last=evaluation_title(run.last),
        classes=classes,
        columns=present(classes),
        means=means_of(run.best),
        categories=categories_of(run.best),
        findings=findings_of(run),
        confusion=confusion_of(run),
        gallery=gallery_of(run.gallery),
        recipe=recipe_of(run).name,
        changed=changed_settings(run),
        config=list(flatten(run.config)),
    )
