"""What a training leaves behind, as :func:`fastseg.train` returns it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastseg.errors import UserError
from fastseg.report.run_folder import position, read_run


class History(list[dict[str, Any]]):
    """The records of a run's metrics.jsonl by epoch: dicts with the ``event`` train or eval."""

    def to_pandas(self) -> Any:
        """Return them as a table, a ``pandas.DataFrame``. Raises :class:`fastseg.UserError` without pandas."""
        try:
            import pandas
        except ImportError:
            raise UserError("pandas is not installed; install it with: pip install pandas") from None
        return pandas.DataFrame(self)


@dataclass(frozen=True)
class Run:
    """A run's folder; what takes a path takes a run, such as ``fastseg.load(run)``."""

    folder: Path
    """Folder of the run, such as runs/mydata."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is no run folder; a finished or running training leaves one under runs/")

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def best(self) -> Path:
        """Return the checkpoint with the highest mIoU."""
        return self._checkpoint("best.pt", "was not evaluated yet")

    @property
    def last(self) -> Path:
        """Return the last checkpoint, from which the run is resumed."""
        return self._checkpoint("last.pt", "saved nothing yet")

    @property
    def report(self) -> Path:
        """Return the page about the run."""
        return self.folder / "report.html"

    @property
    def history(self) -> History:
        """Return the records of metrics.jsonl: losses, speed and scores."""
        run = read_run(self.folder)
        return History(sorted([*run.train, *run.evaluations], key=position))

    @property
    def scores(self) -> dict[str, Any]:
        """Return the best evaluation: ``miou``, ``classes`` and more as fractions 0…1; empty without one."""
        return read_run(self.folder).best

    def _checkpoint(self, name: str, otherwise: str) -> Path:
        path = self.folder / "checkpoints" / name
        if not path.exists():
            raise UserError(f"{path} does not exist; the run {otherwise}")
        return path
