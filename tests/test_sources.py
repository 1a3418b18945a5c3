"""What docs/sources.md says of the five texts and no other test holds: formulas and numbers.

`003:42` is line 42 of source 003. tests/test_sources_code.py holds what is said of their programs.
"""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from sfumato.bound import prior_term
from sfumato.data import load
from sfumato.denoiser import Clipped
from sfumato.discrete import CosineBetas, LinearBetas, SignalLeftWarning
from sfumato.exact import GaussianMixture
from sfumato.grids import trailing_times
from sfumato.networks.attention import SpatialTransformer
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.networks.dit import DiTConfig
from sfumato.pictures import grid
from sfumato.sampling import sample
from sfumato.solvers import DDIM, Ancestral

NORMAL = GaussianMixture(LinearBetas(1000), torch.zeros(1, 1, dtype=torch.float64), 1.0)


def alpha_bars(betas: torch.Tensor) -> torch.Tensor:
    return torch.cumprod(1 - betas, 0)


# ---- the forward process


def test_a_worked_example_of_adding_noise():
    """003:63: sqrt(0.8) [1, 2] + sqrt(0.2) [0.5, -0.3]; the text cuts 1.65469 off to 1.654."""
    x_t = math.sqrt(0.8) * torch.tensor([1.0, 2.0]) + math.sqrt(0.2) * torch.tensor([0.5, -0.3])
    torch.testing.assert_close(x_t, torch.tensor([1.11803, 1.65469]), rtol=0, atol=1e-5)


def test_the_variances_of_two_noises_add():
    """003:32: a2 beta1 + beta2 = 1 - a1 a2, exactly, for any two steps."""
    for beta1, beta2 in ((Fraction(1, 10_000), Fraction(1, 50)), (Fraction(1, 3), Fraction(2, 7))):
        a1, a2 = 1 - beta1, 1 - beta2
        assert a2 * beta1 + beta2 == 1 - a1 * a2
        assert a2 * beta1 + beta2 != beta1 + beta2  # nor is the first noise left as it was


@pytest.mark.parametrize(
    ("steps", "left", "amplitude"),
    [
        (100, 0.364, 0.603),
        (200, 0.132, 0.364),
        (300, 0.0481, 0.219),
        (500, 0.00635, 0.080),
        (1000, 4.04e-5, 0.0064),
    ],
)
def test_what_linear_betas_leave_of_the_image(steps, left, amplitude):
    """002:54, 107 and 266: alpha_bar_T and its root, from 1e-4 to 0.02 whatever T."""
    last = alpha_bars(torch.linspace(1e-4, 0.02, steps, dtype=torch.float64))[-1].item()
    assert last == pytest.approx(left, rel=5e-3)
    assert math.sqrt(last) == pytest.approx(amplitude, rel=1e-2)


def test_rescaled_betas_leave_what_a_thousand_steps_leave():
    """002:266: T = 300 with betas times 1000 / 300 leaves 0.59 % of the amplitude, not 22 %."""
    assert LinearBetas(300).signal_left == pytest.approx(0.0059, rel=1e-2)
    with pytest.warns(SignalLeftWarning, match=r"21\.9% of the image's amplitude"):
        assert LinearBetas(300, rescaled=False).signal_left == pytest.approx(0.219, rel=2e-3)


def test_the_offset_that_three_hundred_steps_miss_on_digits():
    """002:54: digits are dark, so that 22 % of their mean is 0.16 of the range of -1 to 1."""
    mean = load("digits").images.double().mean().item() / 127.5 - 1
    assert mean == pytest.approx(-0.74, abs=0.01)
    assert 0.219 * mean == pytest.approx(-0.16, abs=0.005)


def test_only_the_signal_shrinks():
    """001:65: alpha falls and sigma rises; x_t keeps the variance of data of variance 1."""
    process = LinearBetas(1000)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))


