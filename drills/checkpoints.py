"""Checkpoints under kills, crashes, full and failing disks, and damage: K1 to K11."""

from .drill import Drill

DRILLS: dict[str, Drill] = {}
