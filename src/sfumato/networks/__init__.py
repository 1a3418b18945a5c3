"""Networks: plain modules, (x, noise_level, cond) to a tensor, that know nothing of diffusion."""

from .describe import Row, flops, parameter_count, table
from .mlp import MLP, MLPConfig
from .unet import UNet, UNetConfig

__all__ = [
    "MLP",
    "MLPConfig",
    "Row",
    "UNet",
    "UNetConfig",
    "flops",
    "parameter_count",
    "table",
]
