"""denoising-diffusion-pytorch: its U-Net, its files, and a run of it that goes on here.

tests/lucid.json holds what version 2.3.4 computes; scripts/record_lucid.py made it, and says how.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.assembly import build
from sfumato.checkpoint import load_optimizer, optimizer_tensors
from sfumato.config import Run
from sfumato.denoiser import NetworkDenoiser
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.interop import lucid
from sfumato.interop.imported import Imported
from sfumato.interop.lucid_shapes import config_of
from sfumato.networks.lucid import LucidUNetConfig
from sfumato.noising import ScaledInput, SigmoidSignal
from sfumato.objective import Denoising, DiscreteTimes, MinSNR, OutputMSE
from sfumato.parameterization import PredictData, PredictNoise, PredictV
from sfumato.process import Karras
from sfumato.training import TrainState
from tiny import CPU

SCRIPT = Path(__file__).parents[1] / "scripts" / "record_lucid.py"
RECORD = json.loads(Path(__file__).with_name("lucid.json").read_text())
TINY = LucidUNetConfig(channels=8, multipliers=(1, 2))
OURS = {
    "plain": TINY,
    "three levels": replace(TINY, multipliers=(1, 2, 3), full_attention_at=(1,)),
    "one channel": replace(TINY, in_channels=1, stem_channels=12, out_channels=2),
    "heads": replace(TINY, heads=(2, 3), head_channels=(4, 6)),
    "fourier": replace(TINY, fourier_features=6),
    "self-condition": replace(TINY, self_condition=True),
}
SCHEDULES = {
    "linear": LinearBetas(50),
    "cosine": CosineBetas(50),
    "sigmoid": SigmoidSignal(50),
}
OBJECTIVES = {"pred_noise": PredictNoise, "pred_x0": PredictData, "pred_v": PredictV}


def script():
    """The recorder, for its patterns: nothing of the peer is imported with it."""
    spec = importlib.util.spec_from_file_location("record_lucid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recorder = script()


def settings(key):
    """The process, the prediction and the weight that a key of the record's losses names."""
    schedule, objective, *clamped = key.split()
    unclamped = OutputMSE() if objective == "pred_noise" else MinSNR(float("inf"))
    predicts = OBJECTIVES[objective](time_scale=50.0, time_offset=-1.0)
    return SCHEDULES[schedule], predicts, MinSNR(5.0) if clamped else unclamped


def imported(config=TINY, process=SCHEDULES["sigmoid"], predicts=None, weight=None, step=30):
    """A model as the reader would hand it over, with weights, average and moments of patterns."""
    predicts = predicts or PredictV(time_scale=50.0, time_offset=-1.0)
    weights, average = (recorder.filled(config.build()).state_dict() for _ in range(2))
    average = {name: value / 2 for name, value in average.items()}
    tree = {"opt": {"param_groups": [{"lr": 3e-4, "betas": [0.8, 0.9]}]}}
    moments = {}
    for name, value in config.build().named_parameters():
        moments[f"network.{name}.step"] = torch.tensor(float(step))
        moments[f"network.{name}.exp_avg"] = recorder.pattern(tuple(value.shape), 0.7).float()
        moments[f"network.{name}.exp_avg_sq"] = recorder.pattern(tuple(value.shape), 0.8).float()
    run = Run(
        name="model-1",
        data=lucid.DataConfig(source="", size=16, channels=config.in_channels, labels=False),
        process=process,
        parameterization=predicts,
        objective=Denoising(DiscreteTimes(50), weight or MinSNR(float("inf"))),
        network=config,
        train=lucid.train_config(tree, step),
        sampling=lucid.SamplingConfig(lucid.Ancestral(), lucid.UniformGrid(), 50, clipped=True),
        precision="fp32",
    )
    shape = (config.in_channels, 16, 16)
    return Imported(run, weights, shape, "model-1.pt", average, (), step, moments)


def equal(first, second):
    return set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)


# The network


