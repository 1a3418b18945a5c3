"""The command line's flags as dataclasses; parsing.py reads them.

Nothing here imports torch, so that --help and a typo answer at once.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from .flags import (
    Count,
    Device,
    Folder,
    GridText,
    Number,
    RunName,
    Sampler,
    Settings,
    Text,
    shown,
)
from .flags import SamplerName as SamplerName
from .inquiries import Compare as Compare
from .inquiries import Evaluate as Evaluate
from .inquiries import Info as Info
from .inquiries import Report as Report
from .inquiries import Spectra as Spectra
from .inquiries import Sweep as Sweep
from .typed import UsageError as UsageError
from .typed import numbers as numbers
from .typed import seconds as seconds


@dataclass(frozen=True)
class Demo:
    """Train on the built-in digits for some minutes; draw digits class by class; show losses."""

    time: str = "150s"
    """How long to train: 90s, 3m, 1h."""
    out: Folder = None
    """Folder to make; default runs/demo, runs/demo-2, ..."""
    seed: int = 0
    device: Device = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quiet: bool = False


@dataclass(frozen=True)
class Train:
    """Train a model on a recipe or on images of your own."""

    source: Annotated[tyro.conf.Positional[str], shown("RECIPE|DATA|RUN")] = ""
    """A recipe (`sfumato recipes` lists them; or your own FILE.py:FUNCTION), images (a folder, an
    archive, IDX files) or the folder of a run to go on with."""
    data: Text = None
    """Images for a recipe instead of its own: a name, a folder, an archive, files."""
    out: Folder = None
    """Folder to make; default runs/NAME, never one that exists."""
    name: Text = None
    """Name of the run, for the folder."""
    resume: bool = False
    """Go on with the run in --out (default: the newest of this name) from its last checkpoint."""
    config: Folder = None
    """A run.json to start from; flags override it."""
    preset: Literal["tiny", "small", "base"] = "small"
    """Size of the network for DATA."""
    time: Text = None
    """Budget as wall time: 90s, 20m, 8h."""
    steps: Count = None
    """Budget in optimizer steps."""
    images: Count = None
    """Budget in training images shown."""
    epochs: Number = None
    """Budget in passes over the training images."""
    batch: Count = None
    """Images of an optimizer step, in all."""
    micro_batch: Count = None
    """Images run at once; less memory, the same result."""
    lr: Number = None
    """Peak learning rate."""
    warmup: Count = None
    """Steps until the rate is reached."""
    ema: Number = None
    """Width of the weights' average, as a share of the run so far (0.1)."""
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, shown("{auto,fp32,bf16}")] = None
    """Of the network's arithmetic; auto times both."""
    seed: Count = None
    """Decides the weights, the order, the noise: same seed, same run."""
    size: Count = None
    """Side of the images, after a centre crop."""
    channels: Count = None
    """1 grey, 3 RGB."""
    limit: Count = None
    """Use only so many images."""
    cache: bool = True
    """Keep sets of many files decoded on the disk; --no-cache decodes them at every start."""
    labels: bool = True
    """--no-labels ignores the classes."""
    captions: bool = False
    """Train on the captions beside images of your own, to draw from words."""
    flip: bool = False
    """Mirror half of the images; not for digits and letters."""
    label_dropout: Number = None
    """Share of labels dropped in training, so that guidance works (0.1)."""
    sampler: Sampler = None
    """For the previews and as the run's default; `sfumato sample --help` lists them."""
    sample_steps: Count = None
    """Solver steps, for the run's samples."""
    guidance: Number = None
    """Scale of classifier-free guidance: 1 as trained."""
    previews: Count = None
    """How many sample grids and held-out losses to make on the way."""
    preview_epochs: Number = None
    """Make them every so many epochs instead, and a film of them at the end."""
    test: Count = None
    """Images to keep apart from training and its held-out losses, measured once at the end."""
    compile: bool = False
    """Compile the network (torch.compile): slow to start, faster after; worth it on a GPU."""
    fsdp: bool = False
    """Of several processes by torchrun each keeps a part of the model: for one too large."""
    save_every: Count = None
    """Steps between checkpoints; default every minute."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    settings: Settings = ()
    dry_run: Annotated[bool, tyro.conf.arg(aliases=["-n"])] = False
    """Print the settled plan and stop."""
    check: bool = False
    """Try everything once (data, a step, a sample, a save, disk, time) in a folder that is then
    removed, and stop."""
    quiet: bool = False


@dataclass(frozen=True)
class Sample:
    """Draw images from a run; image k depends on its own seed only."""

    run: RunName
    """A run's folder, its name in runs/, or 'last'."""
    seeds: Text = None
    """0-99 or 1,2,5-9: one image a seed; default enough for the grid."""
    count: Annotated[
        int | None, tyro.conf.arg(aliases=["-c"], metavar="N", help_behavior_hint="")
    ] = None
    """How many images, with seeds from 0; instead of --seeds."""
    label: Text = None
    """A class by name or number, or several: 3 or cat,dog; default all: a class a row, or in turn
    where the images make fewer rows."""
    columns: int = 10
    """Images a row of the grid."""
    sampler: Sampler = None
    """heun, dpm++1, dpm++2m, dpm++3m, sde-dpm++2m, unipc, unipc3, deis, deis-t, lms, ipndm, kdpm2,
    kdpm2-ancestral, ddim, ddpm, ddpm-large, euler, euler-ancestral, euler-maruyama or churn;
    default the run's own."""
    steps: Count = None
    """Solver steps: more are slower and, up to a point, better."""
    grid: GridText = None
    """Spacing of the times: karras, uniform, leading, trailing or linspace; with its settings
    after a colon, as karras:0.02,20 for noise levels from 20 down to 0.02."""
    nfe: Count = None
    """Draw by the sampler of so many network calls that `sfumato tune` fitted to this run;
    under guidance each runs the network twice."""
    eta: Number = None
    """Noise of ddim: 0 none, 1 as DDPM."""
    prompt: Annotated[tuple[str, ...], shown("TEXT ...")] = ()
    """What to draw, in words, a row each; for models trained on captions."""
    guidance: Number = None
    """Scale of classifier-free guidance: 1 as trained (its w is scale - 1), more is bolder."""
    guidance_from: Number = None
    """Guide only where sigma / alpha is at least this ..."""
    guidance_to: Number = None
    """... and at most this; outside only one branch runs."""
    classifier: Text = None
    """The run of a classifier of noised images, to guide by its gradient ..."""
    classifier_scale: Number = None
    """... times this; 1 is Bayes' rule."""
    worse: Text = None
    """A worse run of the same, or a folder of its checkpoints/, to draw away from ..."""
    worse_scale: Number = None
    """... by this scale (autoguidance); 1 is not at all."""
    clipped: Annotated[bool | None, shown("{True,False}")] = None
    """Keep the estimate of x0 in [-1, 1]."""
    raw: bool = False
    """The weights themselves instead of their average (EMA)."""
    best: bool = False
    """The average that had the lowest held-out loss, instead of the last one."""
    film: bool = True
    """Also write the denoising film; --no-film saves the time."""
    files: bool = False
    """Also a PNG an image, named by its seed."""
    out: Folder = None
    """Folder for the pictures; default RUN/drawn, RUN/drawn-2, ..."""
    batch: int = 128
    """Images drawn at once."""
    device: Device = "auto"
    precision: Annotated[Literal["fp32", "bf16"] | None, shown("{fp32,bf16}")] = None
    """Default: as trained."""
    quiet: bool = False


