"""diffusers' variances, time grids, schedules and training side, held without diffusers.

And three rows of its full-loop tests whose number is that of float32 arithmetic near t = 0: there a
transcription of the formula in float32 gives their number, and ours is the same in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import (
    Labelled,
    ancestral_by_hand,
    as_denoiser,
    as_float32,
    det,
    dpm_labels,
    dummy,
    label_of,
    noi,
    ratios,
    seeded,
    total,
    ve_grid,
    vp_grid,
    walk,
    with_signal_left,
)
from sfumato.denoiser import Clipped
from sfumato.discrete import (
    CosineBetas,
    DiscreteVP,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
)
from sfumato.grids import karras_times, leading_times, linspace_times, trailing_times
from sfumato.parameterization import EDMPreconditioning
from sfumato.prediction import Prediction
from sfumato.process import Karras, RectifiedFlow
from sfumato.sampling import sample, trajectory
from sfumato.solvers import DDIM, Ancestral, Solver

LINEAR, COSINE = LinearBetas(1000), CosineBetas(1000)

# ---- rows where float32 in diffusers' formula, not only in its table, moves the number


@dataclass(frozen=True)
class ByHand:
    """A row whose number is float32's, so that a transcription in float64 is the one to match."""

    name: str
    process: DiscreteVP
    labels: Sequence[int]
    noisy: bool
    beta_of_table: bool
    sum: float

    def start(self, dtype: torch.dtype) -> Tensor:
        alpha_bar = torch.cumprod(1 - self.process.betas().to(dtype), 0)[self.labels[0]]
        noisy = alpha_bar.sqrt() * det().to(dtype) + (1 - alpha_bar).sqrt() * noi().to(dtype)
        return noisy if self.noisy else det().to(dtype)

    def transcribed(self, dtype: torch.dtype) -> Tensor:
        betas = self.process.betas().to(dtype)
        start = self.start(dtype)
        return ancestral_by_hand(betas, self.labels, start, dummy, self.beta_of_table)


EVERY_40TH = np.linspace(0, 999, 25).round()[::-1].astype(int).tolist()
BY_HAND = (
    ByHand("DDPM noise 998", LINEAR, [1, 0], True, False, 387.9466),
    ByHand("unCLIP 1000", COSINE, range(999, -1, -1), False, True, 252.2682495),
    ByHand("unCLIP 25", COSINE, EVERY_40TH, False, True, 258.2044983),
)


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: row.name)
def test_number_of_diffusers_is_the_formula_evaluated_in_float32(row: ByHand) -> None:
    result = total(row.transcribed(torch.float32))
    assert result == pytest.approx(row.sum, rel=0, abs=1e-2)
    assert abs(total(row.transcribed(torch.float64)) - row.sum) > 1e-2  # so theirs is not right


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: row.name)
def test_ancestral_is_the_formula_evaluated_in_float64(row: ByHand) -> None:
    grid = vp_grid(row.process, row.labels)
    denoiser = Clipped(as_denoiser(dummy, "eps", grid))
    x = row.start(torch.float64)
    ours = sample(denoiser, x, grid.times, Ancestral(), randn_like=seeded(0))
    torch.testing.assert_close(ours, row.transcribed(torch.float64), rtol=0, atol=1e-9)


# ---- rows of variances, of batches at three times, and of timesteps


def posterior_variance(process: DiscreteVP, t: int, s: int) -> float:
    times = process.times_of(torch.tensor([t, s]))
    return process.posterior(det(), det(), *times).variance.item()


@pytest.mark.parametrize(
    ("name", "process", "t", "s", "variance"),
    [
        ("DDPM variance", LINEAR, 0, -1, 0.0),
        ("DDPM variance", LINEAR, 487, 486, 0.00979),
        ("DDPM variance", LINEAR, 999, 998, 0.02),
        ("DDIM variance", LINEAR, 0, 0, 0.0),
        ("DDIM variance", LINEAR, 420, 400, 0.14771),
        ("DDIM variance", LINEAR, 980, 960, 0.32460),
        ("DDIM variance", LINEAR, 487, 486, 0.00979),
        ("DDIM variance", LINEAR, 999, 998, 0.02),
        ("unCLIP variance", COSINE, 0, -1, 1e-10**2),
        ("unCLIP variance", COSINE, 487, 486, 0.0549625**2),
        ("unCLIP variance", COSINE, 999, 998, 0.9994987**2),
    ],
)
def test_posterior_variance_is_the_tabled_one(
    name: str, process: DiscreteVP, t: int, s: int, variance: float
) -> None:
    """unCLIP's rows are deviations."""
    tolerance = 2e-6 if name.startswith("unCLIP") else 1e-5
    assert posterior_variance(process, t, s) == pytest.approx(variance, rel=0, abs=tolerance)


