"""The command line as typed: other programs' flags, mistyped commands, then the flags themselves.

Nothing here imports torch, so that --help and a typo answer at once.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import tyro

from .arguments import COMMANDS
from .typed import UsageError, check_values
from .vocabulary import PEERS


def _spelling(flag: str) -> str:
    return flag.lstrip("-").partition("=")[0].replace("_", "-").lower()


def rewrite(argv: Sequence[str]) -> list[str]:
    """key=value as --key value, and dotted.key=value as --set.

    Raises: UsageError for a command or flag that another program has, or a command mistyped.
    """
    command = argv[0] if argv else "--help"
    _check_command(command)
    cls = COMMANDS.get(command)
    known = {field.name for field in fields(cls)} if cls else set()
    words, settings = [], []
    for word in argv[1:]:
        match = re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", word, re.DOTALL)
        if match is None:
            words.append(word)
        elif match[1] in known or "settings" not in known or _spelling(match[1]) in PEERS:
            words += [f"--{match[1].replace('_', '-')}", match[2]]
        else:
            settings.append(word)
    _refuse_peers([word.partition("=")[0] for word in words if word.startswith("--")], known)
    return [command, *words, *(["--set", *settings] if settings else [])]


def _refuse_peers(flags: Sequence[str], known: set[str]) -> None:
    """Raise UsageError that translates every flag that is another program's."""
    theirs = [flag for flag in flags if _spelling(flag) in PEERS]
    theirs = [flag for flag in theirs if _spelling(flag).replace("-", "_") not in known]
    if theirs:
        told = [
            f"{flag} is another program's; here it is {PEERS[_spelling(flag)]}" for flag in theirs
        ]
        raise UsageError(f"{'. '.join(told)}.")


def _check_command(command: str) -> None:
    if command.startswith("-") or command in COMMANDS:
        return
    close = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean `sfumato {close[0]}`?" if close else f"there is {', '.join(COMMANDS)}."
    raise UsageError(f"sfumato has no command {command!r}; {hint}")


def parse(argv: Sequence[str]) -> Any:
    """The command that was typed; prints help or what is wrong and exits where there is none.

    Raises: UsageError for what rewrite and check_values refuse.
    """
    words = rewrite(argv)
    if words[0] in COMMANDS:
        check_values(words[1:], get_type_hints(COMMANDS[words[0]]))
        return tyro.cli(COMMANDS[words[0]], args=words[1:], prog=f"sfumato {words[0]}")
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=words,
        prog="sfumato",
        description="Train, sample, measure and understand image diffusion models of your own.",
    )
