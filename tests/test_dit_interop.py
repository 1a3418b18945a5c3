"""DiT's weights come and go: the authors' by names and shapes, diffusers' by equal outputs."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dit_layout import XL2
from sfumato.bound import Hybrid
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.interop import dit
from sfumato.interop.dit_layouts import (
    check_positions,
    from_diffusers,
    from_original,
    to_diffusers,
    to_original,
)
from sfumato.networks.dit import DiTConfig, dit_size, positions
from sfumato.parameterization import PredictNoise, PredictV
from sfumato.solvers import DDIM
from small_networks import alive, close

LATENT = DiTConfig(in_channels=4, out_channels=8, patch=2, depth=1, width=384, heads=6, classes=5)
SMALL = replace(LATENT, depth=3, width=24, heads=2)  # heads that no file tells
THEIRS = replace(SMALL, frequency_shift=1, mlp_eps=1e-5)


def state_of(config):
    """A state dict in float32, of a network without zeros."""
    return alive(config.build()).float().state_dict()


def same(first, second):
    """Bit for bit, names and all."""
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


# The authors' layout


def test_xl2_has_the_published_names_and_shapes():
    config = dit_size("XL", DiTConfig(in_channels=4, out_channels=8, patch=2, classes=1000))
    with torch.device("meta"):
        state = config.build().state_dict()
        placed = positions(16, 16, 1152, torch.zeros(()))[None]
    shapes = {name: tuple(value.shape) for name, value in {"pos_embed": placed, **state}.items()}
    assert shapes == XL2


def test_xl2_is_known_by_its_names_and_shapes():
    weights = {k: torch.empty(shape, device="meta") for k, shape in XL2.items()}
    weights["pos_embed"] = positions(16, 16, 1152, torch.zeros(()))[None]
    config, ours = from_original(weights)
    wanted = DiTConfig(in_channels=4, out_channels=8, patch=2, classes=1000)
    assert config == dit_size("XL", wanted)
    assert ours.keys() == weights.keys() - {"pos_embed"}


def test_the_authors_layout_comes_back_as_it_went():
    state = state_of(SMALL)
    written = to_original(SMALL, state, side=8)
    assert written["pos_embed"].shape == (1, 16, 24)
    config, read = from_original(written, heads=2)
    assert config == SMALL
    assert same(read, state)


def test_other_positions_are_refused():
    given = to_original(SMALL, state_of(SMALL), side=8)["pos_embed"]
    check_positions(given)
    with pytest.raises(ValueError, match=r"positions that were learned can't be read"):
        check_positions(given + 0.01)
    with pytest.raises(ValueError, match=r"\(1, 15, 24\) is not the fixed"):
        check_positions(given[:, :15])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("blocks.1.attn.proj.bias"), r"blocks\.1\.attn\.proj\.bias is missing"),
        (lambda w: w.update(extra=torch.ones(2)), r"1 weights .*extra has no place"),
        (lambda w: w.pop("blocks.0.mlp.fc1.weight"), r"no tensor blocks\.0\.mlp\.fc1\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    weights = to_original(SMALL, state_of(SMALL), side=8)
    change(weights)
    with pytest.raises(ValueError, match=message):
        from_original(weights, heads=2)


def test_unknown_heads_are_asked_for():
    with pytest.raises(ValueError, match=r"width 24 is none of the paper's \(384, 768, 1024, 1152"):
        from_original(to_original(SMALL, state_of(SMALL), side=8))


@pytest.mark.parametrize("change", [{"frequency_shift": 1}, {"mlp_eps": 1e-5}], ids=str)
def test_what_the_authors_layout_has_no_place_for_is_refused(change):
    with pytest.raises(ValueError, match="the authors' layout has only"):
        to_original(replace(SMALL, **change), {}, side=8)
    with pytest.raises(ValueError, match="no multiple of the patch"):
        to_original(SMALL, {}, side=7)


# Files


def test_a_published_file_is_read(tmp_path):
    path, state = tmp_path / "DiT-S-2.pt", state_of(LATENT)
    torch.save(to_original(LATENT, state, side=16), path)
    found = dit.read(path)
    assert found is not None
    assert (found.run.network, found.shape, found.average) == (LATENT, (4, 16, 16), None)
    assert same(found.weights, state)
    assert found.run.parameterization == PredictNoise(time_scale=1000.0, time_offset=-1.0)
    assert found.run.learned_variance
    assert found.run.objective == Hybrid()
    assert any("autoencoder" in note for note in found.notes)


def test_a_training_file_has_two_sets_of_weights(tmp_path):
    path, state = tmp_path / "0050000.pt", state_of(LATENT)
    whole = to_original(LATENT, state, side=8)
    smooth = {name: value if name == "pos_embed" else value / 2 for name, value in whole.items()}
    torch.save({"model": whole, "ema": smooth, "opt": {"state": {}}}, path)
    found = dit.read(path)
    assert found is not None
    assert same(found.weights, state)
    assert found.average is not None
    assert same(found.average, {name: value / 2 for name, value in state.items()})


def test_pixels_in_safetensors_need_no_autoencoder(tmp_path):
    config = replace(LATENT, in_channels=3, out_channels=3)
    path = tmp_path / "pixels.safetensors"
    save_file(to_original(config, state_of(config), side=12), path)
    found = dit.read(path)
    assert found is not None
    assert found.shape == (3, 12, 12)
    assert found.run.sampling.clipped
    assert not found.run.learned_variance
    assert not any("autoencoder" in note for note in found.notes)


def test_a_file_without_positions_says_that_the_size_is_guessed(tmp_path):
    save_file(state_of(LATENT), tmp_path / "bare.safetensors")
    found = dit.read(tmp_path / "bare.safetensors")
    assert found is not None
    assert found.shape == (4, 32, 32)
    assert found.notes[0].startswith("The file has no pos_embed")


def test_objects_in_a_file_are_refused_by_name(tmp_path):
    path = tmp_path / "with_args.pt"
    torch.save({"ema": state_of(LATENT), "args": Namespace(model="DiT-S/2")}, path)
    with pytest.raises(ValueError, match=r"argparse\.Namespace(.|\n)*save_file"):
        dit.read(path)


def test_what_is_no_dit_is_left_to_others(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "notes.txt").write_text("none")
    for path in (tmp_path, *tmp_path.iterdir()):
        assert dit.read(path) is None


# diffusers


def peer(config, seed=0):
    """A DiTTransformer2DModel of the same shape, in evaluation mode, without zeros."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=8,
        patch_size=config.patch,
        num_embeds_ada_norm=config.classes,
    )
    return alive(model, seed).float()


