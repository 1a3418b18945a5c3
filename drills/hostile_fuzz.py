"""Random damage to every file that is read, and random settings; each from a seed of its own.

Run in a fork of the nursery. Held: what was given is read, or refused by one of TYPED.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save

from sfumato.folder import read_card
from sfumato.interop.fitting import skeleton
from sfumato.interop.reading import tensors_of
from sfumato.interop.torch_pickles import Refused, look_through
from sfumato.kinds import dumps, loads, override
from sfumato.latents import CODEC, read_codec
from sfumato.recipes import RECIPES
from sfumato.storage import MANIFEST, DamagedError, commit_folder, read_folder
from sfumato.text import CARD, CaptionTable, load_table, save_table

from .hostile_entries import FORBIDDEN, committed
from .hostile_pickles import called, shell, text, whole
from .hostile_runs import small_codec

TYPED = (ValueError, DamagedError, FileNotFoundError, Refused)
NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**12, -(10**12), 10**400, 0.5, 1e308, "", "x", [], {}),
    *(float("nan"), float("inf"), "inf", "nan", [[]], [None], [1] * 20, [{}], {"kind": "Run"}),
    *({"kind": "UNetConfig"}, {"kind": "os.system"}, "../../x", "/etc/passwd", "a\x00b", "\x1b[2J"),
    *("${HOME}", "!!python/object/apply:os.system ['true']", "{{7*7}}", {"_target_": "os.system"}),
    *({"kind": ["Run"]}, {"kind": None}, {"kind": 5}, "Heun", "é" * 300, "C:\\x", "\ud800"),
)
NUMBERS = (b"1e999", b"-1", b"NaN", b"Infinity", b"99999999999999999999", b"0.0", b"1" * 5000)


# --- damage


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, put in; of JSON also values and keys."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut, put_in, doubled]
    if content[:1] == b"{":
        ways += [restructured, restructured, restructured, renumbered]
    for _ in range(dice.choice((1, 1, 2, 4))):
        content = dice.choice(ways)(content, dice)
    return content


def flipped(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice((1, 2, 8))):
        if changed:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def put_in(content: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(content) + 1)
    return content[:at] + dice.randbytes(dice.randrange(1, 9)) + content[at:]


def doubled(content: bytes, dice: random.Random) -> bytes:
    first, second = sorted(dice.randrange(len(content) + 1) for _ in range(2))
    return content[:second] + content[first:]


def renumbered(content: bytes, dice: random.Random) -> bytes:
    """A run of digits replaced by something that is no such number."""
    starts = [at for at, byte in enumerate(content) if 48 <= byte < 58]
    if not starts:
        return content
    at = dice.choice(starts)
    return content[:at] + dice.choice(NUMBERS) + content[at + 1 :]


def restructured(content: bytes, dice: random.Random) -> bytes:
    """A value or key of the JSON replaced; the content itself where it is none any more."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps(changed(found, dice)).encode()


