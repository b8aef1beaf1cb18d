"""An evaluation in a run's records, and in a line for whoever watches."""

from collections.abc import Sequence

from fastseg.labels import SegmentationClass
from fastseg.loop.runlog import RunLog
from fastseg.score.evaluator import Evaluation
from fastseg.score.metrics import Score, percent


def record_evaluation(
    log: RunLog,
    result: Evaluation,
    scores: Score,
    classes: Sequence[SegmentationClass],
    keys: Sequence[str],
    *,
    step: int,
    epoch: float,
    weights: str,
    best: bool,
) -> None:
    """Write the evaluation after ``step`` to the run's folder; ``keys`` of the split's frames by their place.

    ``weights``: ``ema`` or ``model``, whichever were evaluated. ``best``: whether no score of the run is higher.
    """
    counts = {"images": result.images, "bad_samples": result.bad_samples}
    speed = result.images_per_second
    log.evaluated(step, scores.to_json(), epoch=epoch, **counts, images_per_second=speed, weights=weights)
    log.confusion(result.matrix, classes, step)
    log.worst(result.worst, [keys[s.place] for s in result.worst], classes, step)
    left_out = f", {result.bad_samples} damaged ones left out" if result.bad_samples else ""
    log.say(
        f"epoch {epoch:.1f}: mIoU {percent(scores.miou)} % on {result.images} images{left_out}"
        f"{', the best so far' if best else ''} ({speed:.1f} images/s)"
    )
