"""Save the changing values of a run to a checkpoint, and restore them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastseg.config import Config
from fastseg.data.loader import TrainLoader
from fastseg.device import environment
from fastseg.distributed.ranks import Ranks, gather_states
from fastseg.errors import UserError, shown
from fastseg.labels import class_difference
from fastseg.model import checkpoint
from fastseg.model.architectures import ARCHITECTURES
from fastseg.model.network import SegmentationNetwork
from fastseg.model.weights import fitting, not_finite
from fastseg.shards.manifest import Manifest
from fastseg.storage import is_remote
from fastseg.training.optim import Average
from fastseg.training.step import TrainStep

SPEED_ONLY = ("threads", "prefetch", "eval_batch", "cache_frames", "decoder")
"""Settings of ``data`` that change neither the samples nor their order."""
UNNOTED = (
    *("name", "runs", "shards", "resume", "cache", "cache_gb", "timeout", "verify_shards", "tracker"),
    *("checkpoints", "checkpoints_kept"),
)
"""Settings that say where things are and who watches, and change nothing of a run."""


@dataclass
class RunState:
    """The parts of a run whose values a checkpoint holds."""

    model: SegmentationNetwork
    train_step: TrainStep
    average: Average | None
    step: int = 0
    """Steps done in all; they are not counted anew when their batch changes."""
    epoch: float = 0.0
    """Epochs done."""
    images_seen: int = 0
    """Training images that all ranks have seen."""
    origin: str | None = None
    """The checkpoint of another run that this one began with; None if it began from nothing."""
    best: float = -math.inf
    """Highest mIoU of this run so far; that of evaluations without a labeled pixel is -1."""
    best_split: str | None = None
    """The split that it is of; None before the first evaluation."""
    since_best: int = 0
    """Evaluations since that one."""
    score: dict[str, Any] | None = None
    """``step``, ``split``, ``miou`` and ``images`` of the last evaluation."""
    eval_pending: bool = False
    """An evaluation of this step was due and was not finished."""

    def step_offset(self, steps_per_epoch: int) -> int:
        """Return the steps done beyond those that the epochs done take with the present batches; 0 without a change.

        The step ``step`` of the run is number ``step - step_offset`` of its schedule and ends at the epoch of that
        number over ``steps_per_epoch``.
        """
        return self.step - whole_steps(self.epoch, steps_per_epoch)

    def statistics(self) -> list[torch.Tensor]:
        """Return copies of batch norm's running statistics, which differ by rank."""
        return [buffer.clone() for buffer in self._statistics()]

    def set_statistics(self, values: list[torch.Tensor]) -> None:
        """Set the running statistics to ``values``."""
        for buffer, value in zip(self._statistics(), values, strict=True):
            buffer.copy_(value)

    def _statistics(self) -> list[torch.Tensor]:
        models = [self.model, self.average.model] if self.average else [self.model]
        return [buffer for model in models for buffer in model.net.buffers() if buffer.is_floating_point()]

    def check_finite(self) -> None:
        """Raise :class:`UserError` if weights, averages, statistics or optimizer values are not finite.

        It names the tensor. Costs one check on the device and one wait for it. All ranks hold the same values and so
        decide alike.
        """
        parts = {
            "model": self.model.net.state_dict(),
            "ema": self.average.model.net.state_dict() if self.average else {},
            "optimizer": self.train_step.optimizer.state_dict()["state"],
        }
        states = (parts["model"], parts["ema"], *parts["optimizer"].values())
        tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        largest = torch.nn.utils.get_total_norm([t for t in tensors if t.is_floating_point()], math.inf)
        if not math.isfinite(largest.item()):
            raise UserError(
                f"at step {self.step} values in {not_finite(parts)} are not finite, and nothing is saved of "
                "them; lower --optim.lr or set --optim.clip and resume from the last checkpoint"
            )

    def document(
        self, constants: dict[str, Any], loader: TrainLoader, ranks: Ranks, own: list[torch.Tensor]
    ) -> dict[str, Any] | None:
        """Return the checkpoint on the first rank, None on the others; every rank has to call.

        Its tensors are those of the run, which the next step changes. ``constants``: of :func:`constant_fields`.
        """
        mine = {
            "rng": _rng_state(ranks.device),
            "loader": loader.state(),
            "statistics": [value.cpu() for value in own],
        }
        states = gather_states(mine)
        if not ranks.first:
            return None
        return {
            "step": self.step,
            "epoch": self.epoch,
            "images_seen": self.images_seen,
            "steps_per_epoch": loader.steps_per_epoch,
            "origin": self.origin,
            "best": self.best,
            "best_split": self.best_split,
            "since_best": self.since_best,
            "score": self.score if self.score and self.score["step"] == self.step else None,
            "eval_pending": self.eval_pending,
            "model": self.model.net.state_dict(),
            "ema": self.average.model.net.state_dict() if self.average else None,
            "mean": self.model.mean.tolist(),
            "std": self.model.std.tolist(),
            "stretch_to": list(self.model.stretch_to) if self.model.stretch_to else None,
            "optimizer": self.train_step.optimizer.state_dict(),
            "scaler": self.train_step.scaler.state_dict(),
            "ranks": states,
            **constants,
        }

    @fitting()
    def restore(self, saved: dict[str, Any], config: Config) -> None:
        """Load weights, average, optimizer and scaler from a checkpoint, except the optimizer's settings.

        The best score is forgotten where it is of another run, whose ``best.pt`` is not in this one's folder.
        """
        self.model.net.load_state_dict(saved["model"])
        if self.average:
            self.average.model.net.load_state_dict(saved["ema"] or saved["model"])
        for model in (self.model, self.average.model) if self.average else (self.model,):
            model.mean.copy_(torch.tensor(saved["mean"]))
            model.std.copy_(torch.tensor(saved["std"]))
        optimizer = self.train_step.optimizer
        settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(saved["optimizer"])
        for group, ours in zip(optimizer.param_groups, settings, strict=True):
            group.update(ours)
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if value.shape == parameter.shape:
                    # The fused kernels read both together, so they need one memory order, whatever the file's.
                    state[name] = torch.empty_like(parameter).copy_(value)
                elif value.dim():
                    raise ValueError(f"{name} of shape {tuple(value.shape)} for weights of {tuple(parameter.shape)}")
        if saved["scaler"]:
            self.train_step.scaler.load_state_dict(saved["scaler"])
        self.step, self.epoch, self.images_seen = saved["step"], saved["epoch"], saved["images_seen"]
        self.eval_pending = saved["eval_pending"]
        if resumes_own(config):
            self.origin, self.best = saved["origin"], saved["best"]
            self.best_split, self.since_best = saved["best_split"], saved["since_best"]
        else:
            self.origin = _resolved(config.resume)

    def count_score(self, miou: float, split: str) -> bool:
        """Take note of an evaluation and return whether it is the best so far; the first one on a split always is."""
        # Without a labeled pixel too: a finished run has a best.pt.
        miou = miou if math.isfinite(miou) else -1.0
        improved = split != self.best_split or miou > self.best
        if improved:
            self.best, self.best_split = miou, split
        self.since_best = 0 if improved else self.since_best + 1
        return improved

    @fitting()
    def restore_rank(self, saved: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
        """Restore this rank's random generators and statistics; return its loader's state.

        With another number of ranks each begins with the mean statistics, and random numbers of its own.
        """
        if len(saved["ranks"]) != ranks.world:
            torch.manual_seed(hash((saved["config"]["seed"], saved["step"], ranks.rank)))
            return dict(saved["ranks"][0]["loader"])
        mine = saved["ranks"][ranks.rank]
        own, values = self._statistics(), mine["statistics"]
        # The average's come last, since it may have been switched on or off.
        if len(values) not in (len(own), len(own) // 2, 2 * len(own)):
            raise ValueError(f"{len(values)} running statistics for {len(own)}")
        for buffer, value in zip(own, values, strict=False):
            buffer.copy_(value)
        torch.set_rng_state(mine["rng"]["cpu"])
        if ranks.device.type == "cuda" and "cuda" in mine["rng"]:
            torch.cuda.set_rng_state(mine["rng"]["cuda"], ranks.device)
        return dict(mine["loader"])


def constant_fields(config: Config, manifest: Manifest) -> dict[str, Any]:
    """Return what is the same in all checkpoints of a run; it takes half a second, for which no step is to wait."""
    white = {"white": manifest.options["white"]} if "white" in manifest.options else {}  # of sets with 16-bit images
    return {
        "arch": config.model.arch,
        "config": config.to_dict(),
        "shards": config.shards if is_remote(config.shards) else str(Path(config.shards).resolve()),
        "classes": checkpoint.pack_classes(manifest.classes),
        "dataset": {"name": manifest.name, "digest": manifest.digest(), **white},
        "versions": environment(),
    }


def checkpoint_path(config: Config) -> Path | None:
    """Return the run's last checkpoint, else the one that ``config.resume`` names; None to start fresh."""
    own = own_checkpoint(config)
    if config.resume == "never" or (config.resume in ("auto", "changed") and not own.exists()):
        return None
    # A run started from a file has its own, newer checkpoint by now.
    return own if own.exists() else Path(config.resume)


def own_checkpoint(config: Config) -> Path:
    """Return the path of the run's own last checkpoint, whether it exists or not."""
    return config.folder / "checkpoints" / "last.pt"


def resumes_own(config: Config) -> bool:
    """Return whether the run is resumed from its own last checkpoint, and so goes on with its own records."""
    return checkpoint_path(config) == own_checkpoint(config)


def keep_best(config: Config, saved: dict[str, Any]) -> None:
    """Keep the run's last checkpoint ``saved`` as ``best.pt`` if it is the best: a killed run may not have done it."""
    last, best = own_checkpoint(config), config.folder / "checkpoints" / "best.pt"
    if saved.get("score") and saved["since_best"] == 0 and not (best.exists() and best.samefile(last)):
        checkpoint.keep(last, best)


def find_checkpoint(config: Config, manifest: Manifest) -> dict[str, Any] | None:
    """Load the checkpoint at :func:`checkpoint_path`; None to start fresh.

    Raises :class:`UserError` with the difference if it belongs to another network or data set, and if the run has begun
    otherwise than from the file that ``config.resume`` names.
    """
    path = checkpoint_path(config)
    if path is None:
        return None
    saved = checkpoint.load(path)
    checkpoint.check_progress(saved, path)
    with fitting(path):
        trained_on = saved["dataset"]
        differences = [
            ("network", saved["arch"], config.model.arch),
            ("optimizer", shown(saved["config"]["optim"]["name"]).strip("'"), config.optim.name),
            ("frozen part", shown(saved["config"]["model"]["freeze"]).strip("'"), config.model.freeze),
            ("auxiliary head", ARCHITECTURES[saved["arch"]].has_aux(saved["model"]), config.aux_weight > 0),
            class_difference([c["name"] for c in saved["classes"]], [c.name for c in manifest.classes]),
            ("data set", _set(trained_on["name"], trained_on["digest"]), _set(manifest.name, manifest.digest())),
        ]
        _decides_batches(saved["config"])
    for what, then, now in differences:
        if then != now:
            raise UserError(
                f"{path} cannot be resumed: its {what} is {then}, the run's is {now}; "
                "use another --name, or --resume never"
            )
    if config.resume not in ("auto", "changed") and resumes_own(config):
        _check_origin(saved["origin"], config)
    return saved


def _check_origin(origin: str | None, config: Config) -> None:
    """Refuse to drop what a run has done since it began by naming another file. Raises :class:`UserError`."""
    if _resolved(config.resume) not in (origin, _resolved(own_checkpoint(config))):
        began = f"began with {shown(origin)}" if origin else "did not begin with a file"
        raise UserError(
            f"{config.folder} has a checkpoint of its own and {began}, so that --resume {config.resume} would drop it; "
            "choose another --name, or leave out --resume to go on from its own"
        )


def _resolved(path: str | Path) -> str:
    return str(Path(path).resolve())


class Change(NamedTuple):
    """A setting that is another than that of the checkpoint."""

    flag: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.flag} {self.old} → {self.new}"


def changed_settings(saved: dict[str, Any], config: Config) -> list[Change]:
    """Return the settings that differ from those of the checkpoint ``saved``, in the order of their definition.

    Left out are those of :data:`UNNOTED`, ``--data.batch auto``, which takes the checkpoint's, and the accumulation
    that makes up ``--optim.global-batch``.
    """
    then, now = _settings(saved["config"]), _settings(config.to_dict())
    if now["data.batch"] == "auto":
        del now["data.batch"]
    if now["optim.global_batch"] is not None:
        del now["optim.accumulate"]
    return [
        Change(f"--{name.replace('_', '-')}", _typed(then[name]), _typed(value))
        for name, value in now.items()
        if name not in UNNOTED and name in then and then[name] != value
    ]


def check_changes(saved: dict[str, Any], config: Config) -> None:
    """Refuse to continue a run under another schedule, other samples or another loss, unless that is confirmed.

    Raises :class:`UserError` with their flags. A checkpoint that ``--resume`` names, of another run, needs no
    confirmation: its own run stays as it is.
    """
    if config.resume == "changed" or not resumes_own(config):
        return
    with fitting(own_checkpoint(config)):
        changes = [c for c in changed_settings(saved, config) if _decides_training(c.flag)]
        same_batch = config.data.batch != "auto" and _batch_of(saved["config"]) == config.rank_batch
        parts = ("--data.batch", "--optim.accumulate") if same_batch else ()
        found = [change for change in changes if change.flag not in parts]
    if found:
        raise UserError(
            f"{config.folder} was trained with other settings: {', '.join(map(str, found))}; confirm them with "
            "--resume changed, or choose another --name"
        )


def _decides_training(flag: str) -> bool:
    """Return whether a flag changes schedule, samples or loss, and not only speed, records or rounding."""
    part, _, name = flag.removeprefix("--").partition(".")
    if part == "data":
        return name.replace("-", "_") not in SPEED_ONLY
    return part == "optim" or flag in ("--seed", "--train-split", "--model.weights")


def _settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their flags' names, from nested dicts."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _typed(value: Any) -> str:
    """Format a setting as typed; what a file holds is shortened."""
    parts = value if isinstance(value, list) else [value]
    return " ".join(f"{part:g}" if isinstance(part, float) else shown(part).strip("'") for part in parts[:4])


def _batch_of(config: dict[str, Any]) -> int:
    """Return a rank's images per step; raise ValueError for what is no number of a checkpoint's settings."""
    numbers = (config["data"]["batch"], config["optim"]["accumulate"])
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"a batch of {' × '.join(map(shown, numbers))}")
    return math.prod(numbers)


