"""Files and settings that somebody made to do harm: H1 to H6."""

from collections import Counter
from typing import Any

from .drill import Count, Drill
from .hostile_bombs import BOMBS
from .hostile_entries import OPEN
from .nursery import forked

GROWTH, SECONDS = 50.0, 1.0  # MB beside twice the file's size; of the CPU


def h1(short: bool) -> Count:
    """Malicious pickles at every entry point: nothing runs, and the refusal names the file"""
    noticed, made = forked("hostile_entries:control")
    if noticed < made:
        return Count(made, noticed, "unpickled on purpose, some attacks were not seen by the hook")
    return counted(forked("hostile_entries:tried", short))


def h2(short: bool) -> Count:
    """A torch.distributed checkpoint, whose .metadata is a pickle: never read as one"""
    return counted(forked("hostile_entries:tried_dcp", short))


def counted(found: dict[str, Any]) -> Count:
    """Held: nothing ran, and it was refused in plain words.

    At the entries in OPEN it is only looked at what ran: they are not among those tried, but told.
    """
    tried, badly = Counter(found["tried"]), Counter(name for name, _ in found["else"])
    for name in OPEN:
        del tried[name]
    first = next((f"{name}, {told}" for name, told in found["else"] if name in tried), "")
    if found["run"]:
        return Count(tried.total(), 0, f"RAN: {found['run'][0]}")
    waived = sum(badly[name] for name in OPEN)
    closed = [name for name in OPEN if name in found["tried"] and not badly[name]]
    note = (
        f"; nothing ran in {waived} more, whose refusal is in no good words yet" if waived else ""
    )
    note += f"; good now, take it out of OPEN: {', '.join(closed)}" if closed else ""
    held = tried.total() - sum(badly[name] for name in tried)
    return Count(tried.total(), held, f"{first[:200]}{note}")


def h3(short: bool) -> Count:
    """Bombs under 1 GB more memory: refused within 1 CPU second, 2 x file + 50 MB"""
    lost, most, longest = [], 0.0, 0.0
    for name in BOMBS:
        try:
            found = forked("hostile_bombs:measured", name, short)
        except RuntimeError as error:
            lost.append(f"{name}: {error}"[:160])
            continue
        most, longest = max(most, found["grown"]), max(longest, found["seconds"])
        room = 2 * found["size"] + GROWTH
        if not found["refused"] or found["grown"] > room or found["seconds"] > SECONDS:
            lost.append(f"{name}: {found}"[:200])
    note = f"at most {most:.0f} MB more and {longest:.2f} CPU s"
    return Count(len(BOMBS), len(BOMBS) - len(lost), "; ".join([note, *lost[:3]]))


def h4(short: bool) -> Count:
    """Mutated headers, manifests, run.json, data.json and others: typed errors alone"""
    return fuzzed("hostile_fuzz:readers", 4_000 if short else 200_000)


def h5(short: bool) -> Count:
    """Generated settings: no traceback, nothing run or written, unknown keys named"""
    return fuzzed("hostile_fuzz:settings", 2_000 if short else 50_000)


PART = 25_000  # inputs in a fork


def fuzzed(job: str, wanted: int) -> Count:
    """The job over seeds from 0, a part of the inputs each."""
    held, notes, words = 0, [], Counter[str]()
    parts = range(0, wanted, PART)
    for begin in parts:
        found = forked(job, begin, min(PART, wanted - begin))
        held += found["held"]
        words.update(found["ended"])
        notes += found["lost"]
    told = ", ".join(f"{name} {count:,}" for name, count in words.most_common(3))
    return Count(wanted, held, "; ".join([told, *notes[:3]]))


def h6(short: bool) -> Count:
    """Third parties' weights that do not fit: strict errors, with counts and first names"""
    found = forked("hostile_weights:tried", short)
    return Count(found["tried"], found["tried"] - len(found["lost"]), "; ".join(found["lost"][:3]))


DRILLS: dict[str, Drill] = {"H1": h1, "H2": h2, "H3": h3, "H4": h4, "H5": h5, "H6": h6}
