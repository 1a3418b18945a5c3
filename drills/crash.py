"""A file system that forgets: what a crash may leave of the calls that a writer made.

`recorded` notes every call of sfumato.disk. `states` replays them up to any moment and yields disks
as a crash may leave them there, under the weakest promises that POSIX makes:

- the content of a file is certain only after it was synced; until then it may be empty, cut short,
  wholly there, or zeros;
- a name that was made, renamed or removed is certain only after its folder was synced; until then
  any part of such changes may be missing, in any order, though each is whole.
"""

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato import disk

CALLS = ("make_folder", "write", "append", "sync", "sync_folder", "rename", "remove")
CALLS += ("remove_folder",)
MOST_AT_A_MOMENT = 40  # states, of the subsets of what is uncertain
Call = tuple[str, tuple[Any, ...]]


@contextmanager
def recorded(calls: list[Call]) -> Iterator[None]:
    """Within the block every call of disk's primitives is done, then noted."""
    before = {name: getattr(disk, name) for name in CALLS}

    def noting(name: str) -> Any:
        def call(*words: Any) -> Any:
            before[name](*words)
            calls.append((name, words))

        return call

    for name in CALLS:
        setattr(disk, name, noting(name))
    try:
        yield
    finally:
        for name, primitive in before.items():
            setattr(disk, name, primitive)


@dataclass
class Node:
    """A file or folder, whatever it is called. safe: the content or the names that are certain."""

    folder: bool
    now: Any = b""
    safe: Any = b""
    pending: list[tuple[str, "Node | None"]] = field(default_factory=list)  # (name, node or none)


def folder_node() -> Node:
    return Node(True, {}, {})


@dataclass
class Disk:
    """What was done so far below a root, and what of it a crash can't undo."""

    root: Path
    top: Node = field(default_factory=folder_node)

    def at(self, path: Path) -> Node:
        node = self.top
        for name in path.relative_to(self.root).parts:
            node = node.now[name]
        return node

    def _change(self, path: Path, node: Node | None) -> None:
        parent = self.at(path.parent)
        if node is None:
            parent.now.pop(path.name, None)
        else:
            parent.now[path.name] = node
        parent.pending.append((path.name, node))

    def do(self, call: Call) -> None:
        name, words = call
        path = words[0]
        if name == "make_folder":
            self._change(path, folder_node())
        elif name in ("write", "append"):
            parent = self.at(path.parent)
            if path.name not in parent.now:
                self._change(path, Node(False))
            file = parent.now[path.name]
            file.now = words[1] if name == "write" else file.now + words[1]
        elif name == "sync":
            self.at(path).safe = self.at(path).now
        elif name == "sync_folder":
            node = self.at(path)
            node.safe, node.pending = dict(node.now), []
        elif name == "rename":
            node = self.at(path)
            self._rename(path, words[1], node)
        else:
            self._change(path, None)

    def _rename(self, old: Path, new: Path, node: Node) -> None:
        """Within one folder both names change at once."""
        assert old.parent == new.parent, "the writer renames within a folder"
        parent = self.at(old.parent)
        parent.now.pop(old.name)
        parent.now[new.name] = node
        parent.pending.append((f"{old.name}\0{new.name}", node))

    def uncertain(self) -> list[Node]:
        """Nodes whose names or content a crash may undo, from the top down."""
        found, waiting = [], [self.top]
        while waiting:
            node = waiting.pop(0)
            if node.folder:
                waiting += list({id(n): n for n in self._all_of(node)}.values())
            if node.pending or (not node.folder and node.now != node.safe):
                found.append(node)
        return found

    @staticmethod
    def _all_of(node: Node) -> list[Node]:
        return [*node.safe.values(), *(n for _, n in node.pending if n is not None)]


def contents(node: Node) -> list[bytes]:
    """What may be found in a file that was not synced since it was written."""
    whole = node.now
    return [node.safe, b"", whole[: len(whole) // 2], whole, bytes(len(whole))]


def choices(node: Node) -> list[Any]:
    """What a crash may leave of this node: a set of its changes, or a content."""
    if not node.folder:
        return contents(node)
    count = len(node.pending)
    subsets = itertools.product((False, True), repeat=count)
    return list(itertools.islice(subsets, 64))


def names_of(node: Node, keep: tuple[bool, ...]) -> dict[str, Node]:
    """The folder's names with only these of its uncertain changes."""
    names = dict(node.safe)
    for (name, made), kept in zip(node.pending, keep):
        if not kept:
            continue
        old, _, new = name.partition("\0")
        if new:
            names.pop(old, None)
            names[new] = made  # type: ignore[assignment]
        elif made is None:
            names.pop(name, None)
        else:
            names[name] = made
    return names


def write_out(node: Node, path: Path, chosen: dict[int, Any]) -> None:
    """Make the chosen state real, below `path`."""
    if not node.folder:
        path.write_bytes(chosen.get(id(node), node.safe))
        return
    path.mkdir()
    keep = chosen.get(id(node), (False,) * len(node.pending))
    for name, inner in names_of(node, keep).items():
        write_out(inner, path / name, chosen)


def states(calls: list[Call], root: Path, dice: random.Random) -> Iterator[tuple[int, Disk, dict]]:
    """(calls done, the disk, what the crash chose) for every moment, several a moment."""
    now = Disk(root)
    for done, call in enumerate(calls, 1):
        now.do(call)
        nodes = now.uncertain()
        options = [choices(node) for node in nodes]
        every = 1
        for option in options:
            every *= len(option)
        if every <= MOST_AT_A_MOMENT:
            picks = list(itertools.product(*options))
        else:
            picks = [tuple(map(dice.choice, options)) for _ in range(MOST_AT_A_MOMENT)]
        for pick in picks:
            yield done, now, {id(node): choice for node, choice in zip(nodes, pick)}
