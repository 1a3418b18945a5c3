"""From what was typed to a settled run: what is chosen by itself, and why, and what stands."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.arguments import Sample, Train, UsageError
from sfumato.assembly import settle
from sfumato.config import DataConfig, Run, SamplingConfig
from sfumato.data import ImageData, fingerprint
from sfumato.folder import DataCard, write_card
from sfumato.kinds import dumps, loads, to_dict
from sfumato.networks.describe import flops
from sfumato.networks.sd_unet import SDUNetConfig
from sfumato.networks.unet import UNetConfig
from sfumato.objective import EDMWeight, LogNormalTimes, OutputMSE
from sfumato.planning import check_same, load_data, plan, sampling_with
from sfumato.recipes.own_images import CPU_FLOPS, noise_levels, own_images, patch_for, reasons
from sfumato.recipes.report import network_by_size
from sfumato.solvers import DDIM, Heun
from sfumato.trainer import facts
from tiny import CPU

GPU = torch.device("cuda")  # only named: nothing runs on it


def images(side: int = 32, classes: int = 0, width: int | None = None) -> ImageData:
    """Forty of one grey."""
    pixels = torch.full((40, 3, side, width or side), 128, dtype=torch.uint8)
    labels = torch.arange(40) % classes if classes else None
    return ImageData(pixels, labels, tuple("abcdefgh"[:classes]), "mine", "a test")


def chosen(data: ImageData, preset: str = "small", gpu: bool = False) -> Run:
    return settle(own_images(data, "mine", preset, 0.5, gpu), data)


# ---- what is chosen


@pytest.mark.parametrize(
    ("side", "patch"), [(8, 1), (16, 1), (28, 2), (32, 2), (48, 2), (64, 4), (96, 4), (128, 8)]
)
def test_a_cpu_sees_larger_images_in_larger_squares_at_a_cost_that_stays(
    side: int, patch: int
) -> None:
    run = chosen(images(side))
    assert isinstance(run.network, UNetConfig)
    assert run.network.patch == patch
    assert flops(run.network.build(), (3, side, side)) < 1.2 * CPU_FLOPS


def test_what_noise_does_not_fit_through_gives_the_image() -> None:
    """64 pixels: squares of 48 values, 32 channels. 32 pixels: 12 values. A GPU's has them all."""
    wide, narrow = chosen(images(32)), chosen(images(64))
    assert (wide.parameterization.skip, narrow.parameterization.skip) == (True, False)  # type: ignore[attr-defined]
    assert wide.objective.weight == OutputMSE()  # type: ignore[attr-defined]
    assert narrow.objective.weight == EDMWeight(0.5, most=100.0)  # type: ignore[attr-defined]
    assert "would not fit" not in reasons(wide, images(32), CPU)["detail"]
    assert "would not fit" in reasons(narrow, images(64), CPU)["detail"]
    assert chosen(images(256), gpu=True).parameterization.skip  # type: ignore[attr-defined]
    assert chosen(images(64), "base").parameterization.skip  # type: ignore[attr-defined]


def test_a_misspelt_recipe_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"dit_flw\. Did you mean dit_flow"):
        plan(Train("dit_flw"))


def test_the_larger_side_decides() -> None:
    assert chosen(images(20, width=64)).network.patch == 4  # type: ignore[attr-defined]


def test_presets_cost_more_one_after_the_other() -> None:
    for gpu in (False, True):
        networks = [chosen(images(32), preset, gpu).network for preset in ("tiny", "small", "base")]
        with torch.device("meta"):
            costs = [flops(network.build(), (3, 32, 32)) for network in networks]
        assert costs == sorted(costs)
        assert costs[0] < costs[1] < costs[2]


def test_a_gpu_sees_single_pixels_and_its_base_is_the_reports_table() -> None:
    data = images(32)
    assert [patch_for(side, True) for side in (32, 64, 96, 256, 512)] == [1, 1, 2, 4, 8]
    table = replace(network_by_size(32), noise_scale=250.0, in_channels=3, out_channels=3)
    assert chosen(data, "base", gpu=True).network == table
    assert chosen(data, gpu=True).train.batch > chosen(data).train.batch


