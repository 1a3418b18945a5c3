"""Networks: plain modules, (x, noise_level, cond) to a tensor, that know nothing of diffusion."""

from .adm import ADMConfig
from .autoencoder import AutoencoderConfig
from .classifier import ClassifierConfig
from .describe import Row, flops, parameter_count, table
from .dit import DiTConfig, dit_size
from .four_conv import FourConvConfig
from .handmade import HandmadeConfig
from .lucid import LucidUNetConfig
from .mlp import MLP, MLPConfig
from .sd_unet import SDUNetConfig
from .small import PulferUNetConfig, StarterCNNConfig
from .taesd import TAESDConfig
from .unet import UNet, UNetConfig
from .unet2d import UNet2DConfig

__all__ = [
    "MLP",
    "ADMConfig",
    "AutoencoderConfig",
    "ClassifierConfig",
    "DiTConfig",
    "FourConvConfig",
    "HandmadeConfig",
    "LucidUNetConfig",
    "MLPConfig",
    "PulferUNetConfig",
    "Row",
    "SDUNetConfig",
    "StarterCNNConfig",
    "TAESDConfig",
    "UNet",
    "UNet2DConfig",
    "UNetConfig",
    "dit_size",
    "flops",
    "parameter_count",
    "table",
]
