"""How threads wait while a command computes on the CPU."""

import pytest

import commands


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_waits_without_spinning_unless_told_otherwise(given: dict[str, str], found: str) -> None:
    """As torch's OpenMP itself says it."""
    code = "import fastseg.commands.predict, torch"
    done = commands.typed("python", "-c", code, OMP_DISPLAY_ENV="TRUE", **given)
    assert done.returncode == 0, done.stderr
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr
