"""Files of guided-diffusion: what their shapes tell, what flags add, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sfumato.bound import Hybrid
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.interop import adm
from sfumato.networks.adm import ADMConfig
from sfumato.objective import Denoising
from sfumato.parameterization import PredictNoise
from sfumato.solvers import Ancestral
from small_networks import alive
from test_adm import AT_64, AT_128, AT_256, AT_512

OURS = ADMConfig(
    in_channels=1, out_channels=2, channels=32, multipliers=(1, 2, 2), blocks=2,
    attention_at=(4,), classes=5,
)  # fmt: skip


def on_meta(config):
    with torch.device("meta"):
        return config.build().state_dict()


def untold(config):
    """The configuration without what no tensor tells."""
    return replace(config, heads=4, head_channels=None, heads_first=True, dropout=0.0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"multipliers": (1,), "attention_at": ()},
        {"blocks": 1, "multipliers": (1, 1, 2, 4), "attention_at": (1, 8)},
        {"classes": 0, "scale_shift": False},
        {"time_features": 64, "attention_at": ()},
    ],
    ids=str,
)
@pytest.mark.parametrize("joined", ["residual", "convolution", "pooling"])
def test_shapes_tell_the_form(change, joined):
    config = replace(OURS, **change, residual_resampling=joined == "residual")
    one_level = len(config.multipliers) == 1
    config = replace(config, conv_resampling=joined != "pooling" or one_level)
    config = replace(config, residual_resampling=joined == "residual" and not one_level)
    assert adm.infer(on_meta(config)) == config


@pytest.mark.parametrize("config", [AT_64, AT_128, AT_256, AT_512], ids=["64", "128", "256", "512"])
def test_published_networks_are_known_by_their_shapes(config, tmp_path):
    form = adm.infer(on_meta(config))
    assert form == untold(config)
    flags, note = adm.flags_of(tmp_path / "model.pt", form)
    found = adm.with_flags(form, flags)
    assert found == config
    assert "published" in note
    assert adm.run_of("", found, flags).process == (
        CosineBetas() if config is AT_64 else LinearBetas()
    )


def saved(folder, config=OURS, flags=None):
    """The path of a file of the program's layout, with its flags beside it; and its tensors."""
    path, state = folder / "model010000.pt", alive(config.build()).float().state_dict()
    torch.save(state, path)
    if flags is not None:
        path.with_suffix(".json").write_text(json.dumps(flags))
    return path, state


def test_a_file_is_read_with_the_programs_defaults(tmp_path):
    path, state = saved(tmp_path)
    found = adm.read(path)
    assert found is not None
    assert (found.run.network, found.shape) == (OURS, (1, 32, 32))
    assert found.weights.keys() == state.keys()
    assert all(torch.equal(found.weights[name], state[name]) for name in state)
    found.run.network.build().load_state_dict(found.weights)
    assert found.run.process == LinearBetas(1000)
    assert found.run.parameterization == PredictNoise(time_scale=1000.0, time_offset=-1.0)
    assert (found.run.learned_variance, found.run.objective) == (True, Hybrid())
    assert found.run.data.label_dropout == 0
    assert "model010000.json" in found.notes[0]
    assert any("size is in no tensor" in note for note in found.notes)


def test_flags_beside_a_file_say_the_rest(tmp_path):
    flags = {
        **{"image_size": 24, "num_head_channels": 16, "use_new_attention_order": True},
        **{"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True},
        **{"dropout": 0.3, "num_channels": 32, "sigma_small": True},
    }
    path, _ = saved(tmp_path, replace(OURS, out_channels=1), flags)
    found = adm.read(path)
    assert found is not None
    network = replace(OURS, out_channels=1, head_channels=16, heads_first=False, dropout=0.3)
    assert (found.run.network, found.shape) == (network, (1, 24, 24))
    assert found.run.process == CosineBetas(4000)
    assert found.run.parameterization == PredictNoise(time_scale=1000.0, time_offset=-0.25)
    assert isinstance(found.run.objective, Denoising)
    assert found.run.sampling.solver == Ancestral(0.0)


def times_told(flags):
    """What respace.py's _WrappedModel hands to the network of each step, by NumPy."""
    steps = flags.get("diffusion_steps", 1000)
    timestep_map = np.arange(steps)  # of a chain that is not respaced
    new_ts = timestep_map[np.arange(steps)]
    if flags["rescale_timesteps"]:
        new_ts = new_ts.astype(np.float64) * (1000.0 / steps)
    return new_ts


@pytest.mark.parametrize("steps", [None, 400, 1000, 4000])
@pytest.mark.parametrize("rescaled", [True, False])
def test_the_network_is_told_the_times_of_the_program_that_trained_it(steps, rescaled, tmp_path):
    flags = {"rescale_timesteps": rescaled, **({"diffusion_steps": steps} if steps else {})}
    run = adm.read(saved(tmp_path, flags=flags)[0]).run
    every = torch.arange(1, run.process.steps + 1)
    told = run.parameterization(run.process, run.process.times_of(every - 1)).c_noise
    np.testing.assert_allclose(told.numpy(), times_told(flags), rtol=0, atol=1e-9)


def test_other_steps_than_a_thousand_want_their_clock_told(tmp_path):
    """By default improved-diffusion tells rescaled times, guided-diffusion the steps."""
    path, _ = saved(tmp_path, flags={"diffusion_steps": 4000, "noise_schedule": "cosine"})
    with pytest.raises(
        ValueError,
        match=r"rescale_timesteps is not given.*true for improved-diffusion, false for guided",
    ):
        adm.read(path)
    path, _ = saved(tmp_path, flags={"diffusion_steps": 1000})
    assert adm.read(path) is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"heads": 4}, r"\['heads'\] are no flags of guided-diffusion"),
        ([1], "holds a list; a JSON object is wanted"),
        ({"predict_xstart": True}, "predict_xstart is True; only False can be read"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule is one of linear, cosine"),
        ({"num_heads": "4"}, "num_heads is '4', which is not of the type"),
        ({"num_heads": 3}, "does not split into 3 heads"),
    ],
    ids=str,
)
def test_wrong_flags_are_named(flags, message, tmp_path):
    path, _ = saved(tmp_path, flags=flags)
    with pytest.raises(ValueError, match=message):
        adm.read(path)


def test_the_programs_other_networks_are_refused(tmp_path):
    _, state = saved(tmp_path)
    encoder = {name: value for name, value in state.items() if not name.startswith("output")}
    save_file(encoder, tmp_path / "classifier.safetensors")
    with pytest.raises(ValueError, match="guided-diffusion's classifier"):
        adm.read(tmp_path / "classifier.safetensors")
    path, _ = saved(tmp_path, replace(OURS, in_channels=6, out_channels=6))
    with pytest.raises(ValueError, match="guided-diffusion's upsampler"):
        adm.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("out.0.bias"), r"1 weights .*out\.0\.bias is missing"),
        (lambda w: w.pop("out.2.weight"), r"no tensor out\.2\.weight"),
        (lambda w: w.update(extra=torch.ones(2)), r"1 weights .*extra has no place"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, tmp_path):
    _, state = saved(tmp_path)
    change(state)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=message):
        adm.read(tmp_path / "odd.safetensors")


def test_what_is_no_adm_is_left_to_others(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "notes.txt").write_text("none")
    for path in (tmp_path, *tmp_path.iterdir()):
        assert adm.read(path) is None
