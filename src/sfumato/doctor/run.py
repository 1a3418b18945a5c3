"""Where a run stands: its losses, its average, its drawings beside the images it learned from."""

from collections.abc import Iterator, Sequence
from math import hypot, isfinite, log, log10, sqrt
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..appearance import colours
from ..config import AnyRun
from ..spectra import radial_power, whole
from .finding import NOTE, RISK, WRONG, Finding, found

Row = dict[str, Any]
LOWER = 1 / 3  # of a rate that was too high
DONE = 0.99  # of the budget: rows are written every tenth step
LEARNED = 0.9  # of the first held-out loss, which is left after so many steps:
ENOUGH = 100
WORSE = 1.5  # times the lowest of ten medians of the training loss
OVER = 1.05  # times the lowest held-out loss; the noise is the same each time
APART = 0.9  # of the held-out loss, that training's own has fallen to
BEHIND = 1.1  # times the weights' own loss
IMPROVING = 0.02  # of a held-out loss, over the last third of the run
SKIPPED = 0.01  # of the steps
STEEP = 100.0  # times train.grad_clip
TINT, PALE, LOUD, GRAIN = 0.05, 0.75, 1.33, 8.0  # in [-1, 1]; ratios of spreads; decibels
CERTAIN = 3.0  # standard errors
SEEN = 0.02  # of [-1, 1], noise: smooth images have next to no power there, and rounding 8 dB more
SAME = 0.1  # of the real images' variation
NAMES = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "opacity")}


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def check_log(run: AnyRun, rows: Sequence[Row]) -> Iterator[Finding]:
    """metrics.jsonl: the rows of training, of held-out losses and of batches left out."""
    train, held = of_kind(rows, "train"), of_kind(rows, "held_out")
    if not train:
        yield found("no-steps", NOTE)
        return
    last = train[-1]
    skipped = len(of_kind(rows, "skipped")) / max(last["step"], 1)
    lower = LOWER * run.train.lr
    if skipped > SKIPPED or not all(isfinite(row["loss"]) for row in train):
        yield found("batches-skipped", WRONG, share=skipped, step=last["step"], better=lower)
    timed = newest_timed(rows)
    done = run.train.progress(timed["step"], timed["seconds"])
    if done < DONE:
        yield found("unfinished", NOTE, done=done, step=timed["step"])
    yield from _check_training(run, train)
    yield from _check_speed(train, NOTE if done >= DONE else RISK)
    if held:
        yield from _check_held_out(train, held)


def newest_timed(rows: Sequence[Row]) -> Row:
    """The row of the most seconds; held-out rows have the last step, training's every tenth."""
    return max((row for row in rows if "seconds" in row), key=lambda row: row["seconds"])


def ended_at(run: AnyRun, rows: Sequence[Row]) -> int | None:
    """The step at which the budget was spent; None where it was not."""
    last = newest_timed(rows)
    steps = int(last["step"])
    return steps if run.train.progress(steps, last["seconds"]) >= DONE else None


