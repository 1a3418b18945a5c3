"""Importance-sampled times against the paper's procedure, and Improved DDPM's strided sampling."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import tiny
from conftest import DISCRETE, Draws, f64, name, normal, one_step
from sfumato import checkpoint
from sfumato.assembly import settle
from sfumato.bound import VariationalBound, bound_term
from sfumato.denoiser import NetworkDenoiser
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.importance import ImportanceSampled, LossHistory
from sfumato.objective import Denoising, UniformTimes
from sfumato.parameterization import PredictNoise, PredictV
from sfumato.prediction import Prediction
from sfumato.solvers import Ancestral
from sfumato.training import train


class SecondMoment:
    """What improved-diffusion's LossSecondMomentResampler computes, by NumPy.

    A table of the last ten losses of each step, filled from the left and then shifted; weights of 1
    until it is full, then the roots of its rows' mean squares, of which a share is spread evenly.
    """

    def __init__(self, steps, uniform):
        self.table, self.seen = np.zeros((steps, 10)), np.zeros(steps, dtype=int)
        self.uniform = uniform

    def see(self, steps, losses):
        for step, loss in zip(steps, losses):
            if self.seen[step] == 10:
                self.table[step] = [*self.table[step, 1:], loss]
            else:
                self.table[step, self.seen[step]] = loss
                self.seen[step] += 1

    def p(self):
        steps = len(self.seen)
        if (self.seen < 10).any():
            return np.ones(steps) / steps
        root = (self.table**2).mean(axis=1) ** 0.5
        return root / root.sum() * (1 - self.uniform) + self.uniform / steps

    def drawn(self, u):
        """(steps, weights) of these uniforms, as numpy.random.choice takes them."""
        p = self.p()
        ends = p.cumsum() / p.sum()
        steps = ends.searchsorted(u, side="right")
        return steps, 1 / (len(p) * p[steps])


@pytest.mark.parametrize("steps", [7, 10, 1000])
def test_what_is_drawn_at_the_ends_of_a_step_stays_in_it(steps):
    """DiscreteTimes must train the step whose weight and history it gets."""
    history = LossHistory(steps, 1)
    history.add(torch.arange(steps), normal(steps).abs() + 0.1)
    ends = history.probabilities(0.01).cumsum(0)
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    ends = torch.cat([zero, ends.clamp(max=1 - 1e-9)])
    u = torch.cat([ends, torch.nextafter(ends, one), torch.nextafter(ends[1:], zero)])
    place = history.place(u, 0.01)
    assert torch.equal((place.u * steps).floor().long(), place.step)
    assert ((place.u > 0) & (place.u < 1)).all()


@pytest.mark.parametrize("uniform", [0.001, 0.2])
def test_probabilities_draws_and_weights_are_those_of_the_papers_code(uniform):
    paper, history = SecondMoment(7, uniform), LossHistory(7, 10)
    numbers, warm = np.random.default_rng(0), 0
    for batch in (1, 2, 40, 60, 3, 25, 100, 1, 9, 300):
        steps = numbers.integers(0, 7, batch)
        losses = numbers.exponential(1 + steps)
        paper.see(steps, losses)
        history.add(torch.tensor(steps), torch.tensor(losses))
        p = history.probabilities(uniform)
        np.testing.assert_allclose(p.numpy(), paper.p(), rtol=1e-12)
        u = numbers.random(200)
        place, (drawn, weights) = history.place(torch.tensor(u), uniform), paper.drawn(u)
        assert place.step.tolist() == drawn.tolist()
        np.testing.assert_allclose(place.weight.numpy(), weights, rtol=1e-12)
        warm += history.full
    assert 2 < warm < 10  # both before and after every step had its ten


def full_history(sizes, keep=10):
    """A history in which the loss of step k was always sizes[k]."""
    history = LossHistory(len(sizes), keep)
    for _ in range(keep):
        history.add(torch.arange(len(sizes)), torch.as_tensor(sizes, dtype=torch.float64))
    return history


def test_a_step_is_drawn_as_often_as_its_probability():
    history = full_history([1.0, 2.0, 4.0, 0.0, 1.0])
    u = (torch.arange(20_000).double() + 0.5) / 20_000
    place, p = history.place(u, 0.01), 0.99 * f64(1, 2, 4, 0, 1) / 8 + 0.01 / 5
    torch.testing.assert_close(place.step.bincount().double() / len(u), p, rtol=0, atol=1e-4)
    torch.testing.assert_close(place.weight, 1 / (5 * p[place.step]))
    assert torch.equal((place.u * 5).long(), place.step)
    for step in range(5):  # and evenly within the step
        inside = place.u[place.step == step] * 5 - step
        torch.testing.assert_close(inside.mean(), f64(0.5), rtol=0, atol=0.02)


def test_the_mean_of_the_loss_stays_and_its_variance_falls():
    """By sums over all steps, for losses that scatter about known means."""
    mean, noise = f64(8.0, 3.0, 1.0, 0.2, 0.05, 0.01), f64(-0.4, 0.1, 0.3)  # of relative scatter
    losses = mean[:, None] * (1 + noise)
    history = full_history(losses.square().mean(1).sqrt())
    p = 0.999 * mean / mean.sum() + 0.001 / 6  # their roots of mean squares are as their means
    torch.testing.assert_close(history.probabilities(0.001), p)
    weight = 1 / (len(mean) * p)[:, None]

    def moments(p, weight):
        value = weight * losses
        first, second = (p[:, None] * value**k / 3 for k in (1, 2))
        return first.sum(), second.sum() - first.sum() ** 2

    plain, var_plain = moments(torch.full((6,), 1 / 6).double(), torch.ones(6, 1).double())
    got, var = moments(p, weight)
    torch.testing.assert_close(got, plain)
    assert var < 0.1 * var_plain
    for other in (p.flip(0), p.sqrt() / p.sqrt().sum(), p**2 / (p**2).sum()):
        mean_of_other, worse = moments(other, 1 / (6 * other)[:, None])
        torch.testing.assert_close(mean_of_other, plain)  # any p is unbiased,
        assert worse > var  # and the paper's is the best


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 6)

    def forward(self, x, noise_level, cond):
        return self.layer(x + noise_level[:, None] / 1000)


def made(objective, process=None):
    torch.manual_seed(3)
    denoiser = NetworkDenoiser(
        Linear(), process or LinearBetas(), PredictNoise(), learned_variance=True
    )
    objective.attach(denoiser)
    return denoiser


OBJECTIVE = ImportanceSampled(VariationalBound(20), steps=20, keep=2)
PROCESS = LinearBetas(20)


def test_until_it_is_warm_it_is_the_objective_itself():
    denoiser, u = made(OBJECTIVE), torch.rand(50).double()
    x0, eps = normal(2, 50, 3).float()
    got = OBJECTIVE(denoiser, x0, None, u, eps)
    assert torch.equal(got, VariationalBound(20)(denoiser, x0, None, u, eps))


def test_the_loss_is_the_papers_and_what_is_remembered_is_not_weighted():
    """L_t / p_t of steps that p draws, and a history of L_t."""
    denoiser = made(OBJECTIVE, PROCESS)
    history = OBJECTIVE.history_of(denoiser)
    sizes = torch.linspace(0.1, 3, 20).double() ** 2
    history.load_state_dict(full_history(sizes, 2).state_dict())
    p = 0.999 * sizes / sizes.sum() + 0.001 / 20
    u = torch.rand(64, dtype=torch.float64)
    x0, eps = normal(2, 64, 3).float().clamp(-1, 1)
    got = OBJECTIVE(denoiser, x0, None, u, eps)
    step = (p.cumsum(0) <= u[:, None]).sum(1)
    t = (step + 1) / 20
    terms = bound_term(denoiser(PROCESS.diffuse(x0, t, eps), t), x0, 20)
    torch.testing.assert_close(got, (terms / p[step]).float(), rtol=1e-5, atol=1e-6)
    before = history.losses.clone()
    OBJECTIVE.remember(denoiser, u, got)
    for k in range(20):
        seen = 20 * terms[step == k][-2:].double()
        want = [*before[k, len(seen) :].tolist(), *seen.tolist()]
        assert sorted(history.losses[k].tolist()) == pytest.approx(sorted(want), rel=1e-5)


def test_in_eval_mode_times_stay_uniform():
    denoiser = made(OBJECTIVE, PROCESS)
    OBJECTIVE.history_of(denoiser).load_state_dict(full_history(range(20), 2).state_dict())
    x0, eps = normal(2, 30, 3).float()
    u = torch.rand(30).double()
    plain = VariationalBound(20)(denoiser, x0, None, u, eps)
    assert not torch.equal(OBJECTIVE(denoiser, x0, None, u, eps), plain)
    assert torch.equal(OBJECTIVE(denoiser.eval(), x0, None, u, eps), plain)
    assert OBJECTIVE.times == VariationalBound(20).times


def test_a_continuous_objective_keeps_its_mean():
    """E over u of any function: bins are of u, whatever the times."""
    sampled = ImportanceSampled(Denoising(UniformTimes()), steps=5, keep=1)
    denoiser = made(sampled)
    denoiser.learned_variance, denoiser.network.layer = False, nn.Linear(3, 3)
    sampled.history_of(denoiser).load_state_dict(full_history([1, 2, 3, 2, 9], 1).state_dict())
    n = 20_000
    u = (torch.arange(n).double() + 0.5) / n
    x0, eps = torch.ones(1, 3).expand(n, 3), torch.full((n, 3), 0.5)
    with torch.no_grad():
        got = sampled(denoiser, x0, None, u, eps).mean()
        want = sampled.objective(denoiser, x0, None, u, eps).mean()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)


def trained(steps, parts, stop_at=None):
    """Everything about a small run that keeps its history, saved and read back at stop_at."""
    denoiser = made(OBJECTIVE, PROCESS)
    for step in range(steps):
        noise = torch.Generator().manual_seed(step)
        u = torch.rand(40, generator=noise, dtype=torch.float64)
        x0, eps = torch.randn(2, 40, 3, generator=noise).clamp(-1, 1)
        rows = [OBJECTIVE(denoiser, *part) for part in cut(parts, x0, u, eps)]
        losses = torch.cat(rows)
        denoiser.zero_grad()
        losses.mean().backward()
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter -= 1e-3 * parameter.grad
        OBJECTIVE.remember(denoiser, u, losses)
        if step == stop_at:
            saved = save(dict(denoiser.state_dict()))
            denoiser = made(OBJECTIVE, PROCESS)
            denoiser.load_state_dict(load(saved))
    return dict(denoiser.state_dict())


def cut(parts, x0, u, eps):
    whole = (x0.tensor_split(parts), u.tensor_split(parts), eps.tensor_split(parts))
    return [(x, None, v, e) for x, v, e in zip(*whole)]


@pytest.mark.parametrize("stop_at", [0, 4, 7])  # before it is warm, and after
def test_a_run_that_was_saved_and_read_back_is_the_run_that_never_stopped(stop_at):
    want, got = trained(10, 1), trained(10, 1, stop_at)
    assert want["loss_history.counts"].min() > 2
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


def of_a_real_run(hooks, state=None):
    """A tiny run, by the loop and the checkpoints that all runs have."""
    objective = ImportanceSampled(VariationalBound(10), steps=10, keep=2)
    row = PredictNoise(10.0, -1.0)
    config = replace(tiny.run(steps=12), parameterization=row, learned_variance=True)
    config = replace(config, process=LinearBetas(10), objective=objective)
    fresh, loss, batch_at, settings = tiny.parts(settle(config, tiny.images()))
    if state is not None:
        checkpoint.restore(fresh, checkpoint.files_of(state))

    def remember(model, batch, losses):
        objective.remember(model, batch["u"], losses)

    train(fresh, loss, batch_at, settings, hooks, remember=remember)
    return fresh, objective


def test_a_real_run_resumes_bit_for_bit():
    whole, objective = of_a_real_run(tiny.Hooks())
    part, _ = of_a_real_run(tiny.Hooks(stop_at=7))
    rest, _ = of_a_real_run(tiny.Hooks(), part)
    assert tiny.same(whole, rest)
    history = objective.history_of(whole.model)
    assert history.full
    assert history.counts.sum() == 12 * 12  # each example of each step, once
    assert torch.equal(history.losses, objective.history_of(whole.average).losses)


def test_micro_batches_change_no_time_and_no_loss():
    want, got = trained(10, 1), trained(10, 7)
    assert torch.equal(got["loss_history.counts"], want["loss_history.counts"])
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-4, atol=1e-5)


def test_a_history_of_nothing_but_zeros_is_uniform():
    assert (full_history([0.0] * 4).probabilities(0.001) == 0.25).all()


def test_a_denoiser_without_the_right_history_is_refused():
    denoiser = NetworkDenoiser(Linear(), PROCESS, PredictNoise(), learned_variance=True)
    rows = (torch.zeros(2, 3), None, f64(0.1, 0.2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"call objective\.attach"):
        OBJECTIVE(denoiser, *rows)
    ImportanceSampled(VariationalBound(20), steps=10).attach(denoiser)
    with pytest.raises(ValueError, match="10 losses of 10 steps, the objective wants 2 of 20"):
        OBJECTIVE(denoiser, *rows)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"keep": 0}, {"uniform": 0.0}, {"uniform": 1.1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be 1 or more, and uniform above 0"):
        ImportanceSampled(VariationalBound(), **wrong)


class Known:
    """A denoiser that says what it is told, with a learned variance."""

    def __init__(self, process, x0, mix):
        self.process, self.x0, self.mix = process, x0, mix

    def __call__(self, x_t, t, cond=None):
        return Prediction(x_t, self.x0, t, self.process, self.mix)


def respaced(process, kept):
    """(betas, alpha_bars) of the chain that keeps only some steps: section 4 of the paper.

    beta'_k = 1 - alpha_bar[S_k] / alpha_bar[S_{k - 1}], counted from 1 with alpha_bar'_0 = 1.
    """
    bars = torch.cumprod(1 - process.betas(), 0)[kept]
    betas = 1 - bars / torch.cat([f64(1.0)[None], bars[:-1]])
    return torch.cat([f64(0.0)[None], betas]), torch.cat([f64(1.0)[None], bars])


TABLES = pytest.mark.parametrize("process", DISCRETE, ids=name)


@TABLES
def test_strided_sampling_takes_the_variances_of_the_shorter_chain(process):
    kept = torch.arange(99, 1000, 100)
    betas, bars = respaced(process, kept)
    x, x0, v = normal(3, 2, 2)[0], normal(2, 2, seed=1), torch.rand(2, 2).double()
    for k in range(1, 11):
        t, s = process.times_of(kept[k - 1]), f64((k - 1) / 10)
        noise = Draws()(x)
        got = one_step(Ancestral(None), Known(process, x0, v), x, t, s, Draws())
        of_x0 = bars[k - 1].sqrt() * betas[k] / (1 - bars[k])
        of_x = (1 - betas[k]).sqrt() * (1 - bars[k - 1]) / (1 - bars[k])
        mean = of_x0 * x0 + of_x * x
        tilde = (1 - bars[k - 1]) / (1 - bars[k]) * betas[k]
        log_var = v * betas[k].log() + (1 - v) * tilde.log()
        want = mean + (log_var / 2).exp() * noise if k > 1 else mean
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


@TABLES
def test_the_bound_of_a_strided_chain_is_that_of_its_own_betas(process):
    """Learned variance included; beta tilde of the first step is the second's."""
    kept = torch.arange(99, 1000, 100)
    betas, bars = respaced(process, kept)
    x0, v = normal(2, 3, seed=1).clamp(-1, 1), torch.rand(2, 3).double()
    for k in range(2, 11):
        t = process.times_of(kept[k - 1]).expand(2)
        x_t, guess = process.diffuse(x0, t, normal(2, 3, seed=k)), x0 + 0.1 * normal(2, 3, seed=-k)
        got = bound_term(Prediction(x_t, guess, t, process, v), x0, 10)
        tilde = (1 - bars[k - 1]) / (1 - bars[k]) * betas[k]
        log_var = v * betas[k].log() + (1 - v) * tilde.log()
        gap = bars[k - 1] * (betas[k] / (1 - bars[k])) ** 2 * (x0 - guess) ** 2
        nats = 0.5 * (log_var - tilde.log() - 1 + (tilde + gap) / log_var.exp())
        torch.testing.assert_close(got, nats.mean(1) / log(2), rtol=1e-5, atol=1e-9)


def test_every_row_and_table_trains_by_importance():
    """Finite losses, in float32, after the history is full."""
    for process in (CosineBetas(20), LinearBetas(20)):
        for row in (PredictNoise(), PredictV()):
            denoiser = made(OBJECTIVE, process)
            denoiser.parameterization = row
            for step in range(4):
                u = (torch.arange(40).double() + 0.5) / 40
                x0 = normal(40, 3, seed=step).float().clamp(-1, 1)
                losses = OBJECTIVE(denoiser, x0, None, u, torch.randn(40, 3))
                assert torch.isfinite(losses).all()
                OBJECTIVE.remember(denoiser, u, losses)
            assert OBJECTIVE.history_of(denoiser).full
