"""Runs as JSON and back: run.json, and the settings that people type.

    {"kind": "Run", "process": {"kind": "CosineBetas", "steps": 1000, ...}, ...}

The objects are their own configuration. KINDS is the whole list of what a file may name.
"""

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from . import bound, discrete, grids, objective, parameterization, process, solvers, training
from . import schedules as rates
from .classification import ClassifierLoss
from .codec import CodecConfig, Pixels
from .config import RUNS, AnyRun, DataConfig, NetworkConfig, SamplingConfig
from .consistency import ConsistencyGrid, ConsistencyTuning, MultistepConsistency
from .importance import ImportanceSampled
from .interop.limits import LARGEST, check_name, check_sizes, is_float, shown
from .interop.reading import json_of
from .latents import AutoencoderCodec
from .multistep import DEIS, IPNDM, LMS, DPMSolverPP, TimeDEIS, UniPC
from .networks.adm import ADMConfig
from .networks.autoencoder import AutoencoderConfig
from .networks.classifier import ClassifierConfig
from .networks.dit import DiTConfig
from .networks.four_conv import FourConvConfig
from .networks.handmade import HandmadeConfig
from .networks.lucid import LucidUNetConfig
from .networks.sd_unet import SDUNetConfig
from .networks.small import PulferUNetConfig, StarterCNNConfig
from .networks.unet import UNetConfig
from .networks.unet2d import UNet2DConfig
from .noising import ScaledInput, SigmoidSignal
from .reconstruction import ReconstructionLoss
from .singlestep import DPMSolver2
from .text import TextConfig
from .tuned import TunedGrid, TunedSolver

ROLES: dict[Any, tuple[type, ...]] = {  # what may stand where a protocol is asked for
    process.Process: (
        *(process.LinearVP, process.SubVP, process.Karras, process.RectifiedFlow),
        *(process.Trigonometric, discrete.LinearBetas, discrete.ScaledLinearBetas),
        *(discrete.SigmoidBetas, discrete.CosineBetas, SigmoidSignal, ScaledInput),
    ),
    parameterization.Parameterization: (
        *(parameterization.PredictNoise, parameterization.PredictData, parameterization.PredictV),
        *(parameterization.PredictVelocity, parameterization.EDMPreconditioning),
    ),
    objective.Times: (
        *(objective.UniformTimes, objective.DiscreteTimes, objective.LogNormalTimes),
        objective.LogitNormalTimes,
    ),
    objective.Weight: (
        *(objective.OutputMSE, objective.DataMSE, objective.EDMWeight, objective.MinSNR),
    ),
    objective.Objective: (
        *(objective.Denoising, bound.VariationalBound, bound.Hybrid, ImportanceSampled),
        ConsistencyTuning,
    ),
    solvers.Solver: (
        *(solvers.DDIM, solvers.Ancestral, solvers.Euler, solvers.Heun, solvers.DPMSolverPP2M),
        *(DPMSolverPP, UniPC, DEIS, TimeDEIS, LMS, IPNDM, DPMSolver2),
        *(solvers.EulerMaruyama, solvers.Churn, MultistepConsistency, TunedSolver),
    ),
    grids.Grid: (
        *(grids.UniformGrid, grids.KarrasGrid, grids.LeadingGrid, grids.TrailingGrid),
        *(grids.LinspaceGrid, ConsistencyGrid, TunedGrid),
    ),
    NetworkConfig: (
        *(UNetConfig, UNet2DConfig, SDUNetConfig, DiTConfig, ADMConfig, LucidUNetConfig),
        *(HandmadeConfig, FourConvConfig, PulferUNetConfig, StarterCNNConfig),
    ),
    CodecConfig: (Pixels, AutoencoderCodec),
    rates.Schedule: (rates.Constant, rates.LinearDecay, rates.CosineDecay),
}
LARGEST_OF: dict[Any, int] = {training.TrainConfig: 2**63, DataConfig: 10**9}  # seeds, budgets
KINDS: dict[str, Any] = {
    cls.__name__: cls
    for group in (
        *ROLES.values(),
        (training.TrainConfig, DataConfig, SamplingConfig, TextConfig, *RUNS),
        (AutoencoderConfig, ReconstructionLoss, ClassifierConfig, ClassifierLoss),
    )
    for cls in group
}