@pytest.mark.parametrize("name", OURS)
def test_outputs_are_those_of_the_package(name):
    network = recorder.filled(OURS[name].build())
    x = recorder.pattern((2, OURS[name].in_channels, 8, 12), 0.1).float()
    level = torch.tensor([3.0, 0.25 if name == "fourier" else 417.0])
    estimate = recorder.pattern(tuple(x.shape), 0.2).float() if "self" in name else None
    with torch.no_grad():
        output = network(x, level, None, estimate).double().flatten()[::7]
    wanted = torch.tensor(RECORD["outputs"][name], dtype=torch.float64)
    torch.testing.assert_close(output, wanted, rtol=0, atol=1e-5)


def test_keys_shapes_and_their_order_are_those_of_the_package():
    """In order too: Adam's moments are numbered by it."""
    ours = {key: list(value.shape) for key, value in LucidUNetConfig().build().state_dict().items()}
    assert list(ours.items()) == list(RECORD["shapes"].items())


@pytest.mark.parametrize("name", OURS)
def test_shapes_alone_give_the_settings_back(name):
    with torch.device("meta"):
        weights = OURS[name].build().state_dict()
    outputs = OURS[name].out_channels or OURS[name].in_channels
    assert config_of(weights) == replace(OURS[name], out_channels=outputs)


def test_group_norm_of_version_1_9_is_told_by_its_keys():
    config = replace(TINY, groups=8, out_channels=3)
    with torch.device("meta"):
        weights = config.build().state_dict()
    assert "downs.0.0.block1.norm.bias" in weights
    assert config_of(weights) == config


def test_weights_of_another_network_are_refused_by_name():
    with torch.device("meta"):
        weights = TINY.build().state_dict()
    odd = {**weights, "mid_attn.to_qkv.weight": torch.zeros(3)}
    with pytest.raises(
        ValueError, match=r"1 weights do not fit .*mid_attn\.to_qkv\.weight: \(3,\)"
    ):
        config_of(odd)
    with pytest.raises(ValueError, match=r"downs\.0\.2\.mem_kv' is missing"):
        config_of({k: v for k, v in weights.items() if "mem_kv" not in k})


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (28, 28)], ids=str)
def test_any_size_comes_back_as_it_went_in(size):
    network = replace(TINY, multipliers=(1, 1, 2), classes=3).build().eval()
    x = torch.randn(2, 3, *size)
    output = network(x, torch.tensor([0.0, 999.0]), torch.tensor([0, 3]))
    assert output.shape == x.shape
    assert output.isfinite().all()


def test_no_class_is_the_last_label_and_classes_matter():
    network = recorder.filled(replace(TINY, classes=3).build())
    x, level = recorder.pattern((2, 3, 4, 4), 0.0).float(), torch.tensor([3.0, 9.0])
    none, last, first = (
        network(x, level, cond) for cond in (None, torch.tensor([3, 3]), torch.tensor([0, 0]))
    )
    assert torch.equal(none, last)
    assert not torch.allclose(none, first)
    with pytest.raises(ValueError, match="without classes"):
        TINY.build()(x, level, torch.tensor([0, 0]))


def test_autocast_to_bf16_is_close():
    network = recorder.filled(TINY.build())
    x, level = recorder.pattern((2, 3, 8, 8), 0.0).float(), torch.tensor([3.0, 9.0])
    exact = network(x, level)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, level).float()
    assert (rough - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multipliers": ()}, "multipliers"),
        ({"heads": (1, 2, 3)}, "heads is"),
        ({"full_attention_at": (2,)}, "levels run from 0 to 1"),
        ({"channels": 9}, "even number"),
        ({"fourier_features": 3}, "fourier_features is 3"),
        ({"groups": 3}, "does not divide"),
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes).build()


# The processes


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_left_is_that_of_the_package(name):
    ours = SCHEDULES[name].log_alpha_bar[1:].exp()
    theirs = torch.tensor(RECORD["losses"][f"{name} alpha_bar"], dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=0)


@pytest.mark.parametrize("steps", [20, 250, 1000])
@pytest.mark.parametrize("kind", [CosineBetas, SigmoidSignal, LinearBetas])
def test_schedules_are_known_by_their_table(kind, steps):
    if (kind, steps) == (LinearBetas, 20):
        pytest.skip("its last beta would be 1")
    assert lucid.process_of(kind(steps).betas().float()) == kind(steps)


