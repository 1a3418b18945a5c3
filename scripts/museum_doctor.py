"""What the doctor says of each fault of the museum, asked of the fault itself."""

# ruff: noqa: RUF001  (full-width punctuation is right in Chinese)

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import museum_faults as faults
import numpy as np
import torch
from torch import Tensor

import sfumato as sf
from sfumato.config import Run
from sfumato.doctor import Finding, look_at_data
from sfumato.doctor.checks import of_images, of_settings
from sfumato.doctor.finding import NOTE, sorted_by_severity
from sfumato.doctor.naming import UNNAMED, Names, names_of_data
from sfumato.doctor.run import check_drawn
from sfumato.doctor.words import SEVERITIES, said
from sfumato.planning import load_data
from sfumato.tasks import TASKS

FILE = "scripts/museum_faults.py"
ASKED = {"en": "The doctor", "zh": "医生"}
SAVED = {"en": "on these images, saved as an .npy:", "zh": "检查存成 .npy 的这些图像："}
DRAWN = {
    "en": "on a run that draws the lower row; of the upper row it says nothing, because what is "
    "stretched after drawing never reaches it:",
    "zh": "检查画出下面一行的训练；对上面一行它无话可说，因为画完之后的拉伸它看不到：",
}


@cache
def on_run(make: Callable[[], Run]) -> tuple[Finding, ...]:
    """The doctor's checks of settings and images; none that depends on the machine."""
    run = make()
    data = load_data(run.data)
    settled = TASKS[Run].settled(run, data)
    assert isinstance(settled, Run)
    return tuple(sorted_by_severity([*of_settings(settled), *of_images(settled, data)]))


@cache
def on_images(make: Callable[[], Tensor]) -> tuple[Finding, ...]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{make.__name__}.npy"
        np.save(path, make().numpy())
        return tuple(look_at_data(str(path)))


def on_drawings(images: Tensor) -> tuple[Finding, ...]:
    """images: (N, 1, 28, 28) in [-1, 1], beside the digits."""
    return tuple(check_drawn(sf.Pixels().decode(images), sf.load("digits").images))


def of_own_range(stretched: bool) -> tuple[Finding, ...]:
    """The images of [0, 1] as they are drawn, and as `normalize=True` shows them."""
    pale = faults.zero_to_one()[::2, None]  # taken to be in [-1, 1]
    low, high = (f(pale, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    return on_drawings(2 * (pale - low) / (high - low) - 1 if stretched else pale)


def findings_of(name: str) -> tuple[Finding, ...]:
    """name: of an exhibit."""
    made = {make.__name__: make for make in (*faults.RUNS, *faults.IMAGES)}
    if name == "own-range":
        return of_own_range(stretched=False)
    make = made[name.replace("-", "_")]
    return on_run(make) if make in faults.RUNS else on_images(make)  # type: ignore[arg-type]


def told(name: str, language: str) -> str:
    """The exhibit's paragraph: how the doctor is asked, and all that it finds but notes."""
    known = {make.__name__ for make in faults.RUNS}
    function = name.replace("-", "_")
    how = f"`sfumato doctor {FILE}:{function}`" if function in known else SAVED[language]
    how = DRAWN[language] if name == "own-range" else how
    names = names_of_data(f"{function}.npy")
    if function in known:
        names = Names(train=f"sfumato train {FILE}:{function}")
    names = UNNAMED if name == "own-range" else names
    told = quoted(findings_of(name), language, names)
    return "\n".join([f"**{ASKED[language]}** {how}", "", *told])


def quoted(findings: Iterable[Finding], language: str, names: Names) -> list[str]:
    lines = []
    for finding in findings:
        if finding.severity != NOTE:
            words = said(finding, language, names)
            head = f"*{SEVERITIES[language][finding.severity]}* `{finding.code}`"
            lines.append(f"> {head} {words.seen} {words.why} → {words.do}")
    return "\n>\n".join(lines).splitlines()
