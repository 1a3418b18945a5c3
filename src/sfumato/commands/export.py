"""sfumato export: a run's model as a folder or file of another program."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import Export, UsageError
from ..config import Run, near
from ..console import Reporter
from ..folder import new_folder
from ..interop import diffusers
from ..loading import load_run

Writer = Callable[[Path, Run, Mapping[str, Tensor], tuple[int, int, int]], tuple[str, ...]]
FORMATS: dict[str, Writer] = {"diffusers": diffusers.write}


def run_export(args: Export) -> None:
    """Write the newest checkpoint's averaged weights, or with --raw those that were trained."""
    if args.format not in FORMATS:
        raise UsageError(f"no format {args.format!r} is known; {near(args.format, FORMATS)}")
    loaded = load_run(args.run, torch.device("cpu"), args.raw)
    wanted = args.out or loaded.folder / args.format
    if args.out is not None and wanted.exists():
        raise UsageError(f"--out {wanted} is there already; choose another name.")
    write = FORMATS[args.format]
    weights = loaded.denoiser.network.state_dict()
    folder = new_folder(wanted.parent, wanted.name)
    try:
        notes = write(folder, loaded.run, weights, loaded.card.shape)
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
