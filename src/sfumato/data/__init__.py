"""Data sets as uint8 tensors, and which images make up batch k. Start at `load`."""

from sfumato.data.batches import batch_indices as batch_indices
from sfumato.data.batches import flip as flip
from sfumato.data.batches import flip_mask as flip_mask
from sfumato.data.batches import generator_at as generator_at
from sfumato.data.quarantine import Tolerance as Tolerance
from sfumato.data.quarantine import UnreadableWarning as UnreadableWarning
from sfumato.data.record import ImageData as ImageData
from sfumato.data.record import fingerprint as fingerprint
from sfumato.data.record import split as split
from sfumato.data.record import spread as spread
from sfumato.data.record import subset as subset
from sfumato.data.sources import find as find
from sfumato.data.sources import load as load