def test_noise_levels_are_edms_at_32_pixels_and_move_with_deviation_and_size() -> None:
    assert noise_levels(32, 0.5) == noise_levels(8, 0.5) == LogNormalTimes(-1.2, 1.2)
    assert noise_levels(32, 1.0).mean == pytest.approx(-1.2 + math.log(2), abs=1e-3)
    assert noise_levels(64, 0.5).mean == pytest.approx(-1.2 + math.log(2) / 2, abs=1e-3)
    assert [noise_levels(side, 0.5).std for side in (64, 128, 512)] == [1.4, 1.6, 1.6]


def test_captions_take_the_network_of_emoji_text_and_not_the_classes() -> None:
    run = own_images(images(32, classes=3), "mine", "base", 0.5, captions=True)
    assert isinstance(run.network, SDUNetConfig)
    assert (run.network.channels, run.network.multipliers) == (48, (1, 2, 3))
    assert run.text is not None
    assert run.sampling.guidance == 2.0
    for side in (16, 32, 64, 128):
        network = own_images(images(side), "mine", "tiny", 0.5, captions=True).network
        assert isinstance(network, SDUNetConfig)
        assert network.attention_at == network.factors[-1:]


def test_captions_have_reasons_of_their_own() -> None:
    data = replace(images(64), captions=("a",) * 40)
    run = own_images(data, "mine", "tiny", 0.5, captions=True)
    said = reasons(run, data, CPU)
    assert said["guidance"] == "2, because there are captions"
    assert "--size 32 is much faster; preset tiny," in said["detail"]


# ---- the reasons


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_chosen_is_never_said_to_be_asked_for(preset: str, gpu: bool) -> None:
    data = images(64, classes=3)
    said = reasons(chosen(data, preset, gpu), data, GPU if gpu else CPU)
    assert list(said) == ["detail", "batch", "optimizer", "noise", "guidance", "flip"]
    assert "as asked" not in " ".join(said.values())
    assert f"preset {preset}," in said["detail"]
    assert "64 x 64" in said["detail"]
    assert said["guidance"] == "1.5, because there are 3 classes"


def test_what_is_asked_for_is_said_to_be() -> None:
    data = images(32, classes=3)
    run = chosen(data)
    sampling = replace(run.sampling, guidance=4.0)
    objective = replace(run.objective, times=LogNormalTimes(0.0, 1.0))  # type: ignore[type-var]
    network = replace(run.network, channels=24)  # type: ignore[type-var]
    run = replace(
        run,
        sampling=sampling,
        objective=objective,
        network=network,
        train=replace(run.train, batch=7, muon=False),
        data=replace(run.data, flip=True),
    )
    said = reasons(run, data, CPU)
    assert all("as asked" in text for text in said.values()), said


def test_without_classes_there_is_no_guidance() -> None:
    data = images(32)
    run = chosen(data)
    assert run.sampling.guidance == 1.0
    assert "no classes" in reasons(run, data, CPU)["guidance"]


def test_recipes_give_no_reasons_and_own_images_give_them_before_training() -> None:
    data = images(32, classes=2)
    run = chosen(data)
    assert facts(run, data, CPU, None).items() >= reasons(run, data, CPU).items()
    assert reasons(replace(run, recipe="digits"), data, CPU) == {}


# ---- plan


def folder(path: Path, sides: list[tuple[int, int]], captions: bool = False) -> Path:
    """A picture of noise for each (width, height)."""
    generator = np.random.default_rng(0)
    path.mkdir()
    for number, (width, height) in enumerate(sides):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
        if captions:
            (path / f"{number}.txt").write_text(f"picture {number}")
    return path


def test_settings_of_the_data_count_once_and_before_the_images_are_read(tmp_path: Path) -> None:
    source = str(folder(tmp_path / "mine", [(16, 16)] * 12))
    args = Train(source, device="cpu", settings=("data.size=8", "train.lr=0.5", "data.held_out=3"))
    run, data = plan(args)
    assert data.size == (8, 8)
    assert (run.data.size, run.data.held_out, run.train.lr) == (8, 3, 0.5)
    whole = json.dumps(to_dict(DataConfig(source=source, size=12)))
    run, data = plan(replace(args, settings=(f"data={whole}",)))
    assert data.size == (12, 12)
    assert run.data == DataConfig(source=source, size=12)


def test_a_wrong_field_of_the_data_is_named_as_run_json_has_it() -> None:
    with pytest.raises(ValueError, match=r"run.data has no field 'sice'; did you mean"):
        plan(Train("digits", settings=("data.sice=8",)))


