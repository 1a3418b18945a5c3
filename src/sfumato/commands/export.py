"""sfumato export: a run's model as a folder or file of another program."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from .. import checkpoint
from ..arguments import Export, UsageError
from ..codec import Pixels
from ..config import NetworkConfig, Run
from ..console import Reporter
from ..folder import new_folder
from ..interop import diffusers, dit, lucid
from ..interop.imported import Imported
from ..kinds import near
from ..loading import Loaded, load_run
from ..networks.dit import DiTConfig
from ..networks.lucid import LucidUNetConfig
from ..networks.unet2d import UNet2DConfig
from ..parameterization import Parameterization, PredictData, PredictNoise, PredictV
from ..storage import write_file

Writer = Callable[[Path, Imported], tuple[str, ...]]
OBJECTIVES: dict[type[Parameterization], str] = {
    PredictNoise: "pred_noise",
    PredictData: "pred_x0",
    PredictV: "pred_v",
}
NETWORK = "network."  # what a checkpoint's names begin with


def averaged(model: Imported) -> dict[str, Tensor]:
    return model.weights if model.average is None else model.average


def write_pipeline(folder: Path, model: Imported) -> tuple[str, ...]:
    return diffusers.write(folder, model.run, averaged(model), model.shape)


def write_transformer(folder: Path, model: Imported) -> tuple[str, ...]:
    return dit.write_diffusers(folder, model.run, averaged(model), model.shape)


def write_dit(folder: Path, model: Imported) -> tuple[str, ...]:
    return dit.write_original(folder, model.run, averaged(model), model.shape)


def write_lucid(folder: Path, model: Imported) -> tuple[str, ...]:
    if model.run.codec != Pixels():
        raise ValueError(
            f"{model.run.name} draws latents, and denoising-diffusion-pytorch knows pixels alone."
        )
    tree = lucid.state_dict_of(model)
    file = BytesIO()
    torch.save(tree, file)
    write_file(folder / "model-1.pt", file.getvalue())
    predicts = model.run.parameterization
    told = f'image_size={model.shape[1]}, objective="{OBJECTIVES[type(predicts)]}"'
    call = f"GaussianDiffusion({told}, timesteps={len(tree['model']['betas'])})"
    notes = (f"Trainer.load(1) reads it out of its results_folder, for a {call}.",)
    read = lucid.training_of(model.run.process, tree["model"]["loss_weight"])[0]  # type: ignore[arg-type]
    if type(read) is type(predicts):
        return notes
    return (
        *notes,
        f"Its loss weighs the steps as {OBJECTIVES[type(read)]} does there, and the file says no "
        f"more: sfumato import would take it for {type(read).__name__}.",
    )


WRITERS: dict[str, dict[type[NetworkConfig], Writer]] = {  # by format, then by network
    "diffusers": {UNet2DConfig: write_pipeline, DiTConfig: write_transformer},
    "dit": {DiTConfig: write_dit},
    "lucid": {LucidUNetConfig: write_lucid},
}


def writer_of(name: str, run: Run) -> Writer:
    """What writes such a run in this format.

    Raises: UsageError that names the formats which there are for it, or the networks that have any.
    """
    if name not in WRITERS:
        raise UsageError(f"no format {name!r} is known; {near(name, WRITERS)}")
    writer = WRITERS[name].get(type(run.network))
    if writer is not None:
        return writer
    network = type(run.network).__name__
    others = [other for other, by_network in WRITERS.items() if type(run.network) in by_network]
    wanted = " or ".join(kind.__name__ for kind in WRITERS[name])
    hint = (
        f"--format {' or '.join(others)} can be written."
        if others
        else (f"train with --set network={wanted.partition(' ')[0]} to export.")
    )
    raise UsageError(f"{run.name} is a {network}; format {name} is for {wanted}: {hint}")


def run_export(args: Export) -> None:
    """Write the newest checkpoint's averaged weights, or with --raw those that were trained."""
    loaded = load_run(args.run, torch.device("cpu"), args.raw)
    write = writer_of(args.format, loaded.run)
    wanted = args.out or loaded.folder / args.format
    if args.out is not None and wanted.exists():
        raise UsageError(f"--out {wanted} is there already; choose another name.")
    model = model_of(loaded, args.raw)
    folder = new_folder(wanted.parent, wanted.name)
    try:
        notes = write(folder, model)
    except ValueError:
        folder.rmdir()  # refused before a file was written
        raise
    with Reporter() as reporter:
        reporter.say(
            f"Step {loaded.step:,} of {loaded.folder}, {loaded.weights} weights, "
            f"written to {folder}."
        )
        for note in notes:
            reporter.say(f"  {note}")


def model_of(loaded: Loaded, raw: bool) -> Imported:
    """The newest checkpoint's weights and moments, and but for raw its average.

    shape: of what the network sees, latents where there is a codec.
    """
    found = checkpoint.newest(loaded.folder, mend=False)
    assert found is not None, "load_run has read it"
    files = {name: load(data) for name, data in found[1].items() if name.endswith(".safetensors")}
    order = list(loaded.denoiser.network.state_dict())
    return Imported(
        run=loaded.run,
        weights=below(files["weights.safetensors"], order),
        shape=loaded.codec.shape(loaded.card.shape),
        source=str(loaded.folder),
        average=None if raw else below(files["average.safetensors"], order),
        step=loaded.step,
        moments=files["optimizer.safetensors"] or None,
    )


def below(tensors: dict[str, Tensor], order: list[str]) -> dict[str, Tensor]:
    """A denoiser's tensors by the names that they have in its network, and in the network's order.

    By that order other programs number the moments; safetensors has its own.
    """
    return {name: tensors[NETWORK + name] for name in order}
