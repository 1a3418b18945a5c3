"""Reliability drills: what sfumato promises to survive, tried. python -m drills --help"""

from . import (
    checkpoints,
    data_sets,
    decisions,
    hostile,
    images,
    kills,
    numerics,
    processes,
    resuming,
    signals,
)
from .drill import Drill

DRILLS: dict[str, Drill] = {
    **checkpoints.DRILLS,
    **kills.DRILLS,
    **resuming.DRILLS,
    **numerics.DRILLS,
    **signals.DRILLS,
    **processes.DRILLS,
    **decisions.DRILLS,
    **images.DRILLS,
    **data_sets.DRILLS,
    **hostile.DRILLS,
}
