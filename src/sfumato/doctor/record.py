"""doctor.json: what the doctor found on a run, left in its folder for its page and last lines."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import ImageData
from ..kinds import read_run
from ..storage import write_file
from ..wrapping import wrapped
from .checks import REFUSED, look_at_run
from .finding import NOTE, Finding, verdict
from .machine import this_machine
from .naming import Names, names_of_run
from .words import ASKED, MORE, NOT_ASKED, OF_RUN, SEVERITIES, language, said

FILE = "doctor.json"
SHOWN = 3  # of what is wrong or at risk, in a run's last lines
PAD = " " * 8
Record = Mapping[str, Any]


def record_of(thing: str, findings: Sequence[Finding], lang: str, names: Names) -> dict[str, Any]:
    """Plain JSON: the thing, the verdict, and each finding with its numbers and its words."""
    told = [
        {
            "code": finding.code,
            "severity": finding.severity,
            "facts": dict(finding.facts),
            **vars(said(finding, lang, names)),
        }
        for finding in findings
    ]
    return {"thing": thing, "verdict": verdict(findings), "lang": lang, "findings": told}


def as_text(record: Record) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False)


def leave(folder: Path, findings: Sequence[Finding], lang: str) -> Path:
    """Write RUN/doctor.json, whole or not at all. Raises: OSError where it can't be written."""
    path, names = folder / FILE, names_of_run(folder, read_run(folder))
    write_file(path, as_text(record_of(str(folder), findings, lang, names)).encode())
    return path


def look_and_leave(
    folder: Path, data: ImageData, device: torch.device, warn: Callable[[str], None]
) -> None:
    """At the end of training: doctor.json. What keeps the doctor from looking is a warning."""
    try:
        findings = look_at_run(str(folder), this_machine(device, folder), data)
        leave(folder, findings, language(None))
    except REFUSED as error:
        warn(f"the doctor could not look at the run: {error}")


def words_on_run(folder: Path) -> str:
    """What doctor.json says, in lines; that it is not there, where it could not be written."""
    path, typed = folder / FILE, shlex.quote(str(folder))
    if not path.is_file():
        return NOT_ASKED[language(None)].format(typed)
    return words_of(json.loads(path.read_text(encoding="utf-8")), typed)


def words_of(record: Record, folder: str) -> str:
    """The verdict; below it the first things that are wrong or at risk, and where the run stands.

    folder: as it is typed.
    """
    found, lang = record["findings"], record["lang"]
    bad = [finding for finding in found if finding["severity"] != NOTE]
    shown = [*bad[:SHOWN], *[finding for finding in found if finding["severity"] == NOTE][:1]]
    lines = [ASKED[lang].format(OF_RUN[lang][record["verdict"]])]
    for finding in shown:
        head = f"  {SEVERITIES[lang][finding['severity']]}  "
        lines.append(wrapped(f"{finding['seen']} [{finding['code']}]", first=head, rest=PAD))
        lines.append(wrapped(finding["do"], first=f"{PAD}-> ", rest=f"{PAD}   "))
    if len(found) > len(shown):
        lines.append("  " + MORE[lang].format(len(found) - len(shown), folder))
    return "\n".join(lines)
