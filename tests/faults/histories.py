"""Sessions of a training whose settings change in between: real runs of a tiny network, forked where all is imported.

A session ends by itself, by SIGTERM or by SIGKILL at any of the moments at which it writes or computes something. Every
checkpoint that is saved is also put into an archive, which no session changes again.
"""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from forked import become, text
from PIL import Image

import zygote
from fastseg.config import Config, DataConfig, ModelConfig, OptimConfig
from fastseg.data.loader import EvalLoader
from fastseg.distributed.ranks import joined_ranks
from fastseg.evaluation.scoring import evaluate
from fastseg.model import checkpoint
from fastseg.model.architectures import register_network
from fastseg.shards.manifest import read_manifest
from fastseg.training import run_log, trainer
from fastseg.training.run import check, train
from fastseg.training.step import TrainStep
from own_parts import small_net

LONGEST = 240
"""Seconds after which a session that hangs is killed (SIGALRM)."""


@dataclass(frozen=True)
class Session:
    """What one start of the training is told, and how it ends."""

    shards: str
    runs: str
    name: str
    archive: str
    resume: str = "changed"
    ranks: int = 1
    batch: int = 2
    epochs: float = 1.0
    lr: float = 0.05
    ema: float | None = None
    eval_every: float = 1.0
    save_every: float = 1.0
    split: str = "val"
    killed_at: int = 0
    """The moment of the first rank at which it is killed; 0: it is not."""
    stopped_at: int = 0
    """The moment of the first rank at which it is asked to stop; 0: it is not."""


@dataclass(frozen=True)
class Ended:
    """How a session went."""

    codes: list[int]
    """Exit codes of the ranks; below 0 the signal."""
    output: str
    scores: dict[str, float | None] = field(default_factory=dict)
    """The mIoU that fastseg-eval gives for each checkpoint asked for."""


class Trainings:
    """Runs sessions one after the other, and scores checkpoints."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        self._process = zygote.process(_serve, theirs)
        theirs.close()

    def run(self, session: Session) -> Ended:
        """Run a session to its end."""
        return self._ask({"session": session})

    def score(self, shards: str, split: str, checkpoints: list[Path]) -> dict[str, float | None]:
        """Return what fastseg-eval gives for these."""
        ended = self._ask({"score": list(map(str, checkpoints)), "shards": shards, "split": split})
        assert ended.codes == [0], ended.output
        return ended.scores

    def close(self) -> None:
        """End the process."""
        self._pipe.send({})
        self._process.join(60)

    def _ask(self, request: dict[str, Any]) -> Ended:
        self._pipe.send(request)
        ended: Ended = self._pipe.recv()
        return ended


def _serve(pipe: Connection) -> None:
    Image.init()  # once, not in every session
    while request := pipe.recv():
        output, answer = os.memfd_create("output"), os.memfd_create("answer")
        if session := request.get("session"):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            works = [partial(_train, session, rank, port) for rank in range(session.ranks)]
        else:
            works = [partial(_score, request, answer)]
        codes = _forked(works, output)
        pipe.send(Ended(codes, text(output), json.loads(text(answer) or "{}")))


def _forked(works: list[Callable[[], None]], output: int) -> list[int]:
    """Do each in a process of its own; where one is killed the others are too. Return their exit codes."""
    children: list[int] = []
    for work in works:
        if (child := os.fork()) == 0:
            become(work, output, output, LONGEST)
        children.append(child)
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] < 0:
            for other in children:
                if other not in codes:
                    os.kill(other, signal.SIGKILL)
    return [codes[child] for child in children]


def _train(session: Session, rank: int, port: int) -> None:
    """Do the work of one rank."""
    if session.ranks > 1:
        world = {"WORLD_SIZE": session.ranks, "LOCAL_WORLD_SIZE": session.ranks, "RANK": rank, "LOCAL_RANK": rank}
        names = {**world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    register_network("small", small_net)
    if rank == 0:
        _hook(session)
    config, manifest = _config(session), read_manifest(session.shards)
    saved = check(config, manifest, "cpu")
    with joined_ranks("cpu", 60) as ranks:
        train(config, manifest, ranks, saved)


def _config(session: Session) -> Config:
    arch: Any = "small"
    return Config(
        shards=session.shards,
        name=session.name,
        runs=Path(session.runs),
        resume=session.resume,
        eval_split=session.split,
        eval_every=session.eval_every,
        save_every=session.save_every,
        log_every=1,
        data=DataConfig(batch=session.batch, crop=(32, 32), eval_batch=5, threads=1, prefetch=1),
        model=ModelConfig(arch=arch, weights="none", compile=False),
        optim=OptimConfig(epochs=session.epochs, lr=session.lr, lr_batch=None, warmup=0.0, ema=session.ema, aux=0.0),
    )


def _hook(session: Session) -> None:
    """Archive what is saved, and end the session at its moment."""
    moments = count(1)

    def moment() -> None:
        number = next(moments)
        if number == session.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == session.stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def around(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            moment()
            result = inner(*arguments, **options)
            moment()
            return result

        setattr(owner, name, wrapped)

    save = checkpoint.save

    def archived(path: Path, document: dict[str, Any]) -> None:
        save(path, document)
        archive = Path(session.archive)
        shutil.copyfile(path, archive / f"{len(list(archive.iterdir())):04d}.pt")

    checkpoint.save = archived
    for owner, name in (
        (TrainStep, "__call__"),
        (EvalLoader, "__iter__"),
        (checkpoint, "save"),
        (checkpoint, "keep"),
        (run_log, "write_atomic"),
        (run_log, "write_gallery"),
        (run_log.RunLog, "_record"),
        (run_log.RunLog, "_add_scalars"),
        (trainer, "write_report"),
    ):
        around(owner, name)


def _score(request: dict[str, Any], answer: int) -> None:
    torch.set_num_threads(1)
    register_network("small", small_net)
    scores = {}
    for path in request["score"]:
        miou = evaluate(path, request["shards"], split=request["split"], device="cpu", threads=1, batch=5).miou
        scores[path] = miou if miou == miou else None
    os.write(answer, json.dumps(scores).encode())


def chain(node: "Saved | None") -> "Iterator[Saved]":
    """Yield a checkpoint and those that it goes on from, in this run."""
    while node:
        yield node
        node = node.parent if node.parent and node.parent.run == node.run else None


@dataclass(frozen=True)
class Saved:
    """A checkpoint in the archive."""

    path: Path
    run: int
    """The run that it belongs to; one that begins with another's file is another."""
    parent: "Saved | None"
    """The checkpoint that its session went on from, or the one that it saved before."""
    step: int
    epoch: float
    images_seen: int
    miou: float | None
    """Its own score."""
    evaluated: bool
    split: str