def test_the_chain_given_x0_is_a_density_without_q_of_x0():
    """003:20 and 26: prod_t q(x_t | x_{t-1}) alone integrates to 1 over x_1 ... x_T."""
    x = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    width = (x[1] - x[0]).item()

    def normal(x, mean, variance):
        return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    chain = normal(x, math.sqrt(0.9) * 1.5, 0.1)[:, None]
    chain = chain * normal(x[None], math.sqrt(0.7) * x[:, None], 0.3)
    assert chain.sum().item() * width**2 == pytest.approx(1, abs=1e-9)


def test_the_offset_of_the_cosine_schedule_is_for_the_first_steps():
    """004:163: without s beta_1 is 17 times smaller; at T the cap of 0.999 decides either way."""
    plain, offset = CosineBetas(1000, offset=0.0), CosineBetas(1000)
    assert plain.betas()[0].item() == pytest.approx(2.47e-6, rel=1e-2)
    assert offset.betas()[0].item() == pytest.approx(4.13e-5, rel=1e-2)
    assert plain.betas()[-1] == offset.betas()[-1] == 0.999


# ---- the reverse process


def test_the_mean_from_the_noise_divides_by_the_root_of_alpha_not_of_its_product():
    """004:116: with x0 put in, the posterior mean is (x - beta / sqrt(1 - bar) eps) / sqrt(a)."""
    betas = LinearBetas(1000).betas()
    bars, x, eps = alpha_bars(betas), torch.tensor(0.7).double(), torch.tensor(-1.3).double()
    for i in (1, 300, 999):
        beta, a, bar, before = betas[i], 1 - betas[i], bars[i], bars[i - 1]
        x0 = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
        mean = (before.sqrt() * beta * x0 + a.sqrt() * (1 - before) * x) / (1 - bar)
        bracket = x - beta / (1 - bar).sqrt() * eps
        torch.testing.assert_close(mean, bracket / a.sqrt(), rtol=1e-9, atol=1e-9)
        assert (bracket / bar.sqrt() / mean).item() == pytest.approx(before.rsqrt().item())
    assert before.rsqrt().item() == pytest.approx(156, abs=0.5)  # how far the text is off at T


def test_alpha_in_place_of_its_product_ruins_the_sampler():
    """004:136, 142, 151 and 152: at t = 500 the text adds noise of deviation 0.10, not 0.96.

    Its sigma_t^2 = (1 - a_{t-1}) / (1 - a_t) beta_t is nothing but beta_{t-1}.
    """
    betas = LinearBetas(1000).betas()
    a, bars = 1 - betas, alpha_bars(betas)
    assert (1 - a[499]).sqrt().item() == pytest.approx(0.100, abs=1e-3)
    assert (1 - bars[499]).sqrt().item() == pytest.approx(0.960, abs=1e-3)
    printed = (1 - a[:-1]) / (1 - a[1:]) * betas[1:]
    torch.testing.assert_close(printed, betas[:-1], rtol=1e-9, atol=0)
    true = (1 - bars[:-1]) / (1 - bars[1:]) * betas[1:]
    assert (printed[0] / true[0]).item() == pytest.approx(1.83, abs=0.01)


def test_the_two_forms_of_the_mean_part_when_x0_is_clipped():
    """The form with x0 can clip it; the form with eps, as in 001:395, 002:376 and 004:151, cannot.

    As long as nothing is clipped they are the same number.
    """
    process = LinearBetas(1000)
    t, s = process.times_of(torch.tensor([900, 899]))
    bar, beta = alpha_bars(process.betas())[900], process.betas()[900]
    for x, same in ((0.5, True), (4.0, False)):
        x = torch.full((1, 1), x, dtype=torch.float64)
        noise = NORMAL(x, t).eps * (1 if same else 0.9)
        x0 = (x - (1 - bar).sqrt() * noise) / bar.sqrt()
        assert (x0.abs() <= 1).item() == same
        by_x0 = process.posterior(x, x0.clamp(-1, 1), t, s).mean
        by_eps = (x - beta / (1 - bar).sqrt() * noise) / (1 - beta).sqrt()
        assert torch.isclose(by_x0, by_eps, rtol=1e-9).item() == same


