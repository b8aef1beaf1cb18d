"""Compile the training step if that is wanted and works; all ranks decide alike, before a step counts."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastseg.compiler import compiler_problem, describe_failure
from fastseg.config import ModelConfig
from fastseg.distributed.ranks import Ranks, gather_states, raise_on_first
from fastseg.errors import UserError, out_of_memory
from fastseg.parallel import usable_cores
from fastseg.run_module import safe_children


def wants_compiling(config: ModelConfig, device: torch.device) -> bool:
    """Return whether to compile the step, if that works."""
    return config.compile if config.compile is not None else device.type == "cuda"


def check_compiler(config: ModelConfig, cuda: bool) -> None:
    """Raise :class:`UserError` if compiling was asked for and what it needs is missing."""
    if config.compile and (problem := compiler_problem(cuda)):
        raise _refused(problem)


def find_problem(config: ModelConfig, ranks: Ranks) -> str:
    """Return what some rank's machine lacks for compiling; empty if nothing, or if compiling is not wanted.

    Every rank has to call. Raises :class:`UserError` on the first rank if compiling was asked for.
    """
    if not wants_compiling(config, ranks.device):
        return ""
    problem = compiler_problem(ranks.device.type == "cuda") or ""
    return _settle([state["problem"] for state in gather_states({"problem": problem})], config)


class CompiledNetwork:
    """Call a network, compiled if that is wanted and works, otherwise eagerly."""

    def __init__(self, network: nn.Module, config: ModelConfig, ranks: Ranks, problem: str = "") -> None:
        """Take ``problem`` from :func:`find_problem`."""
        self.uncompiled = network
        self._call: Callable[[Tensor, Tensor], Tensor] = network
        self._config, self._ranks = config, ranks
        self._problems: list[str] = []  # of all ranks, from the first that has any
        self.problem = problem
        """Reason why it is not compiled although that is wanted; else empty."""
        self.compiled = wants_compiling(config, ranks.device) and not problem
        self.untried = self.compiled
        """True until the first call, after which :attr:`compiled` is certain."""
        if self.compiled:
            _share_cores(ranks)
            self.compile()

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """Compute network and loss. The first call tries to compile them, which takes minutes."""
        return self._try(image, label) if self.untried else self._call(image, label)

    def compile(self, mode: str | None = None) -> None:
        """Recompile on the next call, in one of torch.compile's modes."""
        if mode or self._ranks.world == 1:
            self._call = torch.compile(self.uncompiled, mode=mode)
        else:
            self._call = torch.compile(self.uncompiled, backend=self._compile_together)

    def no_sync(self) -> AbstractContextManager[None]:
        """Let ranks keep their gradients to themselves inside, to be added to those of the next exchange."""
        ddp = self.uncompiled
        return ddp.no_sync() if isinstance(ddp, DistributedDataParallel) else nullcontext()

    @property
    def description(self) -> str:
        """Describe it for logs and reports."""
        return "compiled" if self.compiled else f"not compiled{self.problem and ': '}{self.problem}"

    @property
    def warning(self) -> str:
        """Return a warning for the user; empty for none."""
        return self.problem and f"the step runs uncompiled, which is slower: {self.problem}"

    def _compile_together(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        """Compile on all ranks before any runs the code, which may wait for the other ranks' statistics."""
        from torch._inductor.compile_fx import compile_fx  # takes two seconds, only for compiled runs

        problem, compiled = "", None
        try:
            compiled = compile_fx(graph, inputs)
        except Exception as error:
            if not self.untried:
                raise
            problem = f"torch.compile failed ({describe_failure(error)})"
        if self.untried:  # later recompilations, for other inputs, concern one rank only
            self._problems = [state["problem"] for state in gather_states({"problem": problem})]
            if any(self._problems):
                raise RuntimeError("torch.compile failed on some rank")
        return compiled

    def _try(self, image: Tensor, label: Tensor) -> Tensor:
        sums, problem = None, ""
        try:
            # With the backward pass, which would otherwise fail while other ranks wait for this one's gradients.
            with safe_children(), torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
                sums = self._call(image, label)
        except UserError:
            raise
        except Exception as error:  # of any kind: one that is not the compiler's recurs without it
            if out_of_memory(error):
                raise
            problem = f"torch.compile failed ({describe_failure(error)})"
        self.untried = False
        if not any(self._problems):
            self._problems = [state["problem"] for state in gather_states({"problem": problem})]
        self.problem = _settle(self._problems, self._config)
        if sums is not None and not self.problem:
            return sums
        self._call, self.compiled = self.uncompiled, False
        return self._call(image, label)


def _settle(problems: list[str], config: ModelConfig) -> str:
    """Return the first problem of all ranks; raise :class:`UserError` on rank 0 if compiling was asked for."""
    found = [(rank, problem) for rank, problem in enumerate(problems) if problem]
    if not found:
        return ""
    rank, problem = found[0]
    problem = f"on rank {rank} {problem}" if len(found) < len(problems) else problem
    if config.compile:
        raise_on_first(_refused(problem))
    return problem


def _refused(problem: str) -> UserError:
    return UserError(f"--model.compile is given, but {problem}; or leave --model.compile out")


def _share_cores(ranks: Ranks) -> None:
    """Give each rank's compiler its share of the cores; by default every rank starts 32 workers."""
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        torch._inductor.config.compile_threads = max(usable_cores() // ranks.local_world, 1)
