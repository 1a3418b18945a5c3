"""Where a training step's time goes, by kind of work, for the peers and for us.

Times of operations are torch.profiler's own CPU time; what the CPU's convolutions and matrix
products spend on changing layouts inside is oneDNN's word ("reorder"), from a step of its own.
"""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from sfumato.memory import keep_freed

from .cases import Case, cases
from .options import Options, for_each, say
from .results import BEST, DOCUMENTED, Row, read
from .rounds import Facts, Runner, in_turn
from .training import OURS, keeps, stepper

STEPS = 5
LIKELY = "bf16 autocast, channels_last, fused optimizer"
UPDATING = r"fused_adam|foreach|Optimizer|lerp|linalg_vector_norm"  # and all within such
KINDS = (  # the first whose pattern an operation's name holds
    ("optimizer and average", UPDATING),
    ("convolution", r"conv|_Winograd|_Interleaved"),
    ("matrix product", r"addmm|bmm|::mm|matmul|linear|_Linear|attention|_Attention"),
    (
        "norms and activations",
        r"norm|silu|gelu|softmax|sigmoid|relu|dropout|var_mean|rsqrt|"
        r"_NormAct|_RMSAct|_GELU|_Modulated|_Gated",
    ),
    (
        "copies, casts, layouts",
        r"copy_|clone|contiguous|::cat|stack|fill_|zero_|::to|empty|slice_backward|index|"
        r"upsample|pad|narrow|as_strided|roll|flip",
    ),
    ("sums and products", r"add|mul|sub|div|sum|mean|pow|exp|sqrt|sin|cos|neg|mse|where"),
)
OTHER, REPACKING = "other", "layouts inside convolutions and products"


def kind_of(operation: str) -> str:
    """The kind of work of an operation by its name in the profiler."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, operation)), OTHER)


def run(options: Options) -> None:
    there = cases(options.quick)
    for_each("profile", options, there, lambda name: measured(there[name], options))


def measured(case: Case, options: Options) -> tuple[Facts, list[Row], Facts]:
    tuning = best_tuning(case, options)
    runners = {
        DOCUMENTED: stepper(case, DOCUMENTED, ""),
        f"{BEST} ({tuning})": stepper(case, BEST, tuning),
        OURS: stepper(case, OURS, ""),
    }
    turns = [Runner(name, step, partial(keep_freed, keeps(step))) for name, step in runners.items()]
    seconds = in_turn(turns, options.rounds or STEPS)
    rows = []
    for name, step in runners.items():
        keep_freed(keeps(step))
        facts = profiled(step, options.rounds or STEPS)
        rows.append(Row(name, seconds[name], case.batch, "images", case.flops, facts))
        told = ", ".join(f"{kind} {ms:.0f}" for kind, ms in facts["ms"].items())
        say(f"  {name}: ms a step: {told}")
    return {"words": case.words, "peer": case.peer, "batch": case.batch}, rows, {}


def best_tuning(case: Case, options: Options) -> str:
    """What `training` found fastest that is not compiled, or would be without a measurement.

    A compiled step is a few fused loops, whose names say nothing of what they do.
    """
    part = read("training", options.out).get(case.name)
    tried = part.more["tried_images_per_s"] if part else {}
    eager = {words: rate for words, rate in tried.items() if "compile" not in words}
    return max(
        eager, key=lambda w: eager[w], default="bf16 autocast, channels_last, fused optimizer"
    )


def profiled(step: Callable[[], object], steps: int) -> Facts:
    """Milliseconds a step by kind of work, and the dearest operations by name."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(steps):
            step()
    each: defaultdict[str, float] = defaultdict(float)
    kinds: defaultdict[str, float] = defaultdict(float)
    for event in record.events():
        ms = event.self_cpu_time_total / 1e3 / steps
        each[event.key] += ms
        kinds[KINDS[0][0] if updates(event) else kind_of(event.key)] += ms
    primitives = onednn_times(step)
    moved = min(primitives.get("reorder", 0.0), kinds["convolution"] + kinds["matrix product"])
    share = moved / ((kinds["convolution"] + kinds["matrix product"]) or 1.0)
    for kind in ("convolution", "matrix product"):
        kinds[kind] *= 1 - share
    kinds[REPACKING] = moved
    dearest = sorted(each, key=lambda name: -each[name])[:25]
    top = [{"name": name, "ms": round(each[name], 3)} for name in dearest]
    ordered = [*(kind for kind, _ in KINDS), REPACKING, OTHER]
    ms = {kind: round(kinds[kind], 3) for kind in ordered}
    return {"ms": ms, "onednn_ms": {k: round(v, 3) for k, v in primitives.items()}, "top": top}


def updates(event: Any) -> bool:
    """Whether an operation is called by the optimizer, the clipping or the average."""
    while event is not None:
        if re.search(UPDATING, event.key):
            return True
        event = event.cpu_parent
    return False


def onednn_times(step: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of a step in each kind of oneDNN primitive, by its own report."""
    with captured() as lines, torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        step()
    return sums_of(lines)


def sums_of(lines: list[str]) -> dict[str, float]:
    """Sums of "onednn_verbose,v1,primitive,exec,cpu,KIND,...,MS" lines by kind."""
    totals: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        fields = line.strip().split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            totals[fields[fields.index("exec") + 2]] += float(fields[-1])
    return dict(totals)


@contextmanager
def captured() -> Iterator[list[str]]:
    """What is printed below Python meanwhile, as lines, filled in at the end."""
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            lines.extend(file)
