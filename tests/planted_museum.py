"""The museum's faults that no setting can plant: solvers, a grid and a network of one's own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import museum_doctor
import museum_faults

PLANTED = (
    ("grid-unfinished", "`return x` inside the sampling loop", museum_faults.one_step),
    (
        "solver-noise",
        "a sampler with noise at the last step, too",
        museum_faults.noise_at_the_end,
    ),
    ("solver-inconsistent", "DDPM's mean without its noise", museum_faults.mean_only),
    ("solver-explodes", "DDPM's mean divided by √ᾱ_t", museum_faults.divided),
    ("x-clamped", "a sampler that clamps x_t", museum_faults.clamped),
    ("level-untold", "a network that leaves out the level it is told", museum_faults.no_time),
)


def of(planted: Any) -> Iterator[Any]:
    """As `planted(code, what, look)`."""
    for code, what, make in PLANTED:
        yield planted(code, what, lambda _, make=make: museum_doctor.on_run(make))
    turned = museum_faults.rotated
    yield planted("turned-copies", "digits turned", lambda _: museum_doctor.on_images(turned))