def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    return x, torch.tensor([0.0, 500.0, 999.0]), torch.tensor([0, 4, 5])


def both(network, model):
    x, level, labels = inputs()
    with torch.no_grad():
        theirs = model(x, timestep=level.long(), class_labels=labels).sample
        ours = network(x, level, labels)
    assert theirs.std() > 0.1
    return ours, theirs


def read_peer(model):
    described = json.loads(json.dumps(dict(model.config)))
    config, weights = from_diffusers(described, model.state_dict())
    network = config.build().eval()
    network.load_state_dict(weights)
    return config, network


@pytest.mark.parametrize("patch", [2, 4])
def test_a_transformer_of_diffusers_is_ours(patch):
    """Each of its blocks has an embedding of its own here, as where diffusers trained it."""
    model = peer(replace(THEIRS, patch=patch))
    config, network = read_peer(model)
    assert config == replace(THEIRS, patch=patch, shared_embedding=False)
    close(*both(network, model), tolerance=1e-5)


def test_a_converted_transformer_of_diffusers_has_one_embedding():
    model = peer(THEIRS)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    config, network = read_peer(model)
    assert config == THEIRS
    close(*both(network, model), tolerance=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_ours_is_a_transformer_of_diffusers(shared):
    from diffusers import DiTTransformer2DModel

    config = replace(THEIRS, shared_embedding=shared)
    network = alive(config.build()).float()
    described, state = to_diffusers(config, network.state_dict(), side=8)
    model = DiTTransformer2DModel.from_config(json.loads(json.dumps(described))).eval()
    model.load_state_dict(state)
    close(*both(network, model), tolerance=1e-5)
    again, weights = from_diffusers(described, model.state_dict())
    assert again == config
    assert same(weights, network.state_dict())


@pytest.mark.parametrize("change", [{"frequency_shift": 0}, {"mlp_eps": 0.1}], ids=str)
def test_each_departure_of_diffusers_is_seen(change):
    """Or the parity above would not need the fields that stand for them."""
    model = peer(THEIRS)
    config, network = read_peer(model)
    other = replace(config, **change).build().eval()
    other.load_state_dict(network.state_dict())
    ours, theirs = both(other, model)
    assert (ours - theirs).abs().max() > 1e-3


def folder_of(model, folder, schedule):
    """A pipeline's folder as diffusers writes it, but for the autoencoder."""
    model.save_pretrained(folder / "transformer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    labels = {str(i): f"class {i}" for i in range(5)}
    (folder / "model_index.json").write_text(json.dumps({"id2label": labels}))
    return tuple(labels.values())


def test_a_pipelines_folder_is_read(tmp_path):
    model = peer(LATENT)
    said = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    classes = folder_of(model, tmp_path, {"_class_name": "DDIMScheduler", **said})
    found = dit.read(tmp_path)
    assert found is not None
    assert (found.shape, found.class_names) == ((4, 8, 8), classes)
    network = found.run.network.build().eval()
    network.load_state_dict(found.weights)
    close(*both(network, model), tolerance=1e-5)
    assert found.run.process == CosineBetas(1000)
    assert found.run.parameterization == PredictV(1000.0, -1.0)
    assert (found.run.sampling.solver, found.run.sampling.guidance) == (DDIM(), 4.0)
    assert dit.GUESSED not in found.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out_channels": 8}, "leaves out the learned variance"),
        ({"in_channels": 3, "out_channels": 3}, "draws latents, and this run pixels"),
        ({"out_channels": 4}, "takes class 1000 for none: guidance_scale=1 there"),
        ({"out_channels": 4, "classes": 1000}, "scheduler and an AutoencoderKL."),
    ],
)
def test_an_export_says_what_diffusers_pipeline_makes_of_it(tmp_path, change, words):
    config = replace(LATENT, frequency_shift=1, mlp_eps=1e-5, **change)
    run = dit.run_of("x", config, latent=True)
    shape = (config.in_channels, 8, 8)
    (said, *_) = dit.write_diffusers(tmp_path, run, state_of(config), shape)
    assert words in said


