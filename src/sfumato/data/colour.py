"""CIELAB, as TIFF files hold it, to sRGB."""

import numpy as np
from numpy.typing import NDArray

# CIE 15: the inverse of L* a* b*. Matrix of XYZ under D50 to linear sRGB, by Bradford, and the
# white of D50: Lindbloom's tables (from memory); test_data_limits holds them to littlecms.
_WHITE = np.array([0.9642, 1.0, 0.8249])
_TO_RGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_FROM_WHITE = _TO_RGB * _WHITE / (_TO_RGB @ _WHITE)[:, None]  # rows add up to 1: grey stays grey
_KNEE = 6 / 29


def lab_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) to (H, W, 3) sRGB; what no screen can show is clipped.

    L* is from 0 to 255 for 0 to 100; a* and b* are signed bytes (TIFF 6.0, section 23).
    """
    lightness = (pixels[..., 0] * (100 / 255) + 16) / 116
    a, b = (pixels[..., k].view(np.int8).astype(np.float64) for k in (1, 2))
    axes = a / 500, 0.0, -b / 200
    roots = np.stack([lightness + shift for shift in axes], axis=-1)
    shares = np.where(roots > _KNEE, roots**3, 3 * _KNEE**2 * (roots - 4 / 29))
    linear = np.clip(shares @ _FROM_WHITE.T, 0, 1)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055  # IEC 61966-2-1
    values = np.where(linear > 0.0031308, curved, 12.92 * linear)
    return np.floor(values * 255 + 0.5).astype(np.uint8)
