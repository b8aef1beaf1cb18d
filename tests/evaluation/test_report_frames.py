"""Which frames a report shows: the worst and the best of different scenes, and the same random ones every time."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from fastseg.evaluation import frames
from fastseg.evaluation.frames import BestFrames, FirstFrames, RandomFrames, ReportFrames, WorstFrames, scenes
from fastseg.evaluation.metrics import Frame, Metric

NOTHING = torch.zeros(2, 3, dtype=torch.uint8)


def show(metric: Metric, scores: dict[int, float]) -> Metric:
    """Show frames with these IoU, in hundredths, to a metric."""
    for index, score in scores.items():
        metric.update(Frame(index, NOTHING[..., None].expand(2, 3, 3), NOTHING, NOTHING, torch.zeros(1, 1)))
        hits = round(100 * score)
        metric.on_counts(index, np.array([[hits], [hits], [100]]))
    return metric


def indexes(samples: Iterable[Any]) -> list[int]:
    return [sample.index for sample in samples]


def test_the_worst_are_of_different_scenes_whatever_their_order() -> None:
    scores, scene = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.15, 4: 0.9, 5: 0.4}, ["a", "a", "b", "b", "c", "d"]
    for order in (list(scores), list(scores)[::-1]):
        samples = show(WorstFrames(3, scene), {i: scores[i] for i in order}).compute()
        assert indexes(samples) == [0, 3, 5]
        assert [sample.iou for sample in samples] == [0.1, 0.15, 0.4]
        assert indexes(show(BestFrames(2, scene), {i: scores[i] for i in order}).compute()) == [4, 5]
        assert indexes(show(WorstFrames(3), {i: scores[i] for i in order}).compute()) == [0, 3, 1]


def test_random_frames_depend_on_keys_alone() -> None:
    keys = [f"street_{i}" for i in range(50)]
    drawn = {keys[i] for i in indexes(show(RandomFrames(3, keys), {i: i / 50 for i in range(50)}).compute())}
    assert len(drawn) == 3
    other = keys[::-1]
    again = {other[i] for i in indexes(show(RandomFrames(3, other), dict.fromkeys(range(50), 0.5)).compute())}
    assert again == drawn


def test_a_report_shows_no_frame_twice() -> None:
    keys = [f"{'abcdef'[i % 6]}{i // 6}_{i}" for i in range(60)]
    samples = show(ReportFrames(keys, worst=4, random=2, best=2), {i: i / 60 for i in range(60)}).compute()
    assert [sample.kind for sample in samples] == ["worst"] * 4 + ["random"] * 2 + ["best"] * 2
    assert indexes(samples)[:4] == [0, 1, 2, 3]
    assert indexes(samples)[-2:] == [59, 58]
    assert len(set(indexes(samples))) == 8
    few = show(ReportFrames(keys[:5], worst=4, random=2, best=2), {i: i / 60 for i in range(5)}).compute()
    assert sorted(indexes(few)) == [0, 1, 2, 3, 4]


def test_ranks_agree_on_the_worst_of_each_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ["a", "a", "b", "b", "c", "c"]
    ranks: list[FirstFrames] = [WorstFrames(2, scene), WorstFrames(2, scene)]
    show(ranks[0], {0: 0.5, 2: 0.3, 4: 0.9})
    show(ranks[1], {1: 0.2, 3: 0.4, 5: 0.8})
    ranked = [{"ranked": [[*rank] for rank, _ in metric._kept.values()]} for metric in ranks]
    monkeypatch.setattr(frames, "gather_states", lambda _: ranked)
    sent: list[Any] = []
    monkeypatch.setattr(frames, "gather_on_first", lambda value: sent.append(value) or sent)
    ranks[1].compute()
    assert indexes(ranks[0].compute()) == [1, 2]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["aachen_000000_000019", "aachen_000001_000019"], ["aachen_000000", "aachen_000001"]),
        (["day/0016E5_07959", "day/0016E5_07961", "night/1"], ["day/0016E5", "day/0016E5", "night"]),
        (["b", "a"], ["b", "a"]),
    ],
)
def test_a_scene_is_the_key_up_to_its_last_number(keys: list[str], expected: list[str]) -> None:
    assert scenes(keys, 2) == expected


def test_a_video_is_cut_into_scenes_by_time() -> None:
    keys = [f"{i:06d}" for i in (3, 0, 2, 1)]
    assert scenes(keys, 2) == [1, 0, 1, 0]
    assert len(set(scenes([f"clip_{i}" for i in range(100)], 12))) == 12
    assert scenes([], 12) == []