def parts(values: Sequence[float], count: int = 10) -> list[float]:
    """Medians of `count` equal shares of the values; fewer where there are fewer values."""
    each = max(1, len(values) // count)
    return [median(values[i : i + each]) for i in range(0, each * (len(values) // each), each)]


def _check_training(run: AnyRun, train: Sequence[Row]) -> Iterator[Finding]:
    losses, lr = [row["loss"] for row in train if isfinite(row["loss"])], run.train.lr
    if len(losses) < ENOUGH:
        return
    medians = parts(losses)
    if medians[-1] > WORSE * min(medians) and not by_chance(losses, medians):
        seen = {"now": medians[-1], "best": min(medians), "lr": lr}
        yield found("loss-diverged", WRONG, better=LOWER * lr, **seen)
    norms = [row["grad_norm"] for row in train if "grad_norm" in row][len(train) // 2 :]
    if norms and median(norms) > STEEP * run.train.grad_clip:
        seen = {"norm": median(norms), "clip": run.train.grad_clip}
        yield found("gradients-cut", RISK, better=LOWER * lr, **seen)


def by_chance(losses: Sequence[float], medians: Sequence[float]) -> bool:
    """Whether the last of the medians may be above the lowest by the draw of images and times.

    Losses of few images spread over factors, so their logarithms are compared. The error of a
    median of n is 1.25 sd / sqrt(n), the sd 1.48 times the median deviation, of normal draws. The
    lowest of ten is low by chance: so one error more than CERTAIN. Of 1,000 healthy logs of single
    images, whose old bound gave up to 793 alarms, 13 or fewer are left.
    """
    each, lowest = max(1, len(losses) // 10), medians.index(min(medians))
    starts = (lowest * each, (len(medians) - 1) * each)
    logs = [[log(max(loss, 1e-300)) for loss in losses[at : at + each]] for at in starts]
    errors = [1.25 * 1.48 * _deviation(part) / sqrt(each) for part in logs]
    return log(medians[-1] / max(min(medians), 1e-300)) <= (CERTAIN + 1) * hypot(*errors)


def _deviation(values: Sequence[float]) -> float:
    middle = median(values)
    return median(abs(value - middle) for value in values)


def _check_speed(train: Sequence[Row], severity: str) -> Iterator[Finding]:
    """severity: of a run that has ended nothing is at risk any more."""
    speeds = parts([row["images_per_s"] for row in train if row.get("images_per_s")], 4)
    if len(train) >= ENOUGH and len(speeds) >= 4 and speeds[-1] < speeds[0] / 2:
        yield found("slowed", severity, first=speeds[0], now=speeds[-1])


def least_left(first: Row, last: Row) -> float:
    """The share of the held-out loss that is left, at the noise level where it is least.

    Of latents, which are noise for the most part, most of the loss can't be learned at all.
    """
    then, now = ([row["raw"], *row.get("raw_by_level", [])] for row in (first, last))
    pairs = [pair for pair in zip(then, now) if pair[0] > 0 and all(map(isfinite, pair))]
    return min((after / before for before, after in pairs), default=0.0)


def _check_held_out(train: Sequence[Row], held: Sequence[Row]) -> Iterator[Finding]:
    last = held[-1]
    if last["step"] < ENOUGH:
        return
    if not isfinite(last["raw"]):
        seen = {"first": held[0]["raw"], "now": last["raw"], "step": last["step"]}
        yield found("not-learning", WRONG, **seen)
        return
    held = [row for row in held if isfinite(row["raw"])]
    first = held[0]
    lowest = min(held, key=lambda row: row["raw"])
    if first["step"] == 0 and least_left(first, last) > LEARNED:
        yield found("not-learning", WRONG, first=first["raw"], now=last["raw"], step=last["step"])
    recent = [row["loss"] for row in train[-max(20, len(train) // 10) :]]
    own = sum(recent) / len(recent)
    rose = last["raw"] > OVER * lowest["raw"] and lowest["step"] < 0.8 * last["step"]
    if rose and own < APART * last["raw"]:
        seen = {"now": last["raw"], "best": lowest["raw"], "step": lowest["step"], "own": own}
        yield found("memorising", RISK, **seen)
    if last["ema"] > BEHIND * last["raw"]:
        yield found("ema-behind", RISK, ema=last["ema"], raw=last["raw"])
    yield from _check_levels(held)


def _check_levels(held: Sequence[Row]) -> Iterator[Finding]:
    """In which noise levels the loss of the average still fell in the last third of the run."""
    last = held[-1]
    before = [row for row in held[:-1] if 0 < row["step"] <= 0.7 * last["step"]]
    now, then = (row.get("ema_by_level") for row in (last, before[-1] if before else {}))
    if not now or not then or len(now) < 3:
        return
    third = max(1, len(now) // 3)
    ends = (slice(0, third), slice(third, -third), slice(-third, None))
    low, middle, high = (1 - sum(now[part]) / sum(then[part]) for part in ends)
    if not all(map(isfinite, (low, middle, high))):
        return
    kind = {(True, True): "improving", (False, True): "improving-high"}
    kind |= {(True, False): "improving-low", (False, False): "flat"}
    code = kind[low > IMPROVING, high > IMPROVING]
    if code == "flat" and middle > IMPROVING:
        code = "improving-middle"
    if min(low, middle, high) < -IMPROVING:
        code = "rising"
    sign = -1 if code == "rising" else 1  # of a rise, or of a fall
    seen = {"low": sign * low, "middle": sign * middle, "high": sign * high}
    yield found(code, NOTE, before=before[-1]["step"], step=last["step"], **seen)


def check_drawn(drawn: Tensor, real: Tensor) -> Iterator[Finding]:
    """uint8 images (N, C, H, W) and (M, C, H, W): colours, spread, grain, variety."""
    names = NAMES.get(drawn.shape[1], tuple(map(str, range(drawn.shape[1]))))
    for name, colour in zip(names, colours(drawn, real)):
        shift, spread = colour.shift, colour.spread
        if abs(shift.mean) > max(TINT, CERTAIN * shift.error):
            yield found("tint", RISK, channel=name, shift=shift.mean, error=shift.error)
        off = abs(spread.mean - 1) > CERTAIN * spread.error
        if off and spread.mean < PALE:
            yield found("pale", RISK, channel=name, spread=spread.mean)
        if off and spread.mean > LOUD:
            yield found("loud", RISK, channel=name, spread=spread.mean)
    gap, more = _finest(drawn, real)
    if gap > GRAIN and more > SEEN:
        yield found("grainy", RISK, gap=gap)
    variety = _variety(drawn) / max(_variety(real), 1e-6)
    if variety < SAME:
        yield found("one-image", WRONG, variety=variety)


def _finest(drawn: Tensor, real: Tensor) -> tuple[float, float]:
    """(decibels, the deviation of white noise) that drawn images have more at the finest scale."""
    frequencies, mine = radial_power(drawn)
    kept, theirs = whole(frequencies), radial_power(real)[1]
    own, wanted = mine[kept][-1].item(), theirs[kept][-1].item()
    return 10 * log10(max(own, 1e-12) / max(wanted, 1e-12)), sqrt(max(0.0, own - wanted))


def _variety(images: Tensor) -> float:
    """How far pixels of the same place differ between images, in levels of 255."""
    return torch.std(images[:1000].float(), dim=0).mean().item()