def changed(value: Any, dice: random.Random) -> Any:
    """The value with something in it replaced, dropped, added or renamed."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        name = dice.choice(list(value))
        way = dice.random()
        if way < 0.6:
            return {**value, name: changed(value[name], dice)}
        if way < 0.7:
            return {key: inner for key, inner in value.items() if key != name}
        if way < 0.85:
            renamed = {(typo(key, dice) if key == name else key): v for key, v in value.items()}
            return renamed
        return {**value, str(dice.choice(NASTY))[:40]: dice.choice(NASTY)}
    if isinstance(value, list) and value and dice.random() < 0.5:
        at = dice.randrange(len(value))
        return [*value[:at], changed(value[at], dice), *value[at + 1 :]]
    return dice.choice(NASTY)


def typo(word: str, dice: random.Random) -> str:
    """The word with a letter left out or two swapped."""
    at = dice.randrange(max(1, len(word) - 1))
    if dice.random() < 0.5:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


# --- H4


def readers(begin: int, count: int) -> dict[str, Any]:
    """{"held", "ended": how often by what, "lost": a few} over the seeds from `begin`."""
    ended: Counter[str] = Counter()
    lost: list[str] = []
    with TemporaryDirectory() as name:
        targets = _targets(Path(name))
        kinds = [target for target, weight in targets for _ in range(weight)]
        for seed in range(begin, begin + count):
            dice = random.Random(seed)
            label, content, read = dice.choice(kinds)
            _note(f"{label}, seed {seed}", ended, lost, read, damaged(content, dice))
    return {"held": count - ended["lost"], "ended": ended, "lost": lost[:5]}


def _note(
    what: str, ended: Counter[str], lost: list[str], work: Callable[..., Any], *arguments: Any
) -> None:
    """Do it and count how it ended."""
    try:
        work(*arguments)
    except TYPED as error:
        ended[type(error).__name__] += 1
    except Exception as error:  # a traceback, for whoever typed the command
        ended["lost"] += 1
        lost.append(f"{what}: {type(error).__name__}: {error}"[:200])
    else:
        ended["read"] += 1


Target = tuple[str, bytes, Callable[[bytes], Any]]


def _targets(root: Path) -> list[tuple[Target, int]]:
    """(what is read, an undamaged one, its reader), and in how many of a hundred."""
    weights = save({"a.weight": torch.ones(2, 3), "b": torch.ones(1, dtype=torch.int64)})
    torch_pickle = whole(called("os.system", shell("x")), 2)[:-1] + text("b") + b"K\x01s."
    card = {"name": "a", "source": "b", "fingerprint": "c", "images": 5, "channels": 1}
    card |= {"size": [8, 8], "class_names": ["0", "1"]}
    codec, table, folder = small_codec(root), root / "captions", root / "folder"
    commit_folder(folder, {"a.json": b"{}", "weights.safetensors": weights})
    table.mkdir()
    rows, index = torch.zeros(2, 3, 4).half(), torch.tensor([0, 1])
    save_table(CaptionTable(rows, torch.ones(2, 3) > 0, index, ("", "x"), "e", 8), table)
    read = [(f"run.json, {name}", dumps(RECIPES[name]()).encode(), loads) for name in RECIPES]
    every = max(1, len(read) // 10)
    return [
        (("header", weights, lambda c: tensors_of(c, "a")), 30),
        (("manifest", (folder / MANIFEST).read_bytes(), _in(folder / MANIFEST, read_folder)), 15),
        *((target, 3) for target in read[::every][:10]),
        (("data.json", json.dumps(card).encode(), _in(root / "data.json", read_card)), 13),
        (("pickle", torch_pickle, look_through), 7),
        ((CARD, (table / CARD).read_bytes(), _in(table / CARD, load_table)), 4),
        ((CODEC, (codec / CODEC).read_bytes(), lambda c: _codec(codec, c)), 1),
    ]


def _in(path: Path, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    def written(content: bytes) -> Any:
        path.write_bytes(content)
        return read(path.parent)

    return written


def _codec(folder: Path, content: bytes) -> Any:
    committed(folder, CODEC, content)
    return read_codec(folder)


# --- H5


def settings(begin: int, count: int) -> dict[str, Any]:
    """The same over generated settings; nothing may run, nothing be written, typos be named."""
    ended: Counter[str] = Counter()
    lost: list[str] = []
    runs = [(dumps(make()), make()) for make in list(RECIPES.values())[::3]]
    seen = _watch()
    for seed in range(begin, begin + count):
        dice = random.Random(seed)
        content, run = dice.choice(runs)
        work = dice.choice((_generated, _generated, _overridden, _mistyped))
        _note(f"seed {seed}", ended, lost, work, content, run, dice)
    lost += seen
    return {"held": max(0, count - ended["lost"] - len(seen)), "ended": ended, "lost": lost[:5]}


def _watch() -> list[str]:
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and set(str(arguments[1])) & set("wax+")
        if event in FORBIDDEN or writes or event in ("os.mkdir", "os.rename", "os.remove"):
            seen.append(f"{event} {arguments[:1]}"[:120])

    sys.addaudithook(hook)
    return seen


def _generated(content: str, run: Any, dice: random.Random) -> None:
    found = json.loads(content)
    for _ in range(dice.choice((1, 1, 2, 5))):
        found = changed(found, dice)
    made = loads(json.dumps(found))
    path = (Path("runs") / made.name).resolve()
    assert path.is_relative_to(Path("runs").resolve()), f"the name leads out: {made.name!r}"
    if dice.random() < 0.02:
        skeleton(made.network.build, "run.json")


def _overridden(content: str, run: Any, dice: random.Random) -> None:
    """--set of a field, or of what only looks like one."""
    node, path = json.loads(content), []
    while isinstance(node, dict) and (not path or dice.random() < 0.6):
        path.append(dice.choice(list(node)))
        node = node[path[-1]]
    value = dice.choice(NASTY)
    words = value if isinstance(value, str) and dice.random() < 0.5 else json.dumps(value)
    override(run, ".".join(path), words)


def _mistyped(content: str, run: Any, dice: random.Random) -> None:
    """A field's name with a slip; the message must have the right one."""
    found = json.loads(content)
    node = found[dice.choice([key for key, inner in found.items() if isinstance(inner, dict)])]
    right = dice.choice([key for key in node if key != "kind"] or ["kind"])
    wrong = typo(right, dice)
    if right == "kind" or wrong in node:
        return
    node[wrong] = node.pop(right)
    try:
        loads(json.dumps(found))
    except ValueError as error:
        if right not in str(error):
            raise KeyError(f"{wrong} for {right}: {error}") from error
        raise
    raise KeyError(f"{wrong} for {right} was read")
