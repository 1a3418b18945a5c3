"""doctor.json: what the doctor found on a run, left in its folder for its page and last line."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import ImageData
from ..storage import write_file
from .checks import REFUSED, look_at_run
from .finding import NOTE, Finding, verdict
from .machine import this_machine
from .words import HEALTHY, language, said

FILE = "doctor.json"
Record = Mapping[str, Any]


def record_of(thing: str, findings: Sequence[Finding], lang: str) -> dict[str, Any]:
    """Plain JSON: the thing, the verdict, and each finding with its numbers and its words."""
    told = [
        {
            "code": finding.code,
            "severity": finding.severity,
            "facts": dict(finding.facts),
            **vars(said(finding, lang)),
        }
        for finding in findings
    ]
    return {"thing": thing, "verdict": verdict(findings), "lang": lang, "findings": told}


def as_text(record: Record) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False)


def leave(folder: Path, findings: Sequence[Finding], lang: str) -> Path:
    """Write RUN/doctor.json, whole or not at all. Raises: OSError where it can't be written."""
    path = folder / FILE
    write_file(path, as_text(record_of(str(folder), findings, lang)).encode())
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


def line_of(record: Record) -> str:
    """The verdict, with the first things that are wrong or at risk, and where the run stands."""
    found = record["findings"]
    told = [_in_a_line(finding) for finding in found if finding["severity"] != NOTE][:2]
    stands = [_in_a_line(finding) for finding in found if finding["severity"] == NOTE][:1]
    return " ".join([f"{HEALTHY[record['lang']][record['verdict']]}.", *told, *stands])


def line_on_run(folder: Path) -> str:
    """What doctor.json says in a line; that it is not there, where it could not be written."""
    path = folder / FILE
    if not path.is_file():
        return f"nothing; ask it: sfumato doctor {folder}"
    return line_of(json.loads(path.read_text(encoding="utf-8")))


def _in_a_line(finding: Record) -> str:
    return f"{finding['seen']} {finding['do']} [{finding['code']}]"
