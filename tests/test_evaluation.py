"""Bits per dimension against their own terms, an exact sum and a closed form."""

from dataclasses import dataclass
from math import erf, log, pi

import pytest
import torch

from conftest import PROCESSES, f64, mixture, name, normal
from sfumato.bound import bound_term, prior_term
from sfumato.codec import Pixels
from sfumato.denoiser import OnProcess
from sfumato.discrete import LinearBetas
from sfumato.evaluation import BIN, Estimate, as_chain, flow_bits, variational_bits
from sfumato.exact import GaussianMixture
from sfumato.noising import ScaledInput
from sfumato.process import Karras, LinearVP, RectifiedFlow, SubVP, Trigonometric
from sfumato.sampling import SeededNoise
from test_bound import LEVELS, Geometric, bound_of_discrete_gaussian

PICTURES = torch.randint(0, 256, (7, 2, 3, 2), generator=torch.Generator().manual_seed(0)).byte()


def of_pictures(process, std=0.3):
    """The exact denoiser of seven blurred pictures; cond chooses among them."""
    return GaussianMixture(process, Pixels().encode(PICTURES).double(), std)


@dataclass(frozen=True)
class Half:
    """A codec that makes smaller codes than images."""

    def encode(self, images):
        return Pixels().encode(images)[..., ::2, ::2]


@dataclass(frozen=True)
class Doubled:
    """A codec of the images' shape whose levels are twice as far apart."""

    def encode(self, images):
        return 2 * Pixels().encode(images)


@pytest.mark.parametrize("process", [LinearBetas(20), LinearVP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("batch", [2, 100])
def test_the_bound_is_its_terms_whatever_the_batch(process, batch):
    """Each with the noise of its own image's seed."""
    cond, denoiser = torch.arange(7).flip(0), of_pictures(process)
    got = variational_bits(denoiser, PICTURES, 20, cond, seed=5, batch=batch)
    x0, noise, total, rows = Pixels().encode(PICTURES), SeededNoise(range(5, 12)), 0, []
    for i in range(20, 0, -1):
        t = torch.full((7,), i / 20).double()
        x_t = process.diffuse(x0, t, noise(x0))
        rows.append(bound_term(denoiser(x_t, t, cond), x0, 20).double())
    rows = torch.stack(rows[::-1])
    prior = prior_term(process, x0).double()
    total = prior + rows.sum(0)
    close = {"rel": 1e-4, "abs": 1e-6}
    assert got.terms == pytest.approx(rows.mean(1).tolist(), **close)
    for part, values in [
        (got.total, total),
        (got.prior, prior),
        (got.divergences, rows[1:].sum(0)),
        (got.decoder, rows[0]),
    ]:
        assert part.mean == pytest.approx(values.mean().item(), **close)
        assert part.error == pytest.approx(values.std().item() / 7**0.5, **close)
    parts = got.prior.mean + got.divergences.mean + got.decoder.mean
    assert got.total.mean == pytest.approx(parts, rel=1e-9)
    assert got.log_snr[0] == process.log_snr(f64(1 / 20)).item()
    assert (got.images, got.steps, got.seed) == (7, 20, 5)


def test_it_estimates_the_bound_that_exact_sums_give():
    """One pixel of a rounded Gaussian: known bound, known entropy below it."""
    p = (-((LEVELS - 0.1) ** 2) / (2 * 0.02**2)).log_softmax(0)
    kept = p > log(1e-9)
    levels, p = kept.nonzero()[:, 0], p[kept].softmax(0)
    drawn = torch.multinomial(p, 3000, True, generator=torch.Generator().manual_seed(0))
    images = levels[drawn].byte()[:, None, None, None]
    denoiser = GaussianMixture(Geometric(), LEVELS[kept].reshape(-1, 1, 1, 1), 0.0, p.log())
    got = variational_bits(denoiser, images, 25, batch=3000)
    want, entropy = bound_of_discrete_gaussian(Geometric(), 25)
    assert abs(got.total.mean - want) < 4 * got.total.error
    assert got.total.error < 0.1
    assert got.total.mean > entropy


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.t_max == 1], ids=name)
def test_a_clock_that_ends_at_one_is_kept(process):
    assert as_chain(mixture(process)) == mixture(process)


@pytest.mark.parametrize("t_max", [80.0, 20.0, 1000.0])
def test_another_clock_is_changed_for_one_that_ends_in_as_much_noise(t_max):
    chain = as_chain(mixture(Karras(t_max)))
    assert chain.process.t_max == 1
    most = min(t_max, LinearVP().largest_ratio)
    assert chain.process.largest_ratio == pytest.approx(most, rel=1e-9)
    chain(normal(2, 2), f64(1.0))  # which it can be asked


def test_weaker_data_are_the_same_chain_of_images_and_cost_as_much():
    """A clock may end at t = 1 and yet far from N(0, I), as ScaledInput does, at N(0, 4)."""
    weak = ScaledInput(LinearVP(), 0.5)
    chain = as_chain(of_pictures(weak))
    assert chain.process.sigma(f64(1.0)).item() == pytest.approx(1, abs=1e-4)
    assert chain.process.largest_ratio <= weak.largest_ratio
    got = variational_bits(of_pictures(weak), PICTURES, 8)
    assert got == variational_bits(chain, PICTURES, 8)
    assert got.prior.mean < 1e-3
    with pytest.raises(ValueError, match="ends at t = 1 with noise of deviation 2"):
        prior_term(weak, Pixels().encode(PICTURES))


