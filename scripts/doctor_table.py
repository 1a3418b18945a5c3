"""docs/doctor.md out of tests/test_doctor_faults.py: every planted fault with the doctor's words.

OMP_NUM_THREADS=1 python scripts/doctor_table.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
PAGE = ROOT / "docs" / "doctor.md"
HEAD = """# The doctor

`sfumato doctor DATA|RUN|CONFIG` looks at images, at a run, or at settings (a recipe,
FILE.py:FUNCTION, a run.json), and says in seconds what it saw, why that matters and what to do.
`--lang zh`, or LANG=zh_CN, is Chinese; `--json` has all the numbers. It exits with 1 where
something would ruin the run. The quick checks are also made before every training of over a minute,
as warnings.

```bash
sfumato doctor my-pictures/          # images: range, channels, copies, rare classes
sfumato doctor digits_ddpm           # settings, with their images and this machine
sfumato doctor mine.py:calm          # of your own: its process is tried, not only read
sfumato doctor last --lang zh        # a run: where it stands, whether it memorises, its tint
```

The table was made by `python scripts/doctor_table.py` from the faults that
[the tests](../tests/test_doctor_faults.py) plant, one at a time; every code in it is held by one of
them, and seventeen recipes are held to no finding at all. *wrong* ruins a run, *risk* may, a *note*
says where it stands. Thresholds come from the papers' own settings and from what the recipes here
did; those that are judgement say so in the code. `...` and RUN stand here for what was looked at:
in the terminal they are its name, and the commands can be copied.

"""


def rows() -> Iterator[str]:
    from sfumato.doctor.words import said
    from test_doctor_faults import PLANTED, looked_at

    for number, plant in enumerate(PLANTED):
        finding = next(f for f in looked_at(number) if f.code == plant.code)
        cells = [f"{plant.what}", f"`{plant.code}` {finding.severity}"]
        for lang in ("en", "zh"):
            words: Any = said(finding, lang)
            cells.append(f"{words.seen} {words.why}<br>→ {words.do}")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    table = ["| planted | found | the doctor says | 医生说 |", "|---|---|---|---|", *rows()]
    return HEAD + "\n".join(table) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
