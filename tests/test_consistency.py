"""Consistency tuning: what the exact consistency function and the exact denoiser make of it."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import tiny
from conftest import PROCESSES, WITH_SIGNAL, Draws, f64, name, no_noise, normal, one_step
from sfumato import checkpoint
from sfumato.assembly import at_progress, held_out_batch, loss_of
from sfumato.consistency import (
    ConsistencyGrid,
    ConsistencyStage,
    ConsistencyTuning,
    MultistepConsistency,
    earlier,
    pseudo_huber,
)
from sfumato.denoiser import NetworkDenoiser
from sfumato.exact import GaussianMixture
from sfumato.kinds import dumps, loads
from sfumato.objective import Denoising, LogNormalTimes
from sfumato.parameterization import EDMPreconditioning, PredictData
from sfumato.prediction import Prediction
from sfumato.process import Karras, Process
from sfumato.sampling import prior, sample
from sfumato.training import take_step, train

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
STAGES = pytest.mark.parametrize("stage", [0, 1, 3, 8])
MEAN, STD = f64(0.3, -0.5, 1.1), 0.4
EDM = Karras()


@dataclass(frozen=True)
class OneGaussian:
    """The exact consistency function of N(MEAN, STD^2 I).

    The flow keeps (x_t - alpha MEAN) / V_t, V_t^2 = (alpha STD)^2 + sigma^2, the place of x_t in
    its own Gaussian; at t = 0 that is (x_0 - MEAN) / STD.
    """

    process: Process

    def spread(self, t: Tensor) -> Tensor:
        return torch.hypot(self.process.alpha(t) * STD, self.process.sigma(t))

    def place(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, spread = (c.reshape(-1, 1) for c in (self.process.alpha(t), self.spread(t)))
        return (x_t - alpha * MEAN) / spread

    def __call__(self, x_t: Tensor, t: Tensor, cond=None) -> Prediction:
        return Prediction(x_t, MEAN + STD * self.place(x_t, t), t, self.process)


def denoiser_of(process):
    return GaussianMixture(process, MEAN[None], STD)


@dataclass(frozen=True)
class AtRatio:
    """Times: those at which sigma / alpha is as given, whatever u is."""

    ratio: Tensor

    def __call__(self, process, u):
        return process.time_at_ratio(self.ratio)


@EVERY
@STAGES
def test_the_loss_of_the_exact_function_is_0_where_both_ends_are_of_one_trajectory(process, stage):
    """For given x0 there is one eps for which the straight pair (t, r) meets its own flow."""
    ratio = torch.logspace(-1, 1, 16).double()
    tuned = ConsistencyStage(ConsistencyTuning(AtRatio(ratio)), stage)
    u, x0 = torch.rand(16).double(), normal(16, 3)
    t, r = tuned.pairs(process, u)
    exact = OneGaussian(process)
    # alpha_t / V_t (x0 - MEAN) + sigma_t / V_t eps is to be the same at r
    at_t, at_r = (
        torch.stack([process.alpha(c), process.sigma(c)]) / exact.spread(c) for c in (t, r)
    )
    signal, noise = at_t - at_r
    eps = -(signal / noise)[:, None] * (x0 - MEAN)
    assert tuned(exact, x0, None, u, eps).max() < 1e-9
    assert tuned(exact, x0, None, u, normal(16, 3)).min() > 1e-3  # others do not


@EVERY
def test_the_fixed_point_is_the_denoiser_at_stage_0_and_the_consistency_function_at_the_last(
    process,
):
    """With x0 and eps at their means given x_t the target is its mean: both are affine in x_t.

    So the loss is |f(x_t) - E f(x_r)| / (t - r), which is to be 0 for the fixed point of training.
    """
    ratio = torch.logspace(-1, 1, 9).double()
    t = process.time_at_ratio(ratio)
    x_t = process.sigma(t)[:, None] * normal(9, 3)
    mean = denoiser_of(process)(x_t, t)

    def gap(f, stage):
        tuned = ConsistencyStage(ConsistencyTuning(AtRatio(ratio)), stage)
        return tuned(f, mean.x0, None, ratio, mean.eps)

    assert gap(denoiser_of(process), 0).max() < 1e-9
    assert gap(OneGaussian(process), 0).min() > 1e-2
    late, later = gap(OneGaussian(process), 13), gap(OneGaussian(process), 14)
    torch.testing.assert_close(late / later, torch.full((9,), 2.0).double(), rtol=1e-2, atol=0)
    assert (later < 1e-2 * gap(OneGaussian(process), 0)).all()
    assert (gap(denoiser_of(process), 14) > 10 * later).all()


@EVERY
@pytest.mark.parametrize("huber", [0.0, 0.00054])
def test_at_stage_0_the_loss_is_that_of_denoising_in_its_metric(process, huber):
    times = LogNormalTimes(0.0, 0.4)
    u, x0, eps = torch.linspace(0.01, 0.99, 12).double(), normal(12, 3), normal(12, 3, seed=1)
    t = times(process, u)
    x0_hat = denoiser_of(process)(process.diffuse(x0, t, eps), t).x0
    got = ConsistencyTuning(times, huber=huber).at(0.0)(denoiser_of(process), x0, None, u, eps)
    for i in range(12):
        error, c = (x0_hat[i] - x0[i]).square().sum().item(), huber * math.sqrt(3)
        want = (math.sqrt(error + c**2) - c) / math.sqrt(3) / process.ratio(t[i]).item()
        assert got[i].item() == pytest.approx(want, rel=1e-9)


def test_with_a_large_constant_stage_0_is_the_squared_loss_that_the_teacher_had():
    """d -> |x - y|^2 / (2 c): Denoising with the weight 1 / (2 c t)."""
    times, u = LogNormalTimes(), torch.linspace(0.01, 0.99, 12).double()
    x0, eps = normal(12, 3), normal(12, 3, seed=1)
    got = ConsistencyTuning(times, huber=1e3).at(0.0)(denoiser_of(EDM), x0, None, u, eps)
    want = Denoising(times, lambda _, t: 1 / (2e3 * t))(denoiser_of(EDM), x0, None, u, eps)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("t", "stage", "r"),
    [  # by hand: n(1) = 1 + 8 / (1 + e) = 3.151531, n(0.1) = 4.800167, n(10) = 1.000363
        (1.0, 0, 0.0),
        (1.0, 1, 0.0),
        (1.0, 2, 0.21211718),
        (1.0, 3, 0.60605859),
        (0.1, 3, 0.03999791),
        (10.0, 1, 4.99818409),
        (80.0, 8, 79.6875),
    ],
)
def test_the_mapping_from_t_to_r(t, stage, r):
    got = earlier(f64(t)[None], stage, q=2.0, k=8.0, b=1.0).item()
    assert got == pytest.approx(r, rel=1e-6, abs=1e-12)
    n = 1 + 8 / (1 + math.exp(1.0 * t))
    assert got == pytest.approx(max(0.0, t * (1 - n / 2**stage)), rel=1e-12)


@pytest.mark.parametrize("stages", [1, 3, 8])
def test_a_stage_is_the_rounded_up_share_of_the_run(stages):
    steps = 24
    seen = [ConsistencyTuning(stages=stages).at(k / steps).stage for k in range(steps + 1)]
    each = steps // stages
    assert seen == [0, *(1 + (k - 1) // each for k in range(1, steps + 1))]
    assert ConsistencyTuning(stages=stages).stage(1.7) == stages  # a clock that overshoots


@EVERY
@STAGES
def test_pairs_fall_and_none_leaves_the_process(process, stage):
    tuned = ConsistencyStage(ConsistencyTuning(LogNormalTimes(0.0, 3.0)), stage)
    t, r = tuned.pairs(process, torch.linspace(1e-9, 1 - 1e-9, 101, dtype=torch.float64))
    assert ((r >= 0) & (r < t) & (t <= process.t_max)).all()
    assert t.max() > 0.9 * process.t_max
    assert (process.ratio(t) - process.ratio(r)).isfinite().all()


def test_pseudo_huber_has_a_gradient_of_0_where_nothing_is_wrong():
    for c in (0.0, 0.1):
        x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        pseudo_huber(x, x.detach(), c).sum().backward()
        assert torch.equal(x.grad, torch.zeros(2, 3).double())


class Told(nn.Module):
    """A small network of image and noise level, float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, x, noise_level, cond):
        return self.layers(torch.cat([x, noise_level[:, None]], 1))