def test_ddpm_without_its_noise_is_not_ddim():
    """004:155: on data of variance 1 DDIM keeps the variance; DDPM's mean alone loses all of it.

    The exact denoiser gives eps = sigma x, so that a step of DDPM without noise multiplies x by
    sqrt(alpha_t): after T steps sqrt(alpha_bar_T) is left of the contrast. DDIM multiplies by the
    cosine of the turn from t to s.
    """
    process, x = LinearBetas(100), torch.ones(1, 1, dtype=torch.float64)
    denoiser = replace(NORMAL, process=process)
    times = trailing_times(process, 100)
    alpha, sigma = process.alpha(times), process.sigma(times)
    turns = (alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]).prod().item()
    still = sample(denoiser, x, times, Ancestral(), randn_like=torch.zeros_like).item()
    assert still == pytest.approx(process.signal_left, rel=1e-6)
    assert still < 0.005
    assert sample(denoiser, x, times, DDIM()).item() == pytest.approx(turns, rel=1e-9)
    assert turns > 0.98


def test_clamping_x_t_cuts_off_a_third_of_it():
    """001:398: of a standard normal x_t 31.7 % lies beyond +-1, and its variance falls to 0.516.

    E[min(x^2, 1)] = 1 - 2 phi(1), with phi the normal density.
    """
    x = torch.special.ndtri((torch.arange(200_000).double() + 0.5) / 200_000)
    assert (x.abs() > 1).double().mean().item() == pytest.approx(0.3173, abs=1e-4)
    expected = 1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi)
    assert x.clamp(-1, 1).square().mean().item() == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(0.516, abs=1e-3)


def test_clipping_the_estimate_leaves_the_noise_alone():
    """001:398, the other way: with x0 clipped x_t keeps its deviation at high noise."""
    x = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0)).double()
    t, s = NORMAL.process.times_of(torch.tensor([900, 899]))
    after = sample(
        Clipped(NORMAL), x, torch.stack([t, s]), Ancestral(), randn_like=torch.zeros_like
    )
    assert after.std().item() == pytest.approx(x.std().item(), rel=0.02)
    assert after.abs().max() > 3


def test_a_log_is_missing_from_the_learned_variance():
    """003:42: at v = 0 the variance must be beta tilde; exp(beta tilde), as printed, is above 1."""
    betas = LinearBetas(1000).betas()
    bars = alpha_bars(betas)
    tilde = (1 - bars[499]) / (1 - bars[500]) * betas[500]
    v = torch.tensor([0.0, 1.0]).double()
    right = torch.exp(v * betas[500].log() + (1 - v) * tilde.log())
    torch.testing.assert_close(right, torch.stack([tilde, betas[500]]))
    assert torch.exp(v * betas[500].log() + (1 - v) * tilde)[0] > 1


def test_the_prior_term_is_a_constant_and_not_zero():
    """003:52: at T = 300 it costs 0.036 bits a dimension of a black image; rescaled, nearly 0."""
    black = -torch.ones(1, 1, 4, 4, dtype=torch.float64)
    with pytest.warns(SignalLeftWarning):
        short = prior_term(LinearBetas(300, rescaled=False), black).item()
    left = alpha_bars(torch.linspace(1e-4, 0.02, 300, dtype=torch.float64))[-1].item()
    mean_squared, variance = left, 1 - left
    want = (mean_squared + variance - 1 - math.log(variance)) / 2 / math.log(2)
    assert short == pytest.approx(want, rel=1e-6)
    assert want == pytest.approx(0.036, abs=5e-4)
    assert short > 1000 * prior_term(LinearBetas(300), black).item()


def test_a_thousand_images_one_by_one_take_28_hours():
    """003:122: 1000 images of 1000 calls of 0.1 s, in hours."""
    assert pytest.approx(27.8, abs=0.03) == 1000 * 1000 * 0.1 / 3600
    assert pytest.approx(1667, abs=1) == 1000 * 1000 * 0.1 / 60  # what the text writes down


