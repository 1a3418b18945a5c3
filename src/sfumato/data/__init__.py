"""Data sets as uint8 tensors, and which images make up batch k. Start at `load`.

Names are imported when they are first used: data.places answers without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.data.batches import batch_indices as batch_indices
    from sfumato.data.batches import flip as flip
    from sfumato.data.batches import flip_mask as flip_mask
    from sfumato.data.batches import generator_at as generator_at
    from sfumato.data.places import find as find
    from sfumato.data.quarantine import Tolerance as Tolerance
    from sfumato.data.quarantine import UnreadableWarning as UnreadableWarning
    from sfumato.data.record import ImageData as ImageData
    from sfumato.data.record import evenly as evenly
    from sfumato.data.record import fingerprint as fingerprint
    from sfumato.data.record import split as split
    from sfumato.data.record import spread as spread
    from sfumato.data.record import subset as subset
    from sfumato.data.sources import load as load

_MODULES = {  # module: the public names in it
    "batches": "batch_indices flip flip_mask generator_at",
    "places": "find",
    "quarantine": "Tolerance UnreadableWarning",
    "record": "ImageData evenly fingerprint split spread subset",
    "sources": "load",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
