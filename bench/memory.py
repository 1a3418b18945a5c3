"""python -m bench.memory CASE NAME TUNING [quick]: peak memory of three training steps, as JSON."""

import json
import sys

from sfumato.memory import keep_freed

from .cases import cases
from .machine import peak_memory_mb
from .training import keeps, stepper


def main() -> None:
    case, name, tuning, *quick = sys.argv[1:]
    before = peak_memory_mb()  # the imports
    step = stepper(cases(bool(quick))[case], name, tuning)
    keep_freed(keeps(step))
    for _ in range(3):
        step()
    print(json.dumps({"peak_mb": round(peak_memory_mb()), "imports_mb": round(before)}))


if __name__ == "__main__":
    main()
