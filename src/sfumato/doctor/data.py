"""What is wrong with images: their range, their channels, how many there are, what repeats."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import DataConfig
from ..data import ImageData
from ..data.arrays import CHANNELS
from ..data.held import held_back
from .finding import NOTE, RISK, WRONG, Finding, found

LOOKED_AT = 4_000  # images, spread over all
FEW = 1_000  # images; from judgement: 140 and 300 are reported to be copied
REPEATED = 0.01  # of the images: fewer copies do no harm
NEAR = 0.02  # of a range's ends
RINGING = 0.3  # beyond black and white, beside edges, of images that were made smaller
LETTERS = ("digits", "mnist", "emnist", "kmnist", "qmnist", "svhn", "omniglot", "usps")


def some(images: Any, most: int = LOOKED_AT) -> Any:
    """At most so many rows, spread over all."""
    return images[:: -(-len(images) // most)] if len(images) else images


def check_file(path: Path) -> Iterator[Finding]:
    """The arrays of a .npy or .npz, which need not be what `train` reads."""
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        arrays = {path.name: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    pictures = {name: values for name, values in arrays.items() if values.ndim >= 3}
    if not pictures:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        yield found("no-images", WRONG, name=path.name, shapes=shapes or "-")
    for name, values in pictures.items():
        yield from check_array(values, name)


def check_array(values: NDArray[Any], name: str) -> Iterator[Finding]:
    """Range, type and shape of an array of images, (N, H, W) or with channels."""
    yield from _check_shape(values, name)
    seen = some(values)
    if seen.dtype.kind not in "iufb" or not seen.size:
        yield found("not-numbers", WRONG, name=name, dtype=str(values.dtype))
        return
    wide = seen.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.all():
        yield found("not-finite", WRONG, name=name, share=float(1 - finite.mean()))
    if finite.any():
        yield from _check_range(values.dtype, wide[finite].min(), wide[finite].max(), name)


def _check_shape(values: NDArray[Any], name: str) -> Iterator[Finding]:
    fits = values.ndim == 3 or (
        values.ndim == 4 and (values.shape[1] in CHANNELS) != (values.shape[3] in CHANNELS)
    )
    if not fits:
        yield found("channels", WRONG, name=name, shape=str(values.shape))


def _check_range(dtype: Any, low: float, high: float, name: str) -> Iterator[Finding]:
    seen = {"name": name, "low": float(low), "high": float(high), "dtype": str(dtype)}
    if dtype == np.uint8:
        if high <= 1:
            yield found("range-bytes", WRONG, **seen)
    elif np.issubdtype(dtype, np.integer) and low >= 0 and 255 < high <= 65535:
        yield found("range-16", WRONG, **seen)
    elif low > -RINGING and high <= 1 + RINGING:
        yield found("range-01", WRONG, **seen)
    elif -1 - NEAR <= low < 0 and high <= 1 + NEAR:
        yield found("range-11", WRONG, **seen)
    elif -3 - NEAR <= low < -1 and 0.5 < high <= 1 + NEAR:
        yield found("range-31", WRONG, **seen)
    elif low >= 0 and high <= 255:
        yield found("range-255", WRONG, **seen)
    else:
        yield found("range-odd", WRONG, **seen)


def check_images(data: ImageData) -> Iterator[Finding]:
    """uint8 images as `train` would have them."""
    seen = some(data.images)
    if not len(seen):
        yield found("no-images", WRONG, name=data.name, shapes=str(tuple(data.images.shape)))
        return
    if int(seen.max()) <= 1:
        yield found("range-bytes", WRONG, name=data.name, low=0.0, high=1.0, dtype="uint8")
    if data.channels == 3 and bool((seen == seen[:, :1]).all()):
        yield found("grey-as-rgb", RISK, images=len(data))
    flat = seen.flatten(1)
    blank = (flat == flat[:, :1]).all(1).double().mean().item()
    if blank > 0.02 and len(data) > 20:
        yield found("blank-images", RISK, share=blank)
    turned = turned_share(seen, told_of(data))
    if turned > REPEATED:
        yield found("turned-copies", RISK, share=turned)
    yield from _check_counts(data, seen)


def told_of(data: ImageData) -> Sequence[Hashable]:
    """What a network is told of each image looked at: its caption, its label, or nothing."""
    if data.captions is not None:
        return some(data.captions)
    return [None] * len(some(data.images)) if data.labels is None else some(data.labels).tolist()


def turned_share(images: Tensor, told: Sequence[Hashable] | None = None) -> float:
    """The share of the images, (N, C, H, W), that are others turned by 90, 180 or 270 degrees.

    Others of which the same is told: an arrow to the left is no arrow to the right that was turned.
    Only images of one and the same sum are compared, so that few of them have to be turned.
    """
    sums = images.flatten(1).sum(1, dtype=torch.int64)
    _, group, sizes = sums.unique(return_inverse=True, return_counts=True)
    told = [None] * len(images) if told is None else told
    alike = [(images[i], told[i]) for i in (sizes[group] > 1).nonzero()[:, 0].tolist()]
    known = {(image.numpy().tobytes(), of) for image, of in alike}
    turns = (1, 2, 3) if images.shape[2] == images.shape[3] else (2,)
    count = 0
    for image, of in alike:
        forms = {image.rot90(k, (1, 2)).contiguous().numpy().tobytes() for k in turns}
        count += any((form, of) in known for form in forms - {image.numpy().tobytes()})
    return count / len(images)


def _check_counts(data: ImageData, seen: Tensor) -> Iterator[Finding]:
    pixels = [row.tobytes() for row in seen.flatten(1).numpy()]
    kinds = len(set(pixels))
    pairs = kinds if data.captions is None else len(set(zip(pixels, some(data.captions))))
    again, shared = (1 - unlike / len(seen) for unlike in (pairs, kinds))
    if again > REPEATED:
        yield found("duplicates", RISK, share=again, images=len(data))
    elif shared > REPEATED:
        yield found("shared-pictures", NOTE, share=shared, images=len(data))
    if len(data) < FEW:
        yield found("few-images", RISK, images=len(data), enough=FEW)
    if data.unreadable:
        share = len(data.unreadable) / (len(data) + len(data.unreadable))
        first = data.unreadable[0][0]
        severity = RISK if share > 0.01 else NOTE
        yield found("unreadable", severity, files=len(data.unreadable), share=share, first=first)
    if data.labels is not None and len(data.class_names) > 1:
        yield from _check_classes(data)


def _check_classes(data: ImageData) -> Iterator[Finding]:
    assert data.labels is not None
    counts = Counter(data.labels.tolist())
    sizes = [counts[label] for label in range(len(data.class_names))]
    least, most = min(sizes), max(sizes)
    if least * 20 < most:
        name = data.class_names[sizes.index(least)]
        yield found("rare-class", RISK, name=name, least=least, most=most)


def check_flip(data: ImageData, config: DataConfig) -> Iterator[Finding]:
    """Mirrored letters: of sets known for them, or grey images whose classes are single letters."""
    if not config.flip:
        return
    name = data.name.lower()
    known = any(name == word or name.startswith(f"{word}-") for word in LETTERS)
    single = data.channels == 1 and bool(data.class_names)
    if known or (single and all(len(label) == 1 for label in data.class_names)):
        yield found("flip-letters", WRONG, name=data.name)


def check_held_out(data: ImageData, config: DataConfig) -> Iterator[Finding]:
    if not held_back(len(data), config.held_out, config.test)[0]:
        yield found("no-held-out", RISK, held_out=config.held_out, images=len(data))


def check_batch(images: int, batch: int) -> Iterator[Finding]:
    if batch > images:
        yield found("batch-over-images", RISK, batch=batch, images=images)


def check_sigma_data(stated: float, measured: float) -> Iterator[Finding]:
    """EDM's sigma_data beside the images' standard deviation; 0 is measured by training."""
    if stated > 0 and not 1 / 1.6 < stated / measured < 1.6:
        yield found("sigma-data", WRONG, stated=stated, measured=measured)


def check_latents(latents: Tensor) -> Iterator[Finding]:
    """What diffusion runs on, (N, c, h, w): about zero mean and unit variance a channel."""
    stds = torch.std(latents.double(), dim=(0, 2, 3))
    worst = stds[(stds.log().abs()).argmax()].item()
    if not 0.6 < worst < 1.6:
        yield found("latents-unscaled", WRONG, std=worst, channel=int(stds.log().abs().argmax()))
