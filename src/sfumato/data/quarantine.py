"""Images of a set that cannot be read: left out and named, up to a share that makes the set bad."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

Failures = Sequence[tuple[str, str]]  # (path, reason)

_NAMED = 10  # of a warning's failures
_NAMED_IN_ERROR = 3


class UnreadableWarning(UserWarning):
    """Some images were left out of a data set because they could not be read."""


@dataclass(frozen=True)
class Tolerance:
    """Shares of a set's image files that may be unreadable, from 0 to 1.

    Up to `loud` a warning names them; above it the warning also says that the set looks damaged;
    above `most` that is an error.
    """

    loud: float = 0.01
    most: float = 0.2

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} = {share}: give a share of the files, from 0 to 1.")


USUAL = Tolerance()


def judge(failures: Failures, tried: int, where: str, tolerance: Tolerance) -> None:
    """Warn of the files that failed, of `tried` in all, with UnreadableWarning.

    Raises ValueError where they are more than the tolerated share.
    """
    if not failures:
        return
    count, share = len(failures), len(failures) / tried
    if share > tolerance.most:
        raise ValueError(
            f"{where}: {count:,} of {tried:,} images cannot be read: "
            f"{_named(failures, _NAMED_IN_ERROR)}. Up to {tolerance.most:.1%} would be left out; "
            f"this is {share:.1%}. Fetch the set anew, or "
            "tolerate a larger share (data.unreadable=0.5)."
        )
    left = "1 image was" if count == 1 else f"{count:,} images were"
    words = f"{left} left out of {tried:,}, unreadable: {_named(failures, _NAMED)}."
    if share > tolerance.loud:
        words = f"{where} LOOKS DAMAGED, {share:.1%} of it: {words} Look at them before you train."
    warnings.warn(words, UnreadableWarning, stacklevel=2)


def as_text(failures: Failures) -> str:
    """A line a file, path and reason with a tab between them: what a run's folder keeps."""
    return "".join(f"{path}\t{reason}\n" for path, reason in failures)


def _named(failures: Failures, most: int) -> str:
    named = "; ".join(f"{path} ({reason})" for path, reason in failures[:most])
    more = len(failures) - most
    return f"{named}; and {more:,} more" if more > 0 else named