def whole_steps(epoch: float, steps_per_epoch: int) -> int:
    """Return the whole steps of the present batches in the epochs done: none of them is done twice over."""
    return math.floor(epoch * steps_per_epoch + 1e-6)  # 0.29 × 100 is 28.999999999999996 in floating point


def continues_exactly(saved: dict[str, Any], config: Config, ranks: Ranks) -> bool:
    """Return whether the data can resume in mid-epoch: same global batches, augmentation and seed.

    The ranks may be others, unless each draws from its own share of the samples.
    """
    before, shared = len(saved["ranks"]), not any(rank["loader"]["rank_local"] for rank in saved["ranks"])
    then, now = _decides_batches(saved["config"], before), _decides_batches(config.to_dict(), ranks.world)
    return then == now and (shared or before == ranks.world)


def _decides_batches(config: dict[str, Any], world: int = 1) -> dict[str, Any]:
    data = {name: value for name, value in config["data"].items() if name not in SPEED_ONLY}
    more = {"seed": config["seed"], "split": config["train_split"], "weights": config["model"]["weights"]}
    return {**data, "batch": world * _batch_of(config), **more}


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set(name: Any, digest: Any) -> str:
    """Describe a data set by its name and its digest, which tells it from others of that name."""
    return f"{shown(name)} (digest {str(digest)[:16]})"
