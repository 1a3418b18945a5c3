"""docs/benchmarks.md and its plots, out of bench/results/*.json alone."""

from collections.abc import Callable, Mapping
from pathlib import Path

from . import plots, quality_page, sampling_page, targets
from .ceiling import FORMATS, best, of_training
from .machine import ROOT
from .options import Options, say
from .results import BEST, RESULTS, Part, Row, read
from .rounds import speedups
from .scale import Cluster
from .tables import again, brackets, processor, table

Parts = Mapping[str, Part]
Everything = Mapping[str, Parts]
HEAD = """# Benchmarks

<!-- made by `python -m bench page` from bench/results/*.json: do not edit -->

How fast this is, beside what people use now: the same work, in turn, in one process, A B C A B C.
A figure is the median over the rounds, in brackets its quartiles; a ratio is the median of the
rounds' own ratios, so that whatever slowed the machine for a while slowed both. The share of the
ceiling counts the model's FLOPs alone (three times forward), against what this machine's
convolutions or matrix products reach in the same number format; ours may be above 100%, since
Winograd's convolutions take fewer products than are counted. Under each table stand the
commands that make its rows again; [what it was measured on](#measured-on) is at the end, and
whether the machine was quiet: whether others took less than a twentieth of its cores' time.
"""
NOTHING = "Nothing has been measured yet: `python -m bench --help` says what can be.\n"
TITLES = {
    "ceiling": "Ceilings",
    "training": "Training",
    "loss": "The same losses",
    "profile": "Where a step's time goes",
    "input": "Images on their way in",
    "quality": "Quality per minute",
    "ablations": "What each ingredient is worth",
    "sampling": "Sampling",
    "startup": "Start-up",
    "scale": "Scale",
}
INTRO = {
    "ceiling": "The best rates found, in GFLOP/s, over widths of 64 to 512 and two batches, of "
    "matrices also 1,024 and 2,048 square.",
    "training": "A step is: forget the gradients, forward, loss, backward, clip to 1, optimizer, "
    "and the average of the weights where the peer's documentation has one (ours always). As "
    "documented: fp32 and the optimizer of its example. At its best: bf16 autocast, channels_last "
    "and the fused optimizer in all combinations, three steps of each, the two fastest also under "
    "torch.compile; the two fastest of all take part in the rounds, and the faster there is shown. "
    "Three steps are few, so that another may be as fast. Memory kept: what is freed stays with "
    "the process from step to step, as our command has it. Memory is the peak of a process of its "
    "own, compiler included.",
    "loss": "Our precision against fp32 from the same seed, and fp32 from another seed as the "
    "yardstick of chance. The mean loss of the last fifth of the steps, compared with fp32's.",
    "profile": "Milliseconds of a step by kind of work, by torch.profiler; layouts inside "
    "convolutions and products are what oneDNN calls reorders. The peer's best is without "
    "torch.compile here, whose joined passes have no kinds. Attention is among matrix products.",
    "input": "Waiting is the time until a step's batch is there, as a share of the whole. "
    "A thread gathers and mirrors its images and draws its noise, beside the step before it.",
    "quality": quality_page.INTRO,
    "ablations": quality_page.ABLATIONS,
    "sampling": sampling_page.INTRO,
    "startup": "From typing the command. `import torch` stands beside it: nothing here can be "
    "faster. The first training of all on a machine also compiles the C of the fast layers, which "
    "takes some four seconds, once: that is a row of its own.",
    "scale": "Our U-Net with widths 1-2-2, seconds a training step.",
}


OTHER = "avx2"  # a folder of results like the first
OWN_TITLES = {"training"}  # each of its cases has one
OTHER_TITLE = "Without AVX-512"
OTHER_INTRO = (
    "The same on a processor without AVX-512 and bf16 instructions, as most laptops are. PyTorch "
    "does bf16 in software there, ten times slower than fp32: `--precision auto` does not try it, "
    "and of the peer's settings those with it are left out. The commands had "
    "`--out bench/results/avx2`."
)


def run(options: Options) -> None:
    """Write the page into docs/, or, of results elsewhere, into that folder."""
    own = options.out.resolve() == RESULTS.resolve()
    write(options.out, ROOT / "docs" if own else options.out)


