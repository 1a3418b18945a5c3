"""Small networks for tests, with every weight alive, and batches for them."""

import math
from dataclasses import replace

import pytest
import torch

from sfumato.networks import MLPConfig, UNetConfig

TINY = UNetConfig(
    in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8,
    groups=4,
)  # fmt: skip
CONV_ONLY = replace(TINY, multipliers=(1,), attention_at=(), middle_attention=False)
LABELLED = replace(TINY, classes=3)
POINTS = MLPConfig(channels=16, layers=2)
SAME_CALL = pytest.mark.parametrize(
    ("config", "shape"), [(TINY, (1, 8, 8)), (POINTS, (2,))], ids=["unet", "mlp"]
)


def alive(module, seed=0):
    """The module in eval mode and float64, with no parameter at zero: nothing hides behind one."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise / math.sqrt(max(1, parameter[0].numel())))
    return module


def batch(n, *shape, seed=0):
    """x and noise levels for n images, float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, 1000 * torch.rand(n, generator=generator, dtype=torch.float64)


def close(actual, wanted, tolerance=1e-10):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance)
