"""All measures of a set beside another: the worse is named, the floor is that of real images."""

from dataclasses import replace
from math import log10

import pytest
import torch

from sfumato.appearance import colours, scales, scales_figure
from sfumato.data import ImageData
from sfumato.features import features_of
from sfumato.measuring import Moments, frechet
from sfumato.quality import Real, control_of, quality
from sfumato.results import Record
from test_measuring_results import RECORD


def random(n, seed, low=0, high=256, channels=3, size=6):
    dice = torch.Generator().manual_seed(seed)
    pixels = torch.randint(low, high, (n, channels, size, size), generator=dice)
    labels = torch.arange(n) % 2
    return ImageData(pixels.to(torch.uint8), labels, ("a", "b"), "noise", "a test")


def means(batch):
    """Features: the mean and the spread of each channel."""
    x = batch.double()
    return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


NETWORK = features_of(means, digest="means 1")


def judged(drawn, real, asked=None, network=NETWORK):
    found = quality(network, drawn, asked, real, RECORD, lambda text: None)
    return found, {result.name: result for result in found.results}


def sets():
    return Real(random(90, 1), random(40, 2), random(90, 1), random(60, 3))


def test_each_number_is_that_of_its_function_and_each_floor_that_of_the_control():
    real, drawn = sets(), random(40, 4, high=200).images
    found, by_name = judged(drawn, real)
    reference = Moments.of(means(real.reference.images))
    row = by_name["Frechet distance (means features)"]
    assert row.value == pytest.approx(frechet(Moments.of(means(drawn)), reference))
    control = Moments.of(means(real.control.images))
    assert row.floor == pytest.approx(frechet(control, reference))
    assert row.value > 3 * row.floor
    assert row.record == RECORD
    assert all(isinstance(result.record, Record) for result in found.results)


def test_a_tint_is_found_in_its_channel():
    drawn = random(40, 4).images
    drawn[:, 2] = (drawn[:, 2].int() + 20).clamp(max=255).to(torch.uint8)
    _, by_name = judged(drawn, sets())
    shifts = {c: by_name[f"Shift of {c}, of -1 to 1"] for c in ("red", "green", "blue")}
    assert shifts["blue"].value > 4 * shifts["blue"].error
    assert all(abs(shifts[c].value) < 4 * shifts[c].error for c in ("red", "green"))


def test_copies_of_training_images_are_found_and_shown():
    real = sets()
    drawn = torch.cat([real.train.images[10:20], random(30, 5).images])
    found, by_name = judged(drawn, real)
    assert by_name["Exact copies of training images"].value == 10
    as_near = by_name["As near as the nearest 1% of unseen ones (in pixels)"]
    unseen = len(real.unseen)
    assert as_near.value == 0.25
    assert as_near.floor == pytest.approx((1 + 0.01 * (unseen - 1)) / (unseen + 1))
    assert found.neighbours.pixels[1][:10].tolist() == list(range(10, 20))
    honest = judged(random(40, 6).images, real)[1]
    assert honest["Exact copies of training images"].value == 0
    nearer = honest["Nearer to a training image than unseen ones are (in pixels)"]
    assert abs(nearer.value - 0.5) < 4 * nearer.error


def asymmetric(batch):
    """Features that a mirrored image does not share: a mean of each column."""
    return batch.double().mean((1, 2))


