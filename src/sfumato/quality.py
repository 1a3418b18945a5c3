"""What drawn images are worth beside real ones: every measure, its error and its floor.

The floor of a measure is the measure itself, of as many other real images as were drawn: what a
perfect model would get. A number far below a floor is as suspicious as one far above it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .appearance import Scales, colours, scales
from .console import reading
from .covering import density_coverage, precision_recall
from .data import ImageData, flip, generator_at, spread, subset
from .discrepancy import kernel_distance
from .feature_cache import FeatureCache, look_at_all
from .features import Features
from .measuring import (
    COPY,
    Estimate,
    Memory,
    Moments,
    class_accuracy,
    class_balance,
    frechet_estimate,
    memory,
    nearest,
    repeats,
)
from .results import Record, Result

Say = Callable[[str], None]
LEAST = 8  # images of either set, for the neighbours of density


@dataclass(frozen=True, eq=False)
class Real:
    """Real images to measure with.

    reference: those that the drawn ones are compared to. control: as many as were drawn, none of
    them in the reference, for the floors. train, unseen: those that the model was trained on and
    others, for what it may have learned by heart. None where there are none. mirrored: whether it
    was trained on the mirror images too, so that a copy of one is a copy.
    """

    reference: ImageData
    control: ImageData | None
    train: ImageData | None
    unseen: ImageData | None
    mirrored: bool = False

    @property
    def known(self) -> ImageData:
        """The images that were trained on; where it is not known which, those of the reference."""
        return self.reference if self.train is None else self.train

    def known_at(self, index: Tensor) -> Tensor:
        """The known images of these numbers, (B,); from their count on, the mirror images."""
        images = self.known.images
        return flip(images[index % len(images)], index >= len(images))


@dataclass(frozen=True, eq=False)
class Seen:
    """Images (N, C, H, W), and what the network makes of them: features (N, D), classes (N,).

    asked: the class that each should be of, (N,), where that is known.
    """

    images: Tensor
    features: Tensor
    classes: Tensor | None
    asked: Tensor | None


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of each drawn image the nearest other one: (distances (N,), indices (N,)) by either."""

    features: tuple[Tensor, Tensor]
    pixels: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Quality:
    """All that was found. neighbours: of the drawn images, by Real.known_at.

    scales: of drawn images beside the reference; control: of as many other real ones.
    """

    results: tuple[Result, ...]
    neighbours: Neighbours
    scales: Scales
    control: Scales | None


def quality(
    network: Features,
    drawn: Tensor,
    asked: Tensor | None,
    real: Real,
    record: Record,
    say: Say,
    cache: FeatureCache | None = None,
) -> Quality:
    """Every measure of drawn images, uint8 (N, C, H, W), of the classes asked for, (N,) or None.

    cache: where the features of real images are looked for, and kept.

    Raises: ValueError for fewer than LEAST images drawn or to compare with, or of another size.
    """
    check(drawn, real.reference)
    say(f"looking at the images by the {network.name} features")
    sets = image_sets(drawn, real)
    progress = reading(say, "images looked at", every=10.0)
    looked = look_at_all(network, sets, kept=sets.keys() - {"drawn"}, cache=cache, notice=progress)
    seen, yard = Seen(drawn, *looked["drawn"], asked), Seen(sets["real"], *looked["real"], None)
    control = real.control
    of = None if control is None or asked is None else control.labels
    others = None if control is None else Seen(control.images, *looked["control"], of)
    say("measuring")
    found = measures(network, seen, yard)
    floors = {} if others is None else measures(network, others, yard)
    results = [_result(name, value, floors.get(name), record) for name, value in found.items()]
    known_features = torch.cat([looked[name][0] for name in ("known", "mirrored") if name in sets])
    neighbours = neighbours_of(seen.images, seen.features, real, known_features)
    if "unseen" in sets:
        unseen, features = sets["unseen"], looked["unseen"][0]
        theirs = neighbours_of(unseen, features, real, known_features)
        results += memories(neighbours, theirs, record, real.mirrored)
    again = float(repeats(drawn))
    results.append(Result("Repeated images", again, None, _repeats(others), LOWER, record))
    gap = scales(drawn, real.reference.images)
    floor = None if others is None else scales(others.images, real.reference.images)
    return Quality(tuple(results), neighbours, gap, floor)


def image_sets(drawn: Tensor, real: Real) -> dict[str, Tensor]:
    """All images that the network has to look at, by what they are for."""
    sets = {"real": real.reference.images, "drawn": drawn, "known": real.known.images}
    if real.mirrored:
        sets["mirrored"] = real.known.images.flip(-1)
    if real.control is not None:
        sets["control"] = real.control.images
    if real.train is not None and real.unseen is not None and len(real.unseen) >= LEAST:
        sets["unseen"] = real.unseen.images
    return sets


def check(drawn: Tensor, reference: ImageData) -> None:
    """Raises ValueError unless both sets are of one size, and large enough."""
    if drawn.shape[1:] != reference.images.shape[1:]:
        raise ValueError(
            f"drawn images are {tuple(drawn.shape[1:])}, those of {reference.name} are "
            f"{tuple(reference.images.shape[1:])}: compare images of one size."
        )
    if min(len(drawn), len(reference)) < LEAST:
        raise ValueError(
            f"{len(drawn)} images drawn and {len(reference)} to compare with; at least {LEAST} of "
            "each are needed."
        )


# --- one set beside another

LOWER, HIGHER, FLOOR = "lower", "higher", "floor"
Measures = dict[str, tuple[Estimate, str]]


