"""Each format in by sfumato import and out by sfumato export: the same model, the same pictures."""

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
from sfumato.commands.import_ import FILES, read_any, state_of
from sfumato.config import DataConfig, Run, SamplingConfig
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.folder import DataCard, read_card, write_card
from sfumato.interop import dit, lucid
from sfumato.interop.dit_layouts import to_original
from sfumato.kinds import dumps, loads
from sfumato.latents import AutoencoderCodec, save_codec
from sfumato.loading import load_run
from sfumato.networks.autoencoder import AutoencoderConfig
from sfumato.networks.dit import DiTConfig
from sfumato.networks.lucid import LucidUNetConfig
from sfumato.objective import Denoising, DiscreteTimes, MinSNR
from sfumato.parameterization import PredictNoise, PredictV
from sfumato.solvers import Ancestral
from sfumato.training import TrainConfig, TrainState
from small_networks import alive
from tiny import CPU, SHARED

Command = Callable[..., str]
INDEX = PredictNoise(1000, -1)
V = PredictV(1000, -1)
DIT = DiTConfig(in_channels=3, out_channels=3, patch=2, depth=1, width=384, heads=6, classes=4)
LATENT = replace(DIT, in_channels=4, out_channels=8)
UNET = LucidUNetConfig(channels=8, multipliers=(1, 2), heads=(2,), head_channels=(4,))
QUICK = ("--count", "2", "--steps", "2", "--device", "cpu", "--no-film")


