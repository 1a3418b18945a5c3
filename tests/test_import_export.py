"""sfumato import and export, from what was typed to the files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfumato import checkpoint
from sfumato.assembly import build
from sfumato.checkpoint import optimizer_tensors
from sfumato.commands.import_ import read_any, state_of
from sfumato.folder import read_card
from sfumato.interop.imported import Imported
from sfumato.kinds import dumps, loads
from sfumato.networks.unet2d import UNet2DConfig
from sfumato.training import TrainState
from test_unet2d import TINY, jiggled
from tiny import CPU

pytest.importorskip("diffusers")
from test_diffusers_export import RUN, SHAPE, of

Command = Callable[..., str]


def pipeline(folder: Path, classes: int = 0) -> dict[str, torch.Tensor]:
    """A pipeline's folder, saved by diffusers; the weights in it."""
    import diffusers

    from test_diffusers_pipeline import UNET

    unet = diffusers.UNet2DModel(**UNET, num_class_embeds=classes or None)
    diffusers.DDIMPipeline(jiggled(unet), diffusers.DDIMScheduler()).save_pretrained(folder)
    return unet.state_dict()


def test_the_network_is_part_of_run_json() -> None:
    assert loads(dumps(RUN)) == RUN
    assert isinstance(loads(dumps(RUN)).network, UNet2DConfig)


def test_import_sample_export(sfumato: Command, tmp_path: Path) -> None:
    import diffusers

    weights = pipeline(tmp_path / "theirs")
    printed = sfumato("import", "theirs", "--name", "mine")
    assert "UNet2DConfig of " in printed
    assert "Next: sfumato sample runs/mine" in printed
    run = loads((tmp_path / "runs/mine/run.json").read_text())
    assert run.name == "mine"
    card = read_card(tmp_path / "runs/mine")
    assert (card.shape, card.images, card.fingerprint) == (SHAPE, 0, "")
    sfumato("sample", "mine", "--count", "2", "--steps", "2", "--device", "cpu", "--no-film")
    assert list((tmp_path / "runs/mine").glob("drawn*/samples.png"))
    printed = sfumato("export", "mine", "--format", "diffusers")
    assert "average weights, written to runs/mine/diffusers" in printed
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "runs/mine/diffusers")
    assert pipe.unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(pipe.unet.state_dict()[name], weights[name]) for name in weights)
    before = json.loads((tmp_path / "theirs/scheduler/scheduler_config.json").read_text())
    assert (
        dict(pipe.scheduler.config).items()
        >= {key: value for key, value in before.items() if not key.startswith("_")}.items()
    )


def pictures(folder: Path) -> None:
    """Forty-two, 8 x 8, in three classes."""
    generator = np.random.default_rng(0)
    for number in range(42):
        path = folder / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def test_an_imported_run_goes_on_where_the_data_are_known(sfumato: Command, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    pipeline(tmp_path / "theirs", classes=3)
    sfumato("import", "theirs", "--data", "pictures", "--out", "here")
    card = read_card(tmp_path / "here")
    assert (card.class_names, card.images) == (("a", "b", "c"), 42)
    quick = ("--previews", "0", "--sample-steps", "2", "--device", "cpu", "--micro-batch", "16")
    printed = sfumato("train", "here", "--steps", "2", *quick)
    assert "goes on at step 0" in printed
    assert "Done: 2 steps" in printed


def test_data_of_another_shape_are_refused(sfumato: Command, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    pipeline(tmp_path / "theirs", classes=2)
    with pytest.raises(SystemExit, match=r"in 3 classes; the model is for \(3, 8, 8\) in 2"):
        sfumato("import", "theirs", "--data", "pictures")
    assert not (tmp_path / "runs").exists()


def test_what_is_there_is_not_overwritten(sfumato: Command, tmp_path: Path) -> None:
    pipeline(tmp_path / "theirs")
    (tmp_path / "here").mkdir()
    with pytest.raises(SystemExit, match="is there already"):
        sfumato("import", "theirs", "--out", "here")
    sfumato("import", "theirs", "--quiet")
    with pytest.raises(SystemExit, match="is there already"):
        sfumato("export", "last", "--out", "here")


def test_what_is_unknown_is_named(sfumato: Command, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(SystemExit, match=r"is of no known format\. These can be imported: a diff"):
        sfumato("import", "odd.safetensors")
    with pytest.raises(SystemExit, match="nowhere is not there"):
        sfumato("import", "nowhere")


def test_a_run_without_a_counterpart_is_refused_and_leaves_nothing(
    sfumato: Command, tmp_path: Path
) -> None:
    pipeline(tmp_path / "theirs")
    sfumato("import", "theirs", "--name", "mine")
    path = tmp_path / "runs/mine/run.json"
    run = loads(path.read_text())
    path.write_text(dumps(replace(run, parameterization=type(run.parameterization)())))
    with pytest.raises(SystemExit, match="time_scale=1000, time_offset=-1 can be exported"):
        sfumato("export", "mine")
    assert not (tmp_path / "runs/mine/diffusers").exists()


def test_step_average_and_moments_are_those_that_were_read() -> None:
    found = of(RUN)
    torch.manual_seed(4)
    average = jiggled(TINY.build()).state_dict()
    moments = {}
    for name, parameter in TINY.build().named_parameters():
        moments[f"{name}.step"] = torch.tensor(7.0)
        moments[f"{name}.exp_avg"] = torch.randn(parameter.shape)
        moments[f"{name}.exp_avg_sq"] = torch.rand(parameter.shape)
    state = state_of(RUN, replace(found, average=average, moments=moments, step=7))
    assert state.step == 7
    fresh = TrainState.fresh(build(RUN, CPU), RUN.train)
    checkpoint.restore(fresh, checkpoint.files_of(state))
    read, _ = optimizer_tensors(fresh)
    assert read.keys() == {f"network.{name}" for name in moments}
    assert all(torch.equal(read[f"network.{name}"], moments[name]) for name in moments)
    for module, wanted in ((fresh.model, found.weights), (fresh.average, average)):
        values = module.state_dict()
        assert all(torch.equal(values[f"network.{name}"], wanted[name]) for name in wanted)


def test_weights_stand_for_an_average_that_is_not_there() -> None:
    state = state_of(RUN, of(RUN))
    model, average = state.model.state_dict(), state.average.state_dict()
    assert all(torch.equal(model[name], average[name]) for name in model)


def test_the_first_reader_that_knows_the_format_reads(tmp_path: Path) -> None:
    pipeline(tmp_path)
    assert isinstance(read_any(tmp_path), Imported)
