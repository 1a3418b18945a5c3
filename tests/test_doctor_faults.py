"""Faults, planted one at a time, each found by its code. scripts/doctor_table.py reads PLANTED."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import planted_museum
from sfumato.config import AnyRun
from sfumato.data import ImageData, load
from sfumato.doctor import Finding, Machine, look_at_data
from sfumato.doctor.checks import of_average, of_images, of_means, of_settings
from sfumato.doctor.data import check_images, check_latents
from sfumato.doctor.finding import SEVERITIES, verdict
from sfumato.doctor.plan import check_budget
from sfumato.doctor.process import check_process
from sfumato.doctor.run import check_drawn, check_log
from sfumato.doctor.words import TEXTS, said
from sfumato.kinds import override
from sfumato.process import Process, RectifiedFlow
from sfumato.recipes import RECIPES
from sfumato.tasks import TASKS

Findings = Iterable[Finding]
GOOD = Machine("cpu", gpu=False, unreached=False, memory=8 * 10**9, disk=10**11)


@dataclass(frozen=True)
class Planted:
    """what: the fault, as it would be typed or done. look: the findings on the fault."""

    code: str
    what: str
    look: Callable[[Path], Findings]


@cache
def digits() -> ImageData:
    return load("digits")


def settings(recipe: str, typed: str) -> AnyRun:
    """The recipe with fields set as by `sfumato train RECIPE FIELD=VALUE ...`."""
    run: Any = RECIPES[recipe]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the process says of itself
        for setting in typed.split():
            run = override(run, *setting.split("=", 1))
    return run


def of_run(run: AnyRun, seconds: float = 0.2, machine: Machine = GOOD) -> list[Finding]:
    """All that is looked at before training, on the digits; latents have no images here."""
    found = list(of_settings(run))
    if getattr(run, "codec", None) == RECIPES["digits"]().codec or not hasattr(run, "codec"):  # type: ignore[union-attr]
        data = digits() if run.data.labels else replace(digits(), labels=None, class_names=())
        settled = TASKS[type(run)].settled(run, data)
        found += [*of_images(settled, data), *of_means(settled, data, machine, seconds)]
    return found


def typed(code: str, recipe: str, changes: str, **more: Any) -> Planted:
    what = f"`{recipe} {changes}`"
    return Planted(code, what, lambda _: of_run(settings(recipe, changes), **more))


def array(code: str, what: str, make: Callable[[], Any]) -> Planted:
    def look(folder: Path) -> Findings:
        np.save(folder / "images.npy", make())
        return look_at_data(str(folder / "images.npy"))

    return Planted(code, what, look)


def floats(low: float, high: float) -> Any:
    return np.linspace(low, high, 20 * 64).reshape(20, 8, 8).astype(np.float32)


def pictures(n: int = 1200, channels: int = 1, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def data_of(images: Tensor, labels: Any = None, **more: Any) -> ImageData:
    names = ("cat", "dog") if labels is not None else ()
    return ImageData(images, labels, names, "pictures", "a test", **more)


class Clamped(RectifiedFlow):
    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return super().diffuse(x0, t, eps).clamp(-1, 1)


class Unrooted(RectifiedFlow):
    """The squares of alpha and sigma in place of them."""

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return self.alpha(t)[:, None] ** 2 * x0 + self.sigma(t)[:, None] ** 2 * eps


class Reversed(RectifiedFlow):
    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), -torch.ones_like(t)


class Halved(RectifiedFlow):
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = super().rates(t)
        return alpha / 2, sigma / 2


def own(code: str, what: str, process: Process) -> Planted:
    return Planted(code, what, lambda _: check_process(process))


Row = dict[str, Any]


def log(
    steps: int = 400,
    loss: Callable[[int], float] = lambda step: 0.1 + 1 / (1 + step / 20),
    held: Callable[[int], float] | None = None,
    average: float = 1.0,
    levels: Callable[[int], list[float]] | None = None,
    speed: Callable[[int], float] = lambda step: 100.0,
    norm: float = 0.5,
) -> list[Row]:
    """metrics.jsonl of a healthy run of 400 steps but for what is given."""
    rows: list[Row] = []
    for step in range(1, steps + 1):
        row = {"kind": "train", "step": step, "seconds": step * 1.0, "loss": loss(step)}
        rows.append({**row, "grad_norm": norm, "images_per_s": speed(step), "lr": 1e-3})
    for step in range(0, steps + 1, 40):
        raw = (held or loss)(step)
        row = {"kind": "held_out", "step": step, "raw": raw, "ema": average * raw}
        rows.append({**row, "ema_by_level": (levels or falling)(step)})
    return rows


def falling(step: int) -> list[float]:
    return [1 / (1 + step / 20)] * 8


def only(low: bool, high: bool) -> Callable[[int], list[float]]:
    def levels(step: int) -> list[float]:
        now = 1 / (1 + step / 20)
        return [now if low else 0.5] * 3 + [0.5] * 2 + [now if high else 0.5] * 3

    return levels


def climbing(step: int) -> list[float]:
    return [0.5 + step / 1000] * 3 + [0.5] * 5


def logged(code: str, what: str, rows: list[Row]) -> Planted:
    run = settings("digits", "train.seconds=400")
    return Planted(code, what, lambda _: [*check_log(run, rows), *of_average(run, rows)])


def drawn(code: str, what: str, change: Callable[[Tensor], Tensor]) -> Planted:
    """Half of some smooth pictures, changed, beside the other half."""

    def look(_: Path) -> Findings:
        real = smooth()
        return check_drawn(change(real[::2].float()).round().clamp(0, 255).byte(), real[1::2])

    return Planted(code, what, look)


def latents() -> Tensor:
    return torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def smooth() -> Tensor:
    """400 pictures of 16 x 16 in three channels, each a slope of its own."""
    generator = torch.Generator().manual_seed(0)
    corners = 100 + 60 * torch.rand(400, 3, 2, 2, generator=generator)
    return torch.nn.functional.interpolate(corners, 16, mode="bilinear").round().byte()


def grain(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return images + 25 * noise


BLUE = torch.tensor([0.0, 0.0, 10.2])[:, None, None]  # levels: 0.08 of [-1, 1]
NAN = floats(0, 1)
NAN[3, 2, 1] = np.nan
BLANK = torch.cat([pictures(), torch.full((100, 1, 8, 8), 255, dtype=torch.uint8)])
FLAGS = tuple(f"flag {number}" for number in range(1320))
SHARED = data_of(torch.cat([pictures(), pictures()[::10]]), captions=FLAGS)
PLAIN = RECIPES["digits"]()
RARE = torch.tensor([0] * 1190 + [1] * 10)

PLANTED = [
    array("range-01", "an .npy of floats in [0, 1]", lambda: floats(0, 1)),
    array("range-31", "an .npy normalised twice, in [-3, 1]", lambda: floats(-3, 1)),
    array("range-11", "an .npy in [-1, 1]", lambda: floats(-1, 1)),
    array("range-255", "an .npy of floats to 255", lambda: floats(0, 255)),
    array("range-16", "an .npy of 16 bits", lambda: (floats(0, 65535)).astype(np.uint16)),
    array("range-odd", "an .npy minus mean, by deviation", lambda: floats(-2.1, 2.6)),
    array("range-bytes", "[0, 1] cut to bytes", lambda: floats(0, 1).round().astype(np.uint8)),
    array("not-finite", "a NaN in an .npy", lambda: NAN),
    array("not-numbers", "an .npy of complex numbers", lambda: floats(0, 1).astype(np.complex64)),
    array("channels", "an .npy of five channels", lambda: np.zeros((9, 8, 8, 5), np.uint8)),
    array("no-images", "an .npy of labels", lambda: np.arange(10)),
    Planted(
        "grey-as-rgb",
        "grey images read as RGB",
        lambda _: check_images(data_of(pictures().expand(-1, 3, -1, -1))),
    ),
    Planted("blank-images", "100 white pages", lambda _: check_images(data_of(BLANK))),
    Planted(
        "duplicates",
        "every tenth image twice",
        lambda _: check_images(data_of(torch.cat([pictures(), pictures()[::10]]))),
    ),
    Planted("shared-pictures", "every tenth under two captions", lambda _: check_images(SHARED)),
    Planted("few-images", "140 images", lambda _: check_images(data_of(pictures(140)))),
    Planted("rare-class", "10 dogs, 1,190 cats", lambda _: check_images(data_of(pictures(), RARE))),
    Planted(
        "unreadable",
        "30 broken files",
        lambda _: check_images(data_of(pictures(), unreadable=(("a.png", "cut short"),) * 30)),
    ),
    Planted(
        "latents-unscaled",
        "latents 5.5 times too large",
        lambda _: check_latents(5.5 * latents()),
    ),
    typed("flip-letters", "digits", "data.flip=true"),
    typed("no-held-out", "digits", "data.held_out=0"),
    typed("batch-over-images", "digits", "train.batch=8192"),
    typed("sigma-data", "digits", "parameterization.sigma_data=3"),
    typed(
        "signal-left",
        "digits_ddpm",
        "process.steps=300 process.rescaled=false objective.times.steps=300",
    ),
    typed("signal-left", "digits", "process.t_max=5"),
    typed("few-betas", "digits_ddpm", "process.steps=10 objective.times.steps=10"),
    typed("zero-snr", "digits_ddpm", "process.zero_terminal_snr=true"),
    own("x-clamped", "a process that clamps x_t", Clamped()),
    own("diffuse-off", "alpha_bar for its root", Unrooted()),
    own("clock-backwards", "t = 1 for data", Reversed()),
    own("rates-off", "rates of half the size", Halved()),
    typed("level-narrow", "digits", "network.noise_scale=1"),
    typed("level-wide", "digits_ddpm", "network.noise_scale=250"),
    typed("level-log", "unet2d_mnist", "network.fourier=true"),
    typed("level-raw", "four_conv_mnist", "network.noise_scale=1"),
    typed(
        "level-table", "digits_ddpm", "data.labels=false network=PulferUNetConfig network.steps=300"
    ),
    typed("steps-differ", "digits_ddpm", "objective.times.steps=4000"),
    typed("untrained-high", "digits", "objective.times.mean=-6"),
    typed("untrained-low", "digits", "objective.times.mean=3"),
    typed("weight-high", "digits_ddpm", "parameterization=PredictData objective.weight=MinSNR"),
    typed("weight-low", "digits_ddpm", "objective.weight=DataMSE"),
    typed("clipped-latents", "latent_unet", "sampling.clipped=true"),
    typed("variance-missing", "digits_ddpm", "sampling.solver.variance_mix=null"),
    typed("variance-untrained", "digits_ddpm", "learned_variance=true"),
    typed("grid-refused", "digits", "sampling.grid=TrailingGrid"),
    typed("grid-refused", "digits_ddpm", "sampling.steps=2000"),
    typed("grid-starts-late", "digits", "sampling.grid.sigma_max=5"),
    typed("grid-ends-early", "digits", "sampling.grid=UniformGrid"),
    typed("solver-pale", "digits_flow", "sampling.steps=3"),
    typed("guidance-no-classes", "digits", "data.labels=false"),
    typed("guidance-no-dropout", "digits", "data.label_dropout=0"),
    typed("guidance-strong", "digits", "sampling.guidance=15"),
    typed("dropout-high", "digits", "data.label_dropout=0.9"),
    typed("ddim-brief", "digits_ddpm", "sampling.solver=DDIM train.steps=500"),
    typed("lr-high", "digits", "train.lr=0.1"),
    typed("lr-low", "digits", "train.lr=1e-6"),
    typed("noise-stuck", "digits", "network.patch=8"),
    typed("ema-wide", "digits", "train.ema_length=0.28"),
    typed("budget-long", "digits", "train.steps=200000 train.seconds=null", seconds=10 / 3),
    typed("budget-few-steps", "digits", "train.seconds=60", seconds=3.0),
    Planted("few-steps", "a run of 42 steps", lambda _: check_budget(PLAIN.train, 1.0, ended=42)),
    typed("by-heart", "unet2d_mnist", "train.steps=700000 train.epochs=null", seconds=0.001),
    typed("gpu-unused", "digits", "train.seed=1", machine=replace(GOOD, gpu=True)),
    typed("gpu-unreached", "digits", "train.seed=1", machine=replace(GOOD, unreached=True)),
    typed("bf16-emulated", "digits", "precision=bf16", machine=replace(GOOD, emulated=True)),
    typed("memory-short", "digits", "train.seed=1", machine=replace(GOOD, memory=10**6)),
    typed("disk-short", "digits", "train.seed=1", machine=replace(GOOD, disk=10**6)),
    logged("loss-diverged", "a loss that jumps", log(loss=lambda n: 0.1 if n < 300 else 2.0)),
    logged(
        "batches-skipped",
        "a tenth of the batches left out",
        [*log(), *({"kind": "skipped", "step": n} for n in range(40))],
    ),
    logged("gradients-cut", "gradients of length 300", log(norm=300.0)),
    logged("slowed", "a machine that slows", log(speed=lambda n: 100.0 if n < 200 else 30.0)),
    logged("not-learning", "a loss that stays", log(loss=lambda n: 1.0)),
    logged(
        "memorising",
        "held-out loss rises while training's falls",
        log(held=lambda n: 0.4 + abs(n - 160) / 800),
    ),
    logged("ema-behind", "an average 30 % worse than the weights", log(average=1.3)),
    logged("ema-young", "120 steps", log(steps=120)),
    logged("unfinished", "a run stopped at 200 of 400 s", log(steps=200)),
    logged("improving", "every level still falls", log()),
    logged("improving-high", "high noise still falls", log(levels=only(low=False, high=True))),
    logged("improving-low", "low noise still falls", log(levels=only(low=True, high=False))),
    logged("rising", "it rises at low noise", log(levels=climbing)),
    logged("flat", "no level falls", log(levels=only(low=False, high=False))),
    drawn("tint", "10 of 255 levels more blue", lambda images: images + BLUE),
    drawn("pale", "half of the contrast", lambda images: 64 + images / 2),
    drawn("loud", "twice the contrast", lambda images: (images - 125) * 2 + 125),
    drawn("grainy", "noise of 25 levels left", grain),
    drawn("one-image", "one picture 64 times", lambda images: images[:1].expand(64, -1, -1, -1)),
]
PLANTED += planted_museum.of(Planted)
CODES = {plant.code for plant in PLANTED}


@cache
def looked_at(number: int) -> list[Finding]:
    with TemporaryDirectory() as folder:
        return list(PLANTED[number].look(Path(folder)))


@pytest.mark.parametrize("number", range(len(PLANTED)), ids=lambda n: PLANTED[n].code)
def test_the_fault_is_found(number: int) -> None:
    assert PLANTED[number].code in {finding.code for finding in looked_at(number)}


def test_there_are_thirty_and_more() -> None:
    assert len(CODES) >= 60


HEALTHY = [
    *("digits", "digits_ddpm", "digits_flow", "unet2d_small", "tiny_mnist", "four_conv_mnist"),
    *("improved_ddpm", "improved_ddpm_vlb", "label_tokens", "sd_unet_small", "dit_pixels"),
    *("dit_flow", "compare_unet2d", "compare_sd_unet", "compare_dit", "digits_unlabelled"),
    "noisy_classifier",
]


@pytest.mark.parametrize("recipe", HEALTHY)
def test_no_false_alarm_on_a_recipe(recipe: str) -> None:
    assert of_run(RECIPES[recipe]()) == []


@pytest.mark.parametrize("recipe", ["handmade_small", "lucid_small", "optimised_small", "celeba64"])
def test_no_false_alarm_on_settings(recipe: str) -> None:
    assert list(of_settings(RECIPES[recipe]())) == []


def test_no_false_alarm_on_a_log_or_on_drawings() -> None:
    run = settings("digits", "train.seconds=400")
    found = [*check_log(run, log()), *of_average(run, log())]
    assert [finding.severity for finding in found] == ["note"]
    half = smooth()
    assert list(check_drawn(half[::2], half[1::2])) == []
    assert list(check_images(data_of(pictures(), torch.arange(1200) % 2))) == []
    assert list(check_latents(latents())) == []


@pytest.mark.parametrize("lang", TEXTS)
def test_every_finding_has_words_with_its_numbers(lang: str) -> None:
    for number in range(len(PLANTED)):
        for finding in looked_at(number):
            words = said(finding, lang)
            assert all((words.seen, words.why, words.do)), finding.code
            assert finding.severity in SEVERITIES


def test_both_languages_have_the_same_codes_and_numbers() -> None:
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert list(english) == list(chinese)
    for code, words in english.items():
        for ours, theirs in zip(words, chinese[code]):
            assert names_in(ours) == names_in(theirs), code


def names_in(text: str) -> set[str]:
    import string

    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_verdict_is_the_worst() -> None:
    note, risk, wrong = (Finding("flat", severity) for severity in ("note", "risk", "wrong"))
    assert [verdict(f) for f in ([], [note], [note, risk], [risk, wrong])] == [
        *("healthy", "healthy", "risk", "wrong"),
    ]