def run_of(network: object, **changes: object) -> Run:
    run = Run(
        name="mine",
        data=DataConfig(source="", labels=False),
        process=LinearBetas(1000),
        parameterization=INDEX,
        objective=Denoising(DiscreteTimes(1000)),
        network=network,  # type: ignore[arg-type]
        train=TrainConfig(steps=10),
        sampling=SamplingConfig(Ancestral(), steps=8, clipped=True),
        precision="fp32",
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def trained(folder: Path, run: Run, size: int = 8) -> TrainState:
    """A run's folder after a step, with an average that is not the weights, and moments."""
    torch.manual_seed(3)
    state = TrainState.fresh(build(run, CPU), run.train)
    for model in (state.model, state.average):
        model.network.load_state_dict(alive(run.network.build()).float().state_dict())  # type: ignore[union-attr, operator]
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    state.step = 1
    folder.mkdir(parents=True)
    names = tuple(str(number) for number in range(run.network.classes))
    write_card(folder, DataCard("mine", "a test", "", 0, 3, (size, size), names))
    checkpoint.write(folder, state, keep=1)
    (folder / "run.json").write_text(dumps(run))
    return state


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {name.removeprefix("network."): value.clone() for name, value in state.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# ---- out, and in again


def test_a_dit_goes_out_to_its_authors_and_comes_back(sfumato: Command, tmp_path: Path) -> None:
    state = trained(tmp_path / "runs/mine", run_of(DIT))
    printed = sfumato("export", "mine", "--format", "dit")
    assert "DiT(input_size=8, patch_size=2, in_channels=3, hidden_size=384, depth=1" in printed
    assert "num_heads=6, mlp_ratio=4, num_classes=4, learn_sigma=False)" in printed
    file = tmp_path / "runs/mine/dit/model.pt"
    written = torch.load(file, weights_only=True)
    assert written["pos_embed"].shape == (1, 16, 384)
    back = read_any(file)
    assert back.run.network == DIT
    assert back.shape == (3, 8, 8)
    assert same(back.weights, weights_of(state.average))
    sfumato("export", "mine", "--format", "dit", "--raw", "--out", "raw")
    assert same(read_any(tmp_path / "raw/model.pt").weights, weights_of(state.model))


def test_a_dit_goes_out_to_diffusers_and_comes_back(sfumato: Command, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    network = replace(DIT, frequency_shift=1, mlp_eps=1e-5)
    state = trained(tmp_path / "runs/mine", run_of(network, process=CosineBetas(1000)))
    assert "subfolder" in sfumato("export", "mine")
    folder = tmp_path / "runs/mine/diffusers"
    back = read_any(folder)
    assert back.run.network == network
    assert back.run.process == CosineBetas(1000)
    assert same(back.weights, weights_of(state.average))
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
    ours = state.average.network.eval()  # type: ignore[union-attr]
    x, level, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.tensor([1, 4])
    with torch.no_grad():
        wanted = theirs(x, level, labels).sample
        assert (ours(x, level.float(), labels) - wanted).abs().max() < 2e-5  # type: ignore[operator]


def test_a_lucid_unet_goes_out_whole_and_comes_back(sfumato: Command, tmp_path: Path) -> None:
    loss = Denoising(DiscreteTimes(1000), MinSNR(float("inf")))
    state = trained(tmp_path / "runs/mine", run_of(UNET, parameterization=V, objective=loss))
    printed = sfumato("export", "mine", "--format", "lucid")
    assert 'GaussianDiffusion(image_size=8, objective="pred_v", timesteps=1000)' in printed
    assert "would take it for" not in printed
    file = tmp_path / "runs/mine/lucid/model-1.pt"
    back = read_any(file, 8)
    assert (back.step, back.shape, back.run.process) == (1, (3, 8, 8), LinearBetas(1000))
    assert back.run.parameterization == V
    assert same(back.weights, weights_of(state.model))
    assert back.average is not None
    assert same(back.average, weights_of(state.average))
    assert not same(back.weights, back.average)
    again = state_of(back.run, back)
    for first, second in zip(
        state.optimizer.state_dict()["state"].values(),
        again.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(first[key].float(), second[key].float()) for key in first)


def test_a_prediction_that_the_file_will_not_tell_is_named(
    sfumato: Command, tmp_path: Path
) -> None:
    trained(tmp_path / "runs/mine", run_of(UNET, parameterization=V))
    assert "would take it for PredictNoise" in sfumato("export", "mine", "--format", "lucid")


@pytest.mark.parametrize(
    ("network", "changes", "format_", "complaint"),
    [
        (DIT, {}, "lucid", "format lucid is for LucidUNetConfig: --format diffusers or dit can be"),
        (UNET, {}, "dit", "format dit is for DiTConfig: --format lucid can be written"),
        (DIT, {"process": CosineBetas(1000)}, "dit", "process=LinearBetas, parameterization=Pre"),
        (replace(DIT, classes=0), {}, "dit", "on images with classes, can be exported"),
        (DIT, {}, "diffusers", "network.frequency_shift=1 can be exported"),
        (replace(UNET, classes=3), {}, "lucid", "no class labels"),
    ],
)
def test_what_a_format_can_not_hold_is_refused_with_what_could_be(
    network: object,
    changes: dict[str, object],
    format_: str,
    complaint: str,
    sfumato: Command,
    tmp_path: Path,
) -> None:
    trained(tmp_path / "runs/mine", run_of(network, **changes))
    with pytest.raises(SystemExit, match=complaint):
        sfumato("export", "mine", "--format", format_)
    assert not (tmp_path / "runs/mine" / format_).exists()


def test_networks_that_no_program_has_are_told_which_could_be(
    sfumato: Command, tmp_path: Path
) -> None:
    from sfumato.networks.unet import UNetConfig

    trained(tmp_path / "runs/mine", run_of(UNetConfig(channels=32, blocks=1)))
    with pytest.raises(SystemExit, match="train with --set network=LucidUNetConfig to export"):
        sfumato("export", "mine", "--format", "lucid")


# ---- sizes


def test_a_lucid_file_is_told_its_size_and_others_are_not(sfumato: Command, tmp_path: Path) -> None:
    trained(tmp_path / "runs/mine", run_of(UNET))
    sfumato("export", "mine", "--format", "lucid", "--out", "theirs")
    printed = sfumato("import", "theirs/model-1.pt", "--size", "12", "--name", "twelve")
    assert "is a guess" not in printed
    assert read_card(tmp_path / "runs/twelve").size == (12, 12)
    assert "16 x 16 is a guess" in sfumato("import", "theirs/model-1.pt")
    save_file(to_original(DIT, alive(DIT.build()).float().state_dict(), 8), "dit.safetensors")
    with pytest.raises(
        SystemExit, match=r"--size 12 came with DiT, dit\.safetensors, whose images"
    ):
        sfumato("import", "dit.safetensors", "--size", "12")


# ---- latents


def autoencoder(folder: Path, means: tuple[float, ...]) -> AutoencoderConfig:
    """A codec's folder with random weights; f = 4."""
    config = AutoencoderConfig(latent_channels=4, widths=(8, 8), groups=4, patch=2)
    torch.manual_seed(0)
    stds = (0.5,) * len(means)
    save_codec(folder, config, config.build().state_dict(), means, stds, {})
    return config


def latent_dit(path: Path) -> None:
    save_file(to_original(LATENT, alive(LATENT.build()).float().state_dict(), 4), path)


def test_a_dit_of_latents_takes_its_autoencoder_and_draws_pictures(
    sfumato: Command, tmp_path: Path
) -> None:
    latent_dit(tmp_path / "dit.safetensors")
    assert "by --codec PATH" in sfumato("import", "dit.safetensors", "--name", "bare")
    config = autoencoder(tmp_path / "vae", (0.1, 0.2, 0.3, 0.4))
    printed = sfumato("import", "dit.safetensors", "--codec", "vae", "--name", "mine")
    assert "by --codec PATH" not in printed
    run = loads((tmp_path / "runs/mine/run.json").read_text())
    assert run.codec == AutoencoderCodec("vae", config.f, (0.1, 0.2, 0.3, 0.4), (0.5,) * 4)
    assert not run.sampling.clipped
    assert read_card(tmp_path / "runs/mine").shape == (3, 16, 16)
    (tmp_path / "vae").rename(tmp_path / "elsewhere")  # the run has a copy of its own
    sfumato("sample", "mine", *QUICK, "--label", "1", "--guidance", "1", "--files")
    with Image.open(next((tmp_path / "runs/mine/drawn").glob("1-*.png"))) as image:
        assert (image.size, image.mode) == ((16, 16), "RGB")


def test_a_pipelines_own_vae_is_its_codec(sfumato: Command, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.25,
    )
    network = replace(LATENT, frequency_shift=1, mlp_eps=1e-5)
    run = run_of(network, learned_variance=True)
    weights = alive(network.build()).float().state_dict()
    dit.write_diffusers(tmp_path / "theirs", run, weights, (4, 4, 4))
    vae.save_pretrained(tmp_path / "theirs/vae")
    sfumato("import", "theirs", "--name", "mine")
    codec = loads((tmp_path / "runs/mine/run.json").read_text()).codec
    assert (codec.f, codec.means, codec.stds) == (2, (0.0,) * 4, (4.0,) * 4)
    assert read_card(tmp_path / "runs/mine").shape == (3, 8, 8)


def test_a_codec_that_does_not_fit_or_tell_is_refused(sfumato: Command, tmp_path: Path) -> None:
    latent_dit(tmp_path / "dit.safetensors")
    autoencoder(tmp_path / "untold", ())
    with pytest.raises(SystemExit, match="give --data, some images to measure that on"):
        sfumato("import", "dit.safetensors", "--codec", "untold")
    save_file(to_original(DIT, alive(DIT.build()).float().state_dict(), 8), "dit3.safetensors")
    with pytest.raises(SystemExit, match="latents of 4 channels, the model draws 3"):
        sfumato("import", "dit3.safetensors", "--codec", "untold")
    assert not (tmp_path / "runs").exists()


def test_moments_that_nobody_told_are_measured_on_the_data(
    sfumato: Command, tmp_path: Path
) -> None:
    latent_dit(tmp_path / "dit.safetensors")
    autoencoder(tmp_path / "untold", ())
    generator = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "pictures" / "abcd"[number % 4] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    words = ("--codec", "untold", "--data", "pictures", "--name", "mine")
    sfumato("import", "dit.safetensors", *words)
    loaded = load_run("mine", CPU)
    codec = loaded.run.codec
    assert isinstance(codec, AutoencoderCodec)
    assert len(codec.means) == 4
    assert min(codec.stds) > 0


# ---- files


def test_a_file_is_read_once_for_all_readers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sfumato.commands import import_

    asked: list[str] = []
    original = import_.read_tensors
    monkeypatch.setattr(import_, "read_tensors", lambda p: asked.append(p.name) or original(p))
    monkeypatch.setattr(lucid, "read_tensors", None)
    save_file({"weight": torch.ones(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="of no known format"):
        read_any(tmp_path / "odd.safetensors")
    assert asked == ["odd.safetensors"]
    assert len(FILES) == 4


def test_a_file_of_text_is_refused_by_what_it_is(sfumato: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not weights at all")
    with pytest.raises(SystemExit, match=r"neither a safetensors file nor one of torch\.save"):
        sfumato("import", "notes.txt")
    with pytest.raises(SystemExit, match="of no known format"):
        sfumato("import", str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
@pytest.mark.parametrize("name", ["ddpm_mnist.pt", "ddpm_mnist_starter.pth"])
def test_public_weights_are_imported_and_sampled(
    name: str, sfumato: Command, tmp_path: Path
) -> None:
    sfumato("import", str(SHARED / "weights" / name), "--name", "mine")
    sfumato("sample", "mine", *QUICK, "--sampler", "ddim", "--grid", "uniform")
    with Image.open(tmp_path / "runs/mine/drawn/samples.png") as image:
        assert min(image.size) >= 28
