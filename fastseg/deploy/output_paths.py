"""Where results of several files go: each to a name of its own, and onto nothing that is there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import lexists
from pathlib import Path

from fastseg.deploy.predict_io import Input, Outputs
from fastseg.deploy.video import Video
from fastseg.errors import UserError


def disambiguate(outputs: Outputs, files: Sequence[Input], videos: Mapping[Path, Video]) -> list[Input]:
    """Return the same files; where a.jpg and a.png beside it want the same path, their results are a.jpg.* and a.png.*.

    A video's frames go to a folder: where that is one that other results go into, as with clip.mp4 beside
    clip/000000.jpg, it is called clip.mp4. Raises :class:`UserError` where that does not part them, as for a.jpg from
    two folders.
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
            raise UserError(f"{wanting[0].path} and {wanting[1].path} would both go to {path}; predict them apart")
    return files


def _above(path: Path, targets: Mapping[Path, list[Input]]) -> list[Input]:
    """Those whose own place is a folder that ``path`` lies in."""
    return [file for parent in path.parents for file in targets.get(parent, ())]


def _in_full(name: Path) -> Path:
    """Return a name whose suffix stays when results take its last part off: a.jpg.jpg, whose mask is a.jpg.png."""
    return name.with_name(name.name + name.suffix)


def check_absent(outputs: Outputs, files: Sequence[Input], videos: Mapping[Path, Video]) -> None:
    """Refuse to write over what is there. Raises :class:`UserError`."""
    # Not Path.exists, which raises for a name that is too long.
    if there := [path for path in _targets(outputs, files, videos) if lexists(path)]:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise UserError(f"{there[0]} exists{more}; --overwrite replaces it, --out FOLDER writes elsewhere")


def _targets(outputs: Outputs, files: Sequence[Input], videos: Mapping[Path, Video]) -> Mapping[Path, list[Input]]:
    """Every place that is to be written, and for whom."""
    targets: defaultdict[Path, list[Input]] = defaultdict(list)
    for file in files:
        video = videos.get(file.path)
        for path in outputs.video_paths(file.name, video.suffix) if video else outputs.image_paths(file.name):
            targets[path].append(file)
    return targets