def write(results: Path, docs: Path) -> Path:
    """docs/benchmarks.md and docs/pictures/bench-*.png."""
    found, other = of_folder(results), of_folder(results / OTHER)
    for bench, plot in plots.PLOTS.items():
        if bench in found:
            plots.save(plot(found[bench]), docs / "pictures" / f"bench-{bench}.png")
    path = docs / "benchmarks.md"
    path.write_text(page(found, other), "utf-8")
    say(f"written to {path}")
    return path


def of_folder(results: Path) -> Everything:
    everything = {bench: quality_page.joined(read(bench, results)) for bench in TITLES}
    return {bench: parts for bench, parts in everything.items() if parts}


def page(found: Everything, other: Everything | None = None) -> str:
    """other: the same on the other machine, a section of its own."""
    sections = [section(bench, found) for bench in found] or [NOTHING]
    if other:
        bodies = [
            BODIES[bench](other) if bench in OWN_TITLES else under(bench, other) for bench in other
        ]
        sections.append("\n".join([f"## {OTHER_TITLE}\n\n{OTHER_INTRO}\n", *bodies]))
    machines = measured_on({"": found, OTHER: other or {}})
    reached = targets.section(found, other or {})
    return "\n".join([HEAD, *filter(None, [reached]), *sections, f"## Measured on\n\n{machines}"])


def under(bench: str, found: Everything) -> str:
    """A benchmark of the other machine."""
    return f"### {TITLES[bench]}\n\n{BODIES[bench](found)}"


def section(bench: str, found: Everything) -> str:
    picture = f"![{TITLES[bench]}](pictures/bench-{bench}.png)\n" if bench in plots.PLOTS else ""
    body = BODIES[bench](found)
    return f"## {TITLES[bench]}\n\n{INTRO[bench]}\n\n{picture}\n{body}"


def of_ceiling(found: Everything) -> str:
    parts = found["ceiling"].values()
    measured = {row.facts["format"] for part in parts for row in part.rows}
    formats = [name for name in FORMATS if name in measured]
    pairs = [(f, d) for f in formats for d in ("forward", "backward")]
    head = ["", *(" ".join(pair) for pair in pairs), f"training, {formats[-1]}"]
    rows = []
    for part in parts:
        rates = [*(best(part, *pair) for pair in pairs), of_training(part, formats[-1])]
        rows.append([part.case, *(f"{rate / 1e9:.0f}" for rate in rates)])
    return table(head, rows) + again(*parts)


def of_training_steps(found: Everything) -> str:
    return "\n".join(one_network(part, found) for part in found["training"].values())


def one_network(part: Part, found: Everything) -> str:
    base = part.rows[0]
    tuned = next((row for row in part.rows if row.name == BEST), None)
    peak = {row.name: row.facts.get("peak_mb") for row in part.rows}
    compared = ["times the first", *(["times its best"] if tuned else [])]
    head = ["", "images/s", *compared, "s a step", "share of the ceiling", "peak MB"]
    rows = [
        [
            f"{row.name}{how(row)}",
            f"{row.rate:.2f}",
            *(f"{row.speedup_over(one):.2f}" for one in (base, tuned) if one),
            brackets(row),
            share(row, part, found),
            f"{peak[row.name]:,}" if peak[row.name] else "",
        ]
        for row in part.rows
    ]
    tried = part.more.get("tried_images_per_s", {})
    each = "; ".join(f"{words} {rate:.1f}" for words, rate in tried.items())
    more = f"\nTried of the peer, images/s in three steps: {each}.\n" if tried else ""
    title = f"### {plots.words_of(part)}: {part.settings['peer']}"
    return f"{title}\n\n{table(head, rows)}{more}{again(part)}"


def how(row: Row) -> str:
    """The settings behind a row, in brackets; none where its name says them."""
    words = row.facts.get("tuning") or row.facts.get("precision", "").partition(":")[0]
    return f" ({words})" if words and words.partition(",")[0] not in row.name else ""


def number_format(row: Row) -> str:
    words = row.facts.get("tuning") or row.facts.get("precision", "")
    return "bf16" if words.startswith("bf16") else "fp32"


def share(row: Row, part: Part, found: Everything) -> str:
    """Of the ceiling of what the network mostly consists of, in the row's number format."""
    product = "matmul" if "DiT" in part.settings["peer"] else "conv3x3"
    ceiling = found.get("ceiling", {}).get(product)
    if ceiling is None or not row.flops:
        return ""
    name = number_format(row)
    return f"{row.flops_rate / of_training(ceiling, name):.0%} of {name}"


