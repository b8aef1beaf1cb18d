"""The model of a step's time: its parts against what they follow from, and the tables of docs/clusters.md."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.suite.scale_model import Machine, network_size, predict, ring_time, table

MACHINE = Machine()


def test_what_is_counted_of_the_network() -> None:
    gradients, norms = network_size("deeplabv3_resnet50")
    assert gradients == pytest.approx(168e6, rel=0.01)
    assert norms == 53 + 8  # the backbone's, and those of ASPP, its projection, the head and the auxiliary head


def test_one_gpu_exchanges_nothing() -> None:
    alone = predict(replace(MACHINE, batch=2), 1)
    assert (alone.reduce, alone.exposed, alone.norms, alone.sync_bn) == (0, 0, 0, False)
    assert alone.step == alone.compute


def test_half_of_the_peak_is_the_mark() -> None:
    """2.336 TFLOP an image at half of 989 TFLOP/s: 212 images/s."""
    assert predict(MACHINE, 1).images_per_second == pytest.approx(212, rel=0.01)


def test_a_ring_sends_nearly_everything_twice_over_the_slowest_link() -> None:
    plain = replace(MACHINE, reached=1.0, latency=0.0, nvlink=100.0, network=10.0)
    assert ring_time(plain, 2, 1e9) == pytest.approx(10)
    assert ring_time(plain, 8, 1e9) == pytest.approx(2 * 7 / 8 * 10)
    assert ring_time(plain, 16, 1e9) == pytest.approx(2 * 15 / 16 * 100)
    assert ring_time(replace(plain, nvlink=5.0), 16, 1e9) == pytest.approx(2 * 15 / 16 * 200)


def test_a_slow_network_shows_once_the_backward_pass_is_too_short() -> None:
    fast, slow = predict(MACHINE, 64), predict(replace(MACHINE, network=12.5), 64)
    assert fast.exposed < 0.1 * fast.reduce * 8
    assert slow.step == pytest.approx(slow.compute + slow.exposed)
    assert slow.exposed >= slow.reduce - slow.compute
    assert slow.images_per_second < fast.images_per_second


def test_small_batches_pay_for_their_norms() -> None:
    small, large = (predict(replace(MACHINE, batch=batch), 8) for batch in (2, 8))
    assert (small.sync_bn, large.sync_bn) == (True, False)
    assert small.norms > 0 == large.norms


def test_a_slow_loader_decides() -> None:
    found = predict(replace(MACHINE, loader=100.0), 8)
    assert found.images_per_second == pytest.approx(800)


def test_a_measured_step_is_taken_as_it_is() -> None:
    assert predict(replace(MACHINE, step=50.0), 1).step == 50


@pytest.mark.parametrize("changes", [{}, {"batch": 2}, {"network": 12.5}])
def test_the_tables_of_the_document(changes: dict[str, float]) -> None:
    document = Path(__file__).parent.parent / "docs" / "clusters.md"
    assert table(replace(MACHINE, **changes)) in document.read_text()