def test_no_gradient_flows_through_the_target():
    denoiser = NetworkDenoiser(Told(), EDM, EDMPreconditioning())
    tuned = ConsistencyTuning(huber=0.01).at(0.25)
    u, x0, eps = torch.linspace(0.05, 0.95, 8).double(), normal(8, 3), normal(8, 3, seed=1)
    t, r = tuned.pairs(EDM, u)
    assert (r > 0).any()
    assert (r == 0).any()
    held = NetworkDenoiser(Told(), EDM, EDMPreconditioning())
    safe = torch.where(r > 0, r, t)
    target = held(EDM.diffuse(x0, safe, eps), safe).x0.detach()
    target = torch.where((r > 0)[:, None], target, x0)
    found = denoiser(EDM.diffuse(x0, t, eps), t).x0
    want = (pseudo_huber(found, target, 0.01) / (t - r)).sum()
    got = tuned(denoiser, x0, None, u, eps).sum()
    torch.testing.assert_close(got, want)
    parameters = list(denoiser.parameters())
    for a, b in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters)):
        torch.testing.assert_close(a, b)


class Dice(nn.Module):
    """Its output is what dropout leaves of ones."""

    def forward(self, x, noise_level, cond):
        return nn.functional.dropout(torch.ones_like(x), 0.5, self.training)


