"""A spectrum adds up to the image's energy, and of Gaussian data low frequencies come first."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from conftest import normal
from sfumato.grids import karras_times
from sfumato.pictures import read_settings
from sfumato.plots import EMA, RAW, TRAIN
from sfumato.prediction import Prediction
from sfumato.process import Karras
from sfumato.sampling import trajectory
from sfumato.solvers import Heun
from sfumato.spectra import (
    Spectra,
    arrival_of,
    draw_spectra,
    hann,
    radial_likeness,
    radial_power,
    rank_correlation,
    ranks,
    reached,
    rings,
    settled_of,
    spectra_of,
    spectrum_figure,
    whole,
)

SIZES = [(1, 1), (2, 2), (3, 5), (8, 8), (9, 32), (31, 31), (64, 48)]


# --- the spectrum


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_frequency_is_in_the_ring_of_its_length(size):
    ring, frequencies, counts = rings(*size)
    for row in range(size[0]):
        for column in range(size[1]):
            vertical = min(row, size[0] - row) / size[0]
            horizontal = min(column, size[1] - column) / size[1]
            away = (frequencies - np.hypot(vertical, horizontal)).abs()
            assert away[ring[row, column]] < min(away.min(), 0.5 / min(size)) + 1e-12
    assert counts.sum() == size[0] * size[1]
    assert (counts > 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_parseval_the_spectrum_adds_up_to_the_energy(size):
    images = normal(5, 3, *size)
    _, power = radial_power(images)
    energy = images.square().sum((2, 3)).mean()
    torch.testing.assert_close((rings(*size)[2] * power).sum(), energy)


def test_a_cosine_is_one_ring():
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    for k in (1, 5, 11):  # cycles in 24 pixels
        wave = torch.cos(2 * torch.pi * k * y / 24 + 0.4).expand(1, 2, 24, 32)
        frequencies, power = radial_power(wave)
        assert frequencies[power.argmax()] == k / 24
        # amplitude 1 has mean square 1/2 a pixel, all of it at two frequencies of the ring
        assert power[k] * rings(24, 32)[2][k] == pytest.approx(24 * 32 / 2)
        assert power.sum() == pytest.approx(power[k])
    _, power = radial_power(torch.cos(2 * torch.pi * 8 * x / 32)[None, None])  # 1/4 a pixel
    assert power.argmax() == 6
    _, power = radial_power(torch.full((2, 1, 8, 8), 3.0))
    assert power[0] == pytest.approx(9 * 64)
    assert power[1:].sum() == 0


@pytest.mark.parametrize("window", [False, True])
def test_white_noise_is_flat_at_its_variance(window):
    images = 2 * normal(400, 3, 16, 16)
    _, power = radial_power(images, window)
    counts = rings(16, 16)[2]
    # the mean of n squares of normals has a relative deviation of sqrt(2 / n)
    allowed = 5 * torch.sqrt(2 / (400 * 3 * counts)) * (3 if window else 1)
    assert ((power / 4 - 1).abs() < allowed).all()


def test_a_window_keeps_the_jump_at_the_border_out_of_the_high_frequencies():
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    plain, tapered = (radial_power(ramp, window)[1] for window in (False, True))
    assert (tapered[5:16] < plain[5:16] / 100).all()
    rows, columns = (
        torch.sin(torch.pi * torch.arange(1, n + 1).double() / (n + 1)) ** 2 for n in (32, 20)
    )
    window = rows[:, None] * columns  # a raised cosine that is 0 one pixel beyond the border
    torch.testing.assert_close(hann(32, 20), window / window.square().mean().sqrt())


def test_a_field_made_with_a_spectrum_has_it():
    power = power_law(32)
    frequencies, found = radial_power(field(power, 0))
    torch.testing.assert_close(found, ring_means(power))
    inner = whole(frequencies)
    slope = np.polyfit(frequencies[inner].log().numpy(), found[inner].log().numpy(), 1)[0]
    assert slope == pytest.approx(-2, abs=0.05)


def test_pixels_count_in_the_units_of_the_network():
    pixels = torch.randint(256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    wanted = radial_power(pixels / 127.5 - 1)[1]
    torch.testing.assert_close(radial_power(pixels.to(torch.uint8))[1], wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_spectra_are_of_float64_whatever_the_images_are(dtype):
    images = (100 + 20 * normal(4, 1, 8, 8)).to(dtype)
    wide = images.double() / 127.5 - 1 if dtype == torch.uint8 else images.double()
    assert torch.equal(radial_power(images)[1], radial_power(wide)[1])
    assert torch.equal(radial_likeness(images, images)[1], radial_likeness(wide, wide)[1])


def test_images_are_averaged_not_their_sum():
    images = normal(600, 2, 8, 8)  # more than are transformed at once
    each = torch.stack([radial_power(image[None])[1] for image in images]).mean(0)
    torch.testing.assert_close(radial_power(images)[1], each)


def test_likeness_is_one_to_itself_whatever_its_colour():
    images = normal(300, 2, 12, 9)
    for other, wanted in ((images, 1.0), (3 * images, 1.0), (-images, -1.0), (0 * images, 0.0)):
        frequencies, likeness = radial_likeness(images, other)
        assert torch.equal(frequencies, radial_power(images)[0])
        torch.testing.assert_close(likeness, torch.full_like(likeness, wanted))
    power = power_law(16)  # the same in a ring: a filter is no unlikeness
    likeness = radial_likeness(field(power, 1), field(power.sqrt(), 1))[1]
    torch.testing.assert_close(likeness, torch.ones_like(likeness))


def test_likeness_knows_where_things_are():
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(16.0) / 16).expand(1, 1, 16, 16)
    for shift in range(16):
        likeness = radial_likeness(wave, wave.roll(shift, 3))[1]
        assert likeness[3].item() == pytest.approx(np.cos(2 * np.pi * 3 * shift / 16), abs=1e-6)
    with pytest.raises(ValueError, match="give the same seeds twice"):
        radial_likeness(wave, wave[..., 1:])


def test_an_estimate_is_like_the_truth_as_far_as_the_noise_lets_it():
    power, sigma = power_law(16), 1.3
    truth = field(power, 5, 300)
    noisy = truth + sigma * normal(300, 1, 16, 16, seed=6)
    estimate = torch.fft.ifft2(power / (power + sigma**2) * torch.fft.fft2(noisy)).real
    wanted = ring_means(power / (power + sigma**2)).sqrt()
    torch.testing.assert_close(radial_likeness(estimate, truth)[1], wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (3, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"needs images \(N, C, H, W\)"):
        radial_power(torch.zeros(shape))


# --- along the exact denoiser of Gaussian data


def power_law(size, exponent=-2.0):
    """(size, size): the same power all over a ring, its frequency to the exponent; 1 at f = 1/4."""
    ring, frequencies, _ = rings(size, size)
    at = frequencies.clamp(min=1 / size)
    return (4 * at)[ring] ** exponent


def ring_means(power):
    ring, _, counts = rings(*power.shape)
    return ring.flatten().bincount(power.flatten()) / counts


def field(power, seed, n=1):
    """(n, 1, H, W) real images whose |fft2|^2 is exactly `power`: only phases are random."""
    spectrum = torch.fft.fft2(normal(n, 1, *power.shape, seed=seed))
    return torch.fft.ifft2(spectrum / spectrum.abs() * power.sqrt(), norm="ortho").real


@dataclass(frozen=True)
class GaussianField:
    """The exact denoiser of Gaussian images with power P: x0(f) = P / (P + sigma^2) x_t(f)."""

    process: Karras
    power: torch.Tensor

    def __call__(self, x_t, t, cond=None):
        gain = self.power / (self.power + t**2)
        x0 = torch.fft.ifft2(gain * torch.fft.fft2(x_t)).real
        return Prediction(x_t, x0, t, self.process)


@pytest.fixture(scope="module")
def sampled():
    """(power of the data by ring, spectra of x0 along 60 steps of exact sampling)."""
    power, process = power_law(16), Karras()
    times = karras_times(process, 60)
    start = field(power + process.t_max**2, 3)
    points = list(trajectory(GaussianField(process, power), start, times, Heun()))[1:]
    batches = [point.prediction.x0 for point in points]
    return ring_means(power), spectra_of(batches, times[:-1].tolist())


def test_estimates_along_exact_sampling_have_the_wiener_power(sampled):
    power, spectra = sampled
    sigma = torch.tensor(spectra.at, dtype=torch.float64)[:, None]
    wanted = power**2 / (power + sigma**2)
    torch.testing.assert_close(spectra.power, wanted, rtol=0.01, atol=0)


def places_of(power, sigmas, share):
    """P / (P + sigma^2) >= share at sigma^2 <= P (1 - share) / share: lower frequencies first."""
    level = (power * (1 - share) / share).sqrt()
    return (torch.tensor(sigmas, dtype=torch.float64)[:, None] > level).sum(0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_a_ring_is_reached_when_the_noise_has_fallen_to_its_power(share):
    power, sigmas = power_law(16), torch.logspace(1.5, -1.01, 60).tolist()
    spectra = spectra_of([field(power**2 / (power + s**2), 1) for s in sigmas], sigmas)
    target = ring_means(power)
    assert torch.equal(reached(spectra.power, target, share), places_of(target, sigmas, share))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_low_frequencies_come_first_in_exact_sampling(sampled, share):
    power, spectra = sampled
    index = reached(spectra.power, power, share)
    # the solver's error of under 1 % may move a ring by one step
    assert (index - places_of(power, spectra.at, share)).abs().max() <= 1
    assert (index[1:-1] <= index[2:]).all()
    found = arrival_of(spectra, power, share)
    assert found.low > found.middle > found.high
    assert (found.rings, found.missing) == (8, 0)
    assert found.correlation > 0.98


def test_details_come_first_where_they_have_more_power():
    power = power_law(16, 2.0)
    sigmas = torch.logspace(1, -2, 40).tolist()
    estimates = [field(power**2 / (power + sigma**2), 1) for sigma in sigmas]
    found = arrival_of(spectra_of(estimates, sigmas), ring_means(power))
    assert found.correlation < -0.95
    assert found.high > found.low


# --- which scales come first


def test_reached_is_the_first_place_from_which_a_ring_stays():
    power = torch.tensor(
        [
            [0.6, 0.1, 0.6, 9.0, 0.1, 0.50],
            [0.7, 0.6, 0.1, 2.1, 0.1, 0.49],
            [1.9, 0.6, 0.6, 1.9, 0.1, 0.50],
            [1.0, 1.0, 1.0, 1.0, 0.4, 2.00],
        ]
    )
    assert reached(power, torch.ones(6)).tolist() == [0, 1, 2, 2, 4, 2]
    assert reached(5 * power, 5 * torch.ones(6)).tolist() == [0, 1, 2, 2, 4, 2]
    assert reached(power, torch.ones(6), 0.05).tolist() == [0] * 6


@pytest.mark.parametrize(
    ("share", "rows", "match"),
    [(0.0, 6, "share is 0.0"), (1.0, 6, "share is 1.0"), (0.5, 5, "of the same rings")],
)
def test_reached_says_what_is_wrong(share, rows, match):
    with pytest.raises(ValueError, match=match):
        reached(torch.ones(2, 6), torch.ones(rows), share)


def test_ranks_and_their_correlation():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    rising = torch.arange(5)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert rank_correlation(rising, torch.ones(5)) == 0
    # Spearman's formula without ties: 1 - 6 sum d^2 / (n (n^2 - 1)), d = (0, 1, -1, 1, -1)
    assert rank_correlation(rising, torch.tensor([0, 2, 1, 4, 3])) == pytest.approx(1 - 24 / 120)


def test_rings_that_never_come_near_count_as_last():
    frequencies = torch.arange(10) / 14  # 7 rings up to 1/2
    power = torch.ones(3, 10)
    power[:2, 3:5], power[:, 5:] = 0.01, 0.01
    found = arrival_of(Spectra((0.0, 10.0, 20.0), frequencies, power), torch.ones(10))
    assert (found.low, found.middle, found.high) == (0, 20, None)
    assert (found.rings, found.missing) == (7, 3)
    assert found.correlation > 0.9


def test_settling_is_measured_against_the_last_images():
    power = power_law(16)
    final, sigmas = field(power, 1), [4.0, 2.0, 1.0, 0.5, 0.25, 0.0]
    batches = [final + s * field(torch.ones_like(power), 2) for s in sigmas]
    spectra = spectra_of(batches, sigmas, final=final)
    likeness = torch.stack([radial_likeness(batch, final)[1] for batch in batches])
    assert torch.equal(spectra.likeness, likeness)
    found = settled_of(spectra, 0.8)
    index = reached(likeness, torch.ones(likeness.shape[1]), 0.8)[1:9]
    assert found.low == sigmas[index[:3].median()]
    assert found.low > found.high
    assert found.share == 0.8
    with pytest.raises(ValueError, match="have no likeness"):
        settled_of(spectra_of(batches, sigmas))


def test_images_too_small_for_an_order_are_refused():
    spectra = spectra_of([normal(1, 1, 4, 4)], [0])
    with pytest.raises(ValueError, match="2 rings are too few"):
        arrival_of(spectra, spectra.power[0])


def test_batches_and_places_go_together():
    with pytest.raises(ValueError, match=r"1 batches with .* came for 2 places"):
        spectra_of([normal(1, 1, 8, 8)], [0, 1])
    with pytest.raises(ValueError, match=r"2 batches with \[7, 9\] rings"):
        spectra_of([normal(1, 1, 8, 8), normal(1, 1, 12, 12)], [0, 1])
    with pytest.raises(ValueError, match="0 batches"):
        spectra_of([], [])


# --- the figure


def test_the_figure_shows_the_spectra_and_where_they_arrive(sampled, tmp_path):
    power, spectra = sampled
    alike = spectra.power / power  # stands in for a likeness: below 1, rising
    figure = draw_spectra(power, replace(spectra, likeness=alike), spectra)
    training, sampling, steps, levels = figure.axes
    inner = whole(spectra.frequencies)
    first, data = training.lines[0], training.lines[-1]
    assert np.array_equal(first.get_ydata(), spectra.power[0][inner].numpy())
    assert np.array_equal(data.get_ydata(), power[inner].numpy())
    assert len(sampling.lines) == 8
    index = reached(spectra.power, power)[inner].tolist()
    for axes in (steps, levels):
        (line,) = (line for line in axes.lines if to_hex(line.get_color()) == to_hex(TRAIN))
        assert line.get_ydata().tolist() == [spectra.at[k] for k in index]
    (settled,) = (line for line in steps.lines if to_hex(line.get_color()) == to_hex(RAW))
    wanted = reached(alike, torch.ones_like(power), 0.9)[inner].tolist()
    assert settled.get_ydata().tolist() == [spectra.at[k] for k in wanted]
    (exact,) = (line for line in levels.lines if to_hex(line.get_color()) == to_hex(EMA))
    assert np.allclose(exact.get_ydata(), power[inner].sqrt())
    spectrum_figure(power, tmp_path / "a.png", spectra, spectra, settings={"step": 3})
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1320, 768)
    assert read_settings(tmp_path / "a.png") == {"step": 3}


def test_one_spectrum_makes_a_figure_and_none_does_not(tmp_path):
    flat = spectra_of([normal(2, 1, 8, 8)], [0])
    for parts in ({"training": flat}, {"sampling": flat}):
        spectrum_figure(torch.zeros(7), tmp_path / "a.png", **parts)
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size == (660, 768)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_spectra(torch.ones(7), None, None)
