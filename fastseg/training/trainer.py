"""Run the training loop, which calls the other modules; none of them knows it."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from fastseg.config import Config
from fastseg.data.loader import EvalLoader, TrainLoader
from fastseg.device import AsyncMetrics, autocast, gpu_joules
from fastseg.distributed.ranks import (
    Ranks,
    barrier_no_timeout,
    count_corrupt,
    gather_states,
    mean_over_ranks,
    raise_on_first,
    sum_over_ranks,
)
from fastseg.errors import UserError, out_of_memory
from fastseg.evaluation.evaluator import EvaluatedModel, evaluate
from fastseg.evaluation.frames import ReportFrames
from fastseg.evaluation.metrics import ConfusionMatrix
from fastseg.evaluation.scores import plain, score
from fastseg.memory import abandon, peak_memory
from fastseg.model.inference import predict
from fastseg.report.report import write_report
from fastseg.shards.manifest import Manifest
from fastseg.training.callbacks import Callback, Callbacks, Step, StepEvaluation
from fastseg.training.checkpoint_writer import CheckpointWriter
from fastseg.training.flops import device_peak, run_flops
from fastseg.training.memory import explain_evaluation_error
from fastseg.training.optim import lr_at, peak_lr, total_steps, warmup_epochs
from fastseg.training.profiler import StepProfiler, category_table, profile_document, span
from fastseg.training.remote_checkpoints import Uploads
from fastseg.training.run_log import RunLog
from fastseg.training.state import RunState, constant_fields
from fastseg.training.step import StepMetrics, search_algorithms
from fastseg.training.timing import StepClock, Stopping

MAX_OVERFLOWS = 30
"""Consecutive steps that fp16's loss scaler may skip. It halves its scale each time, from 65536 to below 1e-4, where
fairseq gives up as well (--min-loss-scale)."""


def mean_metrics(steps: Sequence[StepMetrics]) -> StepMetrics:
    """Return the mean of every number over the ``steps`` in which it is finite; NaN if there are none.

    A gradient's norm is infinite in steps that fp16's loss scaler skips.
    """
    finite = ([value for value in column if math.isfinite(value)] for column in zip(*steps, strict=True))
    return StepMetrics(*(fmean(values) if values else math.nan for values in finite))


class Trainer:
    """Train one run on one rank. Only the first rank has a ``log``, and calls the ``callbacks``."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        ranks: Ranks,
        state: RunState,
        loaders: tuple[TrainLoader, EvalLoader],
        log: RunLog | None,
        profile: bool = False,
        callbacks: Sequence[Callback] = (),
        uploads: Uploads | None = None,
    ) -> None:
        self.config, self.manifest, self.ranks, self.state, self.log = config, manifest, ranks, state, log
        self.loader, self.eval_loader = loaders
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.offset = state.step_offset(self.steps_per_epoch)
        """Number by which steps exceed their number in the schedule, :meth:`.RunState.step_offset`."""
        self.total = self.offset + total_steps(config.optim, self.steps_per_epoch)
        self.callbacks = Callbacks([log, *callbacks] if log else [])
        self.clock, self.stopping = StepClock(ranks.device), Stopping()
        self.async_metrics = AsyncMetrics[int](ranks.device)
        self.metrics: list[StepMetrics] = []
        """Metrics of the steps since the last line of metrics.jsonl."""
        self.overflows, self.evaluated = 0, False
        self.saved, self.saved_epoch = state.step, math.nan
        """Step and epoch of the last checkpoint."""
        self.constants = constant_fields(config, manifest) if ranks.first else {}
        self.saving = 0.0
        """Seconds that steps have waited for checkpoints since the last line of metrics.jsonl."""
        self.writer, self.uploads = CheckpointWriter(config.folder / "checkpoints", self.on_written), uploads
        self.flops, self.peak = run_flops(config, len(manifest.classes)) if log else 0, device_peak(ranks.device)
        self.joules = gpu_joules(ranks.device)
        """The GPU's counter at the last evaluation or at the start; NaN if unknown."""
        self.stop = False
        """Whether a rank was asked to stop; the same on all ranks."""
        self.profile_wanted, self.halfway = profile, (state.step + self.total) // 2
        self.profiler: StepProfiler | None = None

    def fit(self) -> None:
        """Train to the end; save at SIGTERM, SIGHUP or Ctrl-C (exit codes 143, 129, 130) and at a callback's wish."""
        state = self.state
        with self.writer:
            if state.eval_pending:
                self.checkpoint_and_eval()
            while state.step < self.total and not self.stop:
                self.advance()
            self.finish_saving()
        if self.stop:
            self.say_stopped()
        if self.log:
            self.log.summarize(self.config.optim)
            self.say(f"{'' if self.stop else 'finished; '}the report is {write_report(self.config.folder)}")

    def say_stopped(self) -> None:
        """Say why the run stopped before its end; after a signal to any rank, exit with its code on all ranks."""
        signals = [state["signal"] for state in gather_states({"signal": self.stopping.signal}) if state["signal"]]
        at = f"stopped at step {self.state.step} of {self.total}"
        if not signals:
            self.say(f"{at}: {self.stopping.reason}")
            return
        again = "the same command" if self.config.resume != "never" else "the same command without --resume never"
        self.say(f"{at}; {again} resumes from there")
        sys.exit(128 + signals[0])

    def advance(self) -> None:
        """Do one step, and the evaluation and checkpoint that are due after it."""
        self.writer.poll()
        self.say_uploads()
        self.start_profile()
        with span("step"):
            metrics = self.run_step()
        self.check_step(metrics)
        if self.profiler and self.profiler.stepped():
            self.write_profile(self.profiler)
        if self.stop or self.is_due(self.config.save_every) or self.is_due(self.config.eval_every):
            self.checkpoint_and_eval()

    def run_step(self) -> tuple[int, list[float]] | None:
        """Do one step; return the metrics that have arrived, with their step."""
        state = self.state
        self.clock.wait_begin()
        with span("data"), self.rescuing():
            batch = self.loader.next()
        self.clock.wait_end()
        with self.rescuing(unused=True):
            numbers = state.train_step(batch.image, batch.label, self.lr(state.step), self.stopping.asked)
        if state.average:
            with span("average"):
                state.average.update(state.step)
        state.step += 1
        state.epoch = self.epoch_of(state.step)
        state.images_seen += self.global_batch
        # On a GPU these are the previous step's numbers, so that it never waits for the host.
        return self.async_metrics.exchange(state.step, numbers)

    def checkpoint_and_eval(self) -> None:
        """Evaluate if that is due, and save."""
        state, improved = self.state, None
        # Save nothing of a step before its loss is known to be finite.
        self.check_step(self.async_metrics.collect())
        if self.profiler and self.profiler.recording:  # what follows is no part of a step
            self.write_profile(self.profiler)
        own = state.statistics()
        state.set_statistics(mean_over_ranks(own))
        state.check_finite()
        state.eval_pending |= self.is_due(self.config.eval_every)
        if state.eval_pending and not self.stop:
            if self.ranks.world > 1 and not self.evaluated:
                self.save(own)  # the first evaluation shows whether there is memory for one, and ends all ranks if not
            with self.rescuing():
                improved = self.evaluate()
            self.evaluated = True
            state.eval_pending = self.stop = improved is None
        self.save(own, keep=bool(improved))
        state.set_statistics(own)
        if state.step < self.total:  # callbacks may have asked: the run ends with what was saved and evaluated
            asked = gather_states({"asked": self.stopping.asked})
            self.stop = self.stop or any(rank["asked"] for rank in asked)
        self.clock.restart()

    @contextmanager
    def rescuing(self, unused: bool = False) -> Iterator[None]:
        """Save if the data or too little memory ends the run, on one rank only: others are in the middle of a step.

        ``unused``: the last batch has trained nothing if the block fails.
        """
        try:
            yield
        except Exception as error:
            memory = out_of_memory(error)
            if not memory and not isinstance(error, UserError):
                raise
            if memory:
                abandon(error, self.ranks.device)
            if self.ranks.world == 1 and self.state.step > self.saved:
                if unused:
                    self.loader.put_back()
                self.check_step(self.async_metrics.collect())
                self.state.check_finite()
                self.save(self.state.statistics())
                self.writer.wait()
            raise

    def lr(self, step: int) -> float:
        """Return the learning rate of step ``step`` (from 0)."""
        optim, warmup = self.config.optim, round(warmup_epochs(self.config.optim) * self.steps_per_epoch)
        peak = peak_lr(optim, self.global_batch)
        return lr_at(step - self.offset, self.total - self.offset, warmup, peak, optim)

    def epoch_of(self, step: int) -> float:
        """Return the epochs done after step ``step`` (from 1)."""
        return (step - self.offset) / self.steps_per_epoch

    @property
    def global_batch(self) -> int:
        """Return the images of a step, over all ranks."""
        return self.config.rank_batch * self.ranks.world

    def is_due(self, epochs: float) -> bool:
        """Return whether the last step completes another ``epochs`` epochs, or the run."""
        every, step = epochs * self.steps_per_epoch, self.state.step - self.offset
        # 0.55 epochs of 100 steps are 55.00000000000001 in floating point, and due at step 55.
        before, now = (math.floor(s / every + 1e-9) for s in (step - 1, step))
        return self.state.step == self.total or now > before

    def check_step(self, metrics: tuple[int, list[float]] | None) -> None:
        """Check a step (from 1) and its metrics from :class:`TrainStep`, if they have arrived; note a wish to stop.

        Ends every rank, the first with a :class:`UserError`, if the loss is not finite, or the gradient in more
        consecutive steps than the loss scaler may try.
        """
        if metrics is None:
            return
        step, numbers = metrics
        found = StepMetrics(*numbers)
        loss, norm = found.loss, found.gradient_norm
        self.clock.stepped()
        self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
        scaled = self.state.train_step.precision == "fp16"  # the loss scaler retries with a smaller scale
        if not math.isfinite(loss) or self.overflows > (MAX_OVERFLOWS if scaled else 0):
            repeated = f" for {self.overflows} steps now" if self.overflows > 1 else ""
            measured = f"the loss is {loss} and the gradient's norm {norm}{repeated}"
            measured = f"{measured}, at a learning rate of {self.lr(step - 1):.2g}"
            cure = f"lower --optim.lr or set --optim.clip {'or take --model.precision bf16 or fp32 ' if scaled else ''}"
            said = f"{measured}; the weights were left as they were: {cure}and resume from the last checkpoint"
            raise_on_first(UserError(f"at step {step} {said}"))
        self.metrics.append(found)
        main, aux, rate = found.main_loss, found.aux_loss, self.lr(step - 1)
        done = Step(step, self.epoch_of(step), loss, main, aux, norm, rate)
        self.stopping.ask(self.callbacks.on_step(done))
        if step % self.config.log_every == 0 or step == self.total:
            self.finish_window(step)
        self.stop = self.stop or found.stops > 0

    def finish_window(self, step: int) -> None:
        """Write the means since the last line, and the speed."""
        mean = mean_metrics(self.metrics)
        self.metrics.clear()
        window = self.clock.snapshot()
        tflops = self.flops * window.steps / window.seconds / 1e12
        bad = count_corrupt(self.loader.corrupt_samples(), self.config.max_corrupt_samples)
        record = {
            "step": step,
            "epoch": self.epoch_of(step),
            "images_seen": self.state.images_seen - (self.state.step - step) * self.global_batch,
            "loss": mean.loss,
            "loss_out": mean.main_loss,
            "loss_aux": mean.aux_loss,
            "gradient_norm": mean.gradient_norm,
            "lr": self.lr(step - 1),
            "images_per_second_per_gpu": window.steps * self.config.rank_batch / window.seconds,
            "tflops": tflops,
            **({"mfu": tflops / self.peak} if self.peak else {}),
            "waiting": window.waiting,
            "saving": self.saving,
            "corrupt_samples": bad,
            "memory": peak_memory(self.ranks.device),
        }
        self.saving = 0.0
        self.stopping.ask(self.callbacks.on_log(record))

    def evaluate(self) -> bool | None:
        """Score the averaged weights (or the trained ones) on the evaluation split.

        Returns whether they are the best so far; None if a rank was asked to stop before the last frame.
        """
        model = (self.state.average.model if self.state.average else self.state.model).eval()
        classes, sizes = self.manifest.classes, self.manifest.split(self.config.eval_split).sizes
        keys = self.eval_loader.sample_keys()
        confusion, frames = ConfusionMatrix(len(classes), self.ranks.device), ReportFrames(keys)
        infer = partial(predict, model)
        evaluated = EvaluatedModel(infer, [confusion, frames])
        explained = explain_evaluation_error(self.config, self.manifest, self.ranks, infer)
        searched = search_algorithms(len(sizes) == 1)
        with searched, autocast(self.state.train_step.precision, self.ranks.device), explained:
            show = self.log.display.evaluating if self.log else None
            result = evaluate(
                [evaluated], self.eval_loader, len(classes), progress=show, interrupted=lambda: self.stopping.asked
            )
        if result is None:
            return None
        matrix, shown = confusion.compute(), frames.compute()
        scores, joules = score(matrix, classes), self.energy()
        self.state.score = {
            "step": self.state.step,
            "split": self.config.eval_split,
            "miou": plain(scores.miou),
            "images": result.images,
        }
        improved = self.state.count_score(scores.miou, self.config.eval_split)
        if self.log:
            evaluation = StepEvaluation(
                step=self.state.step,
                epoch=self.state.epoch,
                images_seen=self.state.images_seen,
                split=self.config.eval_split,
                weights="ema" if self.state.average else "model",
                result=result,
                matrix=matrix,
                scores=scores,
                best=improved,
                since_best=self.state.since_best,
                frames=shown,
                keys=keys,
                joules=joules,
                classes=classes,
            )
            self.stopping.ask(self.callbacks.on_evaluation(evaluation))
        return improved

    def energy(self) -> float:
        """Return the energy of all ranks' GPUs since the last call or the start, J; NaN if unknown.

        Every rank has to call.
        """
        before, self.joules = self.joules, gpu_joules(self.ranks.device)
        return float(sum_over_ranks(torch.tensor(self.joules - before, device=self.ranks.device)))

    def start_profile(self) -> None:
        """Start a profile that is wanted once all frames are cached, or halfway through what is left of a short run."""
        if self.profile_wanted and (not self.loader.filling or self.state.step >= self.halfway):
            self.profile_wanted = False
            left = self.total - self.state.step
            self.profiler = StepProfiler(self.config.folder / "profile", self.ranks.device, left)

    def write_profile(self, profiler: StepProfiler) -> None:
        """Write the profile, without counting the time for the run."""
        begin = time.perf_counter()
        self.profiler = None
        step = profiler.finish()
        if self.log:
            document = profile_document(step, self.state.train_step.config, self.ranks)
            self.log.write("profile/profile", document)
            self.log.show(category_table(step))
            self.say(f"the profile is in {profiler.folder}")
        self.clock.leave_out(time.perf_counter() - begin)

    def save(self, own: list[torch.Tensor], keep: bool = False) -> None:
        """Begin to write ``checkpoints/last.pt``, with ``keep`` also as ``best.pt``; every rank has to call.

        ``own`` are this rank's statistics; the network holds the mean over all ranks.
        """
        begin = time.perf_counter()
        document = self.state.document(self.constants, self.loader, self.ranks, own)
        if document:
            self.writer.save(document, keep)
        self.saved, self.saved_epoch = self.state.step, self.state.epoch
        self.saving += time.perf_counter() - begin

    def on_written(self, path: Path) -> None:
        """Tell the callbacks of a checkpoint that is on the disk, and upload it."""
        self.stopping.ask(self.callbacks.on_checkpoint(path))
        if self.uploads:
            self.uploads.submit(path, self.saved_epoch)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is on the disk, and where it is copied to; every rank has to call."""
        self.writer.wait()
        if self.uploads:
            if self.uploads.pending:
                self.say("waiting until the last checkpoint is uploaded; Ctrl-C ends that")
            self.uploads.wait()
            self.say_uploads()
        barrier_no_timeout()

    def say_uploads(self) -> None:
        """Print what there is to be said of uploads."""
        for sentence in self.uploads.sentences() if self.uploads else ():
            self.say(sentence)

    def say(self, sentence: str) -> None:
        """Print one line for the user."""
        if self.log:
            self.log.say(sentence)