def three_at_three_times(solver: Solver, before: Sequence[int], keep_eps: bool) -> float:
    """det, det + 0.1 and det - 0.1 at labels 0, 1 and 2, each brought to a label of `before`."""
    results = []
    for label, (shift, target) in enumerate(zip((0.0, 0.1, -0.1), before, strict=True)):
        grid = Labelled(LINEAR, LINEAR.times_of(torch.tensor([label, target])), (label,))
        denoiser = Clipped(as_denoiser(dummy, "eps", grid), keep_eps=keep_eps)
        results.append(total(walk(solver, denoiser, det() + shift, grid.times)))
    return sum(results)


def test_ddpm_of_a_batch_at_three_times_gives_the_tabled_sum() -> None:
    result = three_at_three_times(Ancestral(), (-1, 0, 1), keep_eps=False)
    assert result == pytest.approx(1153.1833, rel=0, abs=1e-2)
    assert result / (3 * 768) == pytest.approx(0.5005, rel=0, abs=1e-3)


def test_ddim_of_a_batch_at_three_times_gives_the_tabled_sum() -> None:
    result = three_at_three_times(DDIM(), (-1, -1, -1), keep_eps=True)
    assert result == pytest.approx(1147.7904, rel=0, abs=1e-2)
    assert result / (3 * 768) == pytest.approx(0.4982, rel=0, abs=1e-3)


def labels_of(times: Tensor, steps: int = 1000) -> list[float]:
    """Labels of all times but the last, which is checked to be clean."""
    assert times[-1] == 0
    return [round(label, 6) for label in (times[:-1] * steps - 1).tolist()]


def test_leading_grid_with_offset_is_the_tabled_one() -> None:
    assert labels_of(leading_times(LINEAR, 5, offset=1)) == [801, 601, 401, 201, 1]


def test_any_list_of_labels_is_a_grid_and_each_step_goes_to_the_next() -> None:
    labels = [100, 87, 50, 1, 0]
    grid = vp_grid(LINEAR, labels)
    points = list(trajectory(as_denoiser(dummy, "eps", grid), det(), grid.times, DDIM()))
    visited = [round(point.t.item() * 1000 - 1, 6) for point in points]
    assert visited == [*labels, -1]


# ---- grids and tables


def test_grids_of_ten_steps_are_the_tabled_ones() -> None:
    assert labels_of(leading_times(LINEAR, 10)) == list(range(900, -1, -100))
    assert labels_of(trailing_times(LINEAR, 10)) == list(range(999, 0, -100))
    assert labels_of(linspace_times(LINEAR, 10)) == list(range(999, -1, -111))


def test_linspace_grid_rounds_as_diffusers_does_for_every_number_of_steps() -> None:
    for steps in range(2, 1001):
        labels = np.linspace(0, 999, steps).round()[::-1]
        np.testing.assert_allclose(linspace_times(LINEAR, steps)[:-1] * 1000 - 1, labels, atol=1e-9)
    assert linspace_times(LINEAR, 1).tolist() == [1, 0]  # diffusers starts one step at label 0


