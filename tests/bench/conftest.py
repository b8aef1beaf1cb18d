"""What several tests of the bench use."""

from pathlib import Path

import pytest

from bench.stages.frames import Frames, frames_of_shards


@pytest.fixture(scope="session")
def frames(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """Six training frames of 96×64 in all formats, and one to evaluate on."""
    return frames_of_shards(shards, 6, cache=tmp_path_factory.mktemp("cache"), workers=1)
