"""sfumato import: a run's folder out of a model that another program trained."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint
from ..arguments import Import
from ..assembly import build, settle
from ..checkpoint import load_optimizer, optimizer_tensors
from ..config import Run
from ..console import Reporter, count, reading
from ..data import ImageData, fingerprint
from ..folder import DataCard, new_folder, write_card
from ..interop import adm, diffusers, dit, lucid, small
from ..interop.imported import Imported
from ..interop.torch_files import Tree, read_tensors
from ..kinds import dumps
from ..latents import AutoencoderCodec, open_codec
from ..networks.describe import parameter_count
from ..planning import load_data
from ..storage import write_file
from ..training import TrainState

FOLDERS: dict[str, Callable[[Path], Imported | None]] = {
    "a diffusers folder (a pipeline of UNet2DModel, or its unet)": diffusers.read,
    "one of DiTTransformer2DModel": dit.read_folder,
}
FILES: dict[str, Callable[[Tree, Path, int | None], Imported | None]] = {
    "DiT's weights": lambda tree, path, _: dit.of_tree(tree, path),
    "a model of denoising-diffusion-pytorch (model-N.pt)": lambda tree, path, size: lucid.of_tree(
        tree, str(path), size
    ),
    "weights of guided-diffusion": lambda tree, path, _: adm.of_tree(tree, path),
    "weights of the lessons' small networks": lambda tree, path, _: small.of_tree(tree, str(path)),
}
QUICK = 250  # steps of sampling beyond which a quicker way is named


def read_any(path: Path, size: int | None = None) -> Imported:
    """What the first reader that knows the format makes of it; a file is read once for all.

    size: side of the images, for a file of denoising-diffusion-pytorch.

    Raises: FileNotFoundError where nothing is there; ValueError where no reader knows it, or one
    that does must refuse it, or the size is given to one that knows it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give a folder or file that is.")
    found = of_folder(path) if path.is_dir() else of_file(path, size)
    if found is None:
        known = "; ".join([*FOLDERS, *FILES])
        raise ValueError(f"{path} is of no known format. These can be imported: {known}.")
    if size is not None and found.shape[1:] != (size, size):
        raise ValueError(
            f"--size {size} came with {found.source}, whose images are {found.shape[1]} x "
            f"{found.shape[2]}: leave it out. It is for files of denoising-diffusion-pytorch, "
            "which do not tell."
        )
    return found


def of_folder(path: Path) -> Imported | None:
    made = (read(path) for read in FOLDERS.values())
    return next((found for found in made if found is not None), None)


def of_file(path: Path, size: int | None) -> Imported | None:
    tree = read_tensors(path)
    made = (read(tree, path, size) for read in FILES.values())
    return next((found for found in made if found is not None), None)


def run_import(args: Import) -> None:
    """Read the model and write it as a run, which can be sampled, and trained on with --data."""
    imported = read_any(Path(args.path), args.size)
    codec = codec_of(args, imported)
    if codec is not None:
        imported = on_latents(imported, codec, args.data is not None)
    run = replace(imported.run, name=args.name or imported.run.name, precision="fp32")
    with Reporter(quiet=args.quiet) as reporter:
        data = None
        if args.data is not None:
            run, data = with_data(run, imported, args.data, reporter)
        state = state_of(run, imported)
        folder = folder_of(args.out, run.name)
        run.codec.install(folder)
        write_card(folder, card_of(run, imported, data))
        checkpoint.write(folder, state, keep=run.train.keep)
        write_file(folder / "run.json", dumps(run).encode())  # last: it makes a folder a run
        for line in summary(folder, run, imported, state, data):
            reporter.say(line)


def codec_of(args: Import, imported: Imported) -> Path | None:
    """Where the model's autoencoder is: as typed, or the vae in the pipeline's own folder."""
    own = Path(args.path) / "vae" / "config.json"
    if args.codec is not None or not (dit.CODEC_MISSING in imported.notes and own.is_file()):
        return args.codec
    return own.parent