@dataclass(frozen=True)
class Distill:
    """Tune a run that takes many steps into one that draws in one or two."""

    run: RunName
    """The teacher: a run's folder, its name in runs/, or 'last'."""
    time: Text = None
    """How long to train (10m): 90s, 20m, 8h."""
    steps: Count = None
    """Budget in optimizer steps, instead or besides."""
    lr: Number = None
    """Peak learning rate; default half of the teacher's."""
    batch: Count = None
    """Images of an optimizer step; default the teacher's."""
    middle: Number = None
    """Noise level, sigma / alpha, between the first and the second step of sampling (1.6)."""
    precision: Annotated[Literal["fp32", "bf16"] | None, shown("{fp32,bf16}")] = None
    """Default fp32: in bf16 rounding is larger than the late stages' differences."""
    seed: Count = None
    """Default the teacher's."""
    name: Text = None
    """Name of the run; default the teacher's with -distilled."""
    out: Folder = None
    """Folder to make; default runs/NAME."""
    resume: bool = False
    """Go on in --out, which an earlier call made."""
    device: Device = "auto"
    settings: Settings = ()
    quiet: bool = False


@dataclass(frozen=True)
class Tune:
    """Fit the best sampler of a few network calls to a run, for `sample --nfe`."""

    run: RunName
    """A run's folder, its name in runs/, or 'last'."""
    nfe: int = 6
    """Network calls an image; under guidance each runs the network twice."""
    time: str = "2m"
    """For all of it: 90s, 2m."""
    guidance: Number = None
    """The scale to tune for; default the run's own. Tuned is for one scale only."""
    guidance_from: Number = None
    """Guide only where sigma / alpha is at least this ..."""
    guidance_to: Number = None
    """... and at most this."""
    clipped: Annotated[bool | None, shown("{True,False}")] = None
    """Keep the estimate of x0 in [-1, 1]; default as the run does."""
    device: Device = "auto"
    precision: Annotated[Literal["fp32", "bf16"] | None, shown("{fp32,bf16}")] = None
    """Default: as trained."""
    quiet: bool = False


