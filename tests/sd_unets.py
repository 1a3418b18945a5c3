"""Small networks of the DDPM type, and what to give them."""

import math
from dataclasses import replace

import torch

from sfumato.networks.sd_unet import SDUNetConfig

SMALL = SDUNetConfig(
    in_channels=2, channels=8, multipliers=(1, 2, 2), blocks=1, attention_at=(2,), dropout=0.0,
    groups=4, head_channels=8,
)  # fmt: skip
TEXT = replace(SMALL, context=6)
LABELS = replace(SMALL, classes=3)
LABEL_TOKENS = replace(LABELS, context=6, label_tokens=True)


def alive(module, seed=0):
    """The module in eval mode, with no parameter at zero: nothing hides behind one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * noise / math.sqrt(max(1, parameter[0].numel())))
    return module.eval()


def images(n=2, channels=2, size=(12, 8)):
    """x (n, channels, *size) and noise levels (n,)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, channels, *size, generator=generator)
    return x, 999 * torch.rand(n, generator=generator)


def text(n=2, length=4, context=6, real=3):
    """Tokens of which the first `real` are."""
    tokens = torch.randn(n, length, context, generator=torch.Generator().manual_seed(2))
    return {"tokens": tokens, "mask": (torch.arange(length) < real).expand(n, length)}


def close(actual, wanted, tolerance=1e-5):
    torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance)
