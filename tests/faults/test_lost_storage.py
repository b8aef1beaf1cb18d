"""Shards in object storage behind a network that breaks, a server that dies, and the cache that spares asking it."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import urllib3
from soak import THOROUGH, TIMES
from trainings import finish

import commands
import zygote
from augments import augment_config
from fastseg import object_stores, storage
from fastseg.commands import evaluate, train
from fastseg.data.loader import TrainLoader, open_files
from fastseg.errors import UserError
from fastseg.object_stores import STORAGES
from fastseg.shards.manifest import read_manifest
from fastseg.shards.verify import verify
from fastseg.storage import Cache
from object_store import CREDENTIALS, Network, Server, none

Tally = Callable[[str, int, int], None]
BLOB = random.Random(1).randbytes(1 << 23)
RANGES = [(start, 1 << 19) for start in range(0, len(BLOB), 1 << 19)]
KILLS = (20 if THOROUGH else 6) * TIMES
HELD = f"{storage.FOLDER}/??/[0-9a-f]*"
"""Files of a cache in the folder that the user named, without temporary ones, which a killed process leaves."""
TRAIN = ("train.py", "--gpus", 1, *commands.TINY, "--optim.epochs", 12, "--save-every", 1)
"""64 samples are read ahead, so the run has to be longer than that to notice that a server has gone."""


@pytest.fixture(scope="module")
def server(shards: Path) -> Iterator[Server]:
    server = Server()
    fill(server, shards)
    yield server
    server.kill()


def fill(server: Server, shards: Path) -> None:
    server.upload(shards)
    server.put("blob", BLOB)


@pytest.fixture(params=STORAGES)
def blob(request: pytest.FixtureRequest) -> str:
    """The same object by every scheme that there is."""
    return f"{request.param}://bucket/blob"


def flaky(request: str, attempt: int) -> str:
    """Each request fails up to three times, in every way."""
    kinds = ("busy", "reset", "cut", "short", "slow")
    number = zlib.crc32(request.encode())
    return kinds[(number + attempt) % len(kinds)] if attempt <= number % 4 else "none"


def test_what_breaks_is_asked_for_again(network: Network, blob: str, tally: Tally) -> None:
    network.fault = flaky
    with ThreadPoolExecutor(len(RANGES)) as pool:
        for number in range(TIMES):  # a soak asks for other ranges each time, whose requests fail otherwise
            parts = [(start, size - number) for start, size in RANGES]
            found = list(pool.map(lambda part: storage.read_range(blob, *part), parts))
            assert found == [BLOB[start : start + size] for start, size in parts]
    broken = sum(count for kind, count in network.faults.items() if kind != "none")
    assert set(network.faults) == {"none", "busy", "reset", "cut", "short", "slow"}
    tally("a request to object storage refused, reset, cut short or delayed", broken, broken)


def test_a_silent_server_is_asked_again(network: Network, blob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "READ_TIMEOUT", 1)
    network.fault = lambda _, attempt: "silent" if attempt == 1 else "none"
    assert storage.read_range(blob, 5, 7) == BLOB[5:12]
    assert network.faults == {"silent": 1, "none": 1}


@pytest.mark.usefixtures("network")
def test_ranges_at_the_end(blob: str) -> None:
    assert storage.look_up(blob).size == len(BLOB)
    assert storage.read_range(blob, len(BLOB) - 5, 9) == BLOB[-5:]
    assert storage.read_range(blob, len(BLOB), 9) == b""
    assert storage.read_bytes(blob, len(BLOB)) == BLOB
    for ask in (storage.look_up, lambda path: storage.read_range(path, 0, 9)):
        with pytest.raises(FileNotFoundError):
            ask(f"{blob}.none")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("busy", "503"),
        ("reset", "Connection"),
        ("cut", "Connection broken|Connection reset"),
        ("short", "Incomplete"),
    ],
)
def test_a_clear_end(network: Network, blob: str, monkeypatch: pytest.MonkeyPatch, fault: str, says: str) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    network.fault = lambda *_: fault
    with pytest.raises(UserError, match=rf"^{blob} cannot be read after 3 tries \(.*({says}).*\); once"):
        storage.read_range(blob, 0, 1000)
    assert len(network.requests) == 3


def test_bodies_and_answers_that_break_share_the_tries(
    network: Network, blob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight in all, whatever breaks when: the pauses grow, so that more would take hours."""
    pauses: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", pauses.append)
    network.fault = lambda _, attempt: ("cut", "busy", "short", "reset")[attempt % 4]
    with pytest.raises(UserError, match=rf"^{blob} cannot be read after 8 tries \("):
        storage.read_range(blob, 0, 1000)
    assert len(network.requests) == 8
    assert len(pauses) == 7
    assert all(pause <= 2**i for i, pause in enumerate(pauses))