def test_trailing_and_leading_grids_hold_the_steps_they_promise() -> None:
    for steps in range(1, 1001):
        down = np.arange(steps)
        trailing = trailing_times(LINEAR, steps)[:-1].numpy() * 1000
        assert np.abs(trailing - (1000 - down * 1000 / steps)).max() < 0.5 + 1e-9
        np.testing.assert_allclose(trailing, trailing.round(), atol=1e-9)
        leading = leading_times(LINEAR, steps)[:-1].numpy() * 1000 - 1
        np.testing.assert_allclose(leading, down[::-1] * (1000 // steps), atol=1e-9)


def test_dpm_grid_holds_the_tabled_noise_levels() -> None:
    levels = [157.407, 60.2714, 25.5285, 11.9395, 6.13521, 3.44297, 2.04109, 1.24016, 0.723591]
    levels += [0.34226, 0.0100013]
    assert dpm_labels(10) == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]
    grid = vp_grid(as_float32(LINEAR), dpm_labels(10), clean=False)
    np.testing.assert_allclose(grid.process.ratio(grid.times), levels, rtol=3e-6)
    exact_levels = LINEAR.ratio(vp_grid(LINEAR, dpm_labels(10), clean=False).times)
    np.testing.assert_allclose(exact_levels, levels, rtol=1e-4)  # float32: 8e-5 at label 0


def test_karras_grid_holds_the_tabled_noise_levels_and_labels() -> None:
    levels = [157.407, 85.7107, 44.0476, 21.1056, 9.27474, 3.65264, 1.24636, 0.349706]
    levels += [0.0739303, 0.0100013]
    low, high = ratios(LINEAR)[[0, -1]]
    times = karras_times(LINEAR, 10, sigma_min=low, sigma_max=high)
    np.testing.assert_allclose(LINEAR.ratio(times[:-1]), levels, rtol=1e-4)
    labels = [999, 937, 864, 775, 663, 511, 301, 102, 18, 0]
    assert (times[:-1] * 1000 - 1).round().tolist() == labels
    assert label_of(LINEAR, np.array(levels)).round().tolist() == labels


def test_karras_grid_of_a_rectified_flow_is_the_tabled_one() -> None:
    times = karras_times(RectifiedFlow(), 5, sigma_min=0.01, sigma_max=200)
    expected = [0.99502486, 0.97874546, 0.87748843, 0.36049718, 0.00990099, 0]
    np.testing.assert_allclose(times, expected, rtol=1e-6)


def test_karras_grid_of_edm_is_the_tabled_one() -> None:
    times = karras_times(Karras(), 10, sigma_min=0.002, sigma_max=80)
    levels = [80, 42.4152, 21.1087, 9.7232, 4.06612, 1.50174, 0.469979, 0.116639, 0.0204353]
    np.testing.assert_allclose(times, [*levels, 0.002, 0], rtol=5e-6)
    told = EDMPreconditioning()(Karras(), times[:-1]).c_noise
    np.testing.assert_allclose(told[[0, -1]], [1.0955, -1.5537], atol=5e-5)


def test_euler_grid_holds_the_tabled_noise_levels_and_labels() -> None:
    labels = np.linspace(0, 1099, 10)[::-1]
    expected = [1099, 976.8889, 854.7778, 732.6667, 610.5555, 488.4445, 366.3333, 244.2222]
    np.testing.assert_allclose(labels, [*expected, 122.1111, 0], atol=1.1e-4)
    levels = [261.056, 81.4057, 29.1121, 11.9126, 5.53582, 2.86488, 1.58682, 0.874083, 0.400163]
    times = ve_grid(LinearBetas(1100, rescaled=False), labels).times
    np.testing.assert_allclose(times, [*levels, 0.0100013, 0], rtol=1e-4)
    assert times[0].item() == pytest.approx(261.05557, rel=2e-6)  # their init_noise_sigma


# fmt: off
TABLES = {  # sum of betas; alpha_bar at labels 1, 250, 500, 750, 999; its sum
    LinearBetas(): (10.05, 0.9997801, 0.521423, 0.07779665, 0.003300159, 4.03583e-05, 275.5132),
    with_signal_left(ScaledLinearBetas):
        (5.3489925, 0.998296, 0.6737923, 0.2763325, 0.0561698, 0.004660095, 373.37647),
    CosineBetas(): (12.441496, 0.9999126, 0.845888, 0.492285, 0.1431787, 2.428735e-09, 495.57748),
    SigmoidBetas(): (10.05, 0.999701, 0.902799, 0.2988876, 0.00562292, 3.968182e-05, 428.53675),
    LinearBetas(zero_terminal_snr=True):
        (18.672217, 0.9997793, 0.5188605, 0.0752462, 0.002644106, 0, 274.05803),
    ScaledLinearBetas(zero_terminal_snr=True):
        (14.904518, 0.9982335, 0.6524568, 0.2410186, 0.03279908, 0, 352.17922),
}
# fmt: on


@pytest.mark.parametrize("process", TABLES, ids=str)
def test_schedule_has_the_tabled_betas_and_alpha_bar(process: DiscreteVP) -> None:
    alpha_bar = torch.exp(process.log_alpha_bar[1:])
    picked = alpha_bar[torch.tensor([1, 250, 500, 750, 999])]
    ours = [process.betas().sum(), *picked, alpha_bar.sum()]
    np.testing.assert_allclose(ours, TABLES[process], rtol=2e-5)
    at_times = process.alpha(process.times_of(torch.tensor([1, 250, 500, 750, 999]))) ** 2
    np.testing.assert_allclose(at_times, picked, rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize(
    ("label", "noisy", "v", "snr"),
    [
        (0, 387.31613, 379.73163, 9997.341),
        (1, 389.14529, 377.95139, 4545.671),
        (100, 487.02118, 302.22461, 8.536649),
        (500, 475.24649, 309.68143, 0.08435954),
        (998, 385.95319, 381.06897, 4.118364e-05),
        (999, 385.92859, 381.0932, 4.035993e-05),
    ],
)
def test_training_side_gives_the_tabled_sums(
    label: int, noisy: float, v: float, snr: float
) -> None:
    def sums(process: DiscreteVP) -> tuple[float, float, float]:
        t = process.times_of(torch.tensor(label))
        x_t = process.diffuse(det(), t, noi())
        v_t = Prediction(x_t.double(), det().double(), t, process).v
        return total(x_t), total(v_t), process.log_snr(t).exp().item()

    rounded = sums(as_float32(LINEAR))
    np.testing.assert_allclose(rounded, (noisy, v, snr), rtol=2e-6)
    # diffusers' float32 alpha_bar misses the SNR at label 0 by 1.7e-4
    np.testing.assert_allclose(sums(LINEAR), (noisy, v, snr), rtol=2e-4)