def test_a_mirrored_training_image_is_a_copy_where_training_mirrored():
    """Unseen images are looked for among mirror images too, and so are no nearer by it."""
    real = replace(sets(), mirrored=True)
    drawn = torch.cat([real.train.images[10:20].flip(-1), random(30, 5).images])
    network = features_of(asymmetric, digest="columns")
    found, by_name = judged(drawn, real, network=network)
    assert by_name["Exact copies of training images or of their mirror images"].value == 10
    for what, neighbours in vars(found.neighbours).items():
        as_near = by_name[f"As near as the nearest 1% of unseen ones (in {what})"].value
        assert 0.25 <= as_near <= 0.3  # and one or two by chance
        assert neighbours[1][:10].tolist() == list(range(100, 110))
        assert torch.equal(real.known_at(neighbours[1][:10]), drawn[:10])
    by_pixels = found.neighbours.pixels
    apart = (drawn - real.known_at(by_pixels[1]).double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(by_pixels[0], apart)
    unmirrored = judged(drawn, replace(real, mirrored=False), network=network)[1]
    assert unmirrored["Exact copies of training images"].value == 0
    honest = judged(random(40, 6).images, real, network=network)[1]
    for what in ("pixels", "features"):
        row = f"Nearer to a training image or its mirror image than unseen ones are (in {what})"
        assert abs(honest[row].value - 0.5) < 4 * honest[row].error


def test_repeated_images_are_counted():
    drawn = random(10, 4).images.repeat(3, 1, 1, 1)
    assert judged(drawn, sets())[1]["Repeated images"].value == 20


def test_classes_are_measured_where_the_network_knows_them():
    def look(batch):
        features = means(batch)
        return features, (features[:, 0] > 127).long()

    network = replace(NETWORK, see=look, classes=2)
    drawn, real = random(40, 4).images, sets()
    wanted = (means(drawn)[:, 0] > 127).long()
    by_name = judged(drawn, real, wanted, network)[1]
    assert by_name["Of the class asked for (by the means classifier)"].value == 1
    assert by_name["Class balance (by the means classifier)"].value > 0.8
    bright = judged(random(40, 4, low=140).images, real, None, network)[1]
    assert bright["Class balance (by the means classifier)"].value < 0.7
    assert "Of the class asked for (by the means classifier)" not in bright


def test_without_others_there_is_no_floor_and_without_training_images_no_memory():
    real = Real(random(90, 1), None, None, None)
    found, by_name = judged(random(40, 4).images, real)
    assert all(result.floor is None for result in found.results)
    assert not any("training" in name for name in by_name)
    assert found.control is None


def test_the_control_is_never_in_the_reference():
    whole, others = random(50, 1), random(30, 2)
    reference, control = control_of(whole, others, 20)
    assert reference is whole
    assert len(control) == 20
    reference, control = control_of(whole, others, 25 + 10)
    assert control is None
    reference, control = control_of(whole, None, 20)
    assert (len(reference), len(control)) == (30, 20)
    both = torch.cat([reference.images, control.images]).flatten(1)
    assert len(both.unique(dim=0)) == 50


def test_a_control_at_random_has_classes_as_chance_has_them():
    """For a model that is told no classes; else each class has its share."""
    whole = random(400, 1)
    for others in (random(400, 2), None):
        _, told = control_of(whole, others, 100)
        assert told.labels.sum() == 50
        reference, chance = control_of(whole, others, 100, in_shares=False)
        assert chance.labels.sum() != 50
        assert abs(int(chance.labels.sum()) - 50) < 20  # of a deviation of 5
        again = control_of(whole, others, 100, in_shares=False)[1]
        assert torch.equal(again.images, chance.images)
        both = torch.cat([reference.images, chance.images]).flatten(1)
        assert len(both.unique(dim=0)) == len(both)


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="compare images of one size"):
        judged(random(40, 4, size=8).images, sets())
    with pytest.raises(ValueError, match="at least 8 of each"):
        judged(random(7, 4).images, sets())


# --- appearance


def test_a_colour_is_the_mean_and_the_spread_of_all_pixels():
    drawn, real = random(20, 1, high=100).images, random(30, 2).images
    for channel, found in enumerate(colours(drawn, real)):
        one, two = (x[:, channel].double() / 127.5 - 1 for x in (drawn, real))
        assert found.shift.mean == pytest.approx((one.mean() - two.mean()).item(), abs=1e-12)
        wanted = (one.std(correction=0) / two.std(correction=0)).item()
        assert found.spread.mean == pytest.approx(wanted, rel=1e-9)


def test_the_errors_of_colours_are_those_of_other_draws():
    real = random(400, 999).images
    found = [colours(random(30, seed).images, real)[0] for seed in range(60)]
    for of in ("shift", "spread"):
        each = torch.tensor([getattr(colour, of).mean for colour in found])
        told = sum(getattr(colour, of).error for colour in found) / len(found)
        assert told == pytest.approx(each.std().item(), rel=0.3)


def test_half_the_contrast_is_six_decibels_less_at_every_scale(tmp_path):
    real = random(30, 1).images
    halved = (real.double() / 2 + 64).round().to(torch.uint8)
    found = scales(halved, real)
    assert found.gap.tolist() == pytest.approx([-20 * log10(2)] * len(found.gap), abs=0.1)
    assert scales(real, real).gap.abs().max() == 0
    scales_figure(found, scales(real, real), tmp_path / "spectrum.png", {})
    assert (tmp_path / "spectrum.png").stat().st_size > 5000