def test_other_parameters_of_the_sigmoid_are_known_and_other_tables_refused():
    process = SigmoidSignal(100, 0.0, 3.0, 0.3)
    assert lucid.process_of(process.betas().float()) == process
    with pytest.raises(ValueError, match="none of the linear, cosine and sigmoid"):
        lucid.process_of(torch.linspace(0.001, 0.5, 100))


def test_sigmoid_signal_is_its_formula_and_a_weaker_input_is_more_noise():
    t = torch.tensor(0.3, dtype=torch.float64)
    for start, tau in ((-3.0, 1.0), (-3.0, 0.3), (0.0, 0.7)):
        points = torch.tensor([start, start + 0.3 * (3 - start), 3.0], dtype=torch.float64)
        low, here, high = torch.sigmoid(points / tau)
        found = SigmoidSignal(1000, start, 3.0, tau).alpha(t) ** 2
        torch.testing.assert_close(found, (high - here) / (high - low), rtol=1e-9, atol=0)
    weak = ScaledInput(LinearBetas(), 0.25)
    torch.testing.assert_close(weak.ratio(t), 4 * LinearBetas().ratio(t))
    torch.testing.assert_close(weak.time_at(weak.log_snr(t)), t)
    assert weak.alpha(t) == LinearBetas().alpha(t)
    with pytest.raises(ValueError, match="above 0"):
        ScaledInput(LinearBetas(), 0.0)


# The files


LOSSES = [key for key in RECORD["losses"] if "alpha_bar" not in key]


