"""One GPU: the rate of its matrix products, and what training and sampling reach of it.

    share = 3 * FLOPs forward of an image * images a second / the measured rate of bf16 products

`bench/gpu.sh` runs it. It needs torch, numpy, pillow and safetensors, and works through its parts
until the time is up; what was left out says so. --smoke does all of it on tiny sizes, on a CPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

NEEDED = {"torch": "torch", "numpy": "numpy", "PIL": "pillow", "safetensors": "safetensors"}
MISSING = [package for module, package in NEEDED.items() if find_spec(module) is None]
if __name__ == "__main__" and MISSING:
    sys.exit(f"bench/gpu.sh: Python at {sys.executable} lacks {', '.join(MISSING)}.")

import torch  # noqa: E402  after the check, which says more than an ImportError
from torch import Tensor  # noqa: E402

from sfumato.assembly import batches, build, conditions_of, loss_of, settle  # noqa: E402
from sfumato.config import DataConfig, Run, SamplingConfig  # noqa: E402
from sfumato.data import ImageData, load  # noqa: E402
from sfumato.generation import Order, class_rows, draw  # noqa: E402
from sfumato.grids import KarrasGrid  # noqa: E402
from sfumato.networks.describe import flops, parameter_count  # noqa: E402
from sfumato.networks.dit import DiTConfig, dit_size  # noqa: E402
from sfumato.networks.unet import UNetConfig  # noqa: E402
from sfumato.objective import Denoising, LogNormalTimes  # noqa: E402
from sfumato.parameterization import EDMPreconditioning  # noqa: E402
from sfumato.pictures import grid, save_png  # noqa: E402
from sfumato.prefetching import prefetched  # noqa: E402
from sfumato.process import Karras  # noqa: E402
from sfumato.solvers import Heun  # noqa: E402
from sfumato.training import TrainConfig, TrainState, take_step  # noqa: E402

MODES = ("eager", "default", "reduce-overhead", "max-autotune-no-cudagraphs")
TIMED = 4.0  # seconds that a rate is taken over


@dataclass(frozen=True)
class Options:
    """smoke: tiny sizes, everything once. data: images to train on; "" is the built-in digits."""

    out: Path
    data: str
    seconds: float
    smoke: bool
    device: torch.device


@dataclass(frozen=True)
class Case:
    """A network to train as fast as it goes, on images (C, H, W)."""

    name: str
    network: Any
    shape: tuple[int, int, int]
    batch: int
    target: float  # the share of the ceiling that is aimed at


def unet(channels: int = 128) -> UNetConfig:
    """DDPM's network for CIFAR-10, Ho et al. (2020), appendix B: about 12 GFLOP an image."""
    shape = {"multipliers": (1, 2, 2, 2), "blocks": 2, "attention_at": (2,)}
    return UNetConfig(channels=channels, groups=min(32, channels // 4), **shape)  # type: ignore[arg-type]


def cases(smoke: bool) -> list[Case]:
    if smoke:
        small = DiTConfig(in_channels=4, depth=1, width=32, heads=2)
        return [
            Case("U-Net", replace(unet(16), multipliers=(1, 2)), (3, 16, 16), 4, 0.38),
            Case("DiT-B/2", small, (4, 16, 16), 4, 0.45),
        ]
    transformer = dit_size("B", DiTConfig(in_channels=4, patch=2))
    return [
        Case("U-Net", unet(), (3, 32, 32), 512, 0.38),
        Case("DiT-B/2", transformer, (4, 32, 32), 256, 0.45),
    ]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Calls a second, over about so many seconds, three at least; the device is waited for."""
    work()
    wait(device)
    begun, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - begun < seconds:
        work()
        calls += 1
        if calls % 4 == 0:  # or the queue of a GPU would run ahead of the clock
            wait(device)
    wait(device)
    return calls / (time.perf_counter() - begun)


def ceiling(options: Options) -> dict[str, Any]:
    """FLOP/s of bf16 matrix products of three sizes; the best is what all else is held against."""
    sizes, rates = ((64, 128) if options.smoke else (4096, 8192, 16384)), {}
    for size in sizes:
        a, b = (torch.randn(size, size, device=options.device).bfloat16() for _ in range(2))
        product = partial(torch.mm, a, b)
        found = [rate(product, options.device, short(options) / 4) for _ in range(3)]
        rates[str(size)] = 2.0 * size**3 * median(found)
    return {"bf16 matmul FLOP/s by size": rates, "best": max(rates.values())}


def short(options: Options) -> float:
    return 0.05 if options.smoke else TIMED


def run_of(network: Any, batch: int, seconds: float = 1e9, flip: bool = True) -> Run:
    return Run(
        name="gpu",
        data=DataConfig(source="", held_out=0, flip=flip),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=0.5),
        objective=Denoising(LogNormalTimes()),
        network=network,
        train=TrainConfig(seconds=seconds, batch=batch, lr=5e-4, warmup_steps=200),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, clipped=True),
        precision="bf16",
    )


def noise(case: Case) -> ImageData:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4 * case.batch, *case.shape), generator=rng, dtype=torch.uint8)
    return ImageData(images, None, (), "noise", "a generator")


def fresh(run: Run, device: torch.device, mode: str) -> TrainState:
    """A state to train, in channels_last, compiled in the mode unless that is "eager"."""
    torch.compiler.reset()  # or graphs of the one before would hold their memory
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    model = build(run, device).to(memory_format=torch.channels_last)
    state = TrainState.fresh(model, run.train)
    if mode != "eager":
        state.model.network.compile(mode=mode)  # type: ignore[operator,union-attr]
    return state


def training(case: Case, mode: str, options: Options, best: float) -> dict[str, Any]:
    """Images a second of whole training steps: batch, loss, gradient, optimizer, average."""
    data, device = noise(case), options.device
    run = settle(run_of(case.network, case.batch), data)
    state, loss = fresh(run, device, mode), loss_of(run)
    begun = time.perf_counter()
    with prefetched(batches(run, data, device)) as batch_at:

        def step() -> None:
            take_step(state, loss, batch_at(state.step), run.train)

        for _ in range(2):
            step()
        wait(device)
        ready = time.perf_counter() - begun
        images = rate(step, device, short(options)) * case.batch
    cost = flops(run.network.build(), case.shape)
    return {
        **{"network": case.name, "mode": mode, "batch": case.batch, "images/s": images},
        **{"GFLOP forward": cost / 1e9, "parameters": parameter_count(state.model)},
        **{"share of the ceiling": 3 * cost * images / best, "target": case.target},
        **{"seconds to the third step": ready, "GB": memory(device)},
    }


def memory(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    return torch.cuda.max_memory_allocated(device) / 1e9


def picture(options: Options, mode: str, seconds: float) -> tuple[dict[str, Any], Any]:
    """A short training and a grid of what it draws; (what was found, what to draw more by)."""
    begun = time.perf_counter()
    data = load(options.data or "digits", size=32, channels=3)
    read = time.perf_counter() - begun
    case = cases(options.smoke)[0]
    batch = 16 if options.smoke else 512
    # digits are no digits in a mirror
    run = settle(run_of(case.network, batch, seconds, flip=bool(options.data)), data)
    if options.smoke:
        run = replace(run, sampling=replace(run.sampling, steps=3))
    state, loss = fresh(run, options.device, mode), loss_of(run)
    rows = list(trained(state, loss, batches(run, data, options.device), run, seconds))
    conditions = conditions_of(data, options.device)
    classes = min(run.network.classes, 10)
    columns = 2 if options.smoke else 10
    seeds, labels = class_rows(classes, columns if classes else columns**2)
    order = Order(seeds, labels, (data.channels, *data.size))
    images = draw(state.average, order, run.sampling, conditions, options.device)  # type: ignore[arg-type]
    path = options.out / "grid.png"
    save_png(grid(images, columns=columns), path, {"made_by": "bench/gpu.py", "step": state.step})
    found = {"data": data.describe(), "seconds to read": read, "mode": mode, "steps": state.step}
    found |= {"batch": batch, "losses": rows, "grid": path.name, "GB": memory(options.device)}
    return found, (state.average, run, conditions)


def trained(
    state: TrainState, loss: Any, batch_at: Callable[[int], Any], run: Run, seconds: float
) -> Iterator[tuple[int, float, float]]:
    """Train for so many seconds; (step, seconds, loss) of every fiftieth step, and the last."""
    begun = time.perf_counter()
    with prefetched(batch_at) as ahead:
        while (state.seconds or 0.0) < seconds:
            found = take_step(state, loss, ahead(state.step), run.train)["loss"]
            state.seconds = time.perf_counter() - begun
            if state.step % 50 == 0 or state.seconds >= seconds:
                yield state.step, round(state.seconds, 2), found


def sampling(options: Options, drawn: Any) -> dict[str, Any]:
    """Images a second of the trained network's own sampler."""
    denoiser, run, conditions = drawn
    count = 8 if options.smoke else 512
    labels = [i % run.network.classes for i in range(count)] if run.network.classes else None
    order = Order(range(count), labels, (run.network.in_channels, 32, 32))

    def work() -> Tensor:
        return draw(denoiser, order, run.sampling, conditions, options.device, batch=count)

    calls = rate(work, options.device, short(options))
    return {"images/s": calls * count, "sampler": str(run.sampling), "batch": count}


def machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {"torch": torch.__version__, "python": sys.version.split()[0], "GPU": gpu}


def measured(options: Options) -> None:
    """Every part in turn; the JSON is written after each, so that what was found stays."""
    begun, found = time.perf_counter(), {"machine": machine(options.device)}

    def left() -> float:
        return options.seconds - (time.perf_counter() - begun)

    def keep(name: str, value: Any) -> None:
        found[name] = value
        found["seconds"] = round(time.perf_counter() - begun, 1)
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"{found['seconds']:6.1f} s  {name}: {json.dumps(value)[:300]}", flush=True)

    keep("ceiling", ceiling(options))
    best, rows = found["ceiling"]["best"], []
    wanted = 150.0 if not options.smoke else 0.0
    modes = MODES[:1] if options.smoke else MODES
    for mode in modes:
        for case in cases(options.smoke):
            if left() < wanted + 100:
                rows.append({"network": case.name, "mode": mode, "left out": "the time was up"})
                continue
            rows.append(attempt(partial(training, case, mode, options, best)))
            keep("training", rows)
    fast = [row for row in rows if row.get("network") == "U-Net" and "images/s" in row]
    mode = max(fast, key=lambda row: row["images/s"])["mode"] if fast else "eager"
    seconds = 0.5 if options.smoke else max(20.0, min(wanted, left() - 60))
    made = attempt(partial(picture, options, mode, seconds))
    if isinstance(made, dict):
        keep("a training", made)
        return
    shown, drawn = made
    keep("a training", shown)
    keep("sampling", attempt(partial(sampling, options, drawn)))


def attempt(work: Callable[[], Any]) -> Any:
    """What the work returns; the reason where a compiler or the memory refuses, which is told."""
    try:
        return work()
    except RuntimeError as error:
        return {"refused": f"{type(error).__name__}: {str(error)[:500]}"}


def options_of(words: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--data", default="", help="images, as CIFAR-10's; default digits")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU too")
    given = parser.parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    there = torch.cuda.is_available()
    if not there and not given.smoke:
        sys.exit("bench/gpu.sh: PyTorch sees no GPU here; --smoke tries everything on the CPU.")
    device = torch.device("cuda" if there else "cpu")
    return Options(given.out, given.data, 60 * given.minutes, given.smoke, device)


if __name__ == "__main__":
    measured(options_of(sys.argv[1:]))
