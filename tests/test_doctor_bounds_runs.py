"""The doctor's bounds on how a run draws, on a machine, on a log and on what was drawn."""

from dataclasses import replace
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import CONTINUOUS, f64, inside, name, normal
from sfumato.config import Run
from sfumato.doctor.draws import check_brief, check_guidance
from sfumato.doctor.machine import check_machine
from sfumato.doctor.run import check_drawn, check_log, parts
from sfumato.doctor.solver import MEAN, Exact, cut_at
from sfumato.exact import GaussianMixture
from sfumato.parameterization import PredictNoise
from sfumato.process import Process
from sfumato.solvers import DDIM
from test_doctor_bounds import DIGITS, told
from test_doctor_faults import GOOD, log

# --- drawing


def asking(scale: float, dropout: float) -> Run:
    return replace(
        DIGITS,
        sampling=replace(DIGITS.sampling, guidance=scale),
        data=replace(DIGITS.data, label_dropout=dropout),
    )


@pytest.mark.parametrize(
    ("scale", "dropout", "labelled", "wanted"),
    [
        (1.0, 0.0, False, []),
        (1.0, 0.0, True, []),
        (2.0, 0.1, False, [("guidance-no-classes", "wrong")]),
        (2.0, 0.0, True, [("guidance-no-dropout", "wrong")]),
        (0.0, 0.0, True, [("guidance-no-dropout", "wrong")]),
        (10.0, 0.1, True, []),
        (10.1, 0.1, True, [("guidance-strong", "risk")]),
        (-10.1, 0.1, True, [("guidance-strong", "risk")]),
        (2.0, 0.5, True, []),
        (2.0, 0.51, True, [("dropout-high", "risk")]),
    ],
)
def test_guidance_wants_classes_and_some_of_them_left_out(
    scale: float, dropout: float, labelled: bool, wanted: list[tuple[str, str]]
) -> None:
    assert told(check_guidance(asking(scale, dropout), labelled)) == wanted


@pytest.mark.parametrize("change", ["another solver", "some noise", "another prediction"])
def test_only_ddim_without_noise_on_a_noise_predictor_draws_blots(change: str) -> None:
    run = replace(DIGITS, parameterization=PredictNoise())
    run = replace(run, sampling=replace(run.sampling, solver=DDIM()))
    assert told(check_brief(run, 100)) == [("ddim-brief", "risk")]
    if change == "another solver":
        run = replace(run, sampling=DIGITS.sampling)
    elif change == "some noise":
        run = replace(run, sampling=replace(run.sampling, solver=DDIM(0.5)))
    else:
        run = replace(run, parameterization=DIGITS.parameterization)
    assert told(check_brief(run, 100)) == []


def test_a_cut_is_many_at_one_largest_value() -> None:
    x = torch.linspace(-1, 0.9, 200)
    assert cut_at(x) is None
    x[:2] = -1  # one in a hundred
    assert cut_at(x) is None
    x[:3] = torch.tensor([-1.0, 1.0, -1.0])
    assert cut_at(x) == 1.0


# --- machines


def test_memory_is_20_bytes_a_weight_and_the_disk_keeps_a_twentieth_free() -> None:
    weights, keep = 1000, 2
    assert told(check_machine(replace(GOOD, memory=20_000), weights, keep)) == []
    assert told(check_machine(replace(GOOD, memory=19_999), weights, keep)) == [
        ("memory-short", "wrong")
    ]
    room = 4 * weights * (4 * 3 + 1)
    assert told(check_machine(replace(GOOD, disk=round(room / 0.95) + 1), weights, keep)) == []
    short = check_machine(replace(GOOD, disk=round(room / 0.95) - 2), weights, keep)
    assert told(short) == [("disk-short", "wrong")]
    assert told(check_machine(replace(GOOD, memory=None, disk=None), weights, keep)) == []
    slow = replace(GOOD, emulated=True)
    assert [told(check_machine(slow, weights, keep, p)) for p in ("auto", "fp32")] == [[], []]
    assert told(check_machine(slow, weights, keep, "bf16")) == [("bf16-emulated", "risk")]
    assert told(check_machine(GOOD, weights, keep, "bf16")) == []
    on_gpu = replace(GOOD, device="cuda", gpu=True, unreached=True)
    assert told(check_machine(on_gpu, weights, keep)) == []


# --- logs


SECONDS_400 = replace(DIGITS, train=replace(DIGITS.train, seconds=400.0))


