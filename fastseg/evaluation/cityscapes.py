"""Run cityscapesscripts' evaluator on saved predictions, instance-level scores included, beside our own scores."""

import copy
import io
import math
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastseg.distributed.ranks import barrier, gather_states
from fastseg.errors import Stopped, UserError
from fastseg.evaluation.metrics import Frame, Metric
from fastseg.evaluation.scores import Score, percent
from fastseg.files import atomic_path, write_atomic
from fastseg.labels import SegmentationClass, cityscapes_ids
from fastseg.progress import show_progress
from fastseg.shards.tar import MAX_FILE

LABELS, INSTANCES = "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
ZIP = "gtFine_trainvaltest.zip"


def check_truth(source: Path, keys: Sequence[str], sizes: Collection[tuple[int, int]]) -> None:
    """Raise the errors of :func:`run_official` before minutes of inference, not after them.

    Those are: a key has no ground truth, or the first one's has none of the ``sizes`` (height, width) of frames.
    """
    archive = _archive(source)
    names = _members(archive) if archive else (path.name for path in _folder(source).glob(f"*/*/*{LABELS}"))
    _check_names({_key(name, LABELS) for name in names}, keys, source)
    with ground_truth(source, keys[:1]) as files:
        size = size_of(files[keys[0]])
        if size not in sizes:
            raise UserError(other_size("frame", next(iter(sizes)), files[keys[0]], size))


