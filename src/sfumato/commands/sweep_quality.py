"""The quality of what a sampler draws, for sfumato sweep: a Frechet distance with its floor."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..arguments import Evaluate, Sweep
from ..console import reading
from ..feature_cache import FeatureCache, look_at_all
from ..features import Features, features_of, fitting
from ..generation import Order, draw
from ..loading import Loaded
from ..measuring import Estimate, Moments, frechet_estimate
from ..quality import Real
from ..sweeping import Row
from .drawn import BATCH, cache_of, judges, order_of
from .evaluate import real_images

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Judge:
    """What drawn images are measured by. floor: the distance of as many other real images."""

    loaded: Loaded
    network: Features
    reference: Moments
    told: str
    order: Order
    floor: Estimate | None

    @property
    def images(self) -> int:
        return len(self.order)

    def of(self, row: Row) -> Row:
        """The row with its quality, and with the seconds that drawing took."""
        rival, loaded = row.rival, self.loaded
        sampling = replace(
            loaded.run.sampling,
            solver=rival.solver,
            grid=rival.grid,
            steps=rival.steps,
            guidance=row.guidance,
            keep_eps=False,
        )
        begun = time.monotonic()
        images = draw(
            loaded.denoiser,
            self.order,
            sampling,
            loaded.conditions,
            loaded.device,
            BATCH,
            None,
            loaded.codec,
        )
        taken = (time.monotonic() - begun) / len(images)
        found = frechet_estimate(self.network(images), self.reference)
        return replace(row, quality=found, seconds=taken)

    def record(self) -> dict[str, Any]:
        return {
            "measure": self.network.frechet,
            "digest": self.network.digest,
            "resize": self.network.resize,
            "images": self.images,
            "seeds": [0, self.images],
            "reference": self.told,
            "reference_images": self.reference.count,
            "floor": None if self.floor is None else self.floor.mean,
        }


def judge_of(args: Sweep, loaded: Loaded, say: Say) -> Judge | None:
    """The judge that --features asks for; None for none, and where none is made for these images.

    Raises: ValueError or OSError where features are asked for and the real images are not there.
    """
    if args.features == "none":
        return None
    asked = Evaluate(run=str(loaded.folder), samples=args.images)
    try:
        told, real = real_images(asked, loaded.run, loaded.card, say)
    except (ValueError, OSError) as error:
        if args.features is not None:
            raise
        say(f"quality is not measured, there being no real images: {error}")
        return None
    known = real.reference
    name = fitting(known) if args.features in (None, "auto") else args.features
    if args.features is None and name == "judge":
        say(
            "quality is not measured: no features of ours are made for these images. --features "
            "judge makes some of them; efficientnet is for photographs."
        )
        return None
    notice = reading(say, "steps of the judge's training", every=10.0)
    network = features_of(name, loaded.device, None, known, notice=notice, judges=judges())
    progress = reading(say, "real images looked at", every=10.0)
    cache = cache_of(loaded.device)
    return judge_by(network, loaded, (told, real), args.images, cache, progress)


def judge_by(
    network: Features,
    loaded: Loaded,
    compared: tuple[str, Real],
    images: int,
    cache: FeatureCache | None = None,
    notice: Callable[[int, int], None] | None = None,
) -> Judge:
    """compared: what drawn images are measured beside, in words and as images."""
    told, real = compared
    sets = {"real": real.reference.images}
    if real.control is not None:
        sets["control"] = real.control.images
    looked = look_at_all(network, sets, sets.keys(), cache, notice)
    reference = Moments.of(looked["real"][0])
    floor = frechet_estimate(looked["control"][0], reference) if "control" in sets else None
    return Judge(loaded, network, reference, told, order_of(loaded, real.reference, images), floor)
