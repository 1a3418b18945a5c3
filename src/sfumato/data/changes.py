"""Which files of a data set are other ones than before.

A run's folder keeps `index_text` of its data; when the fingerprint of what lies there today is
another, `changes` tells what became of the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from sfumato.data.record import ImageData

_BYTES = 8  # of a digest: a change goes unseen once in 2^64
_SHOWN = 3


@dataclass(frozen=True)
class Changes:
    """Names of files that came, went, or have other pixels, another label or caption."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __str__(self) -> str:
        kinds = [("added", self.added), ("removed", self.removed), ("changed", self.changed)]
        return "; ".join(f"{len(names):,} {word}{_first(names)}" for word, names in kinds)


def index(data: ImageData) -> dict[str, str] | None:
    """A digest of each image, its label and caption (16 hex digits) by the image's name.

    None where the images have no names: they come out of one file.
    """
    if data.names is None:
        return None
    pixels = data.images.contiguous().numpy()
    labels = [None] * len(data) if data.labels is None else data.labels.tolist()
    captions = data.captions or ("",) * len(data)
    digests = {}
    for name, image, label, caption in zip(data.names, pixels, labels, captions, strict=True):
        digest = blake2b(image.data, digest_size=_BYTES)
        digest.update(repr((image.shape, label, caption)).encode())
        digests[name] = digest.hexdigest()
    return digests


def index_text(digests: Mapping[str, str]) -> str:
    """A line an image: digest, two spaces, name."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def read_index(text: str) -> dict[str, str]:
    """Undo index_text. Raises ValueError for a line in another form."""
    digests = {}
    for number, line in enumerate(text.splitlines(), 1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != 2 * _BYTES:
            raise ValueError(f"line {number} is {line[:60]!r}: a digest, two spaces and a name.")
        digests[name] = digest
    return digests


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Changes:
    """What became of the files, each list sorted by name."""
    both = before.keys() & now.keys()
    return Changes(
        added=tuple(sorted(now.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - now.keys())),
        changed=tuple(sorted(name for name in both if before[name] != now[name])),
    )


def _first(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
