"""The digits that come with the package: 5,000 out of MNIST, 500 of each, 28 x 28, grey.

One PNG of 50 rows of 100 digits. Along a row the classes go 0, 1, ..., 9, 0, ...: the place of a
digit is its label, and any prefix is balanced. Origin and licence: assets/NOTICE.txt; made by
scripts/make_digits.py.
"""

from importlib.resources import files
from io import BytesIO

import numpy as np
from PIL import Image

from sfumato.data.arrays import Arrays

ROWS, COLUMNS, SIDE = 50, 100, 28
ORIGIN = "the 5,000 MNIST digits that come with sfumato (see its assets/NOTICE.txt)"


def digits() -> Arrays:
    """(5000, 1, 28, 28) digits, class by class in turn."""
    with Image.open(BytesIO(files("sfumato").joinpath("assets/digits.png").read_bytes())) as image:
        mosaic = np.asarray(image)
    tiles = mosaic.reshape(ROWS, SIDE, COLUMNS, SIDE).transpose(0, 2, 1, 3)
    images = np.ascontiguousarray(tiles).reshape(ROWS * COLUMNS, 1, SIDE, SIDE)
    return Arrays(images, np.arange(ROWS * COLUMNS) % 10, tuple("0123456789"), "digits")
