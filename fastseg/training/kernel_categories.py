"""Attribute each instant of a profiled step to a category of kernels or operators, by their names."""

import re
from collections import defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, NamedTuple

STEP = "step"
"""The range (:func:`fastseg.training.profiler.span`) of one training step in a trace."""
IDLE, OTHER = "idle", "other"

# The first expression that matches a name decides. The names are those of CUDA kernels (cuDNN 9, cuBLAS, CUTLASS,
# Inductor, ATen, NCCL, DALI, nvJPEG), of aten operators and autograd's nodes, and of our own ranges.
CATEGORIES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (category, re.compile(expression, re.IGNORECASE))
    for category, expression in (
        ("data", r"dali::|nvjpeg|nvcomp|nvimgcodec|bitcomp|Memcpy (HtoD|DtoH)|^data$"),
        ("communication", r"nccl|gloo|c10d|record_param_comms|^communication$"),
        ("optimizer", r"fused_?(sgd|adam)|lp_?norm|foreach_norm|vector_norm|amp_foreach|^Optimizer\.|^optimizer$"),
        ("average", r"lerp|foreach_copy|multi_tensor_apply_kernel.*\bCopy<|^average$"),
        ("loss", r"softmax|nll_?loss|cross_?entropy|upsampled_ce"),
        ("upsampling", r"upsample|_unsafe_index|bilinear"),
        # Inductor names a kernel after all that it fuses, so kernels fused with a norm count here, too.
        ("batch norm", r"batch_?norm|\bbn_|bn_stats|welford"),
        ("fused pointwise and reductions", r"^triton_(poi|red|per|for)|CompiledFxGraph|cpp_fused"),
        ("convolution, backward-weight", r"wgrad|bwd_filter|grad_weight"),
        ("convolution, backward-data", r"dgrad|bwd_data|depthwise\w*_backward"),
        ("convolution, backward", r"convolution_?backward"),
        ("convolution, forward", r"fprop|convol|\bconv\d|conv_depthwise|winograd|implicit_?gemm|scudnn|im2col"),
        (
            "layouts and copies",
            r"nchw\w*To|nhwc\w*To|AddPadding|nhwcSlice|transpose|TensorTransform|convertTensor|setTensor|scale\w*Tensor"
            r"|computeOffsets|Memcpy|Memset|copy|clone|contiguous|CatArray|aten::cat|aten::stack|fill|zero",
        ),
        (
            "matrix products",
            r"gemm|gemv|nvjet|cublas|splitK|split_k|segment_k|(?<![a-z])(mm|addmm|bmm|matmul|linear)(?![a-z])|cutlass",
        ),
        (
            "pointwise and reductions",
            r"elementwise|reduce_kernel|multi_tensor_apply|pool|dropout|\b_?(add|sub|mul|div|neg|abs|sum|mean|max|min|relu"
            r"|hard|thresh|clamp|where|isfinite|bitwise|bernoulli|sqrt|rsqrt|pow|(eq|ne|exp|log)\b)",
        ),
    )
)
RANK = {category: rank for rank, (category, _) in enumerate(CATEGORIES)} | {OTHER: len(CATEGORIES)}
# Running beside computation these cost nothing: an instant is theirs only where they run alone.
RANK |= {"data": len(CATEGORIES) + 2, "communication": len(CATEGORIES) + 1}

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of a trace's events that occupy a GPU."""


class Interval(NamedTuple):
    """A kernel, operator or range that ran from ``begin`` to ``end``, microseconds."""

    begin: float
    end: float
    category: str
    name: str
    priority: tuple[float, ...]
    """At any instant the interval with the lowest priority value counts."""


def category_of(name: str) -> str | None:
    """Return the category of a kernel, an operator or a range; None for what says nothing (views, Python)."""
    return next((category for category, expression in CATEGORIES if expression.search(name)), None)


def attribute(intervals: Iterable[Interval], begin: float, end: float) -> dict[tuple[str, str] | None, float]:
    """Return the microseconds of every (category, name) from ``begin`` to ``end``; None has those in which nothing ran.

    Each instant goes to one interval, so the values add up to the whole.
    """
    waiting = sorted((i for i in intervals if i.end > begin and i.begin < end), reverse=True)
    edges = {min(max(time, begin), end) for i in waiting for time in (i.begin, i.end)} | {begin, end}
    active: list[tuple[tuple[float, ...], Interval]] = []
    spent: dict[tuple[str, str] | None, float] = defaultdict(float)
    for here, there in pairwise(sorted(edges)):
        while waiting and waiting[-1].begin <= here:
            heappush(active, (waiting[-1].priority, waiting.pop()))
        while active and active[0][1].end <= here:
            heappop(active)
        owner = active[0][1] if active else None
        spent[(owner.category, owner.name) if owner else None] += there - here
    return dict(spent)


def analyze(trace: dict[str, Any]) -> dict[str, Any]:
    """Return where a step's milliseconds went, from a trace exported by torch.profiler.

    Returns ``steps`` and ``step_ms``, the mean wall time of a step in the trace; ``categories``, the largest first,
    whose ``ms`` add up to it; ``kernels``, the twenty names with the most time. On a GPU an instant counts for the
    running kernel, or as idle; if several run, computation goes before copies and messages (``hidden_ms`` ran beneath
    others). On a CPU it counts for the innermost known operator or range of the training thread, or as other: Python,
    waiting.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    steps = [e for e in events if e.get("cat") == "user_annotation" and e["name"] == STEP]
    kernels = [_kernel(e) for e in events if e.get("cat") in ON_GPU]
    begin = min(e["ts"] for e in steps)
    end = max([*(e["ts"] + e["dur"] for e in steps), *(k.end for k in kernels)])
    found = kernels or _operators(events, steps[0]["tid"])
    spent = attribute(found, begin, end)
    rows = [(key or (IDLE if kernels else OTHER, ""), ms / 1000 / len(steps)) for key, ms in spent.items()]
    busy: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        busy[kernel.category] += (kernel.end - kernel.begin) / 1000 / len(steps)
    return {
        "device": "gpu" if kernels else "cpu",
        "steps": len(steps),
        "step_ms": (end - begin) / 1000 / len(steps),
        "categories": _category_rows(rows, busy),
        "kernels": [
            {"name": name[:200], "category": category, "ms": ms}
            for (category, name), ms in sorted(rows, key=lambda row: -row[1])[:20]
            if name
        ],
    }


def _category_rows(rows: list[tuple[tuple[str, str], float]], busy: dict[str, float]) -> list[dict[str, Any]]:
    sums: dict[str, float] = defaultdict(float)
    for (category, _), ms in rows:
        sums[category] += ms
    total = sum(sums.values())
    return [
        {"category": category, "ms": ms, "share": ms / total, "hidden_ms": max(busy.get(category, 0.0) - ms, 0.0)}
        for category, ms in sorted(sums.items(), key=lambda item: -item[1])
    ]


def _kernel(event: dict[str, Any]) -> Interval:
    category = category_of(event["name"]) or OTHER
    return Interval(event["ts"], event["ts"] + event["dur"], category, event["name"], (RANK[category],))


def _operators(events: list[dict[str, Any]], thread: int) -> list[Interval]:
    """Return a thread's known operators; an unknown one inside another counts for that."""
    return [
        Interval(e["ts"], e["ts"] + e["dur"], category, e["name"], (-e["ts"], e["dur"]))  # the innermost began last
        for e in events
        if e["tid"] == thread and e.get("cat") in ("cpu_op", "user_annotation") and (category := category_of(e["name"]))
    ]
