"""Pipelines of diffusers read here, and runs of ours written for diffusers, draw alike."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.assembly import build
from sfumato.conditions import Nothing
from sfumato.config import Run
from sfumato.generation import Order, draw, wrapped
from sfumato.interop.diffusers import read
from sfumato.interop.diffusers_defaults import DEFAULTS
from sfumato.interop.diffusers_schedulers import read_schedule
from sfumato.interop.imported import Imported
from sfumato.sampling import SeededNoise, prior, sample
from test_unet2d import jiggled
from tiny import CPU

diffusers = pytest.importorskip("diffusers")
peers = pytest.importorskip("peers")
pytestmark = peers.OLD_NUMPY
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
STEPS, SEEDS = 8, [3, 5]
TRAILING = {"timestep_spacing": "trailing"}
DDPM, DDIM_, DPM, EULER = (
    f"{name}Scheduler" for name in ("DDPM", "DDIM", "DPMSolverMultistep", "EulerDiscrete")
)


def pipeline(name: str = DDPM, outputs: int = 3, **settings: Any) -> Any:
    """A pipeline of diffusers with random weights."""
    torch.manual_seed(1)
    unet = jiggled(diffusers.UNet2DModel(**UNET, out_channels=outputs), by=0.03)
    made = diffusers.DDIMPipeline if name == DDIM_ else diffusers.DDPMPipeline
    return made(unet, getattr(diffusers, name)(**settings))


def imported(folder: Path) -> Imported:
    found = read(folder)
    assert found is not None
    return found


def saved(folder: Path, name: str = DDPM, **settings: Any) -> Imported:
    """A bare unet and its scheduler, read here."""
    made = pipeline(name, **settings)
    made.unet.save_pretrained(folder / "unet")
    made.scheduler.save_pretrained(folder / "scheduler")
    return imported(folder / "unet")


def points(found: Imported, seeds: list[int] = SEEDS, steps: int = STEPS) -> list[Tensor]:
    """Our x after every step, of the run as it was read, but for the number of steps."""
    denoiser = build(found.run, CPU).eval()
    denoiser.network.load_state_dict(found.weights)
    seen: list[Tensor] = []
    sampling = replace(found.run.sampling, steps=steps)
    order = Order(seeds, None, found.shape)
    draw(denoiser, order, sampling, Nothing(), CPU, on_point=lambda _, p: seen.append(p.x))
    return seen[1:]


def same_noise(monkeypatch: pytest.MonkeyPatch, found: Imported, steps: int = STEPS) -> None:
    """diffusers draws what SeededNoise draws. It starts from noise of scale 1; here from sigma."""
    source, times = SeededNoise(SEEDS), found.run.sampling.grid(found.run.process, steps)
    first = [prior(found.run.process, source(torch.empty(2, 3, 8, 8)), times[0])]

    def drawn(*_: Any, **__: Any) -> Tensor:
        return first.pop() if first else source(torch.empty(2, 3, 8, 8))

    for module in ("pipelines.ddpm.pipeline_ddpm", "pipelines.ddim.pipeline_ddim"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", drawn)
    for module in ("scheduling_ddpm", "scheduling_ddim", "scheduling_dpmsolver_multistep"):
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", drawn)


def their_points(pipe: Any, **options: Any) -> tuple[list[Tensor], Tensor]:
    """x after every step of a pipeline, and the images that it returns, in [0, 1]."""
    seen: list[Tensor] = []
    step = pipe.scheduler.step

    def listening(*words: Any, **named: Any) -> Any:
        made = step(*words, **named)
        seen.append(made.prev_sample)
        return made

    pipe.scheduler.step = listening
    pipe.set_progress_bar_config(disable=True)
    options = {"batch_size": 2, "num_inference_steps": STEPS, "output_type": "pt", **options}
    return seen, pipe(**options).images


def tolerance(run: Run) -> float:
    """Twice that of [0, 1]. An eps that is kept carries its own rounding from step to step.

    Over eight seeds that comes to 3e-5 to 1.4e-4 on a processor with AVX2; one that is not kept is
    wrong by 2.0 instead.
    """
    return 3e-4 if run.sampling.keep_eps else 2e-5


def seen_images(x: Tensor) -> Tensor:
    return (x / 2 + 0.5).clamp(0, 1)


# ---- what diffusers has saved, drawn here

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (DDPM, {}, {}),
    (DDPM, {"variance_type": "fixed_large", "clip_sample": False}, {}),
    (DDPM, {"variance_type": "learned_range", "outputs": 6}, {}),
    (DDPM, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, **TRAILING}, {}),
    (DDPM, {"prediction_type": "sample", "beta_schedule": "sigmoid"}, {}),
    (DDPM, {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace"}, {}),
    (DDPM, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, {}),
    (DDPM, {"num_train_timesteps": 400, "beta_end": 0.05, "steps_offset": 1}, {}),
    (DDIM_, {"clip_sample": False}, {}),
    (DDIM_, {}, {}),
    (DDIM_, {"prediction_type": "v_prediction", "clip_sample": False, **TRAILING}, {}),
    (DPM, TRAILING, {}),
    (DPM, {"solver_order": 1, "prediction_type": "v_prediction", **TRAILING}, {}),
    (DPM, {"solver_order": 3, "prediction_type": "sample", **TRAILING}, {}),
    (DPM, {"solver_order": 1, "algorithm_type": "sde-dpmsolver++", **TRAILING}, {}),
    (DPM, {"algorithm_type": "sde-dpmsolver++", "beta_schedule": "scaled_linear", **TRAILING}, {}),
]


@pytest.mark.parametrize(("name", "settings", "options"), CASES)
def test_a_saved_pipeline_draws_the_same_here(
    name: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = pipeline(name, **settings)
    pipe.save_pretrained(tmp_path)
    found = imported(tmp_path)
    same_noise(monkeypatch, found)
    theirs, images = their_points(pipe, **options)
    ours = points(found)
    assert peers.difference(ours, theirs) <= tolerance(found.run)
    near = tolerance(found.run) / 2 * ours[-1].abs().max().clamp(min=1)
    assert (seen_images(ours[-1]) - images).abs().max() <= near


def test_ddim_as_it_is_called_keeps_eps_exactly(tmp_path: Path) -> None:
    """The scheduler's own loop and ours in float64, where rounding hides nothing."""
    pipe = pipeline(DDIM_)
    pipe.save_pretrained(tmp_path)
    found = imported(tmp_path)
    pipe.unet.double()
    pipe.scheduler.alphas_cumprod = (1 - found.run.process.betas()).cumprod(0)  # type: ignore[attr-defined]
    pipe.scheduler.set_timesteps(STEPS)
    x = start = SeededNoise(SEEDS)(torch.empty(2, 3, 8, 8)).double()
    denoiser = build(found.run, CPU).eval()
    denoiser.network.load_state_dict(found.weights)
    denoiser.network.double()
    sampling = found.run.sampling
    times = sampling.grid(found.run.process, STEPS)
    with torch.no_grad():
        for label in pipe.scheduler.timesteps:
            x = pipe.scheduler.step(pipe.unet(x, label).sample, label, x).prev_sample
        ours = sample(wrapped(denoiser, sampling, Nothing()), start, times, sampling.solver)
    assert (ours - x).abs().max() < 1e-11