@dataclass(frozen=True)
class Import:
    """Make a run of a model that another program trained."""

    path: Annotated[tyro.conf.Positional[str], shown("PATH")]
    """A diffusers pipeline's folder, or a file of weights; nothing in it is ever executed."""
    data: Text = None
    """The images it was trained on, where training is to go on."""
    codec: Folder = None
    """Of a model of latents: its autoencoder, as diffusers' AutoencoderKL folder or a run's."""
    size: Count = None
    """Side of its images, where a file of denoising-diffusion-pytorch does not tell."""
    name: Text = None
    out: Folder = None
    """Folder to make; default runs/NAME."""
    quiet: bool = False


@dataclass(frozen=True)
class Export:
    """Write a run's model for other programs."""

    run: RunName
    """A run's folder, its name in runs/, or 'last'."""
    format: Literal["diffusers", "dit", "lucid"] = "diffusers"
    """A folder of diffusers, DiT's own state dict, or model-N.pt of denoising-diffusion-pytorch."""
    out: Folder = None
    """Folder to make; default RUN/FORMAT."""
    raw: bool = False
    """The weights themselves instead of their average (EMA)."""


@dataclass(frozen=True)
class Recipes:
    """List the recipes: what each trains, its source, size, cost and status."""

    name: Annotated[tyro.conf.Positional[str], shown("RECIPE")] = ""
    """One of them, to be told all about it."""


@dataclass(frozen=True)
class Explain:
    """Explain one noise level: coefficients, shapes, equations in DDPM's, EDM's, flow's terms."""

    thing: Annotated[tyro.conf.Positional[str], shown("RUN|RECIPE|PROCESS")]
    """A run, a recipe or a process by its name: CosineBetas, RectifiedFlow, Karras, ..."""
    time: Annotated[
        float | None, tyro.conf.arg(aliases=["--t"], metavar="X", help_behavior_hint="")
    ] = None
    """The time t of the process; default that of as much noise as signal."""
    step: Count = None
    """Or step i of a table of betas, 1 to T, at t = i / T."""
    ratio: Number = None
    """Or sigma / alpha, EDM's sigma."""
    json: bool = False
    """All numbers, unrounded, as JSON."""
    lang: Literal["en", "zh"] = "en"
    """Of the explanations: English or Chinese."""
    settings: Settings = ()


@dataclass(frozen=True)
class Doctor:
    """Find what ruins runs, before they start; or say where a finished one stands."""

    thing: Annotated[tyro.conf.Positional[str], shown("DATA|RUN|CONFIG")]
    """Images, a run, or its settings: a recipe, FILE.py:FUNCTION or a run.json."""
    data: Text = None
    """Images for a recipe instead of its own."""
    lang: Annotated[Literal["en", "zh"] | None, shown("{en,zh}")] = None
    """English or Chinese; default Chinese where LANG begins with zh."""
    json: bool = False
    """All findings with their numbers, as JSON."""
    device: Device = "auto"


COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "recipes": Recipes,
    "train": Train,
    "sample": Sample,
    "distill": Distill,
    "tune": Tune,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "compare": Compare,
    "spectra": Spectra,
    "report": Report,
    "explain": Explain,
    "doctor": Doctor,
    "import": Import,
    "export": Export,
    "info": Info,
}
