"""Features of real images on disk, so that the next evaluation looks at drawn images alone.

    CACHE/NAME/{features.safetensors, manifest.json}

NAME is a hash of the network's digest and resize, the pixels in their order, the device and
PyTorch's version. How folders come and go is kept.py's; together they take at most MOST bytes.
Features of a callable without a digest are never kept, since nothing would say when it changes.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from . import kept as kept_on_disk
from .features import UNKNOWN, Features
from .judging import Notice
from .storage import DamagedError, commit_folder, read_folder

MOST = 2**30  # bytes of all sets together
FORMAT = 1  # to be raised where a set is looked at in another way than before
FILE = "features.safetensors"
WHAT = "Features of real images"

Looked = tuple[Tensor, Tensor | None]  # features (N, D) float64, classes (N,) int64


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """The folder of all kept sets, the device that looks at images, and who is told of trouble."""

    folder: Path
    device: str
    warn: kept_on_disk.Say

    def path(self, network: Features, pixels: str) -> Path | None:
        """Where features of images of this digest belong; None for a network without one."""
        if network.digest == UNKNOWN:
            return None
        settings = (FORMAT, network.digest, network.resize, self.device, torch.__version__, pixels)
        return self.folder / hashlib.sha256(repr(settings).encode()).hexdigest()[:20]

    def read(self, network: Features, pixels: str, count: int) -> Looked | None:
        """What was kept of `count` images of this digest; None for nothing, or nothing sound."""
        path = self.path(network, pixels)
        if path is None:
            return None
        return kept_on_disk.read(path, lambda path: opened(path, count), WHAT, self.warn)

    def keep(self, network: Features, pixels: str, looked: Looked) -> None:
        """Put features into the cache; a disk that refuses is told of, and nothing is lost."""
        path = self.path(network, pixels)
        if path is None:
            return
        content = packed(looked)
        write = partial(commit_folder, files={FILE: content})
        kept_on_disk.put(path, len(content), MOST, write, WHAT, self.warn)


def look_at_all(
    network: Features,
    sets: Mapping[str, Tensor],
    kept: Collection[str] = (),
    cache: FeatureCache | None = None,
    notice: Notice | None = None,
) -> dict[str, Looked]:
    """name: what the network makes of each set of images, equal sets looked at once.

    kept: names of those sets that belong into the cache. notice: told (images seen, of), without
    those whose features were kept.
    """
    keys = {name: pixels_digest(images) for name, images in sets.items()}
    found: dict[str, Looked] = {}
    if cache is not None:
        for name in kept:
            known = cache.read(network, keys[name], len(sets[name]))
            if known is not None:
                found[keys[name]] = known
    todo = {key: sets[name] for name, key in keys.items() if key not in found}
    done, total = 0, sum(map(len, todo.values()))
    for key, images in todo.items():
        found[key] = network.look(images, _onward(notice, done, total))
        done += len(images)
        if cache is not None and key in {keys[name] for name in kept}:
            cache.keep(network, key, found[key])
    return {name: found[key] for name, key in keys.items()}


def _onward(notice: Notice | None, done: int, total: int) -> Callable[[int], None]:
    """What a look at one of several sets tells: how many of all images were seen."""
    return lambda seen: None if notice is None else notice(done + seen, total)


def pixels_digest(images: Tensor) -> str:
    """The SHA-256 (hex) of the shape and the pixels, in their order."""
    digest = hashlib.sha256(repr((str(images.dtype), tuple(images.shape))).encode())
    digest.update(images.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


# --- at rest


def packed(looked: Looked) -> bytes:
    """As float32 where that loses nothing, which it does of most networks."""
    features, classes = looked
    narrow = features.float()
    tensors = {"features": narrow if torch.equal(narrow.double(), features) else features}
    return save(tensors if classes is None else {**tensors, "classes": classes.contiguous()})


def opened(path: Path, count: int) -> Looked:
    """The features of `count` images as they were kept.

    Raises: DamagedError where they are not what was written, or no features of so many images.
    """
    files = read_folder(path)
    try:
        tensors = load(files[FILE])
        features, classes = tensors["features"], tensors.get("classes")
    except Exception as error:  # safetensors has an error of its own, beside KeyError
        raise DamagedError(f"{path / FILE}: {error}") from error
    check_features(path, features, classes, count)
    return features.double(), classes


def check_features(path: Path, features: Tensor, classes: Tensor | None, count: int) -> None:
    """Raises DamagedError unless there is one finite vector, and perhaps one class, an image."""
    fits = features.dtype in (torch.float32, torch.float64) and features.ndim == 2
    if not fits or len(features) != count or not torch.isfinite(features).all():
        raise DamagedError(
            f"{path / FILE} holds {features.dtype} {tuple(features.shape)}, not finite features of "
            f"{count:,} images."
        )
    if classes is not None and (classes.dtype != torch.int64 or classes.shape != (count,)):
        raise DamagedError(f"{path / FILE} holds classes {classes.dtype} {tuple(classes.shape)}.")
