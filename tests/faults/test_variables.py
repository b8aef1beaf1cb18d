"""Nonsense in the environment and on the command line: one sentence names it."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from victims import Victim

import layouts
from object_store import CREDENTIALS

Tally = Callable[[str, int, int], None]
PAIR = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS", "MASTER_PORT")
WRONG: list[tuple[str, dict[str, str]]] = [
    *((name, {name: value}) for name in NUMBERS for value in ("abc", "-1", "1.5", "1" * 30)),
    *((name, {name: "0"}) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")),
    ("RANK", {"RANK": "1"}),
    ("RANK", {**PAIR, **MEETING, "RANK": "2"}),
    ("LOCAL_RANK", {**PAIR, **MEETING, "LOCAL_RANK": "2"}),
    *((name, {k: v for k, v in (PAIR | MEETING).items() if k != name}) for name in ("RANK", *MEETING)),
    ("MASTER_PORT", {**PAIR, **MEETING, "MASTER_PORT": "x"}),
    *(("MASTER_ADDR", {**PAIR, **MEETING, "MASTER_ADDR": name}) for name in ("nowhere.invalid", "a b", "x" * 300)),
]


@pytest.mark.parametrize(("name", "variables"), WRONG)
def test_the_variables_of_a_launcher(victim: Victim, tally: Tally, name: str, variables: dict[str, str]) -> None:
    flags = () if "WORLD_SIZE" in variables else ("--gpus", 1)
    ended = victim.trains_as_rank(*flags, "--timeout", 5, **variables)
    victim.refuses(ended, name)
    assert not (victim.folder / "runs" / "x" / "metrics.jsonl").exists()
    tally("nonsense in the environment", 1, 1)


def test_a_port_in_use(victim: Victim, tally: Tally) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = str(other.getsockname()[1])
        ended = victim.trains_as_rank("--timeout", 5, **PAIR, **MEETING | {"MASTER_PORT": port})
    victim.refuses(ended, f"the port {port}, which the environment variable MASTER_PORT names, is in use")
    tally("nonsense in the environment", 1, 1)


@pytest.mark.parametrize("value", ["x", "0", "-1", "1e3"])
def test_the_number_of_attempts(victim: Victim, tally: Tally, value: str) -> None:
    nowhere = CREDENTIALS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": value}
    victim.refuses(victim.trains("--shards", "s3://bucket/set", **nowhere), "AWS_MAX_ATTEMPTS")
    tally("nonsense in the environment", 1, 1)


@pytest.mark.parametrize("name", ["x" * 300, "é" * 150, "a\nb", "a\x1b[2Jb", "", "..", "a/b"])
def test_names_of_runs(victim: Victim, tally: Tally, name: str) -> None:
    victim.refuses(victim.trains("--name", name), "--name")
    tally("a run's name that is too long or no text", 1, 1)


def test_paths_that_are_too_long(victim: Victim, tally: Tally) -> None:
    long, source = "x" * 300, layouts.write_folder_dataset(victim.folder / "source", 1, 1)
    for ended in (
        victim.trains("--runs", f"a/{long}"),
        victim.packs(source, "--out", long),
        victim.packs(long),
        victim.predicts(Path(long)),
        victim.evaluates(Path(long)),
        victim.exports(Path(long)),
    ):
        victim.refuses(ended, "xxx", "too long")
    tally("a run's name that is too long or no text", victim.tries, victim.tries)
