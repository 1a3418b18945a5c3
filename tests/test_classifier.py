"""The classifier of noisy images: its network, its training, and guidance by it."""

from dataclasses import replace
from math import log

import pytest
import torch
from torch import nn

from conftest import (
    LOG_WEIGHTS,
    MEANS,
    PROCESSES,
    STD,
    WITH_SIGNAL,
    f64,
    mixture,
    name,
    normal,
    snr_times,
)
from sfumato.classification import (
    ClassifierLoss,
    NoisyClassifier,
    log_prob_of,
    scores_by_level,
)
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.guidance import ByClassifier, ByGradient, Unconditional
from sfumato.networks.classifier import AttentionPool, ClassifierConfig, MeanPool
from sfumato.objective import LogNormalTimes
from sfumato.prediction import Prediction
from sfumato.process import Karras, LinearVP, RectifiedFlow, Trigonometric
from sfumato.sampling import sample
from sfumato.solvers import DDIM
from sfumato.training import TrainConfig, TrainState, take_step
from test_guidance import batch, exact_classifier

SMALL = ClassifierConfig(
    in_channels=2, classes=3, channels=8, multipliers=(1, 2), head_channels=4, groups=4
)
WITH = pytest.mark.parametrize("process", WITH_SIGNAL, ids=name)
RATIOS = pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
EVERY = pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, pool_attention=False, middle_attention=False),
        replace(SMALL, patch=2, attention_at=(4,), blocks=2),
    ],
    ids=["attention", "mean", "patches"],
)


def awake(config):
    """A classifier whose layers that start at zero do something."""
    torch.manual_seed(0)
    network = config.build().eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


@EVERY
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 5), (2, 13)])
def test_logits_of_images_of_any_size(config, size):
    logits = awake(config)(torch.randn(4, 2, *size), torch.linspace(-2, 2, 4))
    assert logits.shape == (4, 3)
    assert torch.isfinite(logits).all()


@EVERY
def test_a_new_classifier_says_that_all_classes_are_equally_likely(config):
    logits = config.build()(torch.randn(4, 2, 6, 6), torch.zeros(4))
    assert (logits == 0).all()


