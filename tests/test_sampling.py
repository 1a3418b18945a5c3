"""The loop, its grids and its noise: every solver samples every process; seeds; inpainting."""

from itertools import pairwise

import pytest
import torch

from conftest import (
    LOG_WEIGHTS,
    MEANS,
    NO_SIGNAL,
    PROCESSES,
    STD,
    f64,
    mixture,
    name,
    normal,
    seeded,
    snr_times,
)
from sfumato.discrete import CosineBetas, LinearBetas, SigmoidBetas
from sfumato.grids import (
    uniform_times,
)
from sfumato.process import LinearVP, RectifiedFlow
from sfumato.sampling import (
    SeededNoise,
    back_and_forth,
    known_region,
    prior,
    sample,
    trajectory,
)
from sfumato.solvers import (
    DDIM,
    Ancestral,
    Churn,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
)

EVERY = pytest.mark.parametrize("process", PROCESSES, ids=name)
SOLVERS = [
    DDIM(),
    DDIM(0.5),
    DDIM(1.0),
    Ancestral(),
    Ancestral(1.0),
    Euler(),
    Heun(),
    DPMSolverPP2M(),
    EulerMaruyama(),
    Churn(Heun(), 0.3, 0.05, 5.0),
]


def to_clean(process, steps, high=80.0):
    """A grid fine at all noise levels, ending at clean data."""
    return torch.cat([snr_times(process, steps - 1, high, 0.02), f64(0.0)[None]])


def assert_drawn_from_the_mixture(x):
    """Means, spreads and shares of 2,000 samples within 4 to 5 standard errors of the truth."""
    weights = LOG_WEIGHTS.exp()
    mean = weights @ MEANS
    spread = (weights @ (MEANS - mean) ** 2 + STD**2).sqrt()
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.09)
    torch.testing.assert_close(x.std(0), spread, rtol=0, atol=0.05)
    nearest = torch.cdist(x, MEANS).argmin(1)
    share = torch.bincount(nearest, minlength=3) / len(x)
    torch.testing.assert_close(share.double(), weights, rtol=0, atol=0.05)
    within = (x - MEANS[nearest]).std(0)
    torch.testing.assert_close(within, torch.full_like(within, STD), rtol=0, atol=0.03)


@EVERY
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_samples_are_the_mixture(process, solver):
    times = to_clean(process, 100)
    x = prior(process, normal(2000, 2), times[0])
    got = sample(mixture(process), x, times, solver, randn_like=seeded(1))
    assert_drawn_from_the_mixture(got)


@pytest.mark.parametrize("process", NO_SIGNAL, ids=name)
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != EulerMaruyama()], ids=str)
def test_samples_from_pure_noise_are_the_mixture(process, solver):
    times = torch.cat([f64(process.t_max)[None], to_clean(process, 99)])
    x = prior(process, normal(2000, 2))
    got = sample(mixture(process), x, times, solver, randn_like=seeded(1))
    assert_drawn_from_the_mixture(got)


@pytest.mark.parametrize("kind", [LinearBetas, CosineBetas, SigmoidBetas], ids=name)
@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_ancestral_sampling_over_every_step_of_a_table(kind, mix):
    process = kind(200)
    x, times = prior(process, normal(2000, 2)), uniform_times(process, 200)
    got = sample(mixture(process), x, times, Ancestral(mix), randn_like=seeded(1))
    assert_drawn_from_the_mixture(got)


@EVERY
def test_the_prior_is_noise_of_the_scale_at_t_max(process):
    noise = normal(4, 3)
    assert torch.equal(prior(process, noise), process.sigma(f64(process.t_max)) * noise)
    t = f64(0.3 * process.t_max)
    assert torch.equal(prior(process, noise, t), process.sigma(t) * noise)
    assert prior(process, noise.float()).dtype == torch.float32


def test_an_image_depends_on_its_own_seed_only():
    process, seeds = LinearVP(), [5, 0, 7, 123456789, 3]
    times = to_clean(process, 20)

    def draw(seeds):
        noise = SeededNoise(seeds)
        x = prior(process, noise(torch.empty(len(seeds), 2)), times[0])
        return sample(mixture(process), x, times, Ancestral(), randn_like=noise)

    together = draw(seeds)
    assert len({tuple(image.tolist()) for image in together}) == 5
    for i, seed in enumerate(seeds):
        torch.testing.assert_close(draw([seed])[0], together[i], rtol=1e-5, atol=1e-5)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(draw([seeds[i] for i in order]), together[order])


def test_seeded_noise_is_bit_equal_whatever_the_batch_and_the_dtype():
    seeds, x = [4, 9, 2], torch.empty(3, 2, 16)  # from 16 numbers on, float64 is another stream
    together = SeededNoise(seeds)
    first, second = together(x), together(x)
    assert not torch.equal(first, second)
    for i, seed in enumerate(seeds):
        alone = SeededNoise([seed])
        assert torch.equal(alone(x[:1])[0], first[i])
        assert torch.equal(alone(x[:1])[0], second[i])
    wide = SeededNoise(seeds)(x.double())
    assert wide.dtype == torch.float64
    assert torch.equal(wide.float(), first)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(SeededNoise(seeds)(x), first)
    finally:
        torch.set_default_dtype(torch.float32)
    reference = torch.randn(2, 16, generator=torch.Generator().manual_seed(9))
    assert torch.equal(first[1], reference)


