"""What the doctor was asked of, as it is typed: so that its commands can be copied."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import AnyRun
from ..train_config import TrainConfig

UNSAFE = re.compile(r"[\"'`$\\!]")  # in a path, what ends or changes "python -c" in a shell


@dataclass(frozen=True)
class Names:
    """Parts of commands; the capitals and dots stand for what is not known, and never will.

    run: its folder. data: its images. train: the command that trains so, to which flags and
    settings are added. doctor: the command that asked. longer: of a run, twice its budget. file:
    of arrays.
    """

    run: str = "RUN"
    data: str = "DATA"
    train: str = "sfumato train ..."
    doctor: str = "sfumato doctor ..."
    longer: str = "--time 1h"
    file: str = "FILE"

    def of_file(self, array: Any) -> dict[str, str]:
        """load: Python that reads the array of this name. saved: a file beside none of ours."""
        load, path = f"np.load('{self.file}')", Path(self.file)
        if path.suffix == ".npz":
            load += f"['{array}']"
        return {"load": load, "saved": f"{path.stem}-bytes.npy"}


UNNAMED = Names()


def names_of_data(source: str) -> Names:
    """source: images, as typed."""
    typed = shlex.quote(source)
    file = "FILE" if UNSAFE.search(source) else source
    return Names(
        data=typed, train=f"sfumato train {typed}", doctor=f"sfumato doctor {typed}", file=file
    )


def names_of_settings(thing: str, config: AnyRun, data: str | None = None) -> Names:
    """thing: a recipe, FILE.py:FUNCTION or a run.json; data: images in place of its own."""
    typed = shlex.quote(thing)
    train = f"sfumato train {'--config ' * thing.endswith('.json')}{typed}"
    if data is not None:
        train += f" --data {shlex.quote(data)}"
    return Names(
        data=shlex.quote(data or config.data.source), train=train, doctor=f"sfumato doctor {typed}"
    )


def names_of_run(folder: Path, config: AnyRun) -> Names:
    """To train so is a new run of the same settings; to go on is `sfumato train RUN`."""
    typed = shlex.quote(str(folder))
    return Names(
        run=typed,
        data=shlex.quote(config.data.source),
        train=f"sfumato train --config {shlex.quote(str(folder / 'run.json'))}",
        doctor=f"sfumato doctor {typed}",
        longer=twice(config.train),
    )


def twice(train: TrainConfig) -> str:
    """The flag for a budget of twice this one, of the kind that it has."""
    if train.seconds is not None:
        seconds = 2 * train.seconds
        return f"--time {seconds / 60:g}m" if seconds % 60 == 0 else f"--time {seconds:g}s"
    flags = {"steps": train.steps, "images": train.images, "epochs": train.epochs}
    return next(f"--{flag} {2 * value:.15g}" for flag, value in flags.items() if value)