def of_loss(found: Everything) -> str:
    head = ["", "ours from fp32", "another seed from fp32", "steps", "data", "precision"]
    rows = [
        [
            plots.words_of(part),
            f"{part.more['from_fp32']:+.2%}",
            f"{part.more['seed_from_seed']:+.2%}",
            f"{part.settings['steps']:,}",
            part.settings["data"],
            part.more["reasons"]["ours"],
        ]
        for part in found["loss"].values()
    ]
    return table(head, rows) + again(*found["loss"].values())


def of_profile(found: Everything) -> str:
    parts = found["profile"].values()
    kinds = list(next(iter(parts)).rows[0].facts["ms"])
    rows = [
        [f"{part.case}: {row.name}", *(f"{row.facts['ms'].get(kind, 0):.0f}" for kind in kinds)]
        for part in parts
        for row in part.rows
    ]
    return table(["ms a step", *kinds], rows) + again(*parts)


def of_startup(found: Everything) -> str:
    (part,) = found["startup"].values()
    return seconds_table(part) + again(part)


def seconds_table(part: Part, name: str = "") -> str:
    return table([name, "s, median [quartiles]"], [[row.name, brackets(row)] for row in part.rows])


def of_input(found: Everything) -> str:
    parts, pieces = found["input"], []
    if "folder" in parts:
        part = parts["folder"]
        words, more = part.settings["words"], part.more
        pieces.append(
            f"Training on {words}: **{more['waiting_share']:.2%}** of the time is spent waiting, "
            f"and steps take {more['slower_than_ready']:.1%} longer than on a batch that is there "
            f"already; reading all of them at the start took {more['reading_seconds']:.1f} s.\n\n"
            + seconds_table(
                part, f"{part.settings['steps_a_round']} steps of {part.settings['batch']} images"
            )
            + again(part)
        )
    if "cold" in parts:
        part = parts["cold"]
        lines = "".join(f"    {line}\n" for line in part.more["first_lines"])
        such = f", such as\n\n{lines}" if lines else "."
        pieces.append(
            f"\n{part.settings['words']}: {part.more['lines']} lines of progress{such}\n\n"
            + seconds_table(part)
            + again(part)
        )
    return "\n".join(pieces)


def of_scale(found: Everything) -> str:
    parts, pieces = found["scale"], []
    axes = [part for part in parts.values() if "exponent" in part.more]
    if axes:
        rows = [
            [
                f"{part.case}: {part.settings['axis']}",
                f"{part.rows[0].name} to {part.rows[-1].name}",
                part.settings["precision"],
                f"{part.rows[0].median:.3f} to {part.rows[-1].median:.3f}",
                f"{part.more['exponent']:.2f}",
                f"{part.more['exponent_of_last_two']:.2f}",
            ]
            for part in axes
        ]
        head = ["", "range", "in", "s a step", "exponent", "of the last two"]
        pieces.append(table(head, rows) + again(*axes))
    if "processes" in parts:
        pieces += [of_processes(parts["processes"]), on_paper(parts["processes"])]
    return "\n".join(pieces)


def of_processes(part: Part) -> str:
    one, two = part.rows
    ratio, ratios = two.speedup_over(one), speedups(two.seconds, one.seconds)
    batch = part.settings["batch"]
    words = (
        f"Two processes on the same cores make **{ratio:.1f}** times the images a second of one, "
        f"with the same batch of {batch} in all; in {len(ratios)} rounds {min(ratios):.2f} to "
        f"{max(ratios):.2f} times.\n\n"
    )
    return words + seconds_table(part, "seconds a step") + again(part)


PAPER = """### On paper: 8 and 64 GPUs

Not measured. A step of b images on each of n GPUs takes

    compute  = b F / R                                  F: FLOPs of an image in training
    exchange = 2 (n - 1) / n * 4 P / W + 2 (n - 1) l    a ring all-reduce of P float32 gradients
    step     = compute + max(0, exchange - 0.6 compute)    0.6: the backward pass hides them

and efficiency is compute / step. Counted here: {words}, P = {parameters:,}, F = {flops:.2f} GFLOP.
Assumed: R = {rate:.0f} TFLOP/s a GPU; W = 200 GB/s between 8 GPUs of a machine, 40 GB/s a GPU
between machines; l = 20 microseconds a hop.
"""


