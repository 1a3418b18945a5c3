"""Solvers and grids by the names that --sampler and --grid have for them, and back again.

    --grid karras:0.02,20,7      KarrasGrid(sigma_min=0.02, sigma_max=20.0, rho=7.0)
    --grid karras:0.02,,3        what is left empty is the default
    --grid karras:0.02,20,inf    even in log(sigma / alpha), as diffusers' use_exponential_sigmas

So every setting that sfumato sweep finds can be typed.
"""

from dataclasses import fields
from typing import Any

from .grids import Grid, KarrasGrid, LeadingGrid, LinspaceGrid, TrailingGrid, UniformGrid
from .kinds import near
from .multistep import DEIS, IPNDM, LMS, DPMSolverPP, TimeDEIS, UniPC
from .singlestep import DPMSolver2
from .solvers import (
    DDIM,
    Ancestral,
    Churn,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Solver,
)

SOLVERS: dict[str, Solver] = {
    "heun": Heun(),
    "dpm++1": DPMSolverPP(1),
    "dpm++2m": DPMSolverPP2M(),
    "dpm++3m": DPMSolverPP(3),
    "sde-dpm++2m": DPMSolverPP(2, eta=1.0),
    "unipc": UniPC(2),
    "unipc3": UniPC(3),
    "deis": DEIS(3),
    "deis-t": TimeDEIS(3),
    "lms": LMS(),
    "ipndm": IPNDM(),
    "kdpm2": DPMSolver2(),
    "kdpm2-ancestral": DPMSolver2(eta=1.0),
    "ddim": DDIM(),
    "ddpm": Ancestral(),
    "ddpm-large": Ancestral(variance_mix=1.0),
    "euler": Euler(),
    "euler-ancestral": DDIM(eta=1.0),
    "euler-maruyama": EulerMaruyama(),
    "churn": Churn(Heun(), amount=0.3, min_ratio=0.05, max_ratio=50.0, noise_scale=1.003),
}
GRIDS: dict[str, Grid] = {
    "karras": KarrasGrid(),
    "uniform": UniformGrid(),
    "leading": LeadingGrid(),
    "trailing": TrailingGrid(),
    "linspace": LinspaceGrid(),
}


def grid_named(text: str) -> Grid:
    """The grid that --grid says, its settings in the order of the class's fields.

    Raises: ValueError for another name, or settings that it has not.
    """
    name, _, numbers = text.partition(":")
    if name not in GRIDS:
        raise ValueError(f"--grid {text}: there is no grid {name!r}; {near(name, GRIDS)}")
    kind: Any = type(GRIDS[name])
    names = [field.name for field in fields(kind)]
    words = numbers.split(",") if numbers else []
    if len(words) > len(names):
        raise ValueError(
            f"--grid {text}: {name} has {len(names)} settings, {', '.join(names) or 'none'}; "
            f"{len(words)} came."
        )
    whole = name == "leading"
    try:
        given = {n: int(w) if whole else float(w) for n, w in zip(names, words) if w}
    except ValueError as error:
        wanted = "whole numbers" if whole else "numbers"
        raise ValueError(f"--grid {text}: {wanted} are wanted, as karras:0.02,20.") from error
    made: Grid = kind(**given)
    return made


def grid_text(grid: Any) -> str | None:
    """What to type after --grid; None for a grid that can't be typed, as a tuned one."""
    name = next((name for name, known in GRIDS.items() if type(known) is type(grid)), None)
    if name is None:
        return None
    values = [(getattr(grid, field.name), field.default) for field in fields(grid)]
    words = ["" if value == default else _number(value) for value, default in values]
    while words and not words[-1]:
        words.pop()
    return f"{name}:{','.join(words)}" if words else name


def _number(value: float) -> str:
    """The shortest text that is read back as this number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def sampler_text(solver: Any) -> str | None:
    """What to type after --sampler, with --eta where it is one of DDIM's; None for others."""
    named = next((name for name, known in SOLVERS.items() if known == solver), None)
    if named is None and type(solver) is DDIM:
        return f"ddim --eta {_number(solver.eta)}"
    return named
