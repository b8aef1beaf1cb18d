"""Train from Python: ``fastseg.train``."""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastseg.arguments import naming_arguments, signature_with_settings, with_arguments
from fastseg.config import Config
from fastseg.errors import UserError, shown, whole_variable
from fastseg.files import check_writable
from fastseg.interface.finished import Run
from fastseg.recipe_table import RECIPES
from fastseg.shards.manifest import Manifest, read_manifest
from fastseg.shards.set_warnings import refuse_unlearnable

if TYPE_CHECKING:
    from torch import nn

    from fastseg.data.augment import Augmentation, ChangeArrays
    from fastseg.model.architectures import Architecture
    from fastseg.model.loss import LossFunction
    from fastseg.training.callbacks import Callback
    from fastseg.training.own_parts import OwnParts

RENAMED = {"optim.name": "optimizer"}
"""Arguments whose setting's own name is another's: ``name`` is the run's."""


def train(
    shards: str | os.PathLike[str] | None = None,
    *,
    recipe: str = "cityscapes",
    config: Config | None = None,
    name: str | None = None,
    gpus: int = 1,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    max_restarts: int = 0,
    profile: bool = False,
    callbacks: "Sequence[Callback]" = (),
    model: "str | nn.Module | Callable[[int], nn.Module] | Architecture | None" = None,
    loss: "LossFunction | None" = None,
    augmentations: "Mapping[str, Augmentation | ChangeArrays] | Sequence[ChangeArrays]" = (),
    **settings: Any,
) -> Run:
    """Train on packed shards, and return the run. An interrupted call is repeated to resume; a finished one returns.

    Settings are those of ``recipe`` (see ``fastseg.recipes``) or of ``config``, overridden by every other argument that
    is a setting: ``epochs``, ``lr``, ``batch``, ``crop``, ``arch`` and so on, whatever part of
    :class:`fastseg.Config` they lie in; ``optimizer`` is the name of the optimizer. ``name``: of the run, whose folder
    is ``runs/NAME``; by default that of the shards' folder.

    With ``gpus=1`` the training runs in this process and leaves it as it was. With more, a process for each GPU (or
    each share of the CPU's cores) trains; objects given here have to come from a module that those can import.

    ``callbacks``: follow the training on the first rank (:class:`fastseg.Callback`). ``model``: a network of one's own,
    a module or a function from the number of classes to one (:func:`fastseg.register_network`). ``loss``: a function of
    logits (float32 N×C×H×W) and labels (int64 N×H×W, 255 ignored) in place of cross-entropy and of the recipe's class
    weights and Dice. ``augmentations``: functions that change an image and a mask in place, drawing from a generator,
    or entries of ``fastseg.data.augment.AUGMENTATIONS``; see docs/python.md.

    Ctrl-C saves and raises KeyboardInterrupt; SIGTERM saves and is sent again. Raises :class:`fastseg.UserError`.

    >>> import fastseg
    >>> small = dict(batch=2, crop=(64, 64), threads=1, device="cpu")
    >>> run = fastseg.train("shards/demo", recipe="demo", epochs=1, **small)
    >>> run.best, run.report
    (PosixPath('runs/demo/checkpoints/best.pt'), PosixPath('runs/demo/report.html'))
    >>> 0 <= run.scores["miou"] <= 1
    True
    """
    with naming_arguments(RENAMED):
        given = _given_config(shards, recipe, config, name, (model, loss), settings)
        chosen, own = _own_parts(given, callbacks, model, loss, augmentations)
        manifest = checked_manifest(chosen)
        if gpus == 1 or whole_variable("WORLD_SIZE", 1, 1) > 1:
            _train_here(chosen, manifest, device, profile, own)
        else:
            from fastseg.interface.ranks import train_by_ranks

            train_by_ranks(chosen, manifest, gpus, device, max_restarts, profile, own)
    return Run(chosen.folder)


def checked_manifest(config: Config) -> Manifest:
    """Return the packed set of a run, with something to learn and a folder for the results; no torch is imported."""
    if os.environ.get("RANK", "0") == "0":  # only the first rank writes there
        check_writable(config.runs, "--runs")
        check_writable(config.folder, "--name")
    manifest = read_manifest(config.shards)
    refuse_unlearnable(manifest, config.train_split)
    return manifest


