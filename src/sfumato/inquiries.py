"""The flags of the commands that look at runs and change nothing of them: evaluate, sweep, report.

Nothing here imports torch.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .flags import Count, Device, Folder, RunName, Text, shown


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: losses, bits per dimension; with --samples N also the images it draws."""

    run: RunName
    """A run's folder, its name in runs/, or 'last'."""
    data: Text = None
    """Images to measure on; default the run's own, those it held out."""
    limit: int = 256
    """At most so many images for losses and bits: fewer are faster, with a larger error."""
    bits: bool = False
    """With --samples: also the bits per dimension. --steps and --flow ask for them, too."""
    steps: Count = None
    """Steps of the variational bound that the bits are of; default the process's own, or 250."""
    split: Literal["held-out", "test"] = "held-out"
    """Which of the run's own images; with --data, test is the part that its authors named so."""
    flow: bool = False
    """Also the bits of the probability-flow ODE, for continuous processes; slow."""
    samples: Count = None
    """Draw so many images, by the run's own sampler, and measure them beside real ones: distances,
    precision, recall, copies, colours. The bits, which take minutes, are then left out."""
    features: Text = None
    """What drawn images are compared by: auto, mnist, fashion, efficientnet, inception or judge."""
    weights: Folder = None
    """Of --features inception: its file."""
    against: Literal["train", "held-out", "test"] = "train"
    """Which of the run's images the drawn ones are compared to; test may be its authors' part."""
    best: bool = False
    """The average that had the lowest held-out loss, instead of the last one."""
    device: Device = "auto"
    quiet: bool = False


@dataclass(frozen=True)
class Sweep:
    """Try every sampler by network calls, grid, eta and guidance: which is best for how many?"""

    run: RunName
    """A run's folder, its name in runs/, or 'last'."""
    nfe: str = "5,10,20,50"
    """Network calls an image, each count for itself."""
    guidance: Text = None
    """Scales of classifier-free guidance, as 1,2,4; default the run's own."""
    eta: str = "0.5,1"
    """Noise of ddim in the samplers that add noise, which are judged by --features only."""
    images: int = 500
    """Images drawn for the quality of each of the best."""
    features: Text = None
    """What drawn images are compared by: auto, mnist, fashion, efficientnet, judge or none; default
    ours where there are some made for these images, and else none."""
    time: str = "5m"
    """For all of it, about: 90s, 5m, 1h. More looks at more images and draws more."""
    device: Device = "auto"
    precision: Annotated[Literal["fp32", "bf16"] | None, shown("{fp32,bf16}")] = None
    """Default: as trained."""
    quiet: bool = False


@dataclass(frozen=True)
class Report:
    """Write all that is known of a run, or of several side by side, as one HTML file."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("RUN ...")]
    """Folders of runs, their names in runs/, or 'last'."""
    out: Folder = None
    """File to write; default RUN/index.html, and of several runs comparison.html beside them."""


@dataclass(frozen=True)
class Compare:
    """Train several recipes on the same images with the same budget; one table, one figure."""

    recipes: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("RECIPE ...")] = (
        *("compare_unet2d", "compare_sd_unet", "compare_dit"),
    )
    """Two or more recipes; default the three that are made for it, compare_*."""
    data: str = "digits"
    """The images for all of them."""
    time: Text = None
    """Budget of each, as wall time."""
    images: Count = None
    """Budget of each, in images shown; the default is 10 epochs."""
    seed: int = 0
    samples: int = 500
    """Images drawn from each, for the evaluator."""
    out: Folder = None
    """Folder to make; default runs/compare."""
    device: Device = "auto"
    quiet: bool = False


@dataclass(frozen=True)
class Spectra:
    """Measure which scales of an image come first, in training and in sampling."""

    run: RunName
    """A run's folder, its name in runs/, or 'last'."""
    samples: int = 100
    """Images drawn to follow along their way out of noise, about."""
    device: Device = "auto"
    quiet: bool = False


@dataclass(frozen=True)
class Info:
    """Tell what a run, a data set or a picture made by sfumato is."""

    thing: Annotated[tyro.conf.Positional[str], shown("RUN|DATA|IMAGE")]
    """A run, a data set or a picture."""
