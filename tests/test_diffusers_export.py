"""Runs written for diffusers: its pipelines draw what we draw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.config import DataConfig, Run, SamplingConfig
from sfumato.discrete import CosineBetas, LinearBetas, ScaledLinearBetas, SigmoidBetas
from sfumato.grids import KarrasGrid, LeadingGrid, LinspaceGrid, TrailingGrid
from sfumato.interop.diffusers import read, write
from sfumato.interop.imported import Imported
from sfumato.networks.unet import UNetConfig
from sfumato.objective import Denoising, DiscreteTimes
from sfumato.parameterization import PredictData, PredictNoise, PredictV
from sfumato.process import Karras
from sfumato.solvers import DDIM, Ancestral, Heun, Solver
from sfumato.training import TrainConfig
from test_unet2d import TINY, jiggled

pytest.importorskip("diffusers")
from test_diffusers_pipeline import points, same_noise, seen_images, their_points, tolerance

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers"
)
SHAPE = (3, 8, 8)
RUN = Run(
    name="tiny",
    data=DataConfig(source=""),
    process=LinearBetas(),
    parameterization=PredictNoise(1000, -1),
    objective=Denoising(DiscreteTimes(1000)),
    network=TINY,
    train=TrainConfig(steps=10),
    sampling=SamplingConfig(Ancestral(), TrailingGrid(), steps=8, clipped=True),
    precision="fp32",
)


def of(run: Run) -> Imported:
    """The run with random weights."""
    torch.manual_seed(2)
    weights = jiggled(run.network.build(), by=0.03).state_dict()
    return Imported(run, weights, SHAPE, "a test")


def sampled(**changes: Any) -> dict[str, Any]:
    return {"sampling": replace(RUN.sampling, **changes)}


V = PredictV(1000, -1)
RUNS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("DDPMPipeline", {}, {}),
    ("DDPMPipeline", {"process": CosineBetas()} | sampled(grid=LeadingGrid()), {}),
    ("DDPMPipeline", {"process": SigmoidBetas()} | sampled(grid=LinspaceGrid()), {}),
    ("DDPMPipeline", {"process": LinearBetas(500), "parameterization": PredictNoise(500, -1)}, {}),
    ("DDPMPipeline", {"process": LinearBetas(zero_terminal_snr=True), "parameterization": V}, {}),
    (
        "DDPMPipeline",
        {"process": ScaledLinearBetas(beta_end=0.03), "parameterization": PredictData(1000, -1)}
        | sampled(solver=Ancestral(1.0), grid=LeadingGrid(0)),
        {},
    ),
    (
        "DDPMPipeline",
        {"learned_variance": True, "network": replace(TINY, out_channels=6)}
        | sampled(solver=Ancestral(None), grid=LeadingGrid()),
        {},
    ),
    ("DDIMPipeline", sampled(solver=DDIM(), clipped=False), {}),
    ("DDIMPipeline", sampled(solver=DDIM()), {"use_clipped_model_output": True}),
    ("DDIMPipeline", sampled(solver=DDIM(), keep_eps=True), {}),
    ("DDIMPipeline", sampled(solver=DDIM(0.5), clipped=False), {"eta": 0.5}),
]


@pytest.mark.parametrize(("name", "changes", "options"), RUNS)
def test_a_written_folder_draws_the_same_in_diffusers(
    name: str,
    changes: dict[str, Any],
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import diffusers

    import peers

    mine = of(replace(RUN, **changes))
    write(tmp_path / "out", mine.run, mine.weights, SHAPE)
    pipe = getattr(diffusers, name).from_pretrained(tmp_path / "out")
    same_noise(monkeypatch, mine)
    theirs, images = their_points(pipe, **options)
    ours = points(mine)
    assert peers.difference(ours, theirs) <= tolerance(mine.run)
    near = tolerance(mine.run) / 2 * ours[-1].abs().max().clamp(min=1)
    assert (seen_images(ours[-1]) - images).abs().max() <= near


@pytest.mark.parametrize(("name", "changes", "options"), RUNS)
def test_a_written_folder_is_read_back_as_it_was(
    name: str, changes: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    mine = of(replace(RUN, **changes))
    write(tmp_path / "out", mine.run, mine.weights, SHAPE)
    back = read(tmp_path / "out")
    assert back is not None
    assert back.shape == SHAPE
    assert torch.equal(back.run.process.betas(), mine.run.process.betas())  # type: ignore[attr-defined]
    assert back.run.parameterization == mine.run.parameterization
    assert back.run.learned_variance == mine.run.learned_variance
    assert back.run.network == replace(mine.run.network, out_channels=back.run.network.out_channels)  # type: ignore[type-var]
    assert all(torch.equal(back.weights[key], mine.weights[key]) for key in mine.weights)
    if not options:
        assert replace(back.run.sampling, steps=8) == mine.run.sampling


def test_classes_survive_the_way_out_and_back(tmp_path: Path) -> None:
    mine = of(replace(RUN, network=replace(TINY, classes=4)))
    notes = write(tmp_path / "out", mine.run, mine.weights, SHAPE)
    back = read(tmp_path / "out")
    assert back is not None
    assert back.run.network.classes == 4
    assert any("passes no labels" in note for note in notes)
    import diffusers

    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    network = mine.run.network.build().eval()
    network.load_state_dict(mine.weights)
    x, level = torch.randn(2, *SHAPE), torch.tensor([3.0, 900.0])
    with torch.no_grad():
        theirs = unet(x, level, torch.tensor([1, 4])).sample
        assert (network(x, level, torch.tensor([1, 4])) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"network": UNetConfig()}, "network is a UNetConfig; runs with a UNet2DConfig"),
        ({"codec": "an autoencoder"}, "codec is an autoencoder; only runs on pixels"),
        ({"process": Karras()}, "Runs on LinearBetas, ScaledLinearBetas"),
        ({"process": CosineBetas(offset=0.01)}, "no name for the betas"),
        ({"process": LinearBetas(15), "parameterization": PredictNoise(15, -1)}, "no name for the"),
        ({"parameterization": PredictNoise()}, "time_scale=1000, time_offset=-1 can be exported"),
        ({"network": replace(TINY, noise_scale=2.0)}, "noise_scale is 2"),
        ({"network": replace(TINY, fourier=True)}, "fourier=True"),
        ({"process": SigmoidBetas()} | sampled(solver=DDIM()), "no sigmoid betas"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_diffusers_has_no_name_for_is_refused(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        write(tmp_path / "out", replace(RUN, **changes), {}, SHAPE)
    assert not (tmp_path / "out").exists()


def test_sizes_that_are_padded_here_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 2 only"):
        write(tmp_path / "out", RUN, {}, (3, 8, 7))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="holds files already"):
        write(tmp_path, RUN, {}, SHAPE)


@pytest.mark.parametrize(
    ("solver", "keep_eps", "said"),
    [
        (DDIM(), False, "use_clipped_model_output=True"),
        (DDIM(), True, ""),
        (Ancestral(), True, "keeps eps where x0 is clipped (keep_eps); diffusers' DDPMScheduler"),
        (Ancestral(), False, ""),
    ],
)
def test_clipping_that_diffusers_must_be_told_of_is_named(
    solver: Solver, keep_eps: bool, said: str, tmp_path: Path
) -> None:
    sampling = replace(RUN.sampling, solver=solver, keep_eps=keep_eps)
    mine = of(replace(RUN, sampling=sampling))
    notes = " ".join(write(tmp_path / "out", mine.run, mine.weights, SHAPE))
    assert said in notes
    assert said or "clip" not in notes


def test_what_stands_for_another_sampler_is_told(tmp_path: Path) -> None:
    mine = of(replace(RUN, sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18)))
    notes = " ".join(write(tmp_path / "out", mine.run, mine.weights, SHAPE))
    for part in ("DDIM stands for it", "trailing spacing stands", "num_inference_steps=18"):
        assert part in notes