@contextmanager
def ground_truth(source: Path, keys: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Yield the labelIds of each key; instanceIds lie beside them. Members of a zip are unpacked meanwhile."""
    if archive := _archive(source):
        with TemporaryDirectory(prefix="fastseg-") as temporary:
            _unpack(archive, set(keys), Path(temporary))
            yield _named(Path(temporary).glob(f"*{LABELS}"), keys, source)
    else:
        yield _named(_folder(source).glob(f"*/*/*{LABELS}"), keys, source)


def _folder(source: Path) -> Path:
    return source / "gtFine" if (source / "gtFine").is_dir() else source


def _archive(source: Path) -> Path | None:
    """Return the zip to read, if there is no extracted folder."""
    archive = source if source.suffix == ".zip" else source / ZIP
    return archive if archive.is_file() and _folder(source) == source else None


def _named(files: Iterator[Path], keys: Sequence[str], source: Path) -> dict[str, Path]:
    found = {_key(path.name, LABELS): path for path in files}
    _check_names(found, keys, source)
    return found


def _check_names(found: Collection[str], keys: Sequence[str], source: Path) -> None:
    if missing := [key for key in keys if key not in found]:
        raise UserError(
            f"{source} lacks {missing[0]}{LABELS}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; "
            f"--official takes the set's ground truth, a folder with gtFine/SPLIT/CITY/*{LABELS} or with {ZIP}"
        )


def _members(archive: Path) -> list[str]:
    with _opened(archive) as opened:
        return [PurePosixPath(name).name for name in opened.namelist()]


def _unpack(archive: Path, keys: set[str], folder: Path) -> None:
    with _opened(archive) as opened:
        for entry in opened.infolist():
            name = PurePosixPath(entry.filename).name
            if {_key(name, LABELS), _key(name, INSTANCES)} & keys and entry.file_size <= MAX_FILE:
                (folder / name).write_bytes(opened.read(entry))


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{archive} is not a readable zip ({error}); download it again") from None


def _key(name: str, ending: str) -> str:
    """Return a file's key, in lower case as those of records; empty for other files."""
    return name.removesuffix(ending).lower() if name.endswith(ending) else ""


def instances_of(labels: Path) -> Path:
    """Return the instanceIds that belong to a file of labelIds."""
    return labels.with_name(labels.name.removesuffix(LABELS) + INSTANCES)


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image file, from its header; raise :class:`UserError` for other files."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"{path} is no readable image ({error}); get it again") from None


def other_size(what: str, ours: tuple[int, int], truth: Path, theirs: tuple[int, int]) -> str:
    """Describe the different sizes (height, width) of ``what`` and its ground truth."""
    return (
        f"the {what} has {ours[1]}×{ours[0]} pixels, its ground truth {truth} has {theirs[1]}×{theirs[0]}; "
        "pack the set at full size (without --height) for --official"
    )


Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class OfficialScores:
    """Scores of cityscapesscripts, as fractions 0…1; NaN if it has none."""

    classes: dict[str, float]
    """IoU of every class."""
    instances: dict[str, float]
    """iIoU of every class: each object counts as much as one of average size; NaN for classes without objects, and for
    all without instanceIds."""
    miou: float
    instance_miou: float
    category_miou: float
    instance_category_miou: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None in place of NaN."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def run_official(truth: Path, predictions: Mapping[str, Path], progress: Progress | None = None) -> OfficialScores:
    """Score saved predictions (key → PNG of label ids) by cityscapesscripts' own code.

    ``truth``: the folder with ``gtFine/``, that folder itself, or the official zip or the folder with it. Raises
    :class:`UserError` if a frame's ground truth is missing or of another size.
    """
    with ground_truth(truth, list(predictions)) as files:
        for key, path in predictions.items():
            _check_size(path, files[key])
        has_instances = all(instances_of(path).is_file() for path in files.values())
        pairs = [(str(path), str(files[key])) for key, path in predictions.items()]
        return _scores(_evaluate(pairs, has_instances, progress), has_instances)


def _evaluate(pairs: Sequence[tuple[str, str]], has_instances: bool, progress: Progress | None) -> dict[str, Any]:
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator

    arguments = copy.copy(evaluator.args)
    arguments.evalInstLevelScore, arguments.evalPixelAccuracy = has_instances, False
    arguments.JSONOutput, arguments.quiet = False, True
    predicted, truths = (list(paths) for paths in zip(*pairs, strict=True))
    said = io.StringIO()
    try:
        with redirect_stdout(said), _old_numpy():
            result: dict[str, Any] = evaluator.evaluateImgLists(_Told(predicted, progress), truths, arguments)
    except Stopped:  # by a signal
        raise
    except SystemExit:
        raise UserError(f"cityscapesscripts' evaluator gave up: {said.getvalue().strip()}") from None
    return result


class _Told(list[str]):
    """A list that reports progress as the evaluator, which takes minutes in silence, iterates over it."""

    def __init__(self, paths: Sequence[str], progress: Progress | None) -> None:
        super().__init__(paths)
        self._progress = progress

    def __getitem__(self, index: Any) -> Any:
        if self._progress:
            self._progress(index + 1, len(self))
        return super().__getitem__(index)


@contextmanager
def _old_numpy() -> Iterator[None]:
    """Restore np.in1d for the instance-level part; NumPy 2.4 replaced it by np.isin."""
    if hasattr(np, "in1d"):
        yield
        return
    np.in1d = np.isin  # type: ignore[attr-defined]  # noqa: NPY201
    try:
        yield
    finally:
        del np.in1d  # type: ignore[attr-defined]  # noqa: NPY201


def _scores(result: dict[str, Any], has_instances: bool) -> OfficialScores:
    # Without instances it would report 0 for an unknown score.
    known = [name for name, value in result["classScores"].items() if not math.isnan(value)]
    return OfficialScores(
        classes={name: result["classScores"][name] for name in known},
        instances={name: result["classInstScores"][name] if has_instances else math.nan for name in known},
        miou=result["averageScoreClasses"],
        instance_miou=result["averageScoreInstClasses"] if has_instances else math.nan,
        category_miou=result["averageScoreCategories"],
        instance_category_miou=result["averageScoreInstCategories"] if has_instances else math.nan,
    )


def _check_size(prediction: Path, truth: Path) -> None:
    if not prediction.is_file():
        raise UserError(
            f"{prediction} is not here, so another machine has written it; name a folder that all machines share with "
            "--save-predictions"
        )
    ours, theirs = size_of(prediction), size_of(truth)
    if ours != theirs:
        raise UserError(other_size(f"prediction {prediction.name}", ours, truth, theirs))


def compare_official(truth: Path, ours: Score, predictions: Mapping[str, Path], console: Console) -> dict[str, Any]:
    """Run :func:`run_official` with progress; print both results side by side, return the official one for JSON."""
    with show_progress("cityscapesscripts", "images") as progress:
        official = run_official(truth, predictions, progress)
    console.print(official_table(ours, official))
    console.print(explain(ours, official), highlight=False, soft_wrap=True)
    return official.to_json()


def official_table(ours: Score, official: OfficialScores) -> Table:
    """Return a table of both scores side by side, in per cent."""
    table = Table("class", title="Ours beside cityscapesscripts, in %")
    for column in ("IoU, ours", "IoU, official", "difference", "iIoU, official"):
        table.add_column(column, justify="right")
    for name, value in ours.class_iou.items():
        theirs = official.classes.get(name, math.nan)
        row = (value, theirs, value - theirs, official.instances.get(name, math.nan))
        table.add_row(Text(name), *map(percent, row))
    table.add_section()
    means = (ours.miou, official.miou, ours.miou - official.miou, official.instance_miou)
    table.add_row("mean of classes", *map(percent, means), style="bold")
    gap = ours.category_miou - official.category_miou
    means = (ours.category_miou, official.category_miou, gap, official.instance_category_miou)
    table.add_row("mean of categories", *map(percent, means))
    return table


def explain(ours: Score, official: OfficialScores) -> str:
    """Describe the largest difference, and the classes without an instance-level score."""
    gap = largest_difference(ours, official)
    apart = f"the largest difference of a class's IoU is {100 * gap:.4f} %"
    if all(map(math.isnan, official.instances.values())):
        return f"{apart}; there is no iIoU, since no instanceIds with objects lie beside all labelIds"
    return apart


def largest_difference(ours: Score, official: OfficialScores) -> float:
    """Return the largest difference of our IoU and theirs over the classes; infinite if only one scores a class."""
    pairs = [(value, official.classes.get(name, math.nan)) for name, value in ours.class_iou.items()]
    scored = [pair for pair in pairs if not all(map(math.isnan, pair))]
    return max((math.inf if math.isnan(a + b) else abs(a - b) for a, b in scored), default=0.0)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if math.isnan(value) else value


ARCHIVE = "submission.zip"
THREADS = 2
BACKLOG = 8
"""Maximum frames that wait to be written."""


class PredictionFolder(Metric):
    """A folder of predictions: ``KEY_labelIds.png`` for Cityscapes' classes, else ``KEY.png`` with train ids.

    The server and cityscapesscripts take any ``CITY_000000_000000*.png`` for the prediction of that frame. Files are
    written atomically, by threads, as frames come. Leaving the ``with`` block waits for all of them.
    """

    def __init__(self, folder: Path, keys: Sequence[str], classes: Sequence[SegmentationClass]) -> None:
        """Take the ``keys`` of the split's frames by index."""
        self.folder, self._keys = folder, keys
        ids = cityscapes_ids(classes)
        self._ids = None if ids is None else np.array(ids, np.uint8)
        self._pool = ThreadPoolExecutor(THREADS, "fastseg-save")
        self._waiting: deque[Future[None]] = deque()

    @property
    def of_cityscapes(self) -> bool:
        """Return whether the values are label ids."""
        return self._ids is not None

    def path(self, index: int) -> Path:
        """Return the path of a frame's prediction."""
        return self.folder / f"{self._keys[index]}{'_labelIds' if self.of_cityscapes else ''}.png"

    def update(self, frame: Frame) -> None:
        """Write the frame's train ids; wait for them on a GPU."""
        train_ids = frame.prediction.cpu().numpy().copy()
        self._waiting.append(self._pool.submit(self._write, self.path(frame.index), train_ids))
        while len(self._waiting) > BACKLOG:
            self._waiting.popleft().result()

    def compute(self) -> None:
        """Wait until all frames are written."""
        while self._waiting:
            self._waiting.popleft().result()

    def _write(self, path: Path, train_ids: NDArray[np.uint8]) -> None:
        file = io.BytesIO()
        Image.fromarray(train_ids if self._ids is None else self._ids[train_ids]).save(file, "PNG")
        write_atomic(path, file.getvalue())

    def clear(self) -> None:
        """Remove an earlier run's predictions of this split, and its archive."""
        for path in (self.folder / ARCHIVE, *map(self.path, range(len(self._keys)))):
            path.unlink(missing_ok=True)

    def __enter__(self) -> "PredictionFolder":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._pool.shutdown()
        finally:
            self._pool.shutdown()  # a signal ends a wait, but not the threads, which are in the midst of files
        self.compute()

    def present(self, indexes: Iterable[int]) -> dict[str, Path]:
        """Return key → file of the predictions at ``indexes``; damaged frames have none."""
        paths = {self._keys[index]: self.path(index) for index in indexes}
        return {key: path for key, path in paths.items() if path.is_file()}

    def tell(self, console: Console, indexes: Iterable[int], zipped: bool) -> None:
        """Print where predictions are; ``zipped``: also write a whole split's to :data:`ARCHIVE`, for submission."""
        files, all_of_them = self.present(indexes), len(self._keys)
        values = "label ids, as the Cityscapes server wants them" if self.of_cityscapes else "train ids (0, 1, 2, …)"
        said = [f"{self.folder}: {len(files)} predictions, PNGs of {values}"]
        if zipped and len(files) < all_of_them:
            said.append(f"{len(files)} of {all_of_them} frames: not for the server, and not zipped")
        elif zipped:
            with atomic_path(self.folder / ARCHIVE) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for path in files.values():  # PNGs are already compressed
                    archive.write(path, path.name)
            said.append(f"{self.folder / ARCHIVE}: all of them, to be handed in")
        for sentence in said:
            console.print(sentence, highlight=False, soft_wrap=True)


@contextmanager
def prediction_folder(
    folder: Path | None, temporary: bool, keys: Sequence[str], classes: Sequence[SegmentationClass], first: bool
) -> Iterator[PredictionFolder | None]:
    """Yield the folder in which all ranks save predictions: ``folder``, else a ``temporary`` one, else None.

    Earlier predictions of this split are removed first: such a file would pass for a damaged frame's prediction. Every
    rank has to call, and leaves after the others have saved theirs.
    """
    if folder:
        saving = PredictionFolder(folder, keys, classes)
        if first:
            saving.clear()
        barrier()  # not what other ranks have saved
        yield saving
        return
    if not temporary:
        yield None
        return
    with TemporaryDirectory(prefix="fastseg-") as own:
        shared = Path(gather_states({"folder": own})[0]["folder"])  # the first rank's
        yield PredictionFolder(shared, keys, classes)
