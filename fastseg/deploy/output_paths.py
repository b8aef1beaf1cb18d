"""Give the results of several files different paths, and refuse paths that exist."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import lexists
from pathlib import Path

from fastseg.deploy.predict_io import Input, Outputs
from fastseg.deploy.video import Video
from fastseg.errors import UserError


def disambiguate(outputs: Outputs, files: Sequence[Input], videos: Mapping[Path, Video]) -> list[Input]:
    """Return the files, renamed if results collide: those of a.jpg and a.png beside it become a.jpg.* and a.png.*.

    A video's frames go to a folder: if other results go there too, as with clip.mp4 beside clip/000000.jpg, it is
    called clip.mp4. Raises :class:`UserError` if results still collide, as for a.jpg from two folders.
    """
    targets = _targets(outputs, files, videos)
    mixed = {
        file
        for wanting in targets.values()
        if len(wanting) > 1 and len({file.name for file in wanting}) == len(wanting)
        for file in wanting
    }
    mixed |= {file for path in targets for file in _above(path, targets)}
    files = [replace(file, name=_in_full(file.name)) if file in mixed else file for file in files]
    targets = _targets(outputs, files, videos)
    for path, wanting in targets.items():
        if len(wanting := [*wanting, *_above(path, targets)]) > 1:
            raise UserError(f"{wanting[0].path} and {wanting[1].path} would both go to {path}; predict them separately")
    return files


def _above(path: Path, targets: Mapping[Path, list[Input]]) -> list[Input]:
    """Return the files whose results are a folder above ``path``."""
    return [file for parent in path.parents for file in targets.get(parent, ())]


def _in_full(name: Path) -> Path:
    """Return a name whose suffix survives when results replace the last one: a.jpg.jpg, whose mask is a.jpg.png."""
    return name.with_name(name.name + name.suffix)


def check_absent(outputs: Outputs, files: Sequence[Input], videos: Mapping[Path, Video]) -> None:
    """Refuse to overwrite existing results. Raises :class:`UserError`."""
    # Path.exists raises for a name that is too long.
    if there := [path for path in _targets(outputs, files, videos) if lexists(path)]:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UserError(f"{there[0]} exists{more}; --overwrite replaces it, --out FOLDER writes elsewhere")


def _targets(outputs: Outputs, files: Sequence[Input], videos: Mapping[Path, Video]) -> Mapping[Path, list[Input]]:
    """Return every path to be written, with the files whose results go there."""
    targets: defaultdict[Path, list[Input]] = defaultdict(list)
    for file in files:
        video = videos.get(file.path)
        for path in outputs.video_paths(file.name, video.suffix) if video else outputs.image_paths(file.name):
            targets[path].append(file)
    return targets
