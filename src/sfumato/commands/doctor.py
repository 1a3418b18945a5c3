"""sfumato doctor: what would ruin a run on these images or settings, or where a run stands."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..arguments import Doctor
from ..config import AnyRun
from ..devices import pick_device
from ..doctor import Finding, look_at_data, look_at_plan, look_at_run, record, verdict
from ..doctor.finding import RISK, WRONG
from ..doctor.machine import this_machine
from ..doctor.naming import Names, names_of_data, names_of_run, names_of_settings
from ..doctor.words import COUNTED, HEALTHY, OF_RUN, RUN_TOO, SEVERITIES, language, said, unknown
from ..folder import find
from ..kinds import loads, read_run
from ..page import write_page
from ..places import is_data, near_things
from ..recipes import recipe_at
from ..wrapping import wrapped

Verdicts = Mapping[str, Mapping[str, str]]  # by language, by the worst severity


def run_doctor(args: Doctor) -> None:
    """Look, tell, leave it on a run's page, and exit with 1 where something is wrong.

    Raises: ValueError, with what is called nearly so, where nothing is called so.
    """
    config, lang = settings_at(args.thing), language(args.lang)
    folder = run_at(args.thing) if config is None else None
    if config is None and folder is None and not is_data(args.thing):
        raise ValueError(unknown(args.thing, near_things(args.thing), lang))
    findings, names = looked_at(args, config, folder), names_of(args, config, folder)
    if args.json:
        print(record.as_text(record.record_of(args.thing, findings, lang, names)))
    else:
        print(as_text(args.thing, findings, lang, names, HEALTHY if folder is None else OF_RUN))
        if config is not None and run_at(args.thing) is not None:
            print(wrapped(RUN_TOO[lang].format(shlex.quote(str(run_at(args.thing))))))
    if folder is not None:
        leave(folder, findings, lang)
    if verdict(findings) == WRONG:
        sys.exit(1)


def looked_at(args: Doctor, config: AnyRun | None, folder: Path | None) -> list[Finding]:
    """The findings on settings, on a run in its folder, or on images."""
    device = pick_device(args.device)
    if config is not None:
        if args.data is not None:
            config = replace(config, data=replace(config.data, source=args.data))
        return look_at_plan(config, this_machine(device))
    if folder is not None:
        return look_at_run(str(folder), this_machine(device, folder))
    return look_at_data(args.thing)


def names_of(args: Doctor, config: AnyRun | None, folder: Path | None) -> Names:
    """For the commands in what is told."""
    if config is not None:
        return names_of_settings(args.thing, config, args.data)
    return names_of_data(args.thing) if folder is None else names_of_run(folder, read_run(folder))


def settings_at(name: str) -> AnyRun | None:
    """Those of a recipe, of FILE.py:FUNCTION or of a run.json; None where it names none."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        return loads(path.read_bytes(), path)
    recipe = None if path.exists() else recipe_at(name)
    return None if recipe is None else recipe()


def run_at(name: str) -> Path | None:
    """The folder of the run of this name; None where there is none."""
    try:
        return find(name)
    except FileNotFoundError:
        return None


def leave(folder: Path, findings: Sequence[Finding], lang: str) -> None:
    """doctor.json and the run's page; a folder that takes no file is no reason to fail."""
    try:
        record.leave(folder, findings, lang)
        write_page(folder)
    except (OSError, ValueError) as error:
        print(f"The run's page does not show this: {error}", file=sys.stderr)


def as_text(
    thing: str, findings: Sequence[Finding], lang: str, names: Names, verdicts: Verdicts
) -> str:
    """A paragraph a finding, the worst first, and the verdict."""
    lines, pad = [], " " * 4
    for finding in findings:
        words = said(finding, lang, names)
        head = f"{words.seen} [{finding.code}]"
        lines += [
            wrapped(head, first=f"{SEVERITIES[lang][finding.severity]}  ", rest=pad),
            wrapped(words.why, first=pad, rest=pad),
            wrapped(words.do, first=f"{pad}-> ", rest=f"{pad}   "),
            "",
        ]
    return "\n".join([*lines, wrapped(line_of_verdict(thing, findings, lang, verdicts), rest=pad)])


def line_of_verdict(thing: str, findings: Sequence[Finding], lang: str, verdicts: Verdicts) -> str:
    """One line: the thing, the verdict and how many findings of each kind there are."""
    whole, each, between = COUNTED[lang]
    counts = [
        each.format(number, SEVERITIES[lang][severity])
        for severity in (WRONG, RISK)
        if (number := sum(finding.severity == severity for finding in findings))
    ]
    told = whole.format(between.join(counts)) if counts else ""
    return f"{thing}: {verdicts[lang][verdict(findings)]}{told}"
