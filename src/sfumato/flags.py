"""What the flags of several commands are made of.

Nothing here imports torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


def shown(metavar: str) -> Any:
    """How a value is called in the help, without a word on its default."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


SamplerName = Literal[
    "heun", "dpm++1", "dpm++2m", "dpm++3m", "sde-dpm++2m", "unipc", "unipc3", "deis", "deis-t",
    "lms", "ipndm", "kdpm2", "kdpm2-ancestral", "ddim", "ddpm", "ddpm-large", "euler",
    "euler-ancestral", "euler-maruyama", "churn",
]  # fmt: skip
Sampler = Annotated[SamplerName | None, shown("NAME")]
GridText = Annotated[str | None, shown("NAME[:NUMBERS]")]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE")]
Count = Annotated[int | None, shown("N")]
Number = Annotated[float | None, shown("X")]
Text = Annotated[str | None, shown("TEXT")]
Folder = Annotated[Path | None, shown("PATH")]
RunName = Annotated[tyro.conf.Positional[str], shown("RUN")]
Settings = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        name="set",
        metavar="FIELD=VALUE ...",
        help="any field of run.json, dotted: train.betas='[0.9, 0.95]' network.dropout=0.1 "
        "process=CosineBetas; `sfumato train ... --dry-run` prints them all.",
    ),
]
