"""Reliability drills: what sfumato promises to survive, tried. python -m drills --help"""

from . import checkpoints, data_sets, hostile, images, kills, numerics, resuming, signals
from .drill import Drill

DRILLS: dict[str, Drill] = {
    **checkpoints.DRILLS,
    **kills.DRILLS,
    **resuming.DRILLS,
    **numerics.DRILLS,
    **signals.DRILLS,
    **images.DRILLS,
    **data_sets.DRILLS,
    **hostile.DRILLS,
}