@pytest.mark.parametrize(("channels", "latents"), [(1, False), (3, False), (4, True), (16, True)])
def test_other_channels_than_images_have_are_latents(channels, latents):
    config = replace(LATENT, in_channels=channels)
    assert (dit.CODEC_MISSING in dit.notes_on(config)) is latents


def test_a_bare_transformers_folder_says_that_the_process_is_guessed(tmp_path):
    peer(LATENT).save_pretrained(tmp_path)
    found = dit.read(tmp_path)
    assert found is not None
    assert found.run.process == LinearBetas(1000)
    assert dit.GUESSED in found.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
        ({"num_layers": 4}, r"transformer_blocks\.3\..* is missing"),
        ({"num_layers": 2}, r"transformer_blocks\.2\..* is unknown"),
    ],
    ids=str,
)
def test_another_transformer_is_refused(change, message):
    model = peer(THEIRS)
    with pytest.raises(ValueError, match=message):
        from_diffusers({**dict(model.config), **change}, model.state_dict())


@pytest.mark.parametrize(
    "change", [{"frequency_shift": 0}, {"mlp_ratio": 2.0}, {"classes": 0}], ids=str
)
def test_what_diffusers_has_no_place_for_is_refused(change):
    with pytest.raises(ValueError, match="DiTTransformer2DModel"):
        to_diffusers(replace(THEIRS, **change), {}, side=8)
