"""sfumato doctor: what would ruin a run on these images or settings, or where a run stands."""

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..arguments import Doctor
from ..console import WIDTH
from ..devices import pick_device
from ..doctor import Finding, look_at_data, look_at_plan, look_at_run, verdict
from ..doctor.finding import RISK, WRONG
from ..doctor.machine import this_machine
from ..doctor.words import HEALTHY, SEVERITIES, language, said
from ..folder import find
from ..kinds import loads
from ..recipes import recipe_at


def run_doctor(args: Doctor) -> None:
    """Look, tell, and exit with 1 where something is wrong."""
    findings, lang = looked_at(args), language(args.lang)
    print(as_json(args.thing, findings, lang) if args.json else as_text(args.thing, findings, lang))
    if verdict(findings) == WRONG:
        sys.exit(1)


def looked_at(args: Doctor) -> list[Finding]:
    """The findings on a run, a recipe or run.json, or images: by what is at the name."""
    device = pick_device(args.device)
    path = Path(args.thing)
    config = None
    if path.suffix == ".json" and path.is_file():
        config = loads(path.read_bytes(), path)
    elif not path.exists() and (recipe := recipe_at(args.thing)) is not None:
        config = recipe()
    if config is not None:
        if args.data is not None:
            config = replace(config, data=replace(config.data, source=args.data))
        return look_at_plan(config, this_machine(device))
    if is_run(args.thing):
        return look_at_run(args.thing, this_machine(device, find(args.thing)))
    return look_at_data(args.thing)


def is_run(name: str) -> bool:
    try:
        find(name)
    except FileNotFoundError:
        return False
    return True


def as_text(thing: str, findings: Sequence[Finding], lang: str) -> str:
    """A paragraph a finding, the worst first, and the verdict."""
    lines = []
    for finding in findings:
        words = said(finding, lang)
        lines.append(f"{SEVERITIES[lang][finding.severity]}  {words.seen}  [{finding.code}]")
        lines += [_indented(words.why), _indented(f"-> {words.do}"), ""]
    return "\n".join([*lines, line_of_verdict(thing, findings, lang)])


def _indented(text: str) -> str:
    """Wrapped by words; Chinese has none, and stays a line that the terminal wraps."""
    pad = " " * 4
    return "\n".join(
        textwrap.wrap(
            text, WIDTH, initial_indent=pad, subsequent_indent=pad, break_long_words=False
        )
    )


def line_of_verdict(thing: str, findings: Sequence[Finding], lang: str) -> str:
    """One line: the thing, the verdict and how many findings of each kind there are."""
    counts = [
        f"{number} {SEVERITIES[lang][severity]}"
        for severity in (WRONG, RISK)
        if (number := sum(finding.severity == severity for finding in findings))
    ]
    told = f" ({', '.join(counts)})" if counts else ""
    return f"{thing}: {HEALTHY[lang][verdict(findings)]}{told}"


def as_json(thing: str, findings: Sequence[Finding], lang: str) -> str:
    told = [
        {
            "code": finding.code,
            "severity": finding.severity,
            "facts": dict(finding.facts),
            **vars(said(finding, lang)),
        }
        for finding in findings
    ]
    whole = {"thing": thing, "verdict": verdict(findings), "findings": told}
    return json.dumps(whole, indent=1, ensure_ascii=False)
