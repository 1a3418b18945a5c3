"""The autoencoder's loss term by term, against closed forms; its batches; and that it learns."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sfumato.codec import Pixels
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.reconstruction import (
    ReconstructionLoss,
    batches,
    crops,
    divergence,
    edges,
    held_out_batch,
    loss_of,
    patches,
    psnr,
    reconstruct,
)
from sfumato.training import TrainConfig, TrainState, take_step
from tiny import images as tiny_images

TINY = AutoencoderConfig(in_channels=1, latent_channels=2, widths=(8,), groups=4, patch=2)
NOTHING = ReconstructionLoss(l1=0, gradient=0, kl=0)


class Stub:
    """A model that is told what to return."""

    def __init__(self, decoded, mean, log_var):
        self.returned = decoded, mean, log_var

    def __call__(self, x, eps):
        return self.returned

    def decode(self, z):
        """Twice the sides, nearest neighbours, one channel."""
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_patches_are_the_means_of_differences_over_them():
    """A colour that is 0.5 off is 0.5 at every size; what has no mean in any patch is nothing."""
    x = torch.zeros(2, 3, 16, 16)
    off = x.clone()
    off[1] += 0.5
    assert patches(off, x).tolist() == [0.0, 0.5]
    stripes = torch.tensor([1.0, -1.0]).repeat(8)[None, None, None].expand(2, 3, 16, 16)
    assert patches(x + stripes, x).tolist() == [0.0, 0.0]
    one = x.clone()
    one[0, 0, 3, 5] = 1.0  # a pixel of 768 weighs the same whatever the patch
    assert patches(one, x)[0].item() == pytest.approx(1 / 768)


def test_patches_at_the_border_are_means_of_what_is_there():
    a, b = torch.full((1, 1, 5, 5), 0.25), torch.zeros(1, 1, 5, 5)
    assert patches(a, b).item() == pytest.approx(0.25)


def test_the_coarse_term_is_weighed_and_added():
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.zeros(1, 3, 16, 16)
    assert replace(NOTHING, coarse=2.0).distance(a, b).item() == pytest.approx(1.0)
    assert NOTHING.distance(a, b).item() == 0.0


def latents(mean, log_var):
    return torch.full((2, 3, 4, 4), mean), torch.full((2, 3, 4, 4), log_var)


@pytest.mark.parametrize(
    ("mean", "log_var", "nats"),
    [
        (0.0, 0.0, 0.0),
        (2.0, 0.0, 2.0),  # mean^2 / 2
        (0.0, math.log(4.0), 1.5 - math.log(2.0)),
        (1.0, -2.0, (math.exp(-2.0) + 2.0) / 2),
    ],
)
def test_divergence_of_one_value_is_the_closed_form(mean, log_var, nats):
    found = divergence(*latents(mean, log_var))
    assert torch.allclose(found, torch.full((2,), 48 * nats), rtol=1e-6)


def test_divergence_is_that_of_torchs_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(2, 5, 3, 2, 2, generator=generator).unbind()
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, (log_var / 2).exp()), normal(0.0, 1.0))
    assert torch.allclose(divergence(mean, log_var), theirs.sum((1, 2, 3)), rtol=1e-5)


def test_edges_of_a_ramp():
    """A slope of 0.1 a pixel downwards: 0.1, 0.2 and 0.4 at the three resolutions, none across."""
    ramp = 0.1 * torch.arange(16.0)[:, None].expand(2, 3, 16, 16)
    zero = torch.zeros(2, 3, 16, 16)
    assert torch.allclose(edges(ramp, zero, 1), torch.full((2,), 0.1))
    assert torch.allclose(edges(zero, ramp, 3), torch.full((2,), 0.7 / 3))
    assert torch.allclose(edges(ramp + ramp.mT, zero, 3), torch.full((2,), 1.4 / 3))


def test_edges_do_not_see_a_constant():
    assert torch.equal(
        edges(torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)), torch.zeros(1)
    )


def test_edges_of_a_checkerboard_are_at_the_finest_resolution_only():
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    board = board.expand(1, 1, 16, 16)
    zero = torch.zeros_like(board)
    assert torch.equal(edges(board, zero, 1), torch.tensor([4.0]))  # 2 down and 2 across
    assert torch.equal(edges(board, zero, 3), torch.tensor([4.0 / 3]))


def test_the_loss_is_the_sum_of_its_weighted_terms():
    x = torch.zeros(2, 1, 8, 8)
    decoded = 0.1 * torch.arange(8.0)[:, None].expand(2, 1, 8, 8)
    model, eps = Stub(decoded, *latents(2.0, 0.0)), torch.zeros(2, 3, 4, 4)
    terms = {"l1": 0.35, "gradient": 0.1, "kl": 48 * 2.0 / 64}
    for name, value in terms.items():
        only = replace(NOTHING, scales=1, **{name: 3.0})
        assert torch.allclose(only(model, x, eps), torch.full((2,), 3 * value))
    both = ReconstructionLoss(l1=1, gradient=2, scales=1, kl=0.5)
    total = 0.35 + 2 * 0.1 + 0.5 * terms["kl"]
    assert torch.allclose(both(model, x, eps), torch.full((2,), total))


def test_equivariance_compares_halved_latents_with_halved_images():
    """Latents are the image at half its sides and decoding is enlarging, so that the halved
    latent's image is the halved image's mean over 2 x 2; noise in the latent shifts it."""
    x = torch.arange(64.0).reshape(1, 1, 8, 8) / 64
    z = torch.nn.functional.avg_pool2d(x, 2)
    loss = ReconstructionLoss(gradient=0, scales=1, kl=0, equivariance=0.5)
    quiet = torch.full_like(z, -1e9)
    blocks = torch.nn.functional.avg_pool2d(z, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = 0.5 * (blocks - z).abs().mean()
    assert torch.allclose(loss(Stub(x, z, quiet), x, torch.zeros_like(z)), expected)
    moved = 0.5 * (blocks + 3.0 - z).abs().mean()
    wide = torch.full_like(z, math.log(4.0))  # a deviation of 2
    assert torch.allclose(loss(Stub(x, z, wide), x, torch.full_like(z, 1.5)), moved)


def test_images_and_latents_without_a_common_half_are_refused():
    loss = replace(NOTHING, equivariance=1.0)
    x, z = torch.zeros(1, 1, 10, 10), torch.zeros(1, 1, 5, 5)
    with pytest.raises(ValueError, match="crop"):
        loss(Stub(x, z, z), x, z)


def test_psnr_is_the_closed_form():
    a = torch.full((3, 3, 4, 5), 100, dtype=torch.uint8)
    b = torch.stack([a[0], a[1] + 10, a[2]])
    b[2, 0] += 60  # a third of the values: mean square 1200
    found = psnr(a, b)
    wanted = [math.inf, 20 * math.log10(25.5), 10 * math.log10(255**2 / 1200)]
    assert found.tolist() == pytest.approx(wanted)
    assert psnr(b, a).equal(found)
    black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    assert psnr(black, black + 255).tolist() == [0.0]


def test_psnr_takes_pixels_only():
    with pytest.raises(ValueError, match="uint8"):
        psnr(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ReconstructionLoss(kl=-1),
        lambda: ReconstructionLoss(scales=0),
        lambda: edges(torch.zeros(1, 1, 4, 9), torch.zeros(1, 1, 4, 9), 3),
    ],
)
def test_settings_without_a_meaning_are_refused(call):
    with pytest.raises(ValueError, match=r"kl|scales"):
        call()


def test_crops_are_windows_of_their_own_image_and_reach_every_corner():
    places = torch.arange(6 * 8).reshape(1, 1, 6, 8).expand(200, 1, 6, 8)
    found = crops(places, 4, 4, torch.Generator().manual_seed(0))
    corners = found[:, 0, 0, 0]
    window = torch.arange(4)[:, None] * 8 + torch.arange(4)
    assert torch.equal(found[:, 0], corners[:, None, None] + window)
    assert set(corners.tolist()) == {8 * top + left for top in range(3) for left in range(5)}


def test_batches_are_functions_of_seed_and_step():
    images = tiny_images(20).images
    same = [batches(images, TINY.latent_shape, 6, seed=1, crop=6)(3) for _ in range(2)]
    assert all(torch.equal(same[0][name], same[1][name]) for name in ("images", "eps"))
    other = batches(images, TINY.latent_shape, 6, seed=1, crop=6)(4)
    assert not torch.equal(other["eps"], same[0]["eps"])
    assert same[0]["images"].shape == (6, 1, 6, 6)
    assert same[0]["eps"].shape == (6, 2, 3, 3)


def test_without_crop_and_mirror_a_batch_is_the_images():
    images = tiny_images(6).images
    batch = batches(images, TINY.latent_shape, 6, seed=0, mirrored=False)(0)
    assert sorted(batch["images"].flatten(1).tolist()) == sorted(images.flatten(1).tolist())


def test_held_out_images_keep_their_noise():
    images = tiny_images(6).images
    first, second = (held_out_batch(images, TINY.latent_shape, seed=0) for _ in range(2))
    assert torch.equal(first["images"], images)
    assert torch.equal(first["eps"], second["eps"])
    assert first["eps"].shape == (6, 2, 4, 4)


def test_images_are_reconstructed_from_the_means_of_their_latents():
    torch.manual_seed(0)
    model, found = TINY.build(), tiny_images(8)
    nn.init.normal_(model.decoder.conv_out.weight, std=0.5)
    decoded, nats = reconstruct(model, found.images[:5], batch=2)
    with torch.no_grad():
        mean, log_var = model.encode(Pixels().encode(found.images[:5]))
        wanted = Pixels().decode(model.decode(mean))
    assert torch.allclose(nats, divergence(mean, log_var))
    assert (decoded.int() - wanted.int()).abs().max() <= 1  # a batch's size may turn a rounding
    off = Pixels().decode(model.decode(mean + (log_var / 2).exp()))
    assert (decoded.int() - off.int()).abs().max() > 1  # where a draw would be elsewhere


def test_an_autoencoder_learns_in_the_training_loop():
    """Forty steps on smooth pictures: the loss falls to less than a third, PSNR rises by 6 dB."""
    torch.manual_seed(0)
    coarse = torch.randint(0, 256, (16, 1, 2, 2)).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    images = smooth.to(torch.uint8)
    config = TrainConfig(steps=40, batch=16, lr=1e-2, warmup_steps=4)
    state, loss = TrainState.fresh(TINY.build(), config), loss_of(ReconstructionLoss())
    batch_at = batches(images, TINY.latent_shape, config.batch, seed=0)
    decoded, _ = reconstruct(state.model, images)
    before = psnr(images, decoded).mean()
    losses = [take_step(state, loss, batch_at(step), config)["loss"] for step in range(40)]
    decoded, nats = reconstruct(state.model, images)
    assert losses[-1] < losses[0] / 3
    assert psnr(images, decoded).mean() > before + 6
    assert nats.shape == (16,)


def test_half_precision_changes_the_loss_little():
    model, images = TINY.build(), tiny_images(6, size=16).images
    batch = held_out_batch(images, TINY.latent_shape, seed=0)
    exact = loss_of(ReconstructionLoss())(model, batch)
    rough = loss_of(ReconstructionLoss(), torch.bfloat16)(model, batch)
    assert exact.shape == (6,)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)  # else nothing ran in bf16
    assert torch.allclose(rough, exact, rtol=0.03)
