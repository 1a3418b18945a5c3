"""Findings in words, English and Chinese: what was seen, why it matters, what to do."""

# ruff: noqa: RUF001
import os
from dataclasses import dataclass
from typing import Any

from .chinese import CHANNELS, CHINESE, SEVERITY
from .english import ENGLISH
from .finding import NOTE, RISK, WRONG, Finding

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


def said(finding: Finding, language: str) -> Said:
    """Raises: KeyError for a code that there are no words for."""
    facts: dict[str, Any] = dict(finding.facts)
    if language == "zh" and "channel" in facts:
        facts["channel"] = CHANNELS.get(facts["channel"], facts["channel"])
    return Said(*(text.format(**facts) for text in TEXTS[language][finding.code]))


def in_a_line(finding: Finding, language: str) -> str:
    """What was seen and what to do, with the code: for a warning."""
    words = said(finding, language)
    return f"{words.seen} {words.do} [{finding.code}]"
