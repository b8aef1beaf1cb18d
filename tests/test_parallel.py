"""Worker processes: order, early ends, errors, and that none is left behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from fastseg.errors import UserError
from fastseg.parallel import ordered_map


def _slow_square(number: int) -> int:
    time.sleep(0.05 if number % 7 == 0 else 0)
    return number * number


def _refuse(number: int) -> int:
    if number >= 3:
        raise UserError(f"no {number}")
    return number


def _die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _sleep_and_tell(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    tasks = [(number,) for number in range(100)]
    assert list(ordered_map(_slow_square, tasks, workers)) == [number * number for number in range(100)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_in_order_is_raised(workers: int) -> None:
    results = ordered_map(_refuse, [(number,) for number in range(50)], workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="no 3"):
        next(results)


def test_tasks_are_taken_as_results_are() -> None:
    taken = []
    tasks = ((taken.append(number) or number,) for number in range(1000))
    with closing(ordered_map(_slow_square, tasks, 2)) as results:
        next(results)
        assert len(taken) == 32


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"a worker process was killed \(out of memory\?\)"):
        list(ordered_map(_die, [(number,) for number in range(8)], 2))


def _alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fastseg.parallel import ordered_map; "
        "from test_parallel import _sleep_and_tell; "
        "list(ordered_map(_sleep_and_tell, [(Path(sys.argv[1]),)] * 2, 2))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
