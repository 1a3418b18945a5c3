"""The size that files are brought to where none is asked for, and CelebA's faces.

    all of one size                that size
    sizes that differ              a side of SIDES: the largest that 99 images of 100 reach
    178 wide and 218 high, all     CelebA's aligned faces: the centre 140 x 140, at 64 x 64

Nothing is enlarged but where a size is asked for, and then it is told.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.data.images import Size

SIDES = (128, 96, 64, 48, 32, 24, 16, 8)  # all halve well; more than 128 is slow: only if asked for
MAX_UNASKED = 4 * 2**30  # bytes of pixels held without a size having been asked for

ALIGNED = (218, 178)  # (H, W) of img_align_celeba
# Song et al. (2021), score-based SDEs: central_crop(img, 140) in their code, then a resize.
FACE = (140, 140)
FACE_SIDE = 64


@dataclass(frozen=True)
class Frame:
    """What becomes of each image: its centre `crop` alone, scaled until it covers `size`."""

    size: Size  # (H, W)
    crop: Size | None = None
    notes: tuple[str, ...] = ()


def choose_frame(sizes: Sequence[Size], channels: int | None) -> Frame:
    """The frame of images of these sizes, with a sentence on it where there was a choice."""
    different = Counter(sizes)
    if not different:
        return Frame((SIDES[-1], SIDES[-1]))  # nothing can be read: decoding says why
    if set(different) == {ALIGNED}:
        return face_frame(None)
    if len(different) == 1:
        return _of_one_size(sizes[0], len(sizes), channels or 3)
    return _of_many_sizes(different, channels or 3)


def face_frame(size: Size | None) -> Frame:
    """CelebA's, for the size that is asked for; the whole 218 x 178 is kept by asking for that."""
    if size == ALIGNED:
        return Frame(ALIGNED)
    height, width = size or (FACE_SIDE, FACE_SIDE)
    return Frame(
        (height, width),
        FACE,
        (
            "All images are 178 wide and 218 high, as CelebA's aligned faces are: the centre "
            f"{FACE[0]} x {FACE[1]} was cut out and scaled to {height} x {width}. Others cut out "
            "128, 148 or 178, and FID is not comparable between these.",
        ),
    )


def enlarged_note(count: int) -> str:
    """The sentence on images that had fewer pixels than asked for."""
    which = "1 image is" if count == 1 else f"{count:,} images are"
    return f"{which} smaller than that and had to be enlarged, which adds no detail."


def _of_one_size(size: Size, count: int, channels: int) -> Frame:
    height, width = size
    needed = count * height * width * channels
    if needed <= MAX_UNASKED:
        return Frame(size)
    side = _side(min(size), count, channels)
    note = (
        f"All images are {height} x {width}, which takes {needed / 2**30:.1f} GiB of memory: each "
        f"was scaled to {side} x {side}; give a size to choose another."
    )
    return Frame((side, side), notes=(note,))


def _of_many_sizes(different: Counter[Size], channels: int) -> Frame:
    short = sorted(min(size) for size in different.elements())
    side = _side(short[len(short) // 100], len(short), channels)  # one stray decides nothing
    by_area = sorted(different, key=lambda s: (s[0] * s[1], s))
    low, high = by_area[0], by_area[-1]
    note = (
        f"The images have {len(different):,} sizes, from {low[0]} x {low[1]} to "
        f"{high[0]} x {high[1]}: each was scaled and its centre cropped to {side} x {side}, "
        f"the largest that nearly all reach and memory holds, of {SIDES[0]} at most; "
        "give a size to choose another."
    )
    return Frame((side, side), notes=(note,))


def _side(reached: int, count: int, channels: int) -> int:
    """The largest of SIDES up to `reached` that memory holds `count` times."""
    if reached < SIDES[-1]:
        return reached
    fitting = (s for s in SIDES if s <= reached and count * s * s * channels <= MAX_UNASKED)
    return next(fitting, SIDES[-1])