def on_latents(imported: Imported, path: Path, measurable: bool) -> Imported:
    """The model as one of the latents of the autoencoder at this path.

    measurable: whether there are images that unknown moments can be measured on.

    Raises: ValueError where it has other channels, or moments that nobody knows.
    """
    saved = open_codec(path)
    channels, height, width = imported.shape
    if saved.config.latent_channels != channels:
        raise ValueError(
            f"the autoencoder at {path} has latents of {saved.config.latent_channels} channels, "
            f"the model draws {channels}: give the one that it was trained on."
        )
    if not (saved.means or measurable):
        raise ValueError(
            f"{path} does not say by what its latents are scaled: give --data, some images to "
            "measure that on."
        )
    f = saved.config.f
    codec = AutoencoderCodec(str(path), f, saved.means, saved.stds)
    # The values of latents have no bounds that x0 could be clipped to.
    sampling = replace(imported.run.sampling, clipped=False)
    notes = [note for note in imported.notes if note != dit.CODEC_MISSING]
    return replace(
        imported,
        run=replace(imported.run, codec=codec, sampling=sampling),
        shape=(saved.config.in_channels, f * height, f * width),
        notes=(*notes, f"Its latents are those of {path}, of which the run keeps a copy."),
    )


def with_data(
    run: Run, imported: Imported, source: str, reporter: Reporter
) -> tuple[Run, ImageData]:
    """The run on these images, and the images.

    Raises: ValueError where their channels or classes are not the model's.
    """
    channels, height, width = imported.shape
    size = height if height == width else None
    config = replace(
        run.data, source=source, size=size, channels=channels, labels=run.network.classes > 0
    )
    data = replace(load_data(config, reading(reporter.say)), captions=None)
    found = (data.channels, *data.size), len(data.class_names) if run.network.classes else 0
    if found != (imported.shape, run.network.classes):
        raise ValueError(
            f"{source} holds images of {found[0]} (C, H, W) in {found[1]} classes; the model is "
            f"for {imported.shape} in {run.network.classes}. Give the images it was trained on, "
            "or leave --data out."
        )
    return settle(replace(run, data=config), data), data


def state_of(run: Run, imported: Imported) -> TrainState:
    """The training state that a checkpoint holds: weights, average, optimizer, step."""
    denoiser = build(run, torch.device("cpu"))
    denoiser.network.load_state_dict(imported.weights)
    state = TrainState.fresh(denoiser, run.train)
    state.step = imported.step
    average = imported.weights if imported.average is None else imported.average
    state.average.load_state_dict(of_denoiser(average))
    if imported.moments is not None:
        load_optimizer(state, of_denoiser(imported.moments), optimizer_tensors(state)[1])
    return state


def of_denoiser(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named as the network names them, named as its denoiser does."""
    return {f"network.{name.removeprefix('network.')}": value for name, value in tensors.items()}


def folder_of(out: Path | None, name: str) -> Path:
    """The folder to write to, new."""
    if out is None:
        return new_folder(Path("runs"), name)
    if out.exists():
        raise ValueError(f"--out {out} is there already; choose another name.")
    return new_folder(out.parent, out.name)


def card_of(run: Run, imported: Imported, data: ImageData | None) -> DataCard:
    """The images' card; without the images only their shape and classes are known."""
    channels, height, width = imported.shape
    numbers = tuple(str(number) for number in range(run.network.classes))
    names = imported.class_names or numbers
    if data is not None and data.labels is not None:
        names = data.class_names
    return DataCard(
        name=run.name if data is None else data.name,
        source=imported.source if data is None else data.source,
        fingerprint="" if data is None else fingerprint(data),
        images=0 if data is None else len(data),
        channels=channels,
        size=(height, width),
        class_names=names,
    )


def summary(
    folder: Path, run: Run, imported: Imported, state: TrainState, data: ImageData | None
) -> Iterator[str]:
    """What to say at the end, line by line."""
    shape = " x ".join(str(side) for side in imported.shape)
    yield (
        f"{imported.source}: {type(run.network).__name__} of "
        f"{count(parameter_count(state.model))} parameters, images of {shape}, "
        f"{type(run.process).__name__}, {type(run.parameterization).__name__}."
    )
    for note in imported.notes:
        yield f"  {note}"
    if run.sampling.steps > QUICK:
        yield (
            f"  It samples in {run.sampling.steps:,} steps, as where it comes from; for a quick "
            "look: --sampler ddim --steps 50."
        )
    yield f"Written to {folder}. Next: sfumato sample {folder}"
    if data is None:
        yield "To train it further, import it with --data and the images it was trained on."
    else:
        yield f"or train it further: sfumato train {folder} --steps {state.step + 1000}"