def test_ddim_with_use_clipped_model_output_is_ours_without_keep_eps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipeline(DDIM_)
    pipe.save_pretrained(tmp_path)
    found = imported(tmp_path)
    assert found.run.sampling.keep_eps
    sampling = replace(found.run.sampling, keep_eps=False)
    same_noise(monkeypatch, found)
    theirs, _ = their_points(pipe, use_clipped_model_output=True)
    ours = points(replace(found, run=replace(found.run, sampling=sampling)))
    assert peers.difference(ours, theirs) <= 2e-5
    assert peers.difference(points(found), theirs) > 1e-2  # so that the two do differ here


def test_eulers_method_on_their_clock_is_ddim(tmp_path: Path) -> None:
    """They walk x / alpha from sigma / alpha times noise, which no pipeline of UNet2D does."""
    made = pipeline(EULER, **TRAILING)
    found = saved(tmp_path, EULER, **TRAILING)
    made.scheduler.set_timesteps(STEPS)
    x = SeededNoise(SEEDS)(torch.empty(2, 3, 8, 8)) * made.scheduler.init_noise_sigma
    with torch.no_grad():
        theirs = peers.theirs(made.scheduler, lambda x, label: made.unet(x, label).sample, x)
    assert peers.difference(points(found)[-1:], theirs[-1:]) <= 1e-5


