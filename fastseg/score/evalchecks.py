"""What an evaluation refuses before it begins, since it may take long."""

from fastseg.data.manifest import Manifest
from fastseg.data.reader import Files, Reader
from fastseg.errors import UserError
from fastseg.evalconfig import Options
from fastseg.labels import cityscapes_ids
from fastseg.score.groundtruth import check_truth


def check_split(options: Options, manifest: Manifest, shards: str) -> None:
    """Refuse to score a split without masks, and other classes than Cityscapes' by its own evaluator."""
    if not manifest.split(options.split).labelled:
        if not options.save_predictions:
            raise UserError(
                f"the split {options.split!r} of {shards} has no masks, so that it cannot be scored; predict it with "
                "--save-predictions DIR, or score another with --split"
            )
        for flag, value in (("official", options.official), ("report", options.report), ("json", options.json)):
            if value:
                raise UserError(f"the split {options.split!r} has no masks, so that there is nothing for --{flag}")
    if options.official and cityscapes_ids(manifest.classes) is None:
        raise UserError(f"--official knows the 19 classes of Cityscapes alone, {shards} holds others; leave it out")
    if options.official and not options.official.exists():
        raise UserError(f"--official is {options.official}, which does not exist; it takes the set's ground truth")


def check_official(options: Options, manifest: Manifest, files: Files) -> None:
    """Refuse ground truth of other frames. Raises :class:`UserError`."""
    if options.official:
        reader = Reader(files)
        keys = [reader.key(place) for place in range(min(len(reader), options.max_images or len(reader)))]
        sizes = {(height, width) for height, width, _ in manifest.split(options.split).sizes}
        check_truth(options.official, keys, sizes)
