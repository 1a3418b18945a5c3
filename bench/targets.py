"""The section of docs/benchmarks.md on what was to be reached, made from the same results."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .results import BEST, Part, Row
from .tables import table

Everything = Mapping[str, Mapping[str, Part]]
TITLE = "What was to be reached"
INTRO = (
    "What was wanted of two cores before the work began, and what stands in the sections below; "
    "where a bar is a peer's or another solver's figure, it is the one measured there. Where one "
    "was not reached, what was tried."
)
DOCUMENTED_BAR, BEST_BAR = 2.2, 1.45  # times the peer's images a second
WAITING_BAR, IMAGES_BAR, DISTANCE_BAR, FITTING_BAR = 0.02, 5.0, 1.15, 120.0
START_BARS = {"sfumato train digits: first step": 5.0, "sfumato sample --count 1: first image": 3.0}


@dataclass(frozen=True)
class Target:
    """kind: by which the words on a miss are found."""

    words: str
    wanted: str
    found: str
    met: bool
    kind: str


def of_training(found: Everything) -> Iterator[Target]:
    for case, part in found.get("training", {}).items():
        ours, base = part.row("ours"), part.rows[0]
        best = next((row for row in part.rows if row.name == BEST), None)
        for bar, peer in ((DOCUMENTED_BAR, base), (BEST_BAR, best)):
            if peer:
                times = ours.speedup_over(peer)
                words = f"training {case}: times {part.settings['peer']}, {title(peer)}"
                yield Target(words, f"{bar:g}", f"{times:.2f}", times >= bar, f"{case} {bar:g}")
        if "peak_mb" in ours.facts:
            yield memory(case, ours, [row for row in (base, best) if row])


def title(row: Row) -> str:
    return row.name.removeprefix("peer, ")


def memory(case: str, ours: Row, peers: list[Row]) -> Target:
    own, others = ours.facts["peak_mb"], [row.facts["peak_mb"] for row in peers]
    wanted = f"{min(others):,}, the less of the peer's two"
    return Target(
        f"training {case}: peak MB, at most", wanted, f"{own:,}", own <= min(others), "memory"
    )


def of_losses(found: Everything) -> Iterator[Target]:
    for case, part in found.get("loss", {}).items():
        own, other = (abs(part.more[name]) for name in ("from_fp32", "seed_from_seed"))
        words = f"{part.settings['steps']} losses of {case}: off fp32's, at most"
        yield Target(words, f"{other:.2%}, as another seed's", f"{own:.2%}", own <= other, "loss")


def of_input(found: Everything) -> Iterator[Target]:
    if part := found.get("input", {}).get("folder"):
        share = part.more["waiting_share"]
        words = f"waiting for {part.settings['words']}: share of the time, below"
        found_share = f"{share:.2%}; steps {part.more['slower_than_ready']:+.1%} longer"
        yield Target(words, f"{WAITING_BAR:.0%}", found_share, share < WAITING_BAR, "input")


def of_quality(found: Everything) -> Iterator[Target]:
    """Ours after ten minutes against the nearest of the others after thirty and after sixty."""
    parts = found.get("quality", {})
    if not {"fashion-10", "fashion-30"} <= parts.keys():
        return
    ours = next(r for r in parts["fashion-10"].rows if r.name == "fashion_fast").facts["distance"]
    longer = [parts[case] for case in ("fashion-30", "fashion-60") if case in parts]
    others = [row for part in longer for row in part.rows if row.name != "fashion_fast"]
    least = min(row.facts["distance"] for row in others)
    minutes = " and ".join(str(part.settings["seconds"] // 60) for part in longer)
    words = "distance of Fashion-MNIST after 10 minutes, below"
    wanted = f"{least:.1f}, the others' least after {minutes}"
    yield Target(words, wanted, f"{ours:.2f}", ours < least, "quality")


def of_digits(found: Everything) -> Iterator[Target]:
    """Ours against the nearest of the others after the same minutes."""
    parts = found.get("quality", {})
    if not {"digits", "rivals"} <= parts.keys():
        return
    ours = parts["digits"].rows[0].facts["distance"]
    least = min(row.facts["distance"] for row in parts["rivals"].rows)
    minutes = parts["rivals"].settings["seconds"] // 60
    words = f"distance of the digits after {minutes} minutes, below"
    wanted = f"{least:.1f}, the others' least after as many"
    yield Target(words, wanted, f"{ours:.2f}", ours < least, "digits")


def of_sampling(found: Everything) -> Iterator[Target]:
    parts = found.get("sampling", {})
    if part := parts.get("sampling"):
        tuned = next(row for row in part.rows if row.facts["kind"] == "tuned")
        words = f"seconds for {part.settings['images']:,} class-conditional images, below"
        quick = tuned.median < IMAGES_BAR
        yield Target(words, f"{IMAGES_BAR:g}", f"{tuned.median:.2f}", quick, "sampling")
        times = part.more["distance_to_reference"]
        words = "their distance, times that of 35 calls, at most"
        good = times <= DISTANCE_BAR
        yield Target(words, f"{DISTANCE_BAR:g}", f"{times:.2f}", good, "sampling")
    if part := parts.get("calls"):
        for calls in sorted({row.facts["calls"] for row in part.rows}):
            rows = [row for row in part.rows if row.facts["calls"] == calls]
            yield of_calls(calls, rows)
            yield off_teacher(calls, rows)
        yield from of_fitting(part)


def of_fitting(part: Part) -> Iterator[Target]:
    took = [row.facts["fitted_s"] for row in part.rows if row.facts.get("fitted_s")]
    if took:
        words, longest = "seconds of `sfumato tune`, the longest, at most", max(took)
        good = longest <= FITTING_BAR
        yield Target(words, f"{FITTING_BAR:g}", f"{longest:.0f}", good, "fitting")


def of_calls(calls: int, rows: list[Row]) -> Target:
    own, other, name = beside_fixed(rows, "distance")
    words = f"distance in {calls} calls by `sfumato tune`, below every fixed solver's"
    return Target(words, f"{other:.2f} ({name})", f"{own:.2f}", own < other, f"{calls} calls")


def off_teacher(calls: int, rows: list[Row]) -> Target:
    own, other, name = beside_fixed(rows, "off")
    words = f"off the teacher in {calls} calls by `sfumato tune`, below every fixed solver's"
    return Target(words, f"{other:.3f} ({name})", f"{own:.3f}", own < other, f"{calls} calls, off")


def beside_fixed(rows: list[Row], fact: str) -> tuple[float, float, str]:
    """The tuned sampler's, the least of the fixed ones', and whose that is."""
    tuned = next(row for row in rows if row.facts["kind"] == "tuned")
    fixed = [row for row in rows if row.facts["kind"] == "fixed"]
    least = min(fixed, key=lambda row: row.facts[fact])
    return tuned.facts[fact], least.facts[fact], least.name.partition(",")[0]


def of_startup(found: Everything) -> Iterator[Target]:
    for part in found.get("startup", {}).values():
        for name, bar in START_BARS.items():
            seconds = part.row(name).median
            good = seconds <= bar
            yield Target(f"`{name}`, s, at most", f"{bar:g}", f"{seconds:.2f}", good, name)


SECTIONS: tuple[Callable[[Everything], Iterator[Target]], ...] = (
    of_training,
    of_losses,
    of_input,
    of_quality,
    of_digits,
    of_sampling,
    of_startup,
)
DIT = (
    "**DiT-S/4.** Of a step of 1.80 s in the profile 1.32 are the products of its linear layers, "
    "which both leave to oneDNN at the ceiling measured here: a product of our own from weights "
    "packed once took 11.8 ms, oneDNN's 11.7. Norms, modulation, GELU, gates and attention are in "
    "C already; for 1.45 all that is no such product, attention with it, would have to take 0.30 s "
    "in place of 0.48."
)
FEW = (
    "**Few calls.** KDPM2 makes seven calls on a grid that is even in log and ends at a noise of "
    "0.15: it stops early, which leaves the background black, and is as near to the data as the "
    "tuned samplers of seven and eight calls or a little nearer. From the teacher, to which they "
    "are fitted, it is more than twice as far off as they are (the table of few calls, with the "
    "errors of differences: in five and seven calls the distances are not told apart)."
)
TRIED = {  # kind of a miss: why, and what was tried
    **{"dit-64 1.45": DIT, "dit-64 2.2": DIT},
    **{"7 calls": FEW, "8 calls": FEW},
    "memory": "**Memory.** Ours keeps an average of the weights, which diffusers' best has not: 74 "
    "MB of the U-Net's peak.",
    "sfumato train digits: first step": "**First step.** Half of it is `import torch` and "
    "`torch._dynamo`, which every optimizer of PyTorch imports. The rest are promises: the "
    "precision chosen, two steps rehearsed for the forecast, the held-out loss and the first "
    "picture of the film.",
}
ELSEWHERE = (
    "**Without AVX-512** there are no bf16 products to gain from, and the peers' fp32 is near what "
    "oneDNN reaches there; what is gained there are Winograd's fewer products and fewer passes. "
    "DiT has no convolutions: nine tenths of its step are products that both leave to PyTorch."
)
LOG = "The figures of what was tried are in [experiments/LOG.md](../experiments/LOG.md).\n"
GPU = "On a GPU nothing has been measured yet: `bench/gpu.sh` does it all, in under nine minutes.\n"


def of(found: Everything) -> list[Target]:
    return [target for made in SECTIONS for target in made(found)]


def section(found: Everything, other: Everything) -> str:
    """other: the same on the processor without AVX-512. Nothing where nothing has a bar."""
    here, there = of(found), of(other)
    if not here + there:
        return ""
    rows = [cells(one, "") for one in here] + [cells(one, "without AVX-512, ") for one in there]
    head = ["", "wanted", "measured", "reached"]
    missed = [one.kind for one in here if not one.met]
    reasons = list(dict.fromkeys(TRIED[kind] for kind in missed if kind in TRIED))
    reasons += [ELSEWHERE] if any(not one.met for one in there) else []
    body = "\n\n".join([*reasons, LOG]) if reasons else ""
    return f"## {TITLE}\n\n{INTRO}\n\n{table(head, rows)}\n{body}\n{GPU}"


def cells(target: Target, where: str) -> list[str]:
    return [where + target.words, target.wanted, target.found, "yes" if target.met else "**no**"]
