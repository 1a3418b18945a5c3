"""Reliability drills: what sfumato promises to survive, tried. python -m drills --help"""

from . import checkpoints
from .drill import Drill

DRILLS: dict[str, Drill] = {**checkpoints.DRILLS}
