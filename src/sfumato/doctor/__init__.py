"""The doctor: what ruins runs, found before they start, and where a finished run stands."""

from .checks import before_training, look_at_data, look_at_plan, look_at_run
from .finding import Finding, verdict
from .machine import Machine

__all__ = [
    "Finding",
    "Machine",
    "before_training",
    "look_at_data",
    "look_at_plan",
    "look_at_run",
    "verdict",
]