@pytest.mark.parametrize("key", LOSSES)
def test_losses_are_those_of_the_package_after_its_tables_were_read(key):
    """Image by image, for every schedule, prediction and weight, to 1e-5 of the loss."""
    process, predicts, weight = settings(key)
    tables = lucid.tables_of(process, predicts, Denoising(DiscreteTimes(50), weight))
    assert lucid.process_of(tables["betas"]) == process
    assert lucid.training_of(process, tables["loss_weight"]) == (predicts, weight)
    denoiser = NetworkDenoiser(recorder.filled(TINY.build()), process, predicts)
    x0, eps = (recorder.pattern((8, 3, 8, 8), phase).float() for phase in (0.3, 0.4))
    u = (torch.tensor([0, 1, 2, 10, 25, 40, 48, 49], dtype=torch.float64) + 0.5) / 50
    with torch.no_grad():
        losses = Denoising(DiscreteTimes(50), weight)(denoiser, x0, None, u, eps)
    wanted = torch.tensor(RECORD["losses"][key], dtype=torch.float64)
    torch.testing.assert_close(losses.double(), wanted, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("name", OURS)
def test_a_written_file_reads_back_whole(name, tmp_path):
    config = OURS[name]
    config = replace(config, out_channels=config.in_channels)  # the next test has twice as many
    model = imported(config)
    path = tmp_path / "model-1.pt"
    torch.save(lucid.state_dict_of(model), path)
    back = lucid.read(path, 16)
    assert back.run == model.run
    assert (back.step, back.shape) == (30, (config.in_channels, 16, 16))
    assert equal(back.weights, model.weights)
    assert equal(back.average, model.average)
    assert equal(back.moments, model.moments)


def test_a_learned_variance_is_told_by_twice_as_many_channels(tmp_path):
    model = imported(replace(TINY, out_channels=6), predicts=PredictNoise(50.0, -1.0))
    torch.save(lucid.state_dict_of(model), tmp_path / "model-1.pt")
    back = lucid.read(tmp_path / "model-1.pt")
    assert back.run.learned_variance
    assert back.run.objective.vlb_weight * 50 == pytest.approx(0.001)
    assert back.shape == (3, 16, 16)
    assert any("16 x 16 is a guess" in note for note in back.notes)


def test_an_imported_run_goes_on_with_its_moments(tmp_path):
    model = imported()
    state = TrainState.fresh(build(model.run, CPU), model.run.train)
    load_optimizer(state, model.moments, state.optimizer.state_dict()["param_groups"])
    assert equal(optimizer_tensors(state)[0], model.moments)
    assert model.run.train.weight_decay == 0
    assert model.run.train.betas == (0.8, 0.9)
    assert model.run.train.lr_at(30, 0.0) == 3e-4


def test_moments_that_do_not_fit_are_left_out_with_a_note(tmp_path):
    tree = lucid.state_dict_of(imported())
    del tree["opt"]["state"][3], tree["ema"]
    torch.save(tree, tmp_path / "model-1.pt")
    back = lucid.read(tmp_path / "model-1.pt", 16)
    assert back.moments is None
    assert back.average is None
    assert sum("starts anew" in note or "no average" in note for note in back.notes) == 2


def test_files_of_other_programs_are_not_claimed(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    assert lucid.read(tmp_path / "other.pt") is None
    assert lucid.read(tmp_path) is None


def test_what_the_package_does_not_have_is_refused():
    model = imported()
    with pytest.raises(ValueError, match="a table of betas"):
        lucid.state_dict_of(replace(model, run=replace(model.run, process=Karras())))
    labelled = replace(model.run, network=replace(TINY, classes=2))
    with pytest.raises(ValueError, match="no class labels"):
        lucid.state_dict_of(replace(model, run=labelled))


@pytest.mark.parametrize(
    ("network", "told", "words"),
    [
        ({}, {"time_scale": 1000.0}, "time_scale=1000, not 50"),
        ({}, {"time_offset": 0.0}, "time_offset=0, not -1"),
        ({"noise_scale": 20.0}, {}, "noise_scale=20, not 1"),
        ({"longest": 100.0}, {}, "longest=100, not 10000"),
        ({"groups": 4}, {}, "groups=4, not 8"),
    ],
)
def test_what_the_package_would_compute_otherwise_is_refused(network, told, words):
    model = imported()
    predicts = replace(model.run.parameterization, **told)
    run = replace(model.run, network=replace(TINY, **network), parameterization=predicts)
    with pytest.raises(ValueError, match=words):
        lucid.state_dict_of(replace(model, run=run))


# With the package itself, where it is installed


def peer(*arguments):
    """Run the recorder beside the package; skip where that is not there."""
    if importlib.util.find_spec("denoising_diffusion_pytorch") is None:
        pytest.skip("denoising-diffusion-pytorch is not installed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_record_is_what_the_package_computes(tmp_path):
    peer("record", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["shapes"] == RECORD["shapes"]
    for part in ("outputs", "losses"):
        for key, numbers in RECORD[part].items():
            assert again[part][key] == pytest.approx(numbers, rel=1e-5, abs=1e-6), key


@pytest.mark.slow
def test_a_run_of_its_trainer_goes_on_here(tmp_path):
    """After 30 steps of theirs: the same loss on the same batch, times and noise, and a file."""
    peer("train", tmp_path)
    model = lucid.read(tmp_path / "model-1.pt", 8)
    probe = torch.load(tmp_path / "probe.pt", weights_only=True)
    for name, weights in (("weights", model.weights), ("average", model.average)):
        denoiser = build(model.run, CPU).eval()
        denoiser.network.load_state_dict(weights)
        u = (probe["times"].double() + 0.5) / model.run.process.steps
        with torch.no_grad():
            losses = model.run.objective(denoiser, probe["batch"], None, u, probe["eps"])
        torch.testing.assert_close(losses, probe[name], rtol=1e-5, atol=1e-8)
    theirs = torch.load(tmp_path / "model-1.pt", weights_only=True)
    ours = lucid.state_dict_of(model)
    for part in ("model", "ema"):
        assert set(ours[part]) == set(theirs[part])
        for key, value in theirs[part].items():
            torch.testing.assert_close(ours[part][key], value, rtol=1e-5, atol=1e-6)
    assert ours["opt"]["param_groups"] == theirs["opt"]["param_groups"]
    assert len(ours["opt"]["state"]) == len(theirs["opt"]["state"])