@EVERY
def test_image_and_noise_level_matter_and_the_batch_does_not(config):
    network, x, level = awake(config), torch.randn(4, 2, 6, 6), torch.tensor([-1.5, -0.5, 0.5, 1.1])
    logits = network(x, level)
    alone = torch.cat([network(x[i : i + 1], level[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
    assert (logits - network(x.flip(0), level)).abs().min() > 1e-4
    assert (logits - network(x, level + 0.1)).abs().max(1).values.min() > 1e-4


@EVERY
def test_every_weight_learns(config):
    network = awake(config)
    logits = network(torch.randn(6, 2, 9, 9), torch.linspace(-1, 1, 6))
    nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_bf16_is_close():
    network, x = awake(SMALL), torch.randn(4, 2, 6, 6)
    want = NoisyClassifier(network, LinearVP())(x, f64(0.3))
    got = NoisyClassifier(network, LinearVP(), torch.bfloat16)(x, f64(0.3))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.1, atol=0.05)
    assert not torch.equal(got, want)


def test_attention_pooling_word_for_word():
    """softmax(q . k / sqrt(d)) over positions, head by head, with the mean as the only query."""
    torch.manual_seed(0)
    pool = AttentionPool(6, 3).double()
    x = normal(2, 6, 3, 2)
    got = pool(x)
    for b in range(2):
        tokens = x[b].flatten(1).T
        mean = tokens.mean(0)
        q, kv = pool.query(mean), pool.key_value(tokens)
        found = []
        for head in (slice(0, 3), slice(3, 6)):
            k, v = kv[:, :6][:, head], kv[:, 6:][:, head]
            weights = (k @ q[head] / 3**0.5).softmax(0)
            found.append(weights @ v)
        torch.testing.assert_close(got[b], mean + pool.project(torch.cat(found)))


def test_mean_pooling():
    x = normal(2, 3, 4, 5)
    torch.testing.assert_close(MeanPool()(x), x.flatten(2).mean(2))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classes": 1}, "tells 2 or more apart"),
        ({"channels": 6}, "groups do not divide"),
        ({"head_channels": 5, "middle_attention": False}, "pool_attention=False"),
        ({"attention_at": (8,)}, "choose from"),
    ],
)
def test_impossible_shapes_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        replace(SMALL, **change).build()


class Exact(nn.Module):
    """The mixture's own classifier, told what networks are told: x at unit power, the level."""

    def __init__(self):
        super().__init__()
        self.levels = []

    def forward(self, x, noise_level):
        self.levels.append(noise_level)
        ratio = torch.exp(4 * noise_level)[:, None]
        alpha, sigma = 1 / (1 + ratio**2).sqrt(), ratio / (1 + ratio**2).sqrt()
        variance = (alpha * STD) ** 2 + sigma**2
        gap = (x[:, None] - alpha[:, :, None] * MEANS).square().sum(-1)
        return LOG_WEIGHTS - gap / (2 * variance)


@WITH
@RATIOS
def test_scale_one_on_the_whole_is_the_class_on_any_process(process, ratio):
    """One classifier, trained on Trigonometric, guides the denoisers of all processes."""
    classifier = NoisyClassifier(Exact(), Trigonometric())
    guided = ByClassifier(Unconditional(mixture(process)), log_prob_of(classifier))
    t = process.time_at_ratio(f64(ratio))
    x = process.alpha(t) * normal(9, 2, seed=3) + process.sigma(t) * normal(9, 2)
    cond = torch.arange(9) % 3
    got, want = guided(x, t, cond), mixture(process)(x, t, cond)
    torch.testing.assert_close(got.x0, want.x0, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_the_same_image_on_another_process_has_the_same_logits(process):
    classifier = NoisyClassifier(Exact(), Trigonometric())
    x, ratio = normal(5, 2), f64(0.05, 0.3, 1.0, 3.0, 9.0)
    own, t = (p.time_at_ratio(ratio) for p in (classifier.process, process))
    power = torch.hypot(process.alpha(t), process.sigma(t))[:, None]
    got = classifier(power * x, t, process)
    torch.testing.assert_close(got, classifier(x, own), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(classifier.network.levels[0], ratio.log() / 4)


def test_levels_stay_finite_at_both_ends():
    classifier = NoisyClassifier(Exact(), RectifiedFlow())
    classifier(normal(2, 2), f64(0.0, 1.0))
    assert classifier.network.levels[0].tolist() == [-2.0, 2.0]


def test_more_noise_than_it_was_trained_on_is_refused_with_a_remedy():
    classifier = NoisyClassifier(Exact(), Karras(10.0))
    with pytest.raises(ValueError, match=r"= 19, .*at 10\. .*max_ratio=10\), .*Trigonometric\(\)"):
        classifier(normal(2, 2), f64(0.3, 0.95), RectifiedFlow())


def test_the_loss_is_the_cross_entropy_of_the_noisy_image():
    classifier, process = NoisyClassifier(Exact(), LinearVP()), LinearVP()
    x0, eps = normal(2, 6, 2)
    u, labels = torch.rand(6).double(), torch.arange(6) % 3
    got = ClassifierLoss(LogNormalTimes())(classifier, x0, labels, u, eps)
    t = LogNormalTimes()(process, u)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    p = Exact()(alpha * x0 + sigma * eps, (sigma / alpha)[:, 0].log() / 4).softmax(1)
    torch.testing.assert_close(got, -p[torch.arange(6), labels].log())


def test_a_network_that_knows_nothing_scores_the_log_of_the_classes():
    classifier = NoisyClassifier(SMALL.build(), CosineBetas())
    x0, eps = torch.randn(2, 5, 2, 4, 4)
    got = ClassifierLoss()(classifier, x0, torch.arange(5) % 3, torch.rand(5).double(), eps)
    torch.testing.assert_close(got, torch.full((5,), log(3)))


@pytest.mark.parametrize("labels", [None, {"tokens": torch.zeros(2)}, torch.tensor([0, 3])])
def test_images_without_a_label_are_refused(labels):
    classifier = NoisyClassifier(SMALL.build(), CosineBetas())
    x0, eps = torch.randn(2, 2, 2, 4, 4)
    with pytest.raises(ValueError, match=r"without classes|no label for 'no class' here"):
        ClassifierLoss()(classifier, x0, labels, torch.rand(2).double(), eps)


def stripes(n, seed):
    """(images, labels): along the rows, or along the columns, of any sign."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    line = torch.randn(n, 1, 1, 8, generator=generator).sign().expand(n, 1, 8, 8)
    return torch.where(labels[:, None, None, None] == 0, line, line.transpose(2, 3)), labels


def test_it_learns_and_says_at_which_noise_it_can_tell():
    """By the loop that denoisers train in: sure where it sees, at chance where nobody can."""
    torch.manual_seed(0)
    config = ClassifierConfig(1, 2, 8, (1, 2), head_channels=8, groups=4, middle_attention=False)
    train = TrainConfig(steps=40, batch=64, micro_batch=40, lr=5e-3, warmup_steps=1)
    state = TrainState.fresh(NoisyClassifier(config.build(), RectifiedFlow()), train)
    loss = ClassifierLoss()
    for step in range(40):
        generator = torch.Generator().manual_seed(step)
        x0, labels = stripes(64, seed=step)
        rows = {"x0": x0, "labels": labels}
        rows["u"] = torch.rand(64, generator=generator, dtype=torch.float64)
        rows["eps"] = torch.randn(x0.shape, generator=generator)
        take_step(
            state,
            lambda m, b: loss(m, b["x0"], b["labels"], b["u"], b["eps"]),
            rows,
            train,
        )
    x0, labels = stripes(400, seed=1000)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    clear, noisy = scores_by_level(state.average, x0, labels, (0.2, 300.0), eps, batch=150)
    assert clear.accuracy > 0.98
    assert clear.cross_entropy < 0.2
    assert 0.4 < noisy.accuracy < 0.6
    assert (clear.ratio, clear.images, noisy.ratio) == (0.2, 400, 300.0)
    (whole,) = scores_by_level(state.average, x0, labels, (0.2,), eps, batch=400)
    assert whole.accuracy == clear.accuracy
    assert whole.cross_entropy == pytest.approx(clear.cross_entropy, rel=1e-4)


def test_the_scores_of_the_exact_classifier_are_counted_by_hand():
    classifier = NoisyClassifier(Exact(), LinearVP()).train()
    labels = torch.arange(60) % 3
    x0, eps = MEANS[labels] + STD * normal(60, 2), normal(60, 2, seed=1)
    (score,) = scores_by_level(classifier, x0, labels, (1.5,), eps, batch=7)
    t = LinearVP().time_at_ratio(f64(1.5))
    logits = classifier(LinearVP().diffuse(x0, t, eps), t)
    right = sum(int(row.argmax()) == int(k) for row, k in zip(logits, labels))
    assert 25 < right < 60
    assert score.accuracy == pytest.approx(right / 60)
    assert score.cross_entropy == pytest.approx(
        -logits.log_softmax(1)[torch.arange(60), labels].mean().item()
    )
    assert classifier.training  # as it was before


BY_CLASSIFIER = pytest.mark.parametrize("guided_by", [ByGradient, ByClassifier], ids=name)


@WITH
@RATIOS
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_without_a_gradient_through_the_denoiser_it_is_the_same(process, ratio, scale):
    x, t, cond = batch(process, ratio)
    denoiser = Unconditional(mixture(process))
    got = ByClassifier(denoiser, exact_classifier, scale)(x, t, cond)
    want = ByGradient(denoiser, exact_classifier, scale)(x, t, cond)
    torch.testing.assert_close(got.x0, want.x0, rtol=1e-12, atol=1e-12)
    whole, of_class = (mixture(process)(x, t, c).x0 for c in (None, cond))
    torch.testing.assert_close(got.x0, whole + scale * (of_class - whole), rtol=1e-7, atol=1e-8)
    assert got.x_t is x


@pytest.mark.parametrize("process", [LinearBetas(), CosineBetas()], ids=name)
def test_ddim_by_a_classifier_is_algorithm_2(process):
    """Dhariwal and Nichol (2021), from alpha_bar alone."""
    bars, scale = torch.cumprod(1 - process.betas(), 0), 1.7
    x, cond = normal(8, 2), torch.arange(8) % 3
    guided = ByClassifier(Unconditional(mixture(process)), exact_classifier, scale)
    for now, then in [(999, 899), (400, 300), (99, 9)]:
        t, s = process.times_of(torch.tensor(now)), process.times_of(torch.tensor(then))
        got = sample(guided, x, torch.stack([t, s]), DDIM(), cond)
        x_in = x.clone().requires_grad_()
        log_prob = exact_classifier(Prediction(x_in, x_in, t, process), cond)
        (gradient,) = torch.autograd.grad(log_prob.sum(), x_in)
        eps = mixture(process)(x, t).eps - scale * (1 - bars[now]).sqrt() * gradient
        x0 = (x - (1 - bars[now]).sqrt() * eps) / bars[now].sqrt()
        want = bars[then].sqrt() * x0 + (1 - bars[then]).sqrt() * eps
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


class Recorded(nn.Module):
    """A network denoiser that says whether gradients were recorded when it was called."""

    def __init__(self, process):
        super().__init__()
        torch.manual_seed(0)
        self.process, self.layer, self.recording = process, nn.Linear(2, 2).double(), []

    def forward(self, x_t, t, cond=None):
        self.recording.append(torch.is_grad_enabled())
        return Prediction(x_t, self.layer(x_t).tanh(), t, self.process, x_t.sigmoid())


def test_a_classifier_costs_no_gradient_of_the_denoiser():
    x, t, cond = batch(LinearVP(), 1.0)
    denoiser, asked = Recorded(LinearVP()), []

    def log_prob(p, cond):
        asked.append(p.x0.requires_grad)
        return exact_classifier(p, cond)

    p = ByClassifier(denoiser, log_prob)(x, t, cond)
    assert denoiser.recording == [False]
    assert asked == [False]
    assert not p.x0.requires_grad
    assert torch.equal(p.variance_mix, x.sigmoid())
    ByGradient(denoiser, exact_classifier)(x, t, cond)
    assert denoiser.recording == [False, True]
    ByClassifier(denoiser, log_prob, scale=0)(x, t, cond)
    assert len(asked) == 1  # at scale 0 the classifier is not asked


@BY_CLASSIFIER
def test_guidance_by_gradients_works_in_inference_mode(guided_by):
    """As generation.draw samples; the inputs are made in inference mode too."""
    denoiser = Recorded(LinearVP())
    guided = guided_by(denoiser, exact_classifier, 2.0)
    want = guided(*batch(LinearVP(), 1.0))
    with torch.inference_mode():
        x, t, cond = batch(LinearVP(), 1.0)
        assert x.is_inference()
        assert cond.is_inference()
        got = guided(x, t, cond)
        times = snr_times(LinearVP(), 4)
        drawn = sample(guided, x, times, DDIM(), cond)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(got.x0, want.x0)
    assert torch.equal(got.variance_mix, want.variance_mix)
    x, _, cond = batch(LinearVP(), 1.0)
    assert torch.equal(drawn, sample(guided, x, snr_times(LinearVP(), 4), DDIM(), cond))


@BY_CLASSIFIER
def test_where_no_signal_is_left_nothing_is_added(guided_by):
    process = RectifiedFlow()
    guided = guided_by(Unconditional(mixture(process)), exact_classifier, 3.0)
    x, t, cond = normal(6, 2), f64(1.0), torch.arange(6) % 3
    assert torch.equal(guided(x, t, cond).x0, mixture(process)(x, t).x0)
    mixed = guided(x, f64(1.0, 0.9, 1.0, 0.9, 1.0, 0.9), cond).x0  # in one batch too
    assert torch.equal(mixed[::2], mixture(process)(x[::2], t).x0)
    torch.testing.assert_close(mixed[1::2], guided(x[1::2], f64(0.9), cond[1::2]).x0)
