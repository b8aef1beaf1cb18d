"""The official evaluator of cityscapesscripts, to compare with."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastseg.labels import cityscapes

LABEL_IDS = np.array([next(v for v, t in cityscapes().train_ids.items() if t == i) for i in range(19)], np.uint8)
"""Train id → label id."""


def official(predictions: np.ndarray, label_ids: np.ndarray, folder: Path) -> dict[str, Any]:
    """What cityscapesscripts says of PNG files with these predictions (train ids) and truths (label ids)."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as evaluator

    # The instance-level part needs np.in1d, which numpy 2.4 has dropped.
    evaluator.args.evalInstLevelScore = False
    evaluator.args.JSONOutput, evaluator.args.quiet = False, True
    files: dict[str, list[str]] = {"pred": [], "gt": []}
    for i, pair in enumerate(zip(LABEL_IDS[predictions], label_ids, strict=True)):
        for kind, ids in zip(files, pair, strict=True):
            path = folder / f"{kind}_{i}.png"
            Image.fromarray(ids).save(path)
            files[kind].append(str(path))
    evaluate = evaluator.evaluateImgLists
    result: dict[str, Any] = evaluate(files["pred"], files["gt"], evaluator.args)
    return result