def test_a_network_on_another_clock_has_the_bits_of_its_chain():
    chain = as_chain(of_pictures(Karras()))
    got = variational_bits(of_pictures(Karras()), PICTURES, 8)
    assert got == variational_bits(chain, PICTURES, 8)
    same = variational_bits(of_pictures(chain.process), PICTURES, 8)
    assert got.total.mean == pytest.approx(same.total.mean, rel=1e-4)


FLOWS = [Karras(), RectifiedFlow(), LinearVP(), LinearBetas(), Trigonometric(), SubVP()]


@pytest.mark.parametrize("process", FLOWS, ids=name)
def test_the_bits_of_the_flow_are_those_of_a_gaussian(process):
    """Its Jacobian is a multiple of 1, whose trace one probe of signs gives exactly."""
    mean, std = Pixels().encode(PICTURES[:1]).double() / 3, 0.4
    denoiser = GaussianMixture(process, mean, std)
    got = flow_bits(denoiser, PICTURES, 80, seed=3, batch=4)
    noise = SeededNoise(range(3, 10))
    x = Pixels().encode(PICTURES)
    x = x + BIN * (torch.special.ndtr(noise(x)) - 0.5)
    variance = std**2 + 0.002**2
    nats = -((x - mean) ** 2 / (2 * variance) + log(2 * pi * variance) / 2).flatten(1).sum(1)
    bits = -nats / (12 * log(2)) - log(2 / 255) / log(2)
    assert got.total.mean == pytest.approx(bits.mean().item(), abs=0.012)
    assert got.total.error == pytest.approx(bits.std().item() / 7**0.5, abs=0.01)
    assert got.images == 7


def test_the_flow_takes_conditions_and_no_batch_changes_it():
    denoiser, cond = of_pictures(RectifiedFlow()), torch.arange(7)
    one = flow_bits(denoiser, PICTURES, 12, cond, batch=1)
    assert one.total.mean == pytest.approx(
        flow_bits(denoiser, PICTURES, 12, cond).total.mean, abs=1e-4
    )
    assert one.total.mean < flow_bits(denoiser, PICTURES, 12, cond.flip(0)).total.mean


def test_conditions_may_be_dicts():
    class Named:
        process = RectifiedFlow()

        def __call__(self, x_t, t, cond=None):
            assert cond["scale"].shape == (len(x_t), 4)
            return of_pictures(self.process)(x_t, t, cond["label"])

    cond = {"label": torch.arange(7), "scale": torch.zeros(7, 4)}
    got = variational_bits(Named(), PICTURES, 5, cond, batch=3)
    assert got == variational_bits(
        of_pictures(RectifiedFlow()), PICTURES, 5, cond["label"], batch=3
    )


def test_progress_is_told_up_to_the_end():
    seen = []
    denoiser = of_pictures(RectifiedFlow())
    variational_bits(denoiser, PICTURES, 4, batch=3, progress=lambda *now: seen.append(now))
    assert seen == [(k, 12) for k in range(1, 13)]
    seen.clear()
    flow_bits(denoiser, PICTURES, 4, batch=3, progress=lambda *now: seen.append(now))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("codec", [Half(), Doubled()], ids=name)
@pytest.mark.parametrize("bits", [variational_bits, flow_bits])
def test_codes_that_are_not_pixels_have_no_bits(bits, codec):
    with pytest.raises(ValueError, match="are for models of pixels only"):
        bits(of_pictures(RectifiedFlow()), PICTURES, 4, codec=codec)


@pytest.mark.parametrize("bits", [variational_bits, flow_bits])
def test_one_image_has_no_error(bits):
    with pytest.raises(ValueError, match="1 images: a mean with an error wants 2 or more"):
        bits(of_pictures(RectifiedFlow()), PICTURES[:1], 4)


def test_an_estimate_is_a_mean_and_its_deviation():
    values = f64(1.0, 2.0, 6.0)
    assert Estimate.of(values) == Estimate(3.0, pytest.approx(7**0.5 / 3**0.5))


def test_on_another_process_nothing_is_left_of_the_clock():
    """The likelihood is of the data: the same for a denoiser of any process."""
    denoiser = of_pictures(Karras())
    want = flow_bits(denoiser, PICTURES, 60).total.mean
    moved = OnProcess(denoiser, LinearVP(0.1, 17.0))
    assert flow_bits(moved, PICTURES, 60).total.mean == pytest.approx(want, abs=1e-3)


def test_the_flow_bounds_the_probability_of_the_bin():
    """Of data so narrow that where in its bin a pixel is put matters: Jensen's gap is large."""
    images = PICTURES[:1].expand(200, 2, 3, 2)
    std = 0.5 * BIN
    denoiser = GaussianMixture(Karras(), Pixels().encode(images[:1]).double(), std)
    got = flow_bits(denoiser, images, 240, batch=200, min_ratio=1e-5)
    of_bin = -log(erf(BIN / 2 / std / 2**0.5)) / log(2)
    of_jensen = log(2 * pi * (std / BIN) ** 2) / 2 / log(2) + 1 / (24 * (std / BIN) ** 2 * log(2))
    assert got.total.mean == pytest.approx(of_jensen, abs=4 * got.total.error)
    assert got.total.error < 0.005
    assert got.total.mean > of_bin + 0.01
