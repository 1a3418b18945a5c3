"""Guidance against the closed forms that a mixture gives it."""

import pytest
import torch

from conftest import (
    LOG_WEIGHTS,
    MEANS,
    STD,
    WITH_SIGNAL,
    f64,
    mixture,
    name,
    noisy_mixture,
    normal,
    seeded,
    snr_times,
)
from sfumato.denoiser import Clipped
from sfumato.exact import GaussianMixture
from sfumato.guidance import ByGradient, ClassifierFree, Unconditional, Within
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, RectifiedFlow
from sfumato.sampling import prior, sample
from sfumato.solvers import DDIM, Ancestral, DPMSolverPP2M

EVERY = pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
RATIOS = pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
NULL = 3  # the label that means none, after those of the components


class Labelled:
    """The exact denoiser of labelled data, trained with some labels dropped: NULL is the whole."""

    def __init__(self, process, mix=None):
        self.process, self.mix, self.calls = process, mix, []

    def __call__(self, x_t, t, cond=None):
        self.calls.append((x_t, t, cond))
        whole = mixture(self.process)(x_t, t)
        if cond is None:
            return whole
        of_class = mixture(self.process)(x_t, t, cond.clamp(max=2))
        x0 = torch.where((cond == NULL)[:, None], whole.x0, of_class.x0)
        return Prediction(x_t, x0, t, self.process, None if self.mix is None else x0 * 0 + self.mix)


class Named:
    """A denoiser of a dict of conditions."""

    def __init__(self, process):
        self.inner, self.process = Labelled(process), process

    def __call__(self, x_t, t, cond=None):
        assert set(cond) == {"label", "size"}
        assert cond["size"].shape == (len(x_t), 2)
        return self.inner(x_t, t, cond["label"])


def noisy_logits(p):
    """log p(k) p(x_t | k) of every component, but for what they share: (B, K)."""
    variance = (p.alpha * STD) ** 2 + p.sigma**2
    squared = (p.x_t[:, None] - p.alpha[..., None] * MEANS).square().sum(-1)
    return LOG_WEIGHTS - squared / (2 * variance)


def exact_classifier(p, cond):
    return noisy_logits(p).log_softmax(1).gather(1, cond[:, None])[:, 0]


def batch(process, ratio, n=8):
    t = process.time_at_ratio(f64(ratio))
    x = process.alpha(t) * normal(n, 2, seed=3) + process.sigma(t) * normal(n, 2)
    return x, t, torch.arange(n) % 3


@EVERY
@RATIOS
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0, -1.0])
def test_classifier_free_guidance_is_the_power_of_the_posterior(process, ratio, scale):
    """Its score is that of p(x)^(1 - scale) p(x | k)^scale."""
    x, t, cond = batch(process, ratio)
    got = ClassifierFree(Labelled(process), torch.tensor(NULL), scale)(x, t, cond)
    x.requires_grad_()
    log_p = noisy_mixture(process, t).log_prob(x)
    p = Prediction(x, x, t, process)
    log_p_k = noisy_logits(p).gather(1, cond[:, None])[:, 0]
    target = (1 - scale) * log_p + scale * log_p_k
    (score,) = torch.autograd.grad(target.sum(), x)
    torch.testing.assert_close(got.score, score, rtol=1e-7, atol=1e-8)


def test_guidance_of_scale_one_is_the_denoiser_itself():
    denoiser = Labelled(LinearVP())
    x, t, cond = batch(LinearVP(), 1.0)
    got = ClassifierFree(denoiser, torch.tensor(NULL), 1.0)(x, t, cond)
    assert denoiser.calls == [(x, t, cond)]
    assert torch.equal(got.x0, Labelled(LinearVP())(x, t, cond).x0)
    unlabelled = ClassifierFree(mixture(LinearVP()), None, 1.0)(x, t)
    assert torch.equal(unlabelled.x0, mixture(LinearVP())(x, t).x0)


