"""run.json: the settings come back as they were, and a mistake is named where it is."""

import dataclasses
import json
from dataclasses import replace

import pytest
import torch

from sfumato.bound import Hybrid, VariationalBound
from sfumato.classification import ClassifierLoss
from sfumato.config import DataConfig, Run
from sfumato.discrete import CosineBetas
from sfumato.kinds import KINDS, dumps, from_dict, loads, override, to_dict
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.networks.classifier import ClassifierConfig
from sfumato.objective import Denoising, MinSNR, UniformTimes
from sfumato.process import Karras
from sfumato.recipes import RECIPES
from sfumato.reconstruction import ReconstructionLoss
from sfumato.schedules import CosineDecay
from sfumato.solvers import Churn, Heun
from sfumato.training import TrainConfig

NEEDED = {
    "Denoising": {"times": UniformTimes()},
    "Churn": {"solver": Heun(), "amount": 0.2},
    "TrainConfig": {"steps": 5},
    "TunedGrid": {"ratios": (2.0, 0.5)},
    "TunedSolver": {"rows": ((1.0,), (-0.5, 1.5))},
    "ImportanceSampled": {"objective": VariationalBound(50), "steps": 50},
}
COMMON = {"name": "x", "data": DataConfig(), "train": TrainConfig(steps=5)}
NEEDED_BY_RUNS = {
    "AutoencoderRun": {"objective": ReconstructionLoss(), "network": AutoencoderConfig()},
    "ClassifierRun": {
        "process": Karras(),
        "objective": ClassifierLoss(),
        "network": ClassifierConfig(),
    },
}


@pytest.mark.filterwarnings("ignore::sfumato.discrete.SignalLeftWarning")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_survives_json(kind):
    if kind == "Run":
        value = RECIPES["digits"]()
    else:
        common = COMMON if kind in NEEDED_BY_RUNS else {}
        value = KINDS[kind](**common, **NEEDED_BY_RUNS.get(kind, {}), **NEEDED.get(kind, {}))
    again = from_dict(json.loads(json.dumps(to_dict(value))))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_builds_and_survives(name):
    run = RECIPES[name]()
    assert run.recipe == name
    assert loads(dumps(run)) == run
    with torch.device("meta"):  # shapes without numbers: 380 M weights take no time
        run.network.build()


def test_infinity_and_nested_values_survive_strict_json():
    run = RECIPES["digits"]()
    solver = Churn(Heun(), 0.3)
    run = replace(run, sampling=replace(run.sampling, solver=solver), objective=Hybrid(steps=500))
    text = dumps(run)
    assert "Infinity" not in text  # which is no JSON
    assert loads(text) == run
    assert loads(text).sampling.solver.max_ratio == float("inf")


def test_every_field_of_a_run_can_be_overridden():
    run = RECIPES["digits"]()
    assert override(run, "train.lr", "3e-4").train.lr == 3e-4
    assert override(run, "train.lr", "1").train.lr == 1.0
    assert type(override(run, "train.lr", "1").train.lr) is float
    assert override(run, "network.multipliers", "[1, 2, 2]").network.multipliers == (1, 2, 2)
    assert override(run, "process", "CosineBetas").process == CosineBetas()
    wanted = '{"kind": "CosineBetas", "steps": 500}'
    assert override(run, "process", wanted).process == CosineBetas(steps=500)
    assert override(run, "train.decay", "CosineDecay").train.decay == CosineDecay()
    assert override(run, "objective.weight", "MinSNR").objective == replace(
        run.objective, weight=MinSNR()
    )
    assert override(run, "learned_variance", "true").learned_variance is True
    assert override(run, "data.size", "None").data.size is None
    assert override(run, "data.source", "my pictures").data.source == "my pictures"


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("train.lrr", "1", r"run\.train has no field 'lrr'; did you mean lr\?"),
        ("trian.lr", "1", r"run has no field 'trian'; did you mean train\?"),
        ("train.lr", "fast", r"run\.train\.lr = 'fast'; float is wanted"),
        ("train.steps", "1.5", r"run\.train\.steps = 1\.5; int or NoneType is wanted"),
        ("train.steps", "true", r"run\.train\.steps = True; int or NoneType"),
        ("train.lr.x", "1", r"run\.train\.lr is .*, which has no fields"),
        ("process", "Heun", r"run\.process = Heun\(\); LinearVP or .*CosineBetas or .* is wanted"),
        ("process", "CosineBeta", r"run\.process = 'CosineBeta'; LinearVP or "),
        ("precision", "fp8", r"precision = 'fp8'; it is one of auto, fp32, bf16"),
    ],
)
def test_a_wrong_override_says_where_and_what_is_wanted(path, text, message):
    with pytest.raises(ValueError, match=message):
        override(RECIPES["digits"](), path, text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Rum"}, "no kind 'Rum' is known; did you mean Run"),
        ({"trian": 1}, "Run has no field 'trian'; did you mean train"),
        (
            {"network": {"kind": "UNetConfig", "chanels": 3}},
            "run.network: .*'chanels'; did you mean",
        ),
        ({"learned_variance": 1}, "run.learned_variance = 1; bool is wanted"),
        ({"name": None}, "run.name = None; str is wanted"),
    ],
)
def test_a_wrong_file_says_where(change, message):
    settings = {**to_dict(RECIPES["digits"]()), **change}
    with pytest.raises(ValueError, match=message):
        loads(json.dumps(settings))


def test_a_missing_field_is_named():
    settings = to_dict(RECIPES["digits"]())
    del settings["objective"]
    with pytest.raises(ValueError, match="objective"):
        loads(json.dumps(settings))


def test_a_file_of_something_else_is_refused():
    with pytest.raises(ValueError, match="describes a CosineBetas, not a Run"):
        loads(json.dumps(to_dict(CosineBetas())))


def test_settings_are_frozen_all_the_way_down():
    def walk(value):
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen, type(value)
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        else:
            assert isinstance(value, int | float | str | bool | tuple | None)

    walk(RECIPES["digits"]())
    assert isinstance(RECIPES["digits"]().objective, Denoising)
    assert isinstance(RECIPES["digits"](), Run)
