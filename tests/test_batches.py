"""Batch k is a function of (seed, k)."""

import pytest
import torch

from sfumato.data import batch_indices, flip, flip_mask, generator_at

SIZES = [(n, b) for n in (1, 2, 7, 10, 64, 100) for b in (1, 3, 7, 10, 16, 33, 250)]


@pytest.mark.parametrize(("n", "batch"), SIZES)
def test_every_epoch_has_every_index_once(n, batch):
    epochs = 3 * batch  # whole epochs and whole batches end together
    stream = torch.cat([batch_indices(n, batch, 5, step) for step in range(3 * n)])
    assert stream.dtype == torch.int64
    assert stream.shape == (epochs * n,)
    for epoch in stream.reshape(epochs, n):
        assert torch.equal(epoch.sort().values, torch.arange(n))


@pytest.mark.parametrize(("n", "batch"), SIZES)
def test_a_batch_is_the_same_whatever_was_asked_before(n, batch):
    forward = [batch_indices(n, batch, 9, step) for step in range(12)]
    for step in (11, 3, 7, 0, 11):
        batch_indices(n, batch + 1, 8, step)
        assert torch.equal(batch_indices(n, batch, 9, step), forward[step])


def test_epochs_and_seeds_differ():
    first, second = batch_indices(50, 50, 0, 0), batch_indices(50, 50, 0, 1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, batch_indices(50, 50, 1, 0))
    assert not torch.equal(first, torch.arange(50))


def test_the_caller_may_write_into_a_batch():
    first = batch_indices(10, 10, 0, 0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(batch_indices(10, 10, 0, 0), kept)


@pytest.mark.parametrize(("n", "batch", "step"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_batches_are_refused(n, batch, step):
    with pytest.raises(ValueError, match="give n and batch_size from 1"):
        batch_indices(n, batch, 0, step)


def test_a_generator_is_its_key():
    draws = {}
    for key in ((0, "noise", 1), (0, "noise", 2), (0, "times", 1), (1, "noise", 1), (0, "noise")):
        draws[key] = torch.rand(4, generator=generator_at(*key))
        assert torch.equal(draws[key], torch.rand(4, generator=generator_at(*key)))
    assert len({tuple(d.tolist()) for d in draws.values()}) == len(draws)


def test_generators_stay_what_they_are_between_versions():
    # blake2b(b"(0, 'noise', 1)", 8 bytes), read as a little-endian number
    assert generator_at(0, "noise", 1).initial_seed() == 4752123856127514422


def test_no_global_dice_are_used():
    before = torch.get_rng_state()
    batch_indices(30, 8, 0, 2)
    flip_mask(8, generator_at(0, "flip", 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_mirrors_the_masked_images_only(dtype):
    images = torch.arange(24).reshape(2, 1, 3, 4).to(dtype)
    flipped = flip(images, torch.tensor([False, True]))
    assert flipped.dtype == dtype
    assert torch.equal(flipped[0], images[0])
    assert flipped[1, 0, 0].tolist() == [15, 14, 13, 12]
    assert torch.equal(flip(flipped, torch.tensor([False, True])), images)


def test_the_mask_is_a_fair_coin():
    mask = flip_mask(10_000, generator_at(0, "flip", 0))
    assert mask.dtype == torch.bool
    assert abs(int(mask.sum()) - 5_000) < 200  # 4 standard deviations
