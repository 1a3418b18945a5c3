"""sfumato import: a run's folder out of a model that another program trained."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint
from ..arguments import Import
from ..assembly import build, settle
from ..config import Run, dumps
from ..console import Reporter, count, reading
from ..data import ImageData, fingerprint
from ..folder import DataCard, new_folder, write_card
from ..interop.imported import Imported
from ..networks.describe import parameter_count
from ..planning import load_data
from ..storage import write_file
from ..training import TrainState, load_optimizer, optimizer_tensors

Reader = Callable[[Path], Imported | None]
READERS = {  # modules of sfumato.interop, each with such a read, and what it reads
    "diffusers": "a diffusers folder (a pipeline of UNet2DModel, or its unet)",
    "dit": "DiT's weights",
    "lucid": "a model of denoising-diffusion-pytorch (model-N.pt)",
    "adm": "weights of guided-diffusion",
    "small": "weights of the lessons' small networks",
}
QUICK = 250  # steps of sampling beyond which a quicker way is named


def readers() -> Iterator[Reader]:
    """The readers in turn, each imported only when its turn comes."""
    package = __package__.rpartition(".")[0] + ".interop"
    for name in READERS:
        if find_spec(f"{package}.{name}") is not None:
            yield import_module(f"{package}.{name}").read


def read_any(path: Path) -> Imported:
    """What the first reader that knows the format makes of it.

    Raises: FileNotFoundError where nothing is there; ValueError where no reader knows it, or one
    that does must refuse it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give a folder or file that is.")
    for read in readers():
        imported = read(path)
        if imported is not None:
            return imported
    known = "; ".join(READERS.values())
    raise ValueError(f"{path} is of no known format. These can be imported: {known}.")


def run_import(args: Import) -> None:
    """Read the model and write it as a run, which can be sampled, and trained on with --data."""
    imported = read_any(Path(args.path))
    run = replace(imported.run, name=args.name or imported.run.name)
    with Reporter(quiet=args.quiet) as reporter:
        data = None
        if args.data is not None:
            run, data = with_data(run, imported, args.data, reporter)
        state = state_of(run, imported)
        folder = folder_of(args.out, run.name)
        write_card(folder, card_of(run, imported, data))
        checkpoint.write(folder, state, keep=run.train.keep)
        write_file(folder / "run.json", dumps(run).encode())  # last: it makes a folder a run
        for line in summary(folder, run, imported, state, data):
            reporter.say(line)


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
    data = load_data(config, reading(reporter.say))
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