def test_both_calls_drop_the_same_units_and_the_next_batch_others():
    denoiser = NetworkDenoiser(Dice(), EDM, PredictData()).train()
    tuned = ConsistencyTuning(AtRatio(torch.full((4,), 5.0).double())).at(1.0)
    args = (denoiser, normal(4, 50), None, torch.full((4,), 0.5).double(), normal(4, 50, seed=1))
    assert tuned(*args).max() == 0
    before = torch.get_rng_state()
    masks = [denoiser(normal(4, 50), f64(5.0)).x0 for _ in range(2)]
    assert not torch.equal(*masks)
    torch.set_rng_state(before)
    tuned(*args)
    assert torch.equal(denoiser(normal(4, 50), f64(5.0)).x0, masks[1])  # as after one call


# --- sampling


@EVERY
def test_one_step_of_the_exact_function_gives_the_exact_law(process):
    """x_t, V_t z from its mean, becomes MEAN + STD z for every z: not moments alone."""
    exact, z = OneGaussian(process), normal(64, 3)
    times = ConsistencyGrid()(process, 1)
    x_t = process.alpha(times[0]) * MEAN + exact.spread(times[0]) * z
    got = sample(exact, x_t, times, MultistepConsistency(), randn_like=no_noise)
    torch.testing.assert_close(got, MEAN + STD * z, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("ratio", [0.1, 2.0])
def test_a_step_to_more_than_no_noise_keeps_the_law_of_the_process(process, ratio):
    exact, z, draw = OneGaussian(process), normal(64, 3), Draws()
    t, s = process.time_at_ratio(f64(5.0)), process.time_at_ratio(f64(ratio))
    x_t = process.alpha(t) * MEAN + exact.spread(t) * z
    got = one_step(MultistepConsistency(), exact, x_t, t, s, draw)
    want = process.diffuse(
        MEAN + STD * z, s, Draws()(z)
    )  # x0 of the law, noised as the process does
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert draw.count == 1


def test_sampling_is_algorithm_1_of_consistency_models():
    """Song et al. (2023), algorithm 1, line by line, with epsilon = 0."""
    f, taus, draws, again = OneGaussian(EDM), [80.0, 8.0, 0.8], Draws(), Draws()
    start = prior(EDM, normal(5, 3))
    times = f64(*taus, 0.0)
    got = sample(f, start, times, MultistepConsistency(), randn_like=draws)
    x = f(start, f64(80.0)).x0
    for tau in taus[1:]:
        x_hat = x + math.sqrt(tau**2 - 0.0**2) * again(x)
        x = f(x_hat, f64(tau)).x0
    torch.testing.assert_close(got, x)


@pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
def test_the_grid_goes_by_way_of_its_last_level(process):
    top = min(80.0, process.largest_ratio)
    one, two, three = (process.ratio(ConsistencyGrid(0.5)(process, n))[:-1] for n in (1, 2, 3))
    torch.testing.assert_close(one, f64(top)[None])
    torch.testing.assert_close(two, f64(top, 0.5))
    torch.testing.assert_close(three, f64(top, math.sqrt(top * 0.5), 0.5))
    assert ConsistencyGrid()(process, 30)[-1] == 0


@pytest.mark.parametrize(
    "grid", [ConsistencyGrid(90.0), ConsistencyGrid(0.0), ConsistencyGrid(1.0, 81.0)]
)
def test_a_grid_that_does_not_fall_is_refused(grid):
    with pytest.raises(ValueError, match="levels that fall; Karras"):
        grid(EDM, 2)


# --- in the training loop


def tuned_run(**train):
    # 20 steps in 3 stages
    return replace(tiny.run(**train), objective=ConsistencyTuning(stages=3))


def trained(config, stop_at=None, state=None):
    fresh, loss, batch_at, settings = tiny.parts(config)
    state, hooks = state or fresh, tiny.Hooks(stop_at)
    train(state, loss, batch_at, settings, hooks)
    return state, hooks


@pytest.mark.parametrize("stop_at", [3, 7, 10])
def test_a_run_that_stops_within_a_stage_goes_on_bit_for_bit(tmp_path, stop_at):
    config = tuned_run()
    whole, hooks = trained(config)
    stopped, _ = trained(config, stop_at)
    checkpoint.write(tmp_path, stopped, keep=2)
    again = tiny.parts(config)[0]
    found = checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.restore(again, found[1])
    again, rest = trained(config, state=again)
    assert tiny.same(again, whole)
    assert [row["loss"] for row in rest.rows] == [row["loss"] for row in hooks.rows][stop_at:]


def test_each_step_is_one_of_its_stage():
    config = tuned_run(micro_batch=None)
    state, loss, batch_at, settings = tiny.parts(config)
    for step in range(20):
        batch = batch_at(step)
        model = state.model.train()
        stage = config.objective.at(step / 20)
        assert stage.stage == math.ceil(3 * step / 20)
        torch.manual_seed(step)
        fixed = replace(config, objective=stage)
        with torch.no_grad():
            want = loss_of(fixed)(model, batch).mean().item()
        torch.manual_seed(step)
        assert take_step(state, loss, batch, settings)["loss"] == pytest.approx(want, rel=1e-5)


def test_held_out_losses_are_of_the_last_stage():
    config = tuned_run()
    state, loss, _, _ = tiny.parts(config)
    batch = held_out_batch(config, tiny.images(), tiny.CPU)
    last = replace(config, objective=config.objective.at(1.0))
    model = state.model.eval()
    assert torch.equal(loss(model, batch), loss_of(last)(model, batch))
    first = replace(config, objective=config.objective.at(0.0))
    assert not torch.equal(loss(model, batch), loss_of(first)(model, batch))


def test_other_objectives_do_not_change_over_a_run():
    objective = tiny.run().objective
    assert at_progress(objective, f64(0.5, 0.5)) is objective


def test_a_tuned_run_survives_json():
    sampling = replace(
        tuned_run().sampling, solver=MultistepConsistency(), grid=ConsistencyGrid(0.6), steps=2
    )
    config = replace(tuned_run(), sampling=sampling)
    assert loads(dumps(config)) == config


@pytest.mark.parametrize(
    "settings", [{"q": 1.0}, {"stages": -1}, {"k": -1.0}, {"huber": -0.1}, {"q": float("nan")}]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ConsistencyTuning(**settings)