def near(name: str, names: typing.Iterable[str]) -> str:
    """A hint that names the nearest of the valid names, or all of them."""
    names = list(names)
    close = difflib.get_close_matches(name[:100], names, n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(names)}."


def to_dict(value: Any) -> Any:
    """A configuration as JSON-ready dicts, lists and scalars; infinity becomes "inf"."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [to_dict(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def from_dict(value: Any, where: str = "run") -> Any:
    """Undo to_dict.

    Raises: ValueError for an unknown kind or field, or a value of another type or beyond all use,
    saying where.
    """
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{where}: no kind {shown(kind)} is known; {near(str(kind), KINDS)}")
    cls = KINDS[kind]
    hints = _hints(cls)
    settings = {}
    for name, raw in value.items():
        if name == "kind":
            continue
        if name not in hints:
            raise ValueError(f"{where}: {kind} has no field {shown(name)}; {near(name, hints)}")
        inner = from_dict(raw, f"{where}.{name}")
        settings[name] = typed(inner, hints[name], f"{where}.{name}")
        check_sizes(settings[name], f"{where}.{name}", LARGEST_OF.get(cls, LARGEST))
    try:
        return cls(**settings)
    except (TypeError, ArithmeticError, RuntimeError, IndexError, AssertionError) as error:
        raise ValueError(f"{where}: a {kind} can't be made of these settings: {error}") from error


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """The annotation of each field, by its name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def typed(value: Any, hint: Any, where: str) -> Any:
    """The value as what the annotation asks for: lists to tuples, 1 to 1.0, "inf" to infinity.

    Raises: ValueError where it is something else.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            inner = typing.get_args(option)[0]
            return tuple(typed(item, inner, where) for item in value)
        if option is float and _is_number(value):
            return float(value)
        if option in (int, bool, str) and type(value) is option:
            return value
        if type(value) in ROLES.get(option, (option,)) and dataclasses.is_dataclass(value):
            return value
    accepted = [cls for option in options for cls in ROLES.get(option, (option,))]
    wanted = " or ".join(getattr(option, "__name__", str(option)) for option in accepted)
    raise ValueError(f"{where} = {shown(value)}; {wanted} is wanted.")


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf")
    return type(value) is float or (type(value) is int and is_float(value))


T = TypeVar("T")


def override(config: T, path: str, text: str, where: str = "run") -> T:
    """The configuration with the field at a dotted path replaced by what text says.

    Text is JSON, or a bare word for a string or a kind's name: "train.lr" "3e-4",
    "process" "CosineBetas", "network.multipliers" "[1, 2, 2]".
    """
    name, _, rest = path.partition(".")
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    if name not in names:
        raise ValueError(f"{where} has no field {name!r}; {near(name, names)}")
    here = f"{where}.{name}"
    if rest:
        inner = getattr(config, name)
        if not dataclasses.is_dataclass(inner):
            raise ValueError(f"{here} is {inner!r}, which has no fields; {rest!r} was asked for.")
        return dataclasses.replace(config, **{name: override(inner, rest, text, here)})  # type: ignore[type-var]
    value = _read(text)
    if isinstance(value, str) and value in KINDS:
        value = {"kind": value}
    cls: Any = type(config)
    settled = typed(from_dict(value, here), _hints(cls)[name], here)
    check_sizes(settled, here, LARGEST_OF.get(cls, LARGEST))
    return dataclasses.replace(config, **{name: settled})  # type: ignore[type-var]


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a bare word, or what no setting can be
        return {"True": True, "False": False, "None": None}.get(text, text)


def dumps(run: AnyRun) -> str:
    """run.json's text."""
    return json.dumps(to_dict(run), indent=1)


def loads(text: str | bytes, where: object = "run.json") -> Any:
    """Undo dumps: a run of any kind.

    where: the file, for messages.

    Raises: ValueError where the text is not a run's, or its name would lead out of a folder.
    """
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    run = from_dict(json_of(content, where))
    if not isinstance(run, RUNS):
        raise ValueError(f"{where} describes a {type(run).__name__}, not a Run.")
    check_name(run.name, where)
    return run


def read_run(folder: Path) -> Any:
    """The run of a folder, out of its run.json.

    Raises: FileNotFoundError where there is none; ValueError, naming the file, where it is not a
    run's.
    """
    path = folder / "run.json"
    return loads(path.read_bytes(), path)