def on_paper(part: Part, rate: float = 300e12) -> str:
    """Efficiency by GPUs and batch, and what binds first."""
    paper = part.more["paper"]
    parameters, flops = paper["parameters"], paper["flops_per_image"]
    clusters = (Cluster(8, rate, 200e9), Cluster(64, rate, 40e9))
    head = ["GPUs", "exchange, ms", *(f"batch {b} a GPU" for b in (16, 64, 256)), "hidden from"]
    rows = [
        [
            str(cluster.gpus),
            f"{1e3 * cluster.exchange(parameters):.2f}",
            *(f"{cluster.efficiency(flops, b, parameters):.0%}" for b in (16, 64, 256)),
            f"{cluster.least_batch(flops, parameters)} images a GPU",
        ]
        for cluster in clusters
    ]
    words = PAPER.format(
        words=paper["words"], parameters=parameters, flops=flops / 1e9, rate=rate / 1e12
    )
    spelled = "\n\n".join(arithmetic(cluster, parameters, flops) for cluster in clusters)
    return f"{words}\n{table(head, rows)}\n{spelled}\n\n{binding(clusters[1], parameters, flops)}\n"


def arithmetic(cluster: Cluster, parameters: int, flops: float, batch: int = 64) -> str:
    """A step of so many GPUs with the numbers put in."""
    own = cluster.compute(flops, batch)
    bytes_part, hops = cluster.parts(parameters)
    shown = max(0.0, bytes_part + hops - cluster.hidden * own)
    hidden, rate = cluster.hidden * own, f"{cluster.rate / 1e12:.0f} TFLOP/s"
    return (
        f"{cluster.gpus} GPUs of {batch} images each: compute = {batch} * {flops / 1e9:.2f} GFLOP "
        f"/ {rate} = {1e3 * own:.2f} ms; exchange = {1e3 * bytes_part:.2f} ms of bytes + "
        f"{1e3 * hops:.2f} ms of hops, of which {1e3 * hidden:.2f} ms can hide; step = "
        f"{1e3 * (own + shown):.2f} ms, {cluster.gpus * batch / (own + shown):,.0f} images/s."
    )


def binding(cluster: Cluster, parameters: int, flops: float) -> str:
    """What binds first where GPUs are many, and what to do."""
    least, (bytes_part, hops) = cluster.least_batch(flops, parameters), cluster.parts(parameters)
    what, cure = "its bytes", "gradients in bf16 halve them"
    if hops > bytes_part:
        what, cure = "its hops", "a tree of hops in place of a ring cuts them"
    total = f"{cluster.gpus * least:,}"
    return (
        f"What binds first is the exchange between machines, of it {what}: it is hidden only from "
        f"a global batch of {total} on. Below that {cure}. Images bind nothing: they lie on each "
        "GPU as bytes, or are gathered beside the step."
    )


def measured_on(places: Mapping[str, Everything]) -> str:
    head = ["", "date", "commit", "machine", "load before, after", "others' share", "quiet"]
    rows = [
        machine_row(where, bench, part)
        for where, found in places.items()
        for bench, parts in found.items()
        for part in parts.values()
    ]
    return table(head, rows)


def machine_row(where: str, bench: str, part: Part) -> list[str]:
    told = part.machine
    share = told.get("others_share")
    return [
        " ".join(filter(None, (where, *dict.fromkeys((bench, part.case))))),
        told["date"][:16].replace("T", " "),
        told["commit"],
        f"{processor(part)}, {told['threads']} of {told['cores']} cores, torch {told['torch']}",
        f"{told['load_before'][0]}, {told['load_after'][0]}",
        "" if share is None else f"{share:.1%}",
        "**no**" if "warning" in told else "yes",
    ]


BODIES: dict[str, Callable[[Everything], str]] = {
    "ceiling": of_ceiling,
    "training": of_training_steps,
    "loss": of_loss,
    "profile": of_profile,
    "input": of_input,
    "quality": lambda found: quality_page.body(found["quality"]),
    "ablations": lambda found: quality_page.ablations(found["ablations"]),
    "sampling": lambda found: sampling_page.body(found["sampling"]),
    "startup": of_startup,
    "scale": of_scale,
}