def test_the_part_of_a_set_is_passed_on(tmp_path: Path) -> None:
    x = np.arange(2 * 6 * 8 * 8, dtype=np.uint8).reshape(2, 6, 8, 8)
    np.savez(tmp_path / "two.npz", x_train=x[0], x_test=x[1])
    for index, split in enumerate(("train", "test")):
        data = load_data(DataConfig(source=str(tmp_path / "two.npz"), split=split))
        assert torch.equal(data.images[:, 0], torch.from_numpy(x[index]))
    with pytest.raises(ValueError, match=r"data.split = 'valid'; it is one of train, test"):
        DataConfig(split="valid")


def test_captions_that_are_not_used_are_told_of_and_leave_the_fingerprint(tmp_path: Path) -> None:
    bare = folder(tmp_path / "bare", [(8, 8)] * 12)
    told = folder(tmp_path / "told", [(8, 8)] * 12, captions=True)
    prints = []
    for source in (bare, told):
        _, data = plan(Train(str(source), device="cpu"))
        prints.append(fingerprint(data))
        assert ("--captions trains on them" in data.describe()) == (source == told)
    assert prints[0] == prints[1]
    with pytest.raises(ValueError, match="has no captions to learn from"):
        plan(Train(str(bare), captions=True, device="cpu"))


def test_captions_are_for_images_of_ones_own() -> None:
    with pytest.raises(UsageError, match="--captions is for images of your own; digits is settled"):
        plan(Train("digits", captions=True))


def begun(source: Path, out: Path, size: tuple[int, int]) -> Run:
    """A run's folder as an older version may have left it: another size, another network."""
    run, data = plan(Train(str(source), size=size[0], device="cpu"))
    assert isinstance(run, Run)
    network = replace(run.network, channels=16)  # type: ignore[type-var]
    run = replace(run, network=network, data=replace(run.data, size=None), precision="fp32")
    out.mkdir(parents=True)
    (out / "run.json").write_text(dumps(run))
    write_card(out, DataCard("mine", str(source), fingerprint(data), 12, 3, size, ()))
    return run


@pytest.mark.parametrize("by", ["folder", "command"])
def test_a_run_goes_on_with_the_size_and_the_choices_that_it_began_with(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = folder(tmp_path / "mine", [(40, 36), (36, 40)] * 6)
    out = tmp_path / "runs" / "mine-small"
    before = begun(source, out, (24, 24))
    fresh, data = plan(Train(str(source), device="cpu"))
    assert data.size == (32, 32)  # what would be chosen today
    assert fresh.network != before.network
    going_on = {
        "folder": Train("", config=out / "run.json", resume=True, out=out, device="cpu"),
        "command": Train(str(source), resume=True, device="cpu"),
    }[by]
    run, data = plan(going_on)
    assert data.size == (24, 24)
    assert run == before
    first = load_data(replace(before.data, size=24))
    assert fingerprint(data) == fingerprint(first)


def test_a_run_imported_without_images_says_what_it_needs(tmp_path: Path) -> None:
    run = replace(chosen(images(8)), data=DataConfig(source=""))
    (tmp_path / "run.json").write_text(dumps(run))
    assert loads(dumps(run)) == run
    with pytest.raises(UsageError, match="import it again with --data"):
        plan(Train("", config=tmp_path / "run.json", resume=True, out=tmp_path))


def test_a_run_goes_on_with_as_many_images_at_once_as_it_began_with() -> None:
    saved = chosen(images(8))
    saved = replace(saved, train=replace(saved.train, micro_batch=3))
    same, other = (replace(saved, train=replace(saved.train, micro_batch=n)) for n in (None, 2))
    assert check_same(saved, same) == saved
    assert check_same(saved, other) == other


def test_another_sampler_leaves_diffusers_ways_behind() -> None:
    theirs = SamplingConfig(DDIM(), clipped=True, keep_eps=True)
    assert sampling_with(theirs, Train("x", sampler="ddim")) == theirs
    noisy = replace(theirs, solver=DDIM(eta=1.0))
    assert sampling_with(noisy, Sample("x")).solver == DDIM(eta=1.0)
    assert sampling_with(noisy, Sample("x", eta=0.0)).solver == DDIM(eta=0.0)
    other = sampling_with(theirs, Train("x", sampler="heun"))
    assert (other.solver, other.keep_eps) == (Heun(), False)