def test_seeded_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    SeededNoise([1, 2])(torch.empty(2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_are_one_an_image():
    with pytest.raises(ValueError, match="3 images for 2 seeds"):
        SeededNoise([1, 2])(torch.empty(3, 4))


@pytest.mark.parametrize("solver", [DDIM(), Heun(), Ancestral()], ids=name)
def test_the_points_of_a_trajectory(solver):
    process, cond = RectifiedFlow(), torch.tensor([0, 2, 1])
    times, x = to_clean(process, 6), normal(3, 2)
    points = list(trajectory(mixture(process), x, times, solver, cond, randn_like=seeded(1)))
    assert [p.t.item() for p in points] == times.tolist()
    assert points[0].x is x
    assert points[0].prediction is None
    for before, point in pairwise(points):
        p = point.prediction
        assert p.x_t is before.x  # Heun's second call is not the step's prediction
        assert p.t == before.t
        torch.testing.assert_close(p.x0, mixture(process)(before.x, before.t, cond).x0)
    again = sample(mixture(process), x, times, solver, cond, randn_like=seeded(1))
    assert torch.equal(points[-1].x, again)


def test_a_trajectory_is_lazy_and_keeps_no_gradients():
    calls = []

    class Counted(torch.nn.Module):
        process = RectifiedFlow()

        def __call__(self, x_t, t, cond=None):
            calls.append((t, torch.is_grad_enabled()))
            assert t.dtype == torch.float64
            return mixture(self.process)(x_t, t)

    x = normal(2, 2).requires_grad_()
    points = trajectory(Counted(), x, torch.tensor([1.0, 0.5, 0.0]), DDIM())
    next(points)
    assert calls == []
    assert not next(points).x.requires_grad
    assert calls == [(1.0, False)]
    assert torch.is_grad_enabled()


def test_the_projection_comes_after_every_step():
    process, seen = RectifiedFlow(), []

    def project(x, t):
        seen.append(t.item())
        return x + 1

    x, times = normal(2, 2), f64(1.0, 0.6, 0.2, 0.0)
    got = sample(mixture(process), x, times, DDIM(), project=project)
    assert seen == [0.6, 0.2, 0.0]
    for t, s in pairwise(times):
        x = sample(mixture(process), x, torch.stack([t, s]), DDIM()) + 1
    torch.testing.assert_close(got, x)


@EVERY
def test_a_step_up_adds_the_noise_of_the_process(process):
    x, noise = normal(4, 2), normal(4, 2, seed=1)
    times = torch.stack([f64(0.0), process.time_at_ratio(f64(0.5)), f64(process.t_max)])
    draws = iter([noise, normal(4, 2, seed=2)])
    points = list(trajectory(mixture(process), x, times, DDIM(), randn_like=lambda _: next(draws)))
    assert points[1].prediction is None
    torch.testing.assert_close(points[1].x, process.diffuse(x, times[1], noise))
    scale = process.alpha(times[2]) / process.alpha(times[1])
    added = process.sigma(times[2]) ** 2 - (scale * process.sigma(times[1])) ** 2
    want = scale * points[1].x + added.sqrt() * normal(4, 2, seed=2)
    torch.testing.assert_close(points[2].x, want)


def test_memory_does_not_outlive_a_step_up():
    seen = []

    def spy(step):
        seen.append((step.t.item(), step.memory))
        return step.x, step.t.item()

    times = f64(1.0, 0.8, 0.6, 0.9, 0.5, 0.0)
    sample(mixture(RectifiedFlow()), normal(2, 2), times, spy)
    assert seen == [(1.0, None), (0.8, 1.0), (0.9, None), (0.5, 0.9)]


@EVERY
def test_inpainting_keeps_the_known_pixels_exactly(process):
    image = torch.rand(3, 2, 4, 4, dtype=torch.float64)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    project = known_region(process, image, mask, seeded(1))
    x = normal(3, 2, 4, 4)
    got = project(x, f64(0.0))
    assert torch.equal(got[..., :2], image[..., :2])
    assert torch.equal(got[..., 2:], x[..., 2:])
    t = f64(0.4 * process.t_max)
    got = known_region(process, image, mask, seeded(1))(x, t)
    want = process.diffuse(image, t, seeded(1)(x))
    assert torch.equal(got[..., :2], want[..., :2])
    assert torch.equal(got[..., 2:], x[..., 2:])


def test_inpainting_finds_what_goes_with_the_known_part():
    """Of the components only one lies at x = -1; there y is -1."""
    process = RectifiedFlow()
    image, mask = f64(-1.0, 0.0).expand(1000, 2), torch.tensor([True, False]).expand(1000, 2)
    noise = seeded(0)
    project = known_region(process, image, mask, noise)
    times = back_and_forth(to_clean(process, 40), jump=8, repeats=4)
    x = prior(process, normal(1000, 2), times[0])
    got = sample(mixture(process), x, times, Ancestral(), project=project, randn_like=noise)
    assert (got[:, 0] == -1).all()
    assert got[:, 1].mean().item() == pytest.approx(-1, abs=0.05)
    assert got[:, 1].std().item() == pytest.approx(STD, abs=0.05)


def test_back_and_forth_exactly():
    grid = torch.arange(7).flip(0).double()
    once = back_and_forth(grid, jump=2, repeats=1)
    assert once.tolist() == [6, 5, 4, 6, 5, 4, 3, 2, 4, 3, 2, 1, 0]
    twice = back_and_forth(grid, jump=3, repeats=2)
    assert twice.tolist() == [6, 5, 4, 3, 6, 5, 4, 3, 6, 5, 4, 3, 2, 1, 0]
    assert back_and_forth(grid, jump=4, repeats=1).tolist() == [6, 5, 4, 3, 2, 6, 5, 4, 3, 2, 1, 0]
    assert torch.equal(back_and_forth(grid, jump=3, repeats=0), grid)
    assert torch.equal(back_and_forth(grid, jump=100, repeats=5), grid)