def measures(network: Features, seen: Seen, yard: Seen) -> Measures:
    """name: (value, which way is better) of a set of images beside the reference."""
    words = f"({network.name} features)"
    equal = _some(yard.features, len(seen.features))
    precision, recall = precision_recall(equal, seen.features)
    density, coverage = density_coverage(equal, seen.features)
    found = {
        network.frechet: (frechet_estimate(seen.features, Moments.of(yard.features)), LOWER),
        network.kernel: (kernel_distance(seen.features, yard.features), LOWER),
        f"Precision {words}": (precision, HIGHER),
        f"Recall {words}": (recall, HIGHER),
        f"Density {words}": (density, FLOOR),
        f"Coverage {words}": (coverage, HIGHER),
    }
    return {**found, **class_measures(network, seen, yard), **colour_measures(seen, yard)}


def _some(features: Tensor, count: int) -> Tensor:
    """At most `count` of them, at random: precision and its kin want sets of one size."""
    order = torch.randperm(len(features), generator=generator_at(0, "equal sizes"))
    return features[order[:count]]


def class_measures(network: Features, seen: Seen, yard: Seen) -> Measures:
    if seen.classes is None or yard.classes is None:
        return {}
    words = f"(by the {network.name} classifier)"
    shares = yard.classes.bincount(minlength=network.classes).double()
    found = {f"Class balance {words}": (class_balance(seen.classes, shares), HIGHER)}
    if seen.asked is not None:
        found[f"Of the class asked for {words}"] = (
            class_accuracy(seen.classes, seen.asked),
            HIGHER,
        )
    return found


def colour_measures(seen: Seen, yard: Seen) -> Measures:
    """The shift of each channel, and the ratio of its spread to the reference's."""
    names = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "opacity")}
    found: Measures = {}
    for name, of in zip(names[seen.images.shape[1]], colours(seen.images, yard.images)):
        found[f"Shift of {name}, of -1 to 1"] = (of.shift, FLOOR)
        found[f"Spread of {name}, ratio"] = (of.spread, FLOOR)
    return found


def _result(
    name: str,
    value: tuple[Estimate, str],
    floor: tuple[Estimate, str] | None,
    record: Record,
) -> Result:
    estimate, better = value
    real = None if floor is None else floor[0].mean
    return Result(name, estimate.mean, estimate.error, real, better, record)


def _repeats(others: Seen | None) -> float | None:
    return None if others is None else float(repeats(others.images))


# --- what was learned by heart


def neighbours_of(
    images: Tensor, features: Tensor, real: Real, known_features: Tensor
) -> Neighbours:
    """The nearest known image to each of the images; known_features: of the mirror images last."""
    known = real.known.images.flatten(1).float()
    pixels = nearest(images.flatten(1).float(), known)
    if real.mirrored:  # mirroring both leaves a distance as it is, and these are fewer
        pixels = _nearer(pixels, nearest(images.flip(-1).flatten(1).float(), known), len(known))
    return Neighbours(nearest(features, known_features), pixels)


def _nearer(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], count: int
) -> tuple[Tensor, Tensor]:
    """Of two (distances, indices) the nearer; the second's are counted on from `count`."""
    closer = second[0] < first[0]
    pairs = zip((second[0], second[1] + count), first)
    distances, index = (torch.where(closer, two, one) for two, one in pairs)
    return distances, index


def memories(
    drawn: Neighbours, unseen: Neighbours, record: Record, mirrored: bool = False
) -> list[Result]:
    """Whether drawn images are nearer to the training images than unseen real ones.

    mirrored: whether the neighbours were looked for among mirror images too.
    """
    one, all_of_them = "a training image", "training images"
    if mirrored:
        one, all_of_them = f"{one} or its mirror image", f"{all_of_them} or of their mirror images"
    pairs = {"pixels": (drawn.pixels, unseen.pixels), "features": (drawn.features, unseen.features)}
    found: Mapping[str, Memory] = {
        what: memory(mine[0], theirs[0]) for what, (mine, theirs) in pairs.items()
    }
    rows = []
    for what, of in found.items():
        nearer = f"Nearer to {one} than unseen ones are (in {what})"
        copies = f"As near as the nearest {COPY:.0%} of unseen ones (in {what})"
        rows += [
            Result(nearer, of.closer.mean, of.closer.error, 0.5, FLOOR, record),
            Result(copies, of.copies.mean, of.copies.error, of.expected, LOWER, record),
        ]
    exact = float(found["pixels"].exact)
    return [*rows, Result(f"Exact copies of {all_of_them}", exact, None, 0.0, LOWER, record)]


# --- which real images


def control_of(
    reference: ImageData, others: ImageData | None, count: int, in_shares: bool = True
) -> tuple[ImageData, ImageData | None]:
    """(the reference, `count` real images that are not in it).

    Of the others where they are enough; else the reference gives them up, where it is twice as
    many; else there are none. in_shares: each class in its share, as a model that is told classes
    is asked for them; else at random, for one that is not draws as many of each as chance has it.
    """
    if others is not None and len(others) >= count:
        return reference, subset(others, _chosen(others, count, in_shares))
    if len(reference) < 2 * count:
        return reference, None
    taken = _chosen(reference, count, in_shares)
    rest = torch.ones(len(reference), dtype=torch.bool)
    rest[taken] = False
    return subset(reference, rest.nonzero()[:, 0]), subset(reference, taken)


def _chosen(data: ImageData, count: int, in_shares: bool) -> Tensor:
    if in_shares:
        return spread(len(data), count, data.labels)
    order = torch.randperm(len(data), generator=generator_at(0, "control"))
    return order[:count].sort().values
