"""Choose the frames of an evaluation that its report shows: the worst, the best, and some at random."""

import re
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fastseg.distributed.ranks import gather_on_first, gather_states
from fastseg.evaluation.metrics import Frame, Metric, Sample
from fastseg.evaluation.scores import iou

Rank = tuple[float, int]
"""What frames are sorted by, the least first; the index in the split makes ranks distinct."""


class FirstFrames(Metric):
    """The ``most`` frames of the least rank, at most one of each scene."""

    def __init__(self, most: int, scenes: Sequence[Hashable] = ()) -> None:
        """``scenes``: the scene of each frame of the split; without them each frame is a scene of its own."""
        self._most, self._scenes = most, scenes
        self._waiting: dict[int, Frame] = {}  # until their counts have arrived
        self._kept: dict[Hashable, tuple[Rank, Sample]] = {}

    @abstractmethod
    def rank(self, score: float, index: int) -> Rank:
        """Return the rank of a frame with the mean IoU ``score``."""

    def update(self, frame: Frame) -> None:
        """Hold the frame until its counts arrive."""
        self._waiting[frame.index] = frame

    def on_counts(self, index: int, counts: NDArray[np.int64]) -> None:
        """Copy the frame to the host if it is among the first; else drop it."""
        frame = self._waiting.pop(index)
        scores = iou(*counts)
        known = scores[~np.isnan(scores)]
        score = float(known.mean()) if len(known) else 1.0
        rank, scene = self.rank(score, index), self._scene(index)
        # The frame that it would replace: that of its scene, or the last if there is no room.
        rival = scene if scene in self._kept else max(self._kept, key=lambda s: self._kept[s][0], default=None)
        if scene in self._kept or len(self._kept) == self._most:
            if rank >= self._kept[rival][0]:
                return
            del self._kept[rival]
        image, label, prediction = (
            tensor.cpu().numpy().copy() for tensor in (frame.image, frame.label, frame.prediction)
        )
        self._kept[scene] = rank, Sample(score, index, image, label, prediction)

    def compute(self) -> list[Sample]:
        """Return the first of all ranks in order, on the first rank; only those are sent: frames are large."""
        ranked = [[*rank] for rank, _ in self._kept.values()]
        chosen: dict[Hashable, int] = {}
        for _, index in sorted(pair for state in gather_states({"ranked": ranked}) for pair in state["ranked"]):
            if len(chosen) < self._most:
                chosen.setdefault(self._scene(index), index)
        order = list(chosen.values())
        sent = gather_on_first([sample for _, sample in self._kept.values() if sample.index in order])
        return sorted((sample for samples in sent for sample in samples), key=lambda sample: order.index(sample.index))

    def _scene(self, index: int) -> Hashable:
        return self._scenes[index] if self._scenes else index


class WorstFrames(FirstFrames):
    """The frames with the lowest IoU."""

    def rank(self, score: float, index: int) -> Rank:
        """Put the lowest IoU first."""
        return score, index


class BestFrames(FirstFrames):
    """The frames with the highest IoU."""

    def rank(self, score: float, index: int) -> Rank:
        """Put the highest IoU first."""
        return -score, index


class RandomFrames(FirstFrames):
    """Frames drawn by their keys alone: the same ones in every evaluation, and in other runs on the split."""

    def __init__(self, most: int, keys: Sequence[str]) -> None:
        super().__init__(most)
        self._keys = keys

    def rank(self, score: float, index: int) -> Rank:  # noqa: ARG002
        """Put the smallest checksum of a key first."""
        return crc32(self._keys[index].encode()), index


class ReportFrames(Metric):
    """The frames that a report shows: worst and best ones of different scenes, and random ones, none twice."""

    def __init__(self, keys: Sequence[str], worst: int = 6, random: int = 2, best: int = 2) -> None:
        """``keys``: those of the split's frames, by index."""
        different = scenes(keys, 2 * worst)
        self._random = random
        self._kinds: dict[str, FirstFrames] = {
            "worst": WorstFrames(worst, different),
            "best": BestFrames(best, different),
            "random": RandomFrames(2 * random, keys),  # some may be among the others
        }

    def update(self, frame: Frame) -> None:
        """Hold the frame until its counts arrive."""
        for kind in self._kinds.values():
            kind.update(frame)

    def on_counts(self, index: int, counts: NDArray[np.int64]) -> None:
        """Keep the frame or drop it."""
        for kind in self._kinds.values():
            kind.on_counts(index, counts)

    def compute(self) -> list[Sample]:
        """Return the frames of all ranks on the first: the worst, worst first, then random ones, then the best."""
        found = {name: kind.compute() for name, kind in self._kinds.items()}
        shown: dict[int, Sample] = {}
        for name, samples in found.items():
            new = [replace(sample, kind=name) for sample in samples if sample.index not in shown]
            shown |= {sample.index: sample for sample in (new[: self._random] if name == "random" else new)}
        order = ("worst", "random", "best")
        return sorted(shown.values(), key=lambda sample: order.index(sample.kind))


def scenes(keys: Sequence[str], least: int) -> list[Hashable]:
    """Return the scene of each frame: its key up to the last number (``aachen_000003`` of ``aachen_000003_000019``).

    If these are fewer than ``least``, as in a video in one folder, scenes are that many equal parts of the sorted keys,
    in which frames that were taken one after another are neighbors.
    """
    names = [re.sub(r"[\W_]*\d+\D*$", "", key) for key in keys]
    if len(set(names)) >= min(least, len(keys)):
        return list(names)
    order = {key: i for i, key in enumerate(sorted(keys))}
    return [least * order[key] // len(keys) for key in keys]