def test_the_older_layout_of_one_folder_and_pickled_weights_is_read(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 was published: all in one folder, attention under old names."""
    pipe = pipeline()
    pipe.save_pretrained(tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        (old / Path(name).name).write_bytes((tmp_path / "new" / name).read_bytes())
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, value in pipe.unet.state_dict().items():
        for now, before in names.items():
            name = name.replace(f".{now}.", f".{before}.")
        weights[name] = value
    torch.save(weights, old / "diffusion_pytorch_model.bin")
    first, second = imported(tmp_path / "new"), imported(old)
    assert first.run == replace(second.run, name="new")
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


class Bad:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return print, ("this ran",)


def test_a_program_in_place_of_weights_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = pipeline()
    pipe.unet.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    bad = tmp_path / "diffusion_pytorch_model.bin"
    torch.save({"conv_in.weight": Bad()}, bad)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin.*builtin.*print"):
        read(tmp_path)
    bad.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin"):
        read(tmp_path)
    assert "this ran" not in capsys.readouterr().out


# ---- what is refused, and what is said


def test_every_setting_of_the_schedulers_is_known_with_its_default() -> None:
    for name, defaults in DEFAULTS.items():
        if name == "LMSDiscreteScheduler" and find_spec("scipy") is None:
            continue  # it can't be made without
        made = dict(getattr(diffusers, name)().config)
        theirs = {key: value for key, value in made.items() if not key.startswith("_")}
        assert theirs == defaults, name


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (DDPM, "beta_schedule", "laplace"),
        (DDPM, "trained_betas", [0.1, 0.2]),
        (DDPM, "thresholding", True),
        (DDPM, "clip_sample_range", 2.0),
        (DDPM, "variance_type", "learned"),
        (DDPM, "variance_type", "fixed_large_log"),
        (DDPM, "prediction_type", "flow_prediction"),
        (DDPM, "timestep_spacing", "uneven"),
        (DDIM_, "set_alpha_to_one", False),
        (DPM, "timestep_spacing", "leading"),
        (DPM, "solver_order", 4),
        (DPM, "lower_order_final", False),
        (DPM, "algorithm_type", "dpmsolver"),
        (DPM, "variance_type", "learned"),
        ("UniPCMultistepScheduler", "predict_x0", False),
        ("UniPCMultistepScheduler", "disable_corrector", [0]),
        ("DEISMultistepScheduler", "timestep_spacing", "linspace"),
        ("LMSDiscreteScheduler", "timestep_spacing", "linspace"),
        (DPM, "use_karras_sigmas", True),
        (EULER, "timestep_spacing", "linspace"),
        (DDPM, "_class_name", "HeunDiscreteScheduler"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(name: str, key: str, value: Any) -> None:
    settings = {"_class_name": name, **({} if name in (DDPM, DDIM_) else TRAILING), key: value}
    with pytest.raises(ValueError, match="has no counterpart here") as refused:
        read_schedule(settings)
    assert f"{key} = {value!r}" in str(refused.value)


IDLE = {  # in diffusers too: of thresholds, flows and shifts that are off, of other spacings
    *("dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type"),
    *("steps_offset", "euler_at_final"),
}


def another(value: Any) -> Any:
    if isinstance(value, float):
        return value / 2 if abs(value) < float("inf") else -5.0
    others = {bool: lambda: not value, int: lambda: value + 1, list: lambda: [0], str: lambda: "x"}
    return others.get(type(value), lambda: 0.5)()


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_setting_is_passed_over_in_silence(name: str) -> None:
    """Each changes what is read, or is refused by its name."""
    plain = {"_class_name": name, **({} if name in (DDPM, DDIM_) else TRAILING)}
    plain["prediction_type"] = "v_prediction"  # is defined without signal as well
    before, unheard = read_schedule(plain), set()
    for key, value in DEFAULTS[name].items():
        try:
            heard = read_schedule({**plain, key: another(value)}) != before
        except ValueError as error:
            heard = f" {key} = " in str(error)
        if not heard:
            unheard.add(key)
    idle = IDLE - {"steps_offset"} if name in (DDPM, DDIM_) else IDLE  # their spacing is leading
    assert unheard == idle & DEFAULTS[name].keys()


def test_noise_predicted_where_no_signal_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="PredictNoise is not defined"):
        read_schedule({"_class_name": DDPM, "rescale_betas_zero_snr": True})


def test_departures_and_unread_keys_are_told() -> None:
    notes = " ".join(read_schedule({"_class_name": DDIM_, **TRAILING, "skip_prk": 1}).notes)
    for part in ("beside its trailing grid", "not read skip_prk"):
        assert part in notes
    short = read_schedule({"_class_name": DDPM, "num_train_timesteps": 300})
    assert "21.9%" in " ".join(short.notes)
    assert read_schedule({"_class_name": DDPM}).notes == ()


def test_what_is_not_a_unet2d_is_left_to_other_readers(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert read(tmp_path) is None
    assert read(tmp_path / "config.json") is None
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert read(tmp_path) is None


def test_pipelines_with_more_in_them_are_refused_by_name(tmp_path: Path) -> None:
    index = {
        "_class_name": "LDMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="LDMPipeline of unet UNet2DModel and vqvae"):
        read(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index.json is not JSON"):
        read(tmp_path)


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    config = {"_class_name": "UNet2DModel", **UNET}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has no diffusion_pytorch_model.safetensors or"):
        read(tmp_path)
    pipe = pipeline(outputs=6)
    pipe.save_pretrained(tmp_path / "six")
    with pytest.raises(ValueError, match="out_channels = 6"):
        read(tmp_path / "six")
    unet = pipeline().unet
    unet.register_to_config(sample_size=None)
    unet.save_pretrained(tmp_path / "sizeless")
    with pytest.raises(ValueError, match="no sample_size"):
        read(tmp_path / "sizeless")
