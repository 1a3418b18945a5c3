"""Put the table of drills into docs/reliability.md, from docs/measured/drills.json.

python -m drills --json docs/measured/drills.json
python scripts/reliability_table.py
"""

import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- drills -->", "<!-- /drills -->"


def table(found: dict[str, dict[str, object]]) -> str:
    rows = ["| drill | what | tried | held | minutes | |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        minutes = f"{float(str(one['seconds'])) / 60:.1f}"
        cells = (name, one["what"], f"{one['tried']:,}", f"{one['held']:,}", minutes, one["note"])
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main() -> None:
    path = DOCS / "reliability.md"
    found = json.loads((DOCS / "measured" / "drills.json").read_text("utf-8"))
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
