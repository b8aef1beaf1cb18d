"""How threads wait while a command computes on the CPU."""

import pytest

import commands

OURS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
ACTIVE, SPINS = {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "70"}


@pytest.mark.parametrize(("given", "found"), [({}, OURS), (ACTIVE, ACTIVE), (SPINS, OURS | SPINS)])
def test_openmp_spins_for_an_instant_unless_told_otherwise(given: dict[str, str], found: dict[str, str]) -> None:
    """As torch's OpenMP itself says it."""
    code = "import fastseg.commands.predict, torch"
    done = commands.typed("python", "-c", code, OMP_DISPLAY_ENV="VERBOSE", **given)
    assert done.returncode == 0, done.stderr
    for name, value in found.items():
        assert f"{name} = '{value}'" in done.stderr
