"""Findings in words, English and Chinese: what was seen, why it matters, what to do."""

# ruff: noqa: RUF001
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .chinese import CHANNELS, CHINESE, SEVERITY
from .english import ENGLISH
from .finding import NOTE, RISK, WRONG, Finding
from .naming import UNNAMED, Names

TEXTS = {"en": ENGLISH, "zh": CHINESE}
SEVERITIES = {"en": {WRONG: "wrong", RISK: "risk", NOTE: "note"}, "zh": SEVERITY}
HEALTHY = {
    "en": {
        WRONG: "this would ruin the run",
        RISK: "this may spoil the run",
        "healthy": "healthy: nothing stands in the way",
    },
    "zh": {WRONG: "这会毁掉训练", RISK: "这可能影响结果", "healthy": "健康：没有发现问题"},
}


@dataclass(frozen=True)
class Said:
    """A finding in one language."""

    seen: str
    why: str
    do: str


def language(asked: str | None) -> str:
    """The language asked for; else Chinese where LANG begins with zh, and English elsewhere."""
    if asked is not None:
        return asked
    return "zh" if os.environ.get("LANG", "").startswith("zh") else "en"


OF_RUN = {  # which has begun, and can't be ruined any more
    "en": {
        WRONG: "something is wrong with it",
        RISK: "something may be wrong with it",
        "healthy": HEALTHY["en"]["healthy"],
    },
    "zh": {WRONG: "有问题", RISK: "可能有问题", "healthy": HEALTHY["zh"]["healthy"]},
}
COUNTED = {"en": (" ({})", "{} {}", ", "), "zh": ("（{}）", "{} 项{}", "，")}
ASKED = {"en": "The doctor says of it: {}.", "zh": "医生看过后说：{}。"}
NOT_ASKED = {
    "en": "The doctor was not asked about it: `sfumato doctor {}`",
    "zh": "还没有问过医生：`sfumato doctor {}`",
}
RUN_TOO = {
    "en": "These are settings. A run is called so, too: `sfumato doctor {}`",
    "zh": "以上是设置。也有一次训练叫这个名字：`sfumato doctor {}`",
}
MORE = {"en": "{} more: `sfumato doctor {}`", "zh": "还有 {} 条：`sfumato doctor {}`"}
KINDS = {
    "en": {"recipe": "the recipe", "run": "the run", "data": "the data set", "path": "the path"},
    "zh": {"recipe": "配方", "run": "训练", "data": "数据集", "path": "路径"},
}


def unknown(name: str, near: Sequence[tuple[str, str]], language: str) -> str:
    """That nothing is called so; near: (kind, name) of what is called nearly so."""
    told = [f"{KINDS[language][kind]} {known}" for kind, known in near]
    if language == "zh":
        hint = f"是不是指{'、'.join(told)}？" if told else ""
        return (
            f"没有叫 {name!r} 的配方、训练、数据集或文件。{hint}"
            "sfumato recipes 列出配方；训练在 runs/ 里；图像要写出路径。"
        )
    hint = f"Did you mean {', or '.join(told)}? " if told else ""
    return (
        f"there is no recipe, run, data set or file {name!r}. {hint}`sfumato recipes` lists the "
        "recipes; runs are in runs/, and of images the path is wanted."
    )


def said(finding: Finding, language: str, names: Names = UNNAMED) -> Said:
    """names: of what was looked at, for commands. Raises: KeyError for a code without words."""
    facts: dict[str, Any] = dict(finding.facts)
    if language == "zh" and "channel" in facts:
        facts["channel"] = CHANNELS.get(facts["channel"], facts["channel"])
    known = {**vars(names), **names.of_file(facts.get("name")), **facts}
    return Said(*(text.format(**known) for text in TEXTS[language][finding.code]))


def in_a_line(finding: Finding, language: str, names: Names) -> str:
    """What was seen and what to do, with the code: for a warning."""
    words = said(finding, language, names)
    return f"{words.seen} {words.do} [{finding.code}]"
