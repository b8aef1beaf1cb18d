"""Predictions as PNG files, with the names and values that the Cityscapes server and its evaluator want."""

import io
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor

from fastseg.files import atomic_path, write_atomic
from fastseg.labels import SegmentationClass, cityscapes_ids
from fastseg.loop.distributed import barrier, gather_states

ARCHIVE = "submission.zip"
THREADS = 2
BACKLOG = 8
"""Frames that wait to be written at most."""


class PredictionFolder:
    """A folder of ``KEY_labelIds.png`` for Cityscapes' classes, of ``KEY.png`` with train ids for any others.

    The server and cityscapesscripts take any ``CITY_000000_000000*.png`` for the prediction of that frame. Files are
    whole or absent, and written by threads as frames come. Leave the ``with`` block to have all of them written.
    """

    def __init__(self, folder: Path, keys: Sequence[str], classes: Sequence[SegmentationClass]) -> None:
        """``keys`` of the split's frames, by their place."""
        self.folder, self._keys = folder, keys
        ids = cityscapes_ids(classes)
        self._ids = None if ids is None else np.array(ids, np.uint8)
        self._pool = ThreadPoolExecutor(THREADS, "fastseg-save")
        self._waiting: deque[Future[None]] = deque()

    @property
    def of_cityscapes(self) -> bool:
        """Whether the values are label ids."""
        return self._ids is not None

    def path(self, place: int) -> Path:
        """Where the prediction of a frame lies."""
        return self.folder / f"{self._keys[place]}{'_labelIds' if self.of_cityscapes else ''}.png"

    def save(self, place: int, _: Tensor, prediction: Tensor) -> None:
        """Write the train ids (uint8 H×W) of the frame at ``place``; its label is not needed."""
        self._waiting.append(self._pool.submit(self._write, self.path(place), prediction.cpu().numpy().copy()))
        while len(self._waiting) > BACKLOG:
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
        self._pool.shutdown()
        while self._waiting:
            self._waiting.popleft().result()

    def present(self, places: Iterable[int]) -> dict[str, Path]:
        """Key → file of the predictions at ``places``; damaged frames have none."""
        paths = {self._keys[place]: self.path(place) for place in places}
        return {key: path for key, path in paths.items() if path.is_file()}

    def tell(self, console: Console, places: Iterable[int], zipped: bool) -> None:
        """Say what lies where; ``zipped``: a whole split's also in one :data:`ARCHIVE`, ready to be handed in."""
        files, all_of_them = self.present(places), len(self._keys)
        values = "label ids, as the Cityscapes server wants them" if self.of_cityscapes else "train ids (0, 1, 2, …)"
        said = [f"{self.folder}: {len(files)} predictions, PNGs of {values}"]
        if zipped and len(files) < all_of_them:
            said.append(f"{len(files)} of {all_of_them} frames: not for the server, and not zipped")
        elif zipped:
            with atomic_path(self.folder / ARCHIVE) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for path in files.values():  # PNGs are compressed: they are stored as they are
                    archive.write(path, path.name)
            said.append(f"{self.folder / ARCHIVE}: all of them, to be handed in")
        for sentence in said:
            console.print(sentence, highlight=False, soft_wrap=True)


@contextmanager
def prediction_folder(
    folder: Path | None, temporary: bool, keys: Sequence[str], classes: Sequence[SegmentationClass], first: bool
) -> Iterator[PredictionFolder | None]:
    """Where all ranks save predictions: in ``folder``, else for the time being if ``temporary``, else nowhere.

    Of this split nothing is there at the beginning: an earlier run's file would pass for a damaged frame's prediction.
    Every rank has to call, and to leave after the others have saved what they will.
    """
    if folder:
        saving = PredictionFolder(folder, keys, classes)
        if first:
            saving.clear()
        barrier()  # what others save must stay
        yield saving
        return
    if not temporary:
        yield None
        return
    with TemporaryDirectory(prefix="fastseg-") as own:
        shared = Path(gather_states({"folder": own})[0]["folder"])  # the first rank's
        yield PredictionFolder(shared, keys, classes)
