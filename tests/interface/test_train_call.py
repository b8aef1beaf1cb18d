"""``fastseg.train`` in this process: what it returns, what it leaves as it was, and what it refuses."""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist

import fastseg
import own_parts
import runs
from fastseg.data.augment import AUGMENTATIONS
from fastseg.errors import UserError
from fastseg.model.architectures import ARCHITECTURES
from fastseg.training.callbacks import Callback, Step

Train = Callable[..., fastseg.Run]


@pytest.fixture
def train(shards: Path, tmp_path: Path) -> Train:
    """A run of the small network, 2 steps an epoch, on the CPU."""
    small = {
        "recipe": "demo",
        "epochs": 2,
        "crop": (64, 64),
        "batch": 4,
        "threads": 1,
        "log_every": 1,
        "device": "cpu",
        "runs": tmp_path / "runs",
    }
    return lambda **changes: fastseg.train(changes.pop("shards", shards), **{**small, **changes})


def switches() -> tuple[Any, ...]:
    """What a training changes in its process."""
    return (
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        threading.excepthook,
        torch.get_num_threads(),
        cv2.getNumThreads(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_rng_state().tolist(),
        dist.is_initialized(),
        tuple(AUGMENTATIONS),
    )


def test_a_run_and_what_is_left_of_it(train: Train, tmp_path: Path, shards: Path) -> None:
    before = switches()
    run = train()
    assert switches() == before
    assert run.folder == tmp_path / "runs" / shards.name
    assert (run.best.name, run.last.name, run.report.name) == ("best.pt", "last.pt", "report.html")
    assert run.report.exists()
    assert [record["event"] for record in run.history] == ["train"] * 4 + ["eval"]
    assert run.history[-1]["miou"] == run.scores["miou"]
    assert set(run.history.to_pandas().columns) >= {"event", "epoch", "loss", "miou", "lr"}
    assert os.fspath(run) == str(run.folder)
    assert fastseg.Run(str(run.folder)) == run


def test_two_runs_in_one_process_are_equal_and_leave_no_thread(train: Train) -> None:
    one = train(name="one")
    threads = threading.active_count()
    other = train(name="other")
    end = time.monotonic() + 60  # readers finish what they are reading
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.1)
    assert threading.active_count() <= threads, threading.enumerate()
    runs.assert_same_run(one.folder, other.folder)


def test_a_finished_run_returns_at_once_and_a_shorter_one_is_refused(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train().history
    assert train().history == first
    assert "is finished at epoch 2 of 2" in capsys.readouterr().err
    with pytest.raises(UserError, match='epochs=2 → 1; confirm them with resume="changed", or choose another name'):
        train(epochs=1)
    with pytest.raises(UserError, match="these settings ask for 1; choose another name, more epochs"):
        train(epochs=1, resume="changed")


def test_ctrl_c_saves_and_raises_and_the_same_call_resumes(train: Train) -> None:
    whole = train(name="whole")

    class Interrupt(Callback):
        def on_step(self, step: Step) -> None:
            if step.step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    before = switches()
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[Interrupt()])
    assert switches() == before
    resumed = train()
    runs.assert_same_run(whole.folder, resumed.folder)


def test_sigterm_reaches_the_caller_after_saving(train: Train, tmp_path: Path, shards: Path) -> None:
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:

        class Terminate(Callback):
            def on_end(self, finished: bool) -> None:
                assert not finished

            def on_log(self, record: object) -> None:
                del record
                os.kill(os.getpid(), signal.SIGTERM)

        train(callbacks=[Terminate()])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]
    assert (tmp_path / "runs" / shards.name / "checkpoints" / "last.pt").exists()


def test_another_thread_can_train(train: Train) -> None:
    found: list[fastseg.Run] = []
    thread = threading.Thread(target=lambda: found.append(train(epochs=1)))
    thread.start()
    thread.join(300)
    assert found[0].last.exists()


def test_callbacks_see_everything_in_order_and_their_errors_end_the_run(train: Train, tmp_path: Path) -> None:
    train(callbacks=[own_parts.Recorder(tmp_path / "calls")], eval_every=1)
    calls = (tmp_path / "calls").read_text().splitlines()
    written = [number for number, call in enumerate(calls) if call.startswith("checkpoint ")]
    assert written[0] > calls.index("evaluation 2")  # it is written while steps go on
    rest = [call for number, call in enumerate(calls) if number not in written]
    assert rest[:5] == ["step 1", "log 1", "step 2", "log 2", "evaluation 2"]
    assert rest[5:9] == ["step 3", "log 3", "step 4", "log 4"]
    assert len(written) == 2
    assert calls[-1] == "end True"
    recorder = own_parts.Recorder(tmp_path / "failed")
    before = switches()
    with pytest.raises(ValueError, match="step 1 displeases me"):
        train(callbacks=[recorder, own_parts.Failing()], name="failed")
    assert switches() == before
    assert (tmp_path / "failed").read_text().splitlines() == ["step 1", "end False"]


