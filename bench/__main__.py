"""python -m bench NAME: measure, and put the numbers into bench/results/NAME.json.

ceiling    what this machine's matrix products and convolutions reach
training   images a second of a training step; --loss: loss curves in two precisions instead
profile    where a step's time goes
startup    seconds to the first step and to the first image
scale      cost against resolution, width and batch; two processes
input      waiting for images, and the first reading of a large folder
sampling   seconds for 1,000 images
quality    Frechet distance after the same minutes, beside the tutorials' recipes
ablations  what each ingredient of our recipe is worth in two minutes
page       docs/benchmarks.md out of the numbers
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

MODULES = {
    "ceiling": "ceiling",
    "training": "training",
    "profile": "profiling",
    "startup": "startup",
    "scale": "scale",
    "input": "inputs",
    "sampling": "sampling",
    "quality": "quality",
    "ablations": "ablations",
    "page": "page",
}
TRAINING = {"quality", "ablations"}


def main() -> int:
    if TRAINING.intersection(sys.argv):  # as sfumato does, for peers too; before torch is there
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    from .options import Options

    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=MODULES)
    parser.add_argument("--rounds", type=int, help="turns that each contestant gets")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work? (--out)")
    parser.add_argument("--only", default="", metavar="CASE", help="one case of several")
    parser.add_argument("--out", type=Path, default=Options.out, help="folder for the JSON")
    parser.add_argument("--run", default="", help="sampling: a run's folder or name")
    parser.add_argument("--data", default=Options.data, help="quality: images to learn")
    parser.add_argument("--minutes", type=int, help="quality: of training")
    parser.add_argument("--runs", type=Path, default=Options.runs, help="quality: their folder")
    parser.add_argument("--loss", action="store_true", help="training: loss curves")
    words = vars(parser.parse_args())
    module = importlib.import_module(f".{MODULES[words.pop('name')]}", __package__)
    try:
        module.run(Options(**words))
    except (ValueError, FileNotFoundError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
