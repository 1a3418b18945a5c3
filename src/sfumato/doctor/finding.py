"""A finding: a short code, how bad it is, and the numbers that were seen; words.py says it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WRONG, RISK, NOTE = "wrong", "risk", "note"  # ruins the run; may ruin it; where it stands
SEVERITIES = (WRONG, RISK, NOTE)


@dataclass(frozen=True)
class Finding:
    """severity: one of SEVERITIES. facts: named numbers and names, for the words."""

    code: str
    severity: str
    facts: tuple[tuple[str, Any], ...] = ()


def found(code: str, severity: str, **facts: Any) -> Finding:
    return Finding(code, severity, tuple(facts.items()))


def sorted_by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """What is wrong first; else in the order in which they were found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def verdict(findings: Iterable[Finding]) -> str:
    """The worst severity; "healthy" where there are only notes, or nothing."""
    severities = {finding.severity for finding in findings}
    return next((severity for severity in (WRONG, RISK) if severity in severities), "healthy")