# ---- shapes


def test_a_latent_of_kl_f8():
    """003:142: 256 x 256 x 3 becomes 32 x 32 x 4."""
    config = AutoencoderConfig(latent_channels=4, widths=(8, 8, 8, 8), patch=1)
    assert config.f == 8
    assert config.latent_shape(256, 256) == (4, 32, 32)


def test_tokens_of_a_dit():
    """003:148 to 155: 64 tokens of 4 x 4 x 4 = 64 values, and twice the channels come out."""
    config = DiTConfig(in_channels=4, out_channels=8, patch=4, width=384, heads=6, depth=1)
    network = config.build()
    assert network(torch.zeros(2, 4, 32, 32), torch.zeros(2)).shape == (2, 8, 32, 32)
    weight = next(p for name, p in network.named_parameters() if p.shape[0] == 384)
    assert weight[0].numel() == 4 * 4 * 4


def test_queries_come_from_the_image_and_keys_and_values_from_the_text():
    """003:108: W_Q reads the image's features (d_eps), W_K and W_V the text's (d_tau)."""
    block = SpatialTransformer(32, 24, 8, 16, 0.0)
    read = {
        name.split(".")[-2]: weight.shape[1]
        for name, weight in block.named_parameters()
        if ".attn2.to_" in name and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight"))
    }
    assert read == {"to_q": 32, "to_k": 24, "to_v": 24}


# ---- functions and pictures


def test_silu_is_x_times_its_sigmoid():
    """001:232 says sigmoid plus ReLU; 001:493 is right."""
    x = torch.linspace(-4, 4, 33)
    torch.testing.assert_close(F.silu(x), x * torch.sigmoid(x))
    assert not torch.allclose(F.silu(x), torch.sigmoid(x) + F.relu(x))


@pytest.mark.parametrize("padding", [(0, 0, 1), (1, 1, 1), (1, 0, 2)], ids=str)
def test_the_size_after_a_transposed_convolution(padding):
    """001:217 to 223 leaves out two terms: (H - 1) s - 2 p + d (k - 1) + output padding + 1."""
    p, more, d = padding
    layer = torch.nn.ConvTranspose2d(1, 1, 3, 2, p, more, dilation=d)
    height = layer(torch.zeros(1, 1, 5, 5)).shape[-1]
    assert height == (5 - 1) * 2 - 2 * p + d * (3 - 1) + more + 1
    as_printed = (5 - 1) * 2 + 3 - 2 * p
    assert (height == as_printed) == (more == 0 and d == 1)


def test_four_by_four_digits_as_one_picture():
    """002:393 is right: image k of 16 lies in row k // 4, column k % 4."""
    images = torch.randint(0, 256, (16, 1, 28, 28), dtype=torch.uint8)
    sheet = images.view(4, 4, 28, 28).permute(0, 2, 1, 3).reshape(4 * 28, 4 * 28)
    for k in range(16):
        row, column = divmod(k, 4)
        assert torch.equal(sheet[28 * row :, 28 * column :][:28, :28], images[k, 0])


def test_stretching_a_picture_to_its_own_range_hides_its_range():
    """001:359 and 002:394: two sets that differ in contrast and brightness look the same.

    Ours are decoded by (x + 1) / 2 for all images alike, and differ.
    """
    from matplotlib.colors import Normalize

    faint = torch.linspace(-0.2, 0.4, 16).reshape(1, 1, 4, 4).double()
    strong = 2 * faint + 0.1
    stretched = [Normalize()(x.numpy()).data for x in (faint, strong)]
    assert abs(stretched[0] - stretched[1]).max() < 1e-12
    shown = [grid(((x + 1) * 127.5).round().to(torch.uint8), 1).tobytes() for x in (faint, strong)]
    assert shown[0] != shown[1]