def of_log(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """But for where the run stands."""
    found = told(check_log(SECONDS_400, rows))
    return [each for each in found if each[0] not in ("improving", "flat", "improving-high")]


def jumps(times: float) -> list[dict[str, Any]]:
    return log(loss=lambda n: 1.0 if n < 360 else times, held=lambda n: 1 / (1 + n / 20))


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (jumps(1.49), []),
        (jumps(1.51), [("loss-diverged", "wrong")]),
        (log(norm=100.0), []),
        (log(norm=101.0), [("gradients-cut", "risk")]),
        (log(speed=lambda n: 100.0 if n <= 300 else 50.0), []),
        (log(speed=lambda n: 100.0 if n <= 300 else 49.0), [("slowed", "note")]),
        (log(held=lambda n: 1 - 0.1 * n / 400), []),
        (log(held=lambda n: 1 - 0.09 * n / 400), [("not-learning", "wrong")]),
        (log(average=1.1), []),
        (log(average=1.11), [("ema-behind", "risk")]),
        (log(steps=396), []),
        (log(steps=395), [("unfinished", "note")]),
        ([*log(), *[{"kind": "skipped", "step": n} for n in range(4)]], []),
        (
            [*log(), *[{"kind": "skipped", "step": n} for n in range(5)]],
            [("batches-skipped", "wrong")],
        ),
        (log(loss=lambda n: nan if n == 7 else 0.5, held=lambda n: 1 / (1 + n)),
         [("batches-skipped", "wrong")]),
        ([], [("no-steps", "note")]),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_log_on_either_side_of_each_bound(
    rows: list[dict[str, Any]], wanted: list[tuple[str, str]]
) -> None:
    assert of_log(rows) == wanted


def rising(now: float, best: int) -> list[dict[str, Any]]:
    """A held-out loss that is lowest, 0.5, at a step, beside a training loss of 0.4."""
    return log(loss=lambda n: 0.4, held=lambda n: 1.0 if n == 0 else 0.5 if n == best else now)


def test_learning_by_heart_is_a_held_out_loss_that_rose_while_trainings_fell() -> None:
    assert of_log(rising(0.526, 200)) == [("memorising", "risk")]
    assert of_log(rising(0.524, 200)) == []
    assert of_log(rising(0.526, 320)) == []  # not yet a fifth of the run ago
    assert of_log(rising(0.526, 280)) == [("memorising", "risk")]
    flat = log(loss=lambda n: 0.48, held=lambda n: 0.526 if n == 400 else 0.5 + (n == 0))
    assert of_log(flat) == []


def test_a_run_that_has_just_begun_is_not_judged() -> None:
    early = log(steps=99, loss=lambda n: 1.0 if n < 90 else 9.0, held=lambda n: 1.0, norm=300.0)
    assert of_log(early) == [("unfinished", "note")]


def test_parts_are_the_medians_of_equal_shares() -> None:
    assert parts([5.0, 1.0, 3.0, 7.0, 7.0, 9.0], 2) == [3.0, 7.0]
    assert parts([1.0, 2.0], 10) == [1.0, 2.0]


# --- drawings


def greys(mean: float, spread: float, count: int = 400) -> Tensor:
    """Images whose two halves are one even grey each: no grain."""
    make = torch.Generator().manual_seed(0)
    sides = torch.tensor([-1.0, 1.0]) * (1 + 0.05 * torch.rand(count, 2, generator=make))
    rows = (mean + spread * sides).round().clamp(0, 255).byte()
    return rows[:, None, None, :].repeat_interleave(4, 3).expand(-1, 1, 8, -1)


@pytest.mark.parametrize(
    ("mean", "spread", "wanted"),
    [
        (100 + 127.5 * 0.03, 40, []),
        (100 + 127.5 * 0.07, 40, [("tint", "risk")]),
        (100 - 127.5 * 0.07, 40, [("tint", "risk")]),
        (100, 40 * 0.78, []),
        (100, 40 * 0.72, [("pale", "risk")]),
        (100, 40 * 1.29, []),
        (100, 40 * 1.37, [("loud", "risk")]),
    ],
)
def test_colours_on_either_side_of_each_bound(
    mean: float, spread: float, wanted: list[tuple[str, str]]
) -> None:
    assert told(check_drawn(greys(mean, spread), greys(100, 40))) == wanted


def test_colours_of_a_few_images_are_not_certain() -> None:
    """Ten of another draw are off by more than a twentieth, and by less than three errors."""
    make = torch.Generator().manual_seed(5)
    real = torch.randint(0, 256, (500, 1, 1, 1), generator=make).byte().expand(-1, 1, 8, 8)
    found = [told(check_drawn(real[i : i + 10], real)) for i in range(0, 100, 10)]
    means = [real[i : i + 10].double().mean() for i in range(0, 100, 10)]
    assert max(abs(m - real.double().mean()) for m in means) > 127.5 * 0.1
    assert all(each == [] for each in found)


def test_drawings_that_vary_a_tenth_as_much_are_one_image() -> None:
    make = torch.Generator().manual_seed(1)
    base = torch.randint(0, 256, (1, 1, 8, 8), generator=make).float()
    noise = torch.randn(400, 1, 8, 8, generator=make)
    real = (base + 60 * noise).clamp(0, 255).byte()
    spread = torch.std(real.float(), dim=0).mean().item()
    for share, wanted in ((0.13, False), (0.07, True)):
        drawn = (base + share * spread * noise).clamp(0, 255).round().byte()
        assert (("one-image", "wrong") in told(check_drawn(drawn, real))) is wanted


def test_a_loss_diverges_from_its_lowest_and_not_from_its_first() -> None:
    rows = log(
        loss=lambda n: 5.0 if n < 40 else 1.0 if n < 360 else 1.6, held=lambda n: 1 / (1 + n)
    )
    assert of_log(rows) == [("loss-diverged", "wrong")]


def test_gradients_are_long_beside_what_they_are_cut_to() -> None:
    run = replace(SECONDS_400, train=replace(SECONDS_400.train, grad_clip=4.0))
    assert "gradients-cut" not in dict(told(check_log(run, log(norm=399.0))))
    assert "gradients-cut" in dict(told(check_log(run, log(norm=401.0))))


def test_a_log_without_its_beginning_does_not_tell_whether_anything_was_learned() -> None:
    rows = [row for row in log(held=lambda n: 1.0) if row["step"] > 0]
    assert of_log(rows) == []


def levels(low: float, middle: float, high: float) -> str:
    """Where a run stands whose levels fell by these shares since two thirds of it."""
    shares = [low] * 3 + [middle] * 2 + [high] * 3
    rows = log(levels=lambda n: [1 - share * (n == 400) for share in shares])
    codes = {"improving", "improving-high", "improving-low", "improving-middle", "flat", "rising"}
    return "".join(codes & dict(told(check_log(SECONDS_400, rows))).keys())


def test_the_levels_that_still_fall_are_named() -> None:
    assert levels(0.021, 0.0, 0.021) == "improving"
    assert levels(0.019, 0.5, 0.021) == "improving-high"
    assert levels(0.021, 0.5, 0.019) == "improving-low"
    assert levels(0.019, 0.021, 0.019) == "improving-middle"
    assert levels(0.019, 0.019, 0.019) == "flat"
    assert levels(-0.019, -0.019, -0.019) == "flat"
    assert [levels(-0.021, 0, 0), levels(0, -0.1, 0), levels(0.5, 0, -0.021)] == ["rising"] * 3
    assert levels(0, float("nan"), 0) == ""


def test_a_held_out_loss_that_is_no_number_is_told() -> None:
    nan = float("nan")
    rows = log(held=lambda n: nan)
    assert ("not-learning", "wrong") in of_log(rows)
    rows = log(held=lambda n: nan if n == 0 else 1 / n)
    assert "not-learning" not in dict(of_log(rows))


def test_the_contrast_of_four_images_is_not_certain() -> None:
    make = torch.Generator().manual_seed(5)
    real = torch.randint(0, 256, (500, 1, 1, 1), generator=make).byte().expand(-1, 1, 8, 8)
    drawn = torch.tensor([70, 190, 120, 150]).byte()[:, None, None, None].expand(-1, 1, 8, 8)
    assert drawn.double().std() < 0.72 * real.double().std()
    assert told(check_drawn(drawn, real)) == []
    assert told(check_drawn(drawn.repeat(30, 1, 1, 1), real)) == [("pale", "risk")]


def test_a_loss_of_any_size_diverges_by_half() -> None:
    for times, found in ((1.49, False), (1.51, True)):
        rows = jumps(times)
        for row in rows:
            row.update({"loss": 0.2 * row["loss"]} if "loss" in row else {})
        codes = {f.code: dict(f.facts) for f in check_log(SECONDS_400, rows)}
        assert ("loss-diverged" in codes) is found
    assert codes["loss-diverged"]["now"] == pytest.approx(0.2 * 1.51)
    assert codes["loss-diverged"]["best"] == pytest.approx(0.2)


def test_trainings_own_loss_is_that_of_the_last_tenth() -> None:
    def held(n: int) -> float:
        return 1.0 if n == 0 else 0.5 if n == 200 else 0.53

    late = log(loss=lambda n: 1.0 if n <= 360 else 0.4, held=held)
    assert "memorising" in dict(told(check_log(SECONDS_400, late)))
    early = log(loss=lambda n: 0.4 if n <= 360 else 0.52, held=held)
    assert "memorising" not in dict(told(check_log(SECONDS_400, early)))


@pytest.mark.parametrize("count", [0, 2])
def test_a_log_of_fewer_than_three_levels_stands_nowhere(count: int) -> None:
    rows = log(levels=lambda n: [1 / (1 + n)] * count)
    assert told(check_log(SECONDS_400, rows)) == []
    for row in rows:
        row.pop("ema_by_level", None)
    assert told(check_log(SECONDS_400, rows)) == []


@pytest.mark.parametrize("process", CONTINUOUS, ids=name)
def test_what_a_solver_is_tried_on_is_the_exact_denoiser(process: Process) -> None:
    mixture = GaussianMixture(process, f64(MEAN)[None, None], 0.6)
    own, x = Exact(process, f64(0.6)[None, None]), normal(5, 1)
    for t in inside(process, 9):
        torch.testing.assert_close(own(x, t).x0, mixture(x, t).x0)