def _given_config(
    shards: str | os.PathLike[str] | None,
    recipe: str,
    config: Config | None,
    name: str | None,
    parts: tuple[Any, Any],
    settings: Mapping[str, Any],
) -> Config:
    """Return the settings of the recipe, or ``config``, with those that were given.

    ``parts``: a network and a loss of one's own, or None.
    """
    model, loss = parts
    if recipe not in RECIPES:
        raise UserError(f"recipe is {recipe!r}; it must be one of: {', '.join(RECIPES)}")
    if config is not None and not isinstance(config, Config):
        raise UserError(f"config is {shown(config)}; it must be a fastseg.Config")
    # A loss of one's own replaces the recipe's; weights that are asked for beside it are refused later.
    replaced = {} if loss is None or config else {"class_weights": 0.0, "dice": 0.0}
    arguments: dict[str, Any] = {**replaced, **settings}
    if shards is not None:
        arguments["shards"] = os.fspath(shards)
        name = name or Path(arguments["shards"]).name
    if name is not None:
        arguments["name"] = name
    if model is not None and "arch" in arguments:
        raise UserError("model and arch both name a network; give one of them")
    return with_arguments(config or RECIPES[recipe](), arguments, RENAMED)


def _own_parts(config: Config, callbacks: Any, model: Any, loss: Any, augmentations: Any) -> "tuple[Config, OwnParts]":
    """Return the settings for these parts, and the parts."""
    from fastseg.data.augment import Augmentation, own_augmentation
    from fastseg.model.architectures import ARCHITECTURES, own_architecture
    from fastseg.training.own_parts import OwnParts

    if loss is not None and not callable(loss):
        raise UserError(f"loss is {shown(loss)}; it must be a function of logits and labels")
    network = None
    if isinstance(model, str) and model not in ARCHITECTURES:
        raise UserError(f"model is {model!r}; it must be one of: {', '.join(ARCHITECTURES)}")
    if model is not None:
        arch = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        network = ARCHITECTURES[arch] if isinstance(model, str) else own_architecture(model)
        config = _for_network(config, arch, network)
    named = augmentations if isinstance(augmentations, Mapping) else {each.__name__: each for each in augmentations}
    entries = {
        name: each if isinstance(each, Augmentation) else own_augmentation(name, each) for name, each in named.items()
    }
    own = OwnParts(tuple(callbacks), None if isinstance(model, str) else network, loss, entries)
    own.check(config)
    return config, own


def _for_network(config: Config, arch: str, network: "Architecture") -> Config:
    """Return the settings for a network of one's own: without the auxiliary head and pretrained weights it has not."""
    aux, weights = config.optim.aux, config.model.weights
    if "aux" not in network.heads and aux is None:
        aux = 0.0
    if weights in ("imagenet", "coco") and weights not in (network.pretrained or {}):
        weights = "none"
    own: Any = arch  # a name that no annotation knows
    return replace(config, model=replace(config.model, arch=own, weights=weights), optim=replace(config.optim, aux=aux))


def _train_here(config: Config, manifest: Manifest, device: str, profile: bool, own: "OwnParts") -> None:
    """Train in this process, alone or as one of the ranks that torchrun has started."""
    import torch.distributed as dist

    from fastseg.distributed.ranks import joined_ranks
    from fastseg.training.run import check, train

    if dist.is_available() and dist.is_initialized():
        raise UserError(
            "this process is in a process group of torch.distributed already; call fastseg.train before it is made, or "
            "after torch.distributed.destroy_process_group()"
        )
    number = 0
    with unchanged_process(), own.registered(config):
        saved = check(config, manifest, device)
        try:
            with joined_ranks(device, config.timeout) as ranks:
                train(config, manifest, ranks, saved, profile, own)
        except SystemExit as left:  # saved after a signal, which is for the caller to handle
            number = left.code - 128 if isinstance(left.code, int) else 0
            if number <= 0:
                raise
    if number:
        signal.raise_signal(number)


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Restore what a training changes in its process: signal handlers, torch's switches, threads and random numbers."""
    import cv2
    import torch
    import torch._inductor.config

    from fastseg.storage import use_cache

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook, threads, opencv = threading.excepthook, torch.get_num_threads(), cv2.getNumThreads()
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    benchmark, strict, deterministic = (
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )
    compiled = torch._inductor.config.deterministic
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            threading.excepthook = hook
            torch.set_num_threads(threads)
            cv2.setNumThreads(opencv)
            cudnn.benchmark, cudnn.deterministic = benchmark, strict
            torch.use_deterministic_algorithms(deterministic)
            torch._inductor.config.deterministic = compiled
            torch.set_float32_matmul_precision(precision)
            use_cache(None, 1)
            gc.collect()  # pipelines of DALI and their sources, whose threads end with them, hold each other


class _Recipes:
    """The default of a setting in the signature of :func:`train`."""

    def __repr__(self) -> str:
        return "<of the recipe>"


train.__signature__ = signature_with_settings(train, Config(), RENAMED, _Recipes())  # type: ignore[attr-defined]