def test_a_loss_of_ones_own_counts_pixels_as_ours_does(train: Train) -> None:
    ours = train(name="ours", aux=0.0, class_weights=0.0)
    own = train(name="own", loss=own_parts.mean_loss, aux=0.0)
    losses = [[record["loss"] for record in run.history if "loss" in record] for run in (ours, own)]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(UserError, match=r"^class_weights is 0.5, which a loss of your own replaces; set it to 0"):
        train(name="both", loss=own_parts.mean_loss, class_weights=0.5)
    with pytest.raises(UserError, match=r"^loss is 'dice'; it must be a function"):
        train(name="text", loss="dice")
    with pytest.raises(UserError, match=r"the loss is nan .*: lower lr or set clip and resume"):
        train(name="nan", loss=own_parts.nan_loss)


@pytest.mark.parametrize("kind", ["builder", "module", "entry"])
def test_a_network_of_ones_own(train: Train, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = {"builder": own_parts.small_net, "module": own_parts.small_net(19), "entry": "small"}[kind]
    if kind == "entry":
        fastseg.register_network("small", own_parts.small_net)
    before = {n: v.clone() for n, v in model.state_dict().items()} if kind == "module" else {}
    run = train(model=model, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) if before else True
    name = {"builder": "small_net", "module": "Sequential", "entry": "small"}[kind]
    mask = fastseg.load(run.best, device="cpu")(np.zeros((64, 96, 3), np.uint8)).mask
    assert mask.shape == (64, 96)
    monkeypatch.delitem(ARCHITECTURES, name)
    with pytest.raises(UserError, match=r"be registered before .*: fastseg\.register_network\("):
        fastseg.load(run.best, device="cpu")
    monkeypatch.undo()
    del ARCHITECTURES[name]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda classes: torch.nn.Conv2d(3, classes + 1, 1), "gives logits of 1×20×64×64 for one image and 19 classes"),
        (lambda _: torch.nn.Flatten(), "gives logits of "),
        (lambda classes: classes, "returned 19; it must return an nn.Module"),
        (3, "model is 3; it must be a module"),
        ("unet", "model is 'unet'; it must be one of: deeplabv3_resnet50"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(train: Train, model: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(model=model)
    ARCHITECTURES.pop("<lambda>", None)


def test_an_augmentation_of_ones_own(train: Train) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def look(image: np.ndarray, mask: np.ndarray, _: np.random.Generator) -> None:
        seen.append((image.copy(), mask.copy()))

    train(name="one", augmentations=[own_parts.darken, look], epochs=1)
    first, seen = seen, []
    train(name="two", augmentations={"dark": own_parts.darken, "look": look}, epochs=1)
    assert len(first) >= 8
    assert all((mask == 7).all() and not image[1:].any() for image, mask in first)
    assert len({int(image[0, 0, 0]) for image, _ in first}) > 1
    # The first two batches of the same run; later ones are made ahead, in any order of threads.
    assert [image[0, 0, 0] for image, _ in seen[:8]] == [image[0, 0, 0] for image, _ in first[:8]]
    with pytest.raises(UserError, match="the augmentation 'color' uses the name 'color' of another"):
        train(name="three", augmentations={"color": own_parts.darken})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": "demos"}, "^recipe is 'demos'; it must be one of: cityscapes"),
        ({"config": 3}, "^config is 3; it must be a fastseg.Config"),
        ({"epoch": 3}, "^epoch is no setting; did you mean epochs?"),
        ({"batch": 1}, "^batch is 1; it must be at least 2"),
        ({"train_split": "dev"}, "no split 'dev'"),
        ({"shards": "nowhere"}, "nowhere"),
        ({"name": "a/b"}, "^name is 'a/b'; it must be a plain folder name"),
        ({"arch": "deeplabv3_resnet50", "model": own_parts.small_net}, "^model and arch both name a network"),
        ({"gpus": 99}, "^gpus is 99, but there "),
    ],
)
def test_what_cannot_be_done_is_said_in_arguments(train: Train, changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        train(**changes)
    assert "--" not in str(raised.value).partition("fastseg-pack ")[0]


def test_a_whole_config_may_be_given(tiny: fastseg.Config) -> None:
    run = fastseg.train(config=tiny, epochs=1, device="cpu")
    assert run.folder == tiny.folder
    assert run.history[-1]["epoch"] == 1


def test_a_process_group_of_others_is_refused(train: Train, tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match=r"in a process group of torch\.distributed already"):
            train()
    finally:
        dist.destroy_process_group()


def test_patience_ends_a_run_and_the_same_call_returns(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = partial(train, lr=1e-12, ema=None, epochs=9, eval_every=1, patience=2, momentum=0.0, warmup=0.0)
    run = fixed()
    said = capsys.readouterr().err
    assert "no better mIoU in 2 evaluations" in said
    scores = [record["miou"] for record in run.history if record["event"] == "eval"]
    assert len(scores) == 3 + scores.index(max(scores))
    assert len(scores) < 9
    assert runs.weights(run.last)["step"] == 2 * len(scores)
    before = run.history
    assert fixed().history == before
    assert "ended by --patience 2" in capsys.readouterr().err


def test_hours_end_a_run_which_the_same_call_resumes(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(max_hours=1e-9)
    assert "hours are over; run it again to resume" in capsys.readouterr().err
    step = runs.weights(run.last)["step"]
    assert step < 4
    assert runs.weights(train().last)["step"] == 4
