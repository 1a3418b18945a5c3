"""The codec of an autoencoder: standardised, saved, found again and installed in a run."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sfumato.codec import Pixels
from sfumato.conditions import Nothing
from sfumato.config import SamplingConfig
from sfumato.exact import GaussianMixture
from sfumato.generation import Order, draw
from sfumato.interop.autoencoders import kl_description
from sfumato.latents import (
    AutoencoderCodec,
    LatentCodec,
    SavedCodec,
    install,
    measure,
    network_config,
    open_codec,
    read_codec,
    save_codec,
    settled,
)
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.networks.taesd import TAESDConfig
from sfumato.process import Karras
from tiny import CPU

CONFIG = AutoencoderConfig(in_channels=3, latent_channels=2, widths=(8,), groups=4, patch=2)
MEANS, STDS = (0.25, -1.0), (0.5, 2.0)
FACTS = {"psnr": 31.5, "trained on": "a test"}


class Halves(nn.Module):
    """An autoencoder that one can compute by hand: the latent is the mean over 2 x 2 pixels."""

    def __init__(self):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))
        self.calls = 0

    def encode(self, x):
        self.calls += 1
        return nn.functional.avg_pool2d(x[:, :2], 2), torch.zeros(())

    def decode(self, z):
        return torch.cat([z, z[:, :1]], 1).repeat_interleave(2, 2).repeat_interleave(2, 3)


def halves(means=MEANS, stds=STDS):
    return LatentCodec(Halves(), CONFIG, means, stds)


def pictures(n=5, height=8, width=6):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator).to(torch.uint8)


def flat_pictures():
    """Blocks of 2 x 2 of one value, the third channel the first, so that Halves loses nothing."""
    small = pictures(5, 4, 3)
    small[:, 2] = small[:, 0]
    return small.repeat_interleave(2, 2).repeat_interleave(2, 3)


def saved(folder, means=MEANS, stds=STDS):
    torch.manual_seed(0)
    model = CONFIG.build()
    save_codec(folder, CONFIG, model.state_dict(), means, stds, FACTS)
    return model


def test_latents_are_standardised_by_channel():
    x = Pixels().encode(flat_pictures())[:, :2, ::2, ::2]
    z = halves().encode(flat_pictures())
    assert torch.equal(z[:, 0], (x[:, 0] - 0.25) / 0.5)
    assert torch.equal(z[:, 1], (x[:, 1] + 1.0) / 2.0)


def test_decode_undoes_encode():
    codec = halves()
    assert torch.equal(codec.decode(codec.encode(flat_pictures())), flat_pictures())


def test_parts_of_a_large_batch_are_put_together_in_order(monkeypatch):
    whole = halves().encode(pictures())
    monkeypatch.setattr("sfumato.latents.AT_ONCE", 2 * 8 * 6)
    codec = halves()
    assert torch.equal(codec.encode(pictures()), whole)
    assert codec.model.calls == 3
    assert torch.equal(codec.decode(whole), halves().decode(whole))


def test_only_pixels_are_encoded():
    with pytest.raises(ValueError, match="uint8"):
        halves().encode(pictures().float())


@pytest.mark.parametrize("stds", [(1.0,), (1.0, 0.0)])
def test_moments_that_do_not_fit_are_refused(stds):
    with pytest.raises(ValueError, match="latent channel"):
        halves((0.0, 0.0), stds)


def test_sizes_that_f_does_not_divide_are_padded_and_cropped_back():
    codec = LatentCodec(CONFIG.build(), CONFIG, MEANS, STDS)
    images = pictures(2, 7, 5)
    z = codec.encode(images)
    assert z.shape[1:] == codec.shape((3, 7, 5)) == (2, 4, 3)
    whole = codec.decode(z)
    assert whole.shape == (2, 3, 8, 6)
    assert torch.equal(codec.decode(z, size=(7, 5)), whole[:, :, :7, :5])


def test_images_drawn_through_a_codec_have_their_own_size():
    """7 x 5 pixels are 4 x 3 latents of 2 x 2; what was padded is not drawn."""
    denoiser = GaussianMixture(Karras(), torch.zeros(1, 2, 4, 3), 0.5)
    order = Order([0, 1, 2], None, (3, 7, 5))
    drawn = draw(denoiser, order, SamplingConfig(steps=2), Nothing(), CPU, codec=halves())
    assert drawn.shape == (3, 3, 7, 5)


def test_measured_moments_make_zero_mean_and_unit_variance():
    images = pictures(40)
    means, stds = measure(Halves(), images)
    z = halves(means, stds).encode(images)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-6)
    assert torch.allclose(z.var((0, 2, 3), unbiased=False), torch.ones(2), atol=1e-5)


def test_moments_are_measured_all_over_a_data_set_that_is_sorted(monkeypatch):
    monkeypatch.setattr("sfumato.latents.MEASURED", 5)
    images = pictures(40).sort(0).values  # dark ones first
    assert measure(Halves(), images) == measure(Halves(), images[::8])


def test_a_channel_that_carries_nothing_is_named():
    images = pictures()
    images[:, 1] = 7
    with pytest.raises(ValueError, match="channel 1"):
        measure(Halves(), images)


def test_a_saved_codec_is_the_same_codec(tmp_path):
    model = saved(tmp_path / "codec")
    found = read_codec(tmp_path / "codec")
    assert (found.config, found.means, found.stds, found.facts) == (CONFIG, MEANS, STDS, FACTS)
    first, second = found.codec(CPU), LatentCodec(model, CONFIG, MEANS, STDS)
    assert torch.equal(first.encode(pictures()), second.encode(pictures()))
    assert first.fingerprint() == second.fingerprint()
    assert not any(parameter.requires_grad for parameter in first.model.parameters())


def test_reading_a_codec_draws_nothing_from_the_global_generator(tmp_path):
    saved(tmp_path / "codec")
    before = torch.get_rng_state()
    read_codec(tmp_path / "codec").codec(CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    saved(tmp_path / "codec")
    saved(tmp_path / "codec", means=(1.0, 1.0))
    assert read_codec(tmp_path / "codec").means == (1.0, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]


def test_damaged_and_newer_codecs_are_refused(tmp_path):
    saved(tmp_path / "codec")
    path = tmp_path / "codec" / "codec.json"
    content = path.read_text()
    path.write_text(content.replace("31.5", "41.5"))
    with pytest.raises(ValueError, match=r"codec\.json does not have the SHA-256"):
        read_codec(tmp_path / "codec")
    with pytest.raises(ValueError, match="Nonsense"):
        network_config({"kind": "Nonsense"})
    with pytest.raises(ValueError, match="newer"):
        network_config({"kind": "TAESDConfig", "depth": 3})


def test_every_network_is_described_in_json(tmp_path):
    for config in (CONFIG, TAESDConfig(latent_channels=3, width=8, blocks=(0, 1))):
        save_codec(tmp_path / "codec", config, config.build().state_dict(), (), (), {})
        assert read_codec(tmp_path / "codec").config == config


def test_weights_of_another_network_are_refused():
    weights = replace(CONFIG, widths=(16,)).build().state_dict()
    with pytest.raises(ValueError, match="another network"):
        SavedCodec(CONFIG, weights).model(CPU)


def test_fingerprints_tell_weights_and_moments_apart():
    torch.manual_seed(0)
    model = CONFIG.build()
    prints = [LatentCodec(model, CONFIG, MEANS, STDS).fingerprint()]
    prints.append(LatentCodec(model, CONFIG, (0.25, -1.1), STDS).fingerprint())
    model.decoder.conv_out.bias.data[0] += 1e-6
    prints.append(LatentCodec(model, CONFIG, MEANS, STDS).fingerprint())
    assert len(set(prints)) == 3


def test_an_autoencoder_is_found_in_every_kind_of_folder(tmp_path):
    saved(tmp_path / "run" / "codec")
    plain = replace(CONFIG, patch=1)
    (tmp_path / "kl").mkdir()
    (tmp_path / "kl" / "config.json").write_text(json.dumps(kl_description(plain, MEANS, STDS)))
    weights = plain.build().state_dict()
    save_file(weights, tmp_path / "kl" / "diffusion_pytorch_model.safetensors")
    tiny = TAESDConfig()
    for half in ("encoder", "decoder"):
        (tmp_path / "taesd").mkdir(exist_ok=True)
        state = getattr(tiny.build(), half).state_dict()
        torch.save(state, tmp_path / "taesd" / f"taesd_{half}.pth")
    found = [open_codec(tmp_path / path) for path in ("run/codec", "run", "kl", "taesd")]
    assert [each.config for each in found] == [CONFIG, CONFIG, plain, tiny]
    assert [each.means for each in found] == [MEANS, MEANS, MEANS, ()]
    assert found[2].stds == STDS
    with pytest.raises(ValueError, match="no autoencoder"):
        open_codec(tmp_path)


def test_settling_measures_on_the_data_what_was_not_given(tmp_path):
    model = saved(tmp_path / "codec")
    images = pictures(20)
    bare = AutoencoderCodec(str(tmp_path / "codec"))
    means, stds = measure(model, images)
    assert settled(bare, images, CPU) == replace(bare, f=2, means=means, stds=stds)
    given = replace(bare, means=MEANS, stds=STDS)
    assert settled(given, images, CPU) == replace(given, f=2)


def test_a_run_keeps_a_copy_of_its_own(tmp_path):
    saved(tmp_path / "codec")
    config = AutoencoderCodec(str(tmp_path / "codec"), 2, (0.5, 0.5), (3.0, 3.0))
    expected = config.build(tmp_path / "run", CPU).fingerprint()
    install(config, tmp_path / "run")
    for path in (tmp_path / "codec").iterdir():
        path.unlink()
    codec = config.build(tmp_path / "run", CPU)
    assert codec.fingerprint() == expected
    assert codec.means == (0.5, 0.5)
    install(replace(config, means=(9.0, 9.0)), tmp_path / "run")  # the first copy stays
    copy = read_codec(tmp_path / "run" / "codec")
    assert copy.means == (0.5, 0.5)
    assert copy.facts == {"from": str(tmp_path / "codec"), **FACTS}