def test_a_broken_tls_stream(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is asked for again, too; botocore hands urllib3's exception on as it is."""
    read, broken = urllib3.HTTPResponse.read, [1, 1]

    def breaks(response: urllib3.HTTPResponse, *args: object, **options: object) -> bytes:
        if broken:
            broken.pop()
            raise urllib3.exceptions.SSLError("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")
        return read(response, *args, **options)

    monkeypatch.setattr(urllib3.HTTPResponse, "read", breaks)
    assert storage.read_range("s3://bucket/blob", 5, 7) == BLOB[5:12]
    assert (broken, len(network.requests)) == ([], 3)
    broken += [1] * 9
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(UserError, match=r"^s3://bucket/blob cannot be read after 2 tries \(.*BAD_RECORD_MAC.*\); once"):
        storage.read_range("s3://bucket/blob", 5, 7)


@pytest.mark.usefixtures("network")
def test_an_object_that_is_replaced_is_refused(server: Server, blob: str) -> None:
    other = blob.replace("blob", "other")
    server.put("other", b"before")
    size, etag = storage.look_up(other)
    assert size == 6
    assert storage.read_range(other, 0, 6, etag) == b"before"
    server.put("other", b"behind")
    with pytest.raises(UserError, match=f"{other} was replaced while it was being read"):
        storage.read_range(other, 0, 6, etag)


@pytest.mark.usefixtures("network")
def test_damage_in_the_storage_is_found(server: Server, shards: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(shards, tmp_path / "set")
    tar = bytearray((copy / "train-000001.tar").read_bytes())
    tar[len(tar) // 2] ^= 1
    (copy / "train-000001.tar").write_bytes(tar)
    (copy / "val-000000.tar").unlink()
    damages = verify(server.upload(copy, "damaged"), workers=1)
    assert "train-000001.tar is changed: its SHA-256 is not the manifest's" in damages
    assert "val-000000.tar is missing" in damages
    assert not [damage for damage in damages if "train-000000" in damage]


def test_the_second_epoch_costs_no_network(network: Network, shards: Path, tmp_path: Path) -> None:
    manifest = read_manifest("s3://bucket/set")

    def loader(place: str | Path) -> TrainLoader:
        split = manifest.split("train")
        options = {"batch": 2, "device": torch.device("cpu"), "threads": 1, "prefetch": 1, "seed": 3}
        return TrainLoader(open_files(place, manifest, "train"), split, augment_config((32, 48)), **options)

    def epochs(number: int) -> None:
        remote, local = loader("s3://bucket/set"), loader(shards)
        for _ in range(number * local.steps_per_epoch):
            assert torch.equal(remote.next().image, local.next().image)

    storage.use_cache(tmp_path / "cache", 1)
    try:
        epochs(4)
        reads = [request for request in network.requests if request.startswith("GET") and ".tar" in request]
        # Two threads may ask for one record at the same instant, before either keeps it.
        assert len(set(reads)) == 11
        before = len(network.requests)
        for file in sorted((tmp_path / "cache").glob(HELD))[:3]:  # damaged in three ways
            content = file.read_bytes()
            file.write_bytes([content[:-1], b"", bytes([content[0] ^ 1]) + content[1:]][before % 3])
            before += 1
        network.requests.clear()
        epochs(4)
        again = {request for request in network.requests if request.startswith("GET") and ".tar" in request}
        assert len(again) == 3
        network.requests.clear()
        epochs(2)
        assert not [request for request in network.requests if request.startswith("GET") and ".tar" in request]
    finally:
        storage.use_cache(None, 1)


def test_the_cache_keeps_its_bound(network: Network, tmp_path: Path) -> None:
    bound = len(BLOB) // 2
    first = Cache(tmp_path, bound)
    for _ in range(2):
        assert read_all(first) == 0
        assert bound - 2 * RANGES[0][1] < held(tmp_path) <= bound
    assert len(network.requests) == 1 + 16 + 9  # a look, all, and all but the seven that it holds
    network.requests.clear()
    # Opened anew with less room, it keeps less; and what nobody has read since then makes way.
    time.sleep(0.05)  # a file's time is that of the kernel's last tick
    second = Cache(tmp_path, bound // 2)
    assert bound // 2 - 2 * RANGES[0][1] < held(tmp_path) <= bound // 2
    for asked in (2, 2):
        assert second.read("s3://bucket/blob", 1, 1 << 20) == BLOB[1 : 1 + (1 << 20)]
        assert len(network.requests) == asked
        assert held(tmp_path) <= bound // 2


def test_where_no_cache_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--cache .*file/cache cannot be written"):
        Cache(tmp_path / "file" / "cache", 1)


@pytest.mark.usefixtures("network")
def test_a_cache_that_is_removed_does_not_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = Cache(tmp_path / "cache", 1 << 30)
    shutil.rmtree(tmp_path / "cache")
    assert read_all(gone) == 0
    assert capsys.readouterr().err.count("stores no more: No such file or directory") == 1


def read_all(of: Cache) -> int:
    """Wrong answers for any of the ranges, in a random order."""
    parts = random.sample(RANGES, len(RANGES))
    return sum(of.read("s3://bucket/blob", *part) != BLOB[part[0] : sum(part)] for part in parts)


def held(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(HELD))


def use_in_a_process(folder: Path, bound: int, times: int) -> None:
    object_stores._s3_client.cache_clear()  # a client is for one process
    wrong = sum(read_all(Cache(folder, bound)) for _ in range(times))
    os._exit(wrong)


def start_using(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=use_in_a_process, args=arguments)
    process.start()
    return process


@pytest.mark.usefixtures("network")
def test_processes_share_a_cache(tmp_path: Path) -> None:
    bound = len(BLOB) // 2
    processes = [start_using(tmp_path, bound, 3) for _ in range(3)]
    most = 0
    while any(process.is_alive() for process in processes):
        most = max(most, sum(path.stat().st_size for path in list(tmp_path.glob(HELD)) if path.exists()))
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 0 < most <= bound


def test_killed_while_writing_to_the_cache(network: Network, tmp_path: Path, tally: Tally) -> None:
    bound, draw, survived = len(BLOB) * 2, random.Random(2), 0
    for number in range(KILLS):
        folder = tmp_path / str(number)
        process = start_using(folder, bound, 1)
        while not held(folder) and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.random() * 0.1)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kept = len(list(folder.glob(HELD)))
        network.requests.clear()
        survived += read_all(Cache(folder, bound)) == 0 and len(network.requests) == 1 + len(RANGES) - kept
        shutil.rmtree(folder)
    tally("SIGKILL while writing to the cache", KILLS, survived)
    assert survived == KILLS


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / "checkpoints" / "last.pt", map_location="cpu", weights_only=True)
    return {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in saved[part].items()}


@pytest.mark.slow
def test_a_server_that_dies_while_training(
    server: Server,
    network: Network,
    shards: Path,
    tmp_path: Path,
    tally: Tally,
    again: int,
) -> None:
    """Training ends with one sentence, goes on when the server is back, and all is as if nothing had happened."""
    unbroken = (*TRAIN, "--shards", shards, "--runs", tmp_path, "--name", "unbroken")
    finish(zygote.start(train.main, *unbroken, output=tmp_path / "unbroken.txt"))

    network.fault = flaky
    storage = {**CREDENTIALS, "AWS_ENDPOINT_URL": network.endpoint, "AWS_MAX_ATTEMPTS": "5"}
    command = (*TRAIN, "--shards", "s3://bucket/set", "--runs", tmp_path, "--name", "broken")
    process = zygote.start(train.main, *command, output=tmp_path / "broken.txt", **storage)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3 + again:
        assert time.monotonic() < deadline
        assert process.running, process.output
        time.sleep(0.02)
    server.kill()
    code, output = process.finish(200), process.output
    assert code == 2, output
    sentences = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, output
    assert "error: s3://bucket/set/train-00000" in sentences[0]
    assert "cannot be read after 5 tries (" in sentences[0]
    assert 'fastseg/"' not in output
    assert "Traceback" not in output

    server.start()
    fill(server, shards)
    cached = (*command, "--cache", tmp_path / "cache")
    resumed = finish(zygote.start(train.main, *cached, output=tmp_path / "resumed.txt", **storage))
    assert "last.pt after step" in resumed
    assert list((tmp_path / "cache").glob(HELD))
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "broken")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    tally("the object storage's server killed during training", 1, 1)

    checkpoint = tmp_path / "broken" / "checkpoints" / "last.pt"
    scored = ("fastseg-eval", checkpoint, "--gpus", 1, "--json")
    evaluated = finish(zygote.start(evaluate.main, *scored, output=tmp_path / "score.txt", **storage))
    assert "5 images of s3://bucket/set (val)" in evaluated
    last = [json.loads(line) for line in metrics.read_text().splitlines() if '"eval"' in line][-1]
    document, _ = json.JSONDecoder().raw_decode(evaluated, evaluated.index("\n{\n") + 1)
    assert document["miou"] == pytest.approx(last["miou"], abs=1e-9)


@pytest.mark.slow
def test_verify_reads_from_the_storage(network: Network) -> None:
    network.fault = flaky
    result = commands.run("python", "tools/make_shards.py", "--verify", "--out", "s3://bucket/set", "--workers", 1)
    assert result.returncode == 0, result.stderr
    assert "s3://bucket/set is whole" in result.stdout
    network.fault = none
    commands.refused(
        commands.run("python", "tools/make_shards.py", "--verify", "--out", "s3://bucket/none"),
        "s3://bucket/none holds no finished set",
    )