def test_guidance_of_scale_zero_is_the_null_condition():
    x, t, cond = batch(LinearVP(), 1.0)
    got = ClassifierFree(Labelled(LinearVP()), torch.tensor(NULL), 0.0)(x, t, cond)
    torch.testing.assert_close(got.x0, mixture(LinearVP())(x, t).x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("null", [torch.tensor(NULL), torch.tensor([NULL]), torch.full((8,), NULL)])
@pytest.mark.parametrize("each", [False, True])
def test_both_branches_are_one_batch(null, each):
    denoiser = Labelled(LinearVP(), mix=0.25)
    x, t, cond = batch(LinearVP(), 1.0)
    t = t.expand(8) if each else t
    guided = ClassifierFree(denoiser, null, 2.0)
    got = guided(x, t, cond)
    ((both_x, both_t, both_cond),) = denoiser.calls
    assert torch.equal(both_x, torch.cat([x, x]))
    assert both_t.shape == ((16,) if each else ())
    assert both_cond.tolist() == [*cond.tolist(), *[NULL] * 8]
    assert guided.process is denoiser.process
    assert got.t is t
    assert got.x_t is x
    assert got.variance_mix.shape == (8, 2)
    of_class, null_x0 = (Labelled(LinearVP())(x, t, c).x0 for c in (cond, both_cond[8:]))
    torch.testing.assert_close(got.x0, null_x0 + 2.0 * (of_class - null_x0))


def test_the_learned_variance_is_that_of_the_condition():
    class TwoMixes(Labelled):
        def __call__(self, x_t, t, cond=None):
            p = super().__call__(x_t, t, cond)
            mix = torch.where((cond == NULL)[:, None], 0.0, 1.0).expand_as(x_t)
            return Prediction(p.x_t, p.x0, p.t, p.process, mix)

    x, t, cond = batch(LinearVP(), 1.0)
    got = ClassifierFree(TwoMixes(LinearVP()), torch.tensor(NULL), 2.0)(x, t, cond)
    assert (got.variance_mix == 1).all()


def test_conditions_may_be_dicts_or_have_features():
    process = LinearVP()
    x, t, cond = batch(process, 1.0)
    want = ClassifierFree(Labelled(process), torch.tensor(NULL), 2.0)(x, t, cond)
    guided = ClassifierFree(
        Named(process), {"label": torch.tensor(NULL), "size": torch.zeros(2)}, 2.0
    )
    got = guided(x, t, {"label": cond, "size": torch.ones(8, 2)})
    assert torch.equal(got.x0, want.x0)


@pytest.mark.parametrize(
    ("cond", "null"),
    [
        (None, torch.tensor(3)),
        (torch.arange(8), None),
        (torch.arange(8), {"label": torch.tensor(3)}),
        ({"label": torch.arange(8)}, {"size": torch.zeros(2)}),
        (None, None),
    ],
)
def test_conditions_of_two_kinds_are_refused(cond, null):
    x, t, _ = batch(LinearVP(), 1.0)
    with pytest.raises(ValueError, match="both must be tensors, or dicts with the same keys"):
        ClassifierFree(Labelled(LinearVP()), null, 2.0)(x, t, cond)


@EVERY
@RATIOS
def test_the_exact_classifier_turns_the_whole_into_the_class(process, ratio):
    x, t, cond = batch(process, ratio)
    got = ByGradient(Unconditional(mixture(process)), exact_classifier)(x, t, cond)
    want = mixture(process)(x, t, cond)
    torch.testing.assert_close(got.x0, want.x0, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.eps, want.eps, rtol=1e-7, atol=1e-8)


@EVERY
def test_a_gradient_is_added_to_the_score(process):
    x, t, cond = batch(process, 1.0)
    got = ByGradient(Unconditional(mixture(process)), exact_classifier, scale=2.5)(x, t, cond)
    x = x.requires_grad_()
    log_prob = exact_classifier(Prediction(x, x, t, process), cond)
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    want = mixture(process)(x.detach(), t).score + 2.5 * gradient
    torch.testing.assert_close(got.score, want)


def test_no_condition_reaches_an_unconditional_denoiser():
    denoiser = Labelled(LinearVP())
    x, t, cond = batch(LinearVP(), 1.0)
    got = Unconditional(denoiser)(x, t, cond)
    assert denoiser.calls == [(x, t, None)]
    assert torch.equal(got.x0, mixture(LinearVP())(x, t).x0)
    assert Unconditional(denoiser).process is denoiser.process


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_both_conventions_of_the_scale(scale):
    """Imagen's w = scale, and Ho and Salimans' (2022) eq. 6 with w = scale - 1."""
    x, t, cond = batch(LinearVP(), 1.0)
    eps_cond, eps_null = (Labelled(LinearVP())(x, t, c).eps for c in (cond, None))
    got = ClassifierFree(Labelled(LinearVP()), torch.tensor(NULL), scale)(x, t, cond).eps
    w = scale
    torch.testing.assert_close(got, w * eps_cond + (1 - w) * eps_null)
    w = scale - 1
    torch.testing.assert_close(got, (1 + w) * eps_cond - w * eps_null)


def test_outside_the_interval_only_one_branch_is_paid_for():
    process = LinearVP()
    denoiser = Labelled(process)
    guided = ClassifierFree(denoiser, torch.tensor(NULL), 3.0)
    limited = Within(guided, denoiser, 0.3, 3.0)
    for ratio, rows in [(0.1, 8), (1.0, 16), (10.0, 8)]:
        denoiser.calls.clear()
        limited(*batch(process, ratio))
        assert [len(x) for x, _, _ in denoiser.calls] == [rows]


@EVERY
@RATIOS
def test_a_measurement_of_the_clean_image_is_bayes_rule(process, ratio):
    """DPS is exact for one Gaussian where the spread of x0 given x_t is in the measurement's noise.

    x0 | x_t ~ N(m, r^2 I) and y = a x0 + tau n, so E[x0 | x_t, y] is m plus the Kalman gain times
    what y adds.
    """
    a, tau, mean = f64(0.8, -0.5), 0.2, MEANS[1]
    x, t, _ = batch(process, ratio)
    y = normal(8, seed=5)
    alpha, sigma = process.alpha(t), process.sigma(t)
    spread = (STD * sigma) ** 2 / ((alpha * STD) ** 2 + sigma**2)
    total = tau**2 + spread * a @ a

    def log_prob(p, y):
        return -((y - p.x0 @ a) ** 2) / (2 * total)

    denoiser = GaussianMixture(process, mean[None], STD)
    got = ByGradient(Unconditional(denoiser), log_prob)(x, t, y)
    before = denoiser(x, t).x0
    want = before + spread * a * ((y - before @ a) / total)[:, None]
    torch.testing.assert_close(got.x0, want, rtol=1e-7, atol=1e-8)


def test_the_condition_goes_to_the_denoiser_too():
    """So that a class-conditional denoiser can be sharpened by a classifier as well."""
    x, t, cond = batch(LinearVP(), 1.0)
    got = ByGradient(mixture(LinearVP()), exact_classifier)(x, t, cond)
    whole, of_class = (mixture(LinearVP())(x, t, c).x0 for c in (None, cond))
    torch.testing.assert_close(got.x0, of_class + (of_class - whole))


def test_a_gradient_leaves_nothing_behind():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    class Learned(Labelled):
        def __call__(self, x_t, t, cond=None):
            p = super().__call__(x_t * weight, t, cond)
            return Prediction(p.x_t, p.x0, p.t, p.process, p.x0.sigmoid())

    x, t, cond = batch(LinearVP(), 1.0)
    with torch.no_grad():
        p = ByGradient(Learned(LinearVP()), exact_classifier)(x, t, cond)
    assert not any(v.requires_grad for v in (p.x_t, p.x0, p.variance_mix))
    assert not x.requires_grad
    assert weight.grad is None
    assert ByGradient(Learned(LinearVP()), exact_classifier).process == LinearVP()


@pytest.mark.parametrize("solver", [DPMSolverPP2M(), Ancestral()], ids=name)
@pytest.mark.parametrize("process", [LinearVP(), Karras()], ids=name)
def test_guided_samples_are_the_class(process, solver):
    times = torch.cat([snr_times(process, 60, 80.0, 0.02), f64(0.0)[None]])
    x, cond = prior(process, normal(1000, 2), times[0]), torch.full((1000,), 2)
    for guided in (
        ByGradient(Unconditional(mixture(process)), exact_classifier),
        ClassifierFree(Labelled(process), torch.tensor(NULL), 1.0),
    ):
        got = sample(guided, x, times, solver, cond, randn_like=seeded(1))
        torch.testing.assert_close(got.mean(0), MEANS[2], rtol=0, atol=0.05)
        torch.testing.assert_close(got.std(0), torch.full((2,), STD).double(), rtol=0, atol=0.03)


def test_within_chooses_by_the_noise_level():
    process = Karras()  # here a time is a ratio, to the last bit
    inside, outside = Labelled(process), Labelled(process)
    chosen = Within(inside, outside, min_ratio=0.5, max_ratio=2.0)
    assert chosen.process is process
    x, cond = normal(4, 2), torch.arange(4)
    for ratio, into in [(0.4, 0), (0.5, 1), (1.0, 1), (2.0, 1), (2.1, 0)]:
        inside.calls.clear()
        outside.calls.clear()
        t = f64(ratio)
        got = chosen(x, t, cond)
        assert (len(inside.calls), len(outside.calls)) == (into, 1 - into)
        assert (inside.calls + outside.calls)[0][2] is cond
        assert torch.equal(got.x0, Labelled(process)(x, t, cond).x0)


def test_within_takes_one_time_for_the_batch():
    process = RectifiedFlow()
    chosen = Within(Labelled(process), Labelled(process), 0.5, 2.0)
    x = normal(2, 2)
    same = chosen(x, f64(0.5, 0.5), torch.arange(2))
    assert torch.equal(same.x0, Labelled(process)(x, f64(0.5, 0.5), torch.arange(2)).x0)
    with pytest.raises(ValueError, match="both sides"):
        chosen(x, f64(0.5, 0.9), torch.arange(2))


def test_within_has_no_limits_unless_told():
    inside, outside = Labelled(RectifiedFlow()), Labelled(RectifiedFlow())
    for t in (f64(1.0), f64(1e-6)):
        Within(inside, outside)(normal(2, 2), t)
    assert len(inside.calls) == 2
    assert outside.calls == []


def test_guidance_in_an_interval_of_noise():
    """Kynkaanniemi et al. (2024): guided inside, as trained outside."""
    process = LinearVP()
    guided = ClassifierFree(Labelled(process), torch.tensor(NULL), 3.0)
    limited = Within(guided, Labelled(process), 0.3, 3.0)
    for ratio, same in [(0.1, Labelled(process)), (1.0, guided), (10.0, Labelled(process))]:
        x, t, cond = batch(process, ratio)
        assert torch.equal(limited(x, t, cond).x0, same(x, t, cond).x0)


def test_guidance_composes_with_clipping_and_solvers():
    process = LinearVP()
    x, t, cond = batch(process, 2.0)
    guided = ClassifierFree(Labelled(process), torch.tensor(NULL), 5.0)
    outside = Clipped(guided)(x, t, cond)
    assert outside.x0.abs().max() == 1
    assert guided(x, t, cond).x0.abs().max() > 1
    within = ClassifierFree(Clipped(Labelled(process)), torch.tensor(NULL), 5.0)(x, t, cond)
    assert within.x0.abs().max() > 1  # clipping belongs outside
    times = snr_times(process, 5)
    assert torch.isfinite(sample(Clipped(guided), x, times, DDIM(), cond)).all()
