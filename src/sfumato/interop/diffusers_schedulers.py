"""diffusers' scheduler_config.json as process, parameterization and sampling, and back.

    DDPMScheduler                  Ancestral       any spacing
    DDIMScheduler                  DDIM            any spacing
    DPMSolverMultistepScheduler    DPMSolverPP     order 1 to 3; as an SDE, eta 1, 1 and 2
    UniPCMultistepScheduler        UniPC           order 1 to 3, bh1 or bh2
    DEISMultistepScheduler         DEIS            order 1 to 3
    LMSDiscreteScheduler           LMS             order 4, as its pipeline calls it
    KDPM2DiscreteScheduler         DPMSolver2      and KDPM2AncestralDiscrete, eta 1
    EulerDiscreteScheduler         DDIM            Euler's method on sigma / alpha
    EulerAncestralDiscrete...      DDIM            eta 1

From the third on trailing spacing, and leading where x is walked on sigma / alpha: the last five.
The others' other spacings are of one step more than is taken, which no grid here is.

Every key is used, or without effect there too, or refused by name; INSTEAD has a word on
schedulers that are not read.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Run, SamplingConfig
from ..discrete import (
    MAX_BETA,
    CosineBetas,
    DiscreteVP,
    LinearBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    SignalLeftWarning,
)
from ..grids import Grid, LeadingGrid, LinspaceGrid, TrailingGrid
from ..multistep import DEIS, LMS, DPMSolverPP, UniPC
from ..parameterization import Parameterization, PredictData, PredictNoise, PredictV
from ..singlestep import DPMSolver2
from ..solvers import DDIM, Ancestral, DPMSolverPP2M, Solver
from .diffusers_defaults import DEFAULTS, INSTEAD, NEUTRAL
from .diffusers_unet import choice

FILE = "scheduler_config.json"
BETAS = {"linear": LinearBetas, "scaled_linear": ScaledLinearBetas, "sigmoid": SigmoidBetas}
COSINE = "squaredcos_cap_v2"
PREDICTS: dict[str, Any] = {
    "epsilon": PredictNoise,
    "sample": PredictData,
    "v_prediction": PredictV,
}
VARIANCES = {  # fixed_large_log is the root of a logarithm in diffusers: not a number
    **{"fixed_small": 0.0, "fixed_small_log": 0.0, "fixed_large": 1.0},
    "learned_range": None,
}


@dataclass(frozen=True)
class Schedule:
    """What a scheduler_config.json says, in our terms. notes: where diffusers departs from it."""

    process: DiscreteVP
    parameterization: Parameterization
    sampling: SamplingConfig
    learned_variance: bool
    notes: tuple[str, ...]


def read_schedule(raw: Mapping[str, Any]) -> Schedule:
    """What a scheduler_config.json says.

    Raises: ValueError, naming the key, for what has no counterpart.
    """
    defaults = defaults_of(raw.get("_class_name"))
    settings = {**defaults, **{key: value for key, value in raw.items() if key in defaults}}
    for key in NEUTRAL.keys() & defaults.keys():
        choice(settings, key, {NEUTRAL[key]: None}, FILE)
    steps = settings["num_train_timesteps"]
    process, notes = process_of(settings)
    predict = choice(settings, "prediction_type", PREDICTS, FILE)(steps, -1.0)
    predict.check(process)
    sampling = sampling_of(raw["_class_name"], settings)
    unread = [key for key in raw if key not in defaults and not key.startswith("_")]
    if unread:
        notes += (f"{raw['_class_name']} itself does not read {', '.join(unread)}.",)
    learned = settings.get("variance_type") == "learned_range"
    notes += departures(raw["_class_name"], settings)
    return Schedule(process, predict, sampling, learned, notes)


def defaults_of(name: Any) -> dict[str, Any]:
    """What a scheduler of this class is made with. Raises: ValueError where it is not read here."""
    try:
        defaults: dict[str, Any] = choice({"_class_name": name}, "_class_name", DEFAULTS, FILE)
    except ValueError as error:
        if name not in INSTEAD:
            raise
        raise ValueError(f"{error} {INSTEAD[name]}") from None
    return defaults


def process_of(settings: Mapping[str, Any]) -> tuple[DiscreteVP, tuple[str, ...]]:
    """The table of betas, and what is to be said of it."""
    steps, zero = settings["num_train_timesteps"], settings.get("rescale_betas_zero_snr", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SignalLeftWarning)
        process: DiscreteVP
        if settings["beta_schedule"] == COSINE:
            process = CosineBetas(steps, zero_terminal_snr=zero)
        else:
            make = choice(settings, "beta_schedule", {**BETAS, COSINE: None}, FILE)
            ends = settings["beta_start"], settings["beta_end"]
            process = make(steps, *ends, rescaled=False, zero_terminal_snr=zero)
    return process, tuple(str(warning.message) for warning in caught)


def grid_of(settings: Mapping[str, Any]) -> Grid:
    grids: dict[str, Grid] = {
        "leading": LeadingGrid(settings["steps_offset"]),
        "trailing": TrailingGrid(),
        "linspace": LinspaceGrid(),
    }
    grid: Grid = choice(settings, "timestep_spacing", grids, FILE)
    return grid


def sampling_of(name: str, settings: Mapping[str, Any]) -> SamplingConfig:
    """How the scheduler's pipeline samples, in the number of steps that it takes by itself."""
    total = settings["num_train_timesteps"]
    if name == "DDPMScheduler":
        solver: Solver = Ancestral(choice(settings, "variance_type", VARIANCES, FILE))
        steps = total
    elif name == "DDIMScheduler":
        solver, steps = DDIM(), 50
    else:
        spacings = {"trailing": None, **({"leading": None} if name in ON_RATIO else {})}
        choice(settings, "timestep_spacing", spacings, FILE)
        if (
            "variance_type" in settings
        ):  # of a scheduler that it was made from: only the learned count
            unread = dict.fromkeys((None, "fixed_large_log", *VARIANCES))
            choice(settings, "variance_type", unread, FILE)
        solver, steps = SOLVERS[name](settings), 25
    if settings["steps_offset"] and settings["timestep_spacing"] == "leading":
        steps = min(steps, total // 2)  # a stride of 1 has no room for an offset
    clipped = settings.get("clip_sample", False)
    if clipped:
        choice(settings, "clip_sample_range", {1.0: None}, FILE)
    return SamplingConfig(
        solver,
        grid_of(settings),
        max(1, min(steps, total)),
        clipped=clipped,
        keep_eps=clipped and name == "DDIMScheduler",  # without use_clipped_model_output
    )


def dpm_solver(settings: Mapping[str, Any]) -> Solver:
    """DPMSolverMultistepScheduler's: of order 1 it is DDIM, with or without noise."""
    choice(settings, "solver_type", {"midpoint": None}, FILE)
    kinds = {"dpmsolver++": 0.0, "sde-dpmsolver++": 1.0}
    eta = choice(settings, "algorithm_type", kinds, FILE)
    ode: dict[int, Solver] = {1: DDIM(), 2: DPMSolverPP2M(), 3: DPMSolverPP(3)}
    sde: dict[int, Solver] = {1: DDIM(1.0), 2: DPMSolverPP(2, 1.0)}
    solver: Solver = choice(settings, "solver_order", sde if eta else ode, FILE)
    return solver


def unipc(settings: Mapping[str, Any]) -> Solver:
    if settings["disable_corrector"]:
        raise ValueError(
            f"{FILE} has disable_corrector = {settings['disable_corrector']!r}, which has no "
            "counterpart here; [] can be read."
        )
    bh1 = choice(settings, "solver_type", {"bh1": True, "bh2": False}, FILE)
    return UniPC(choice(settings, "solver_order", {n: n for n in (1, 2, 3)}, FILE), bh1)


def deis(settings: Mapping[str, Any]) -> Solver:
    choice(settings, "algorithm_type", {"deis": None}, FILE)
    choice(settings, "solver_type", {"logrho": None}, FILE)
    return DEIS(choice(settings, "solver_order", {n: n for n in (1, 2, 3)}, FILE))


SOLVERS: dict[str, Callable[[Mapping[str, Any]], Solver]] = {
    "DPMSolverMultistepScheduler": dpm_solver,
    "UniPCMultistepScheduler": unipc,
    "DEISMultistepScheduler": deis,
    "LMSDiscreteScheduler": lambda settings: LMS(),
    "KDPM2DiscreteScheduler": lambda settings: DPMSolver2(),
    "KDPM2AncestralDiscreteScheduler": lambda settings: DPMSolver2(eta=1.0),
    "EulerDiscreteScheduler": lambda settings: DDIM(),
    "EulerAncestralDiscreteScheduler": lambda settings: DDIM(eta=1.0),
}
ON_RATIO = [name for name in SOLVERS if "Multistep" not in name]


def departures(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the same settings give another image in diffusers."""
    spacing, notes = settings["timestep_spacing"], []
    if name == "DDIMScheduler" and spacing != "leading":
        notes.append(
            f"diffusers' DDIM steps by T // steps beside its {spacing} grid; here each step ends "
            "where the next begins."
        )
    ends_above_0 = spacing == "trailing" or (spacing == "leading" and settings["steps_offset"])
    if settings.get("variance_type") in ("fixed_large", "learned_range") and ends_above_0:
        notes.append("diffusers adds noise in the last step of this grid; here it adds none.")
    if settings.get("solver_type") == "bh1":
        notes.append("diffusers' UniPC with bh1 ends in NaN, infinity times 0; here it does not.")
    if name == "DEISMultistepScheduler":
        notes.append(
            "diffusers' DEIS ends at the lowest noise of the table; here the last step goes on to "
            "the clean image."
        )
    if settings.get("solver_order", 1) == 3 and name != "UniPCMultistepScheduler":
        notes.append("diffusers lowers the order of the last steps only below 15 of them.")
    if name.startswith("KDPM2"):
        notes.append(
            "diffusers interpolates the noise level in the middle of a step by another curve: "
            "images agree to a few thousandths."
        )
    return tuple(notes)


# ---- from a run to a scheduler


def schedule_settings(run: Run) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """(scheduler's class, its settings, notes for people) of a run.

    Raises: ValueError, naming what could be exported, where diffusers has no such scheduler.
    """
    process = discrete(run)
    name, kind, notes = solver_settings(run)
    settings = {
        "num_train_timesteps": process.steps,
        **betas_settings(process),
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "prediction_type": prediction_type(run.parameterization, process.steps),
        "clip_sample": run.sampling.clipped,
        **kind,
    }
    if name == "DDIMScheduler" and settings["beta_schedule"] == "sigmoid":
        raise ValueError(
            "diffusers' DDIMScheduler has no sigmoid betas; Ancestral can be exported."
        )
    spacing, more = grid_settings(run.sampling.grid)
    settings |= spacing
    notes += more + clipping_notes(name, run) + departures(name, settings)
    return name, settings, (*notes, f"Call it with num_inference_steps={run.sampling.steps}.")


def discrete(run: Run) -> DiscreteVP:
    """The run's process, if it is one of a table of betas."""
    if isinstance(run.process, DiscreteVP):
        return run.process
    raise ValueError(
        f"the run's process is {run.process}; diffusers' schedulers for UNet2DModel hold tables of "
        "betas. Runs on LinearBetas, ScaledLinearBetas, SigmoidBetas or CosineBetas can be "
        "exported."
    )


def betas_settings(process: DiscreteVP) -> dict[str, Any]:
    """What names the table of betas."""
    match process:
        case CosineBetas(offset=0.008, max_beta=0.999):
            return {"beta_schedule": COSINE}
        case LinearBetas() | ScaledLinearBetas() | SigmoidBetas():
            factor = 1000 / process.steps if process.rescaled else 1.0
            start, end = process.beta_start * factor, process.beta_end * factor
            if max(start, end) <= MAX_BETA:
                name = next(name for name, cls in BETAS.items() if cls is type(process))
                return {"beta_schedule": name, "beta_start": start, "beta_end": end}
    raise ValueError(
        f"diffusers has no name for the betas of {process}: cosine betas are there only at offset "
        "0.008 and max_beta 0.999, others only where none is capped."
    )


def prediction_type(parameterization: Parameterization, steps: int) -> str:
    """The name of what the network predicts, told its step as 0 ... steps - 1."""
    for name, cls in PREDICTS.items():
        if parameterization == cls(float(steps), -1.0):
            return name
    raise ValueError(
        f"the run's parameterization is {parameterization}; diffusers tells networks the index of "
        f"the step. Runs with PredictNoise, PredictData or PredictV and time_scale={steps}, "
        "time_offset=-1 can be exported."
    )


def solver_settings(run: Run) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The scheduler's class for the run's solver, what it alone is told, and notes."""
    solver = run.sampling.solver
    if run.learned_variance:
        said = () if solver == Ancestral(None) else ("Its learned variance is used in sampling.",)
        return "DDPMScheduler", {"variance_type": "learned_range"}, said
    match solver:
        case Ancestral(variance_mix=0.0):
            return "DDPMScheduler", {"variance_type": "fixed_small"}, ()
        case Ancestral(variance_mix=1.0):
            return "DDPMScheduler", {"variance_type": "fixed_large"}, ()
        case DDIM(eta=0.0):
            return "DDIMScheduler", {}, ()
        case DDIM(eta=eta):
            return "DDIMScheduler", {}, (f"Call it with eta={eta:g}.",)
    return "DDIMScheduler", {}, (f"{solver} has no pipeline in diffusers; DDIM stands for it.",)


def clipping_notes(name: str, run: Run) -> tuple[str, ...]:
    """What diffusers must be told of x0's clipping, or can't be."""
    sampling, kept = run.sampling, name == "DDIMScheduler"
    if not sampling.clipped or sampling.keep_eps == kept:
        return ()
    if kept:
        return ("Call it with use_clipped_model_output=True: here eps follows the clipped x0.",)
    return (f"The run keeps eps where x0 is clipped (keep_eps); diffusers' {name} does not.",)


def grid_settings(grid: Grid) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What names the grid, and notes."""
    match grid:
        case LeadingGrid(offset=offset):
            return {"timestep_spacing": "leading", "steps_offset": offset}, ()
        case TrailingGrid():
            return {"timestep_spacing": "trailing", "steps_offset": 0}, ()
        case LinspaceGrid():
            return {"timestep_spacing": "linspace", "steps_offset": 0}, ()
    note = f"{grid} has no name in diffusers; trailing spacing stands for it."
    return {"timestep_spacing": "trailing", "steps_offset": 0}, (note,)
