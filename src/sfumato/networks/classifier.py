"""A classifier of noisy images: the way down of a U-Net, then one vector, then logits.

    h = silu(norm(middle(down(x, e)))),   e = embedding of the noise level
    pooled = mean over positions of h,   or attention with that mean as its only query
    logits = linear(pooled)

The shape is Dhariwal and Nichol's (2021), section 4, but for positions, which the pooling does not
look at, so that any H and W will do. The last layer starts at zero: a new classifier says that all
classes are equally likely. Knows nothing of diffusion.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import Conditioning
from .fused_attention import attend
from .layers import GroupNorm, channels_last, check_images, pad_to_multiple, zeroed
from .unet import Down, Middle, UNetConfig, check


@dataclass(frozen=True)
class ClassifierConfig:
    """The shape of a classifier; build() makes one.

    classes: how many to tell apart, 2 or more. pool_attention: whether the features are pooled by
    attention, or else by their mean. The other fields are those of UNetConfig; noise_scale is for
    levels log(sigma / alpha) / 4, from about -2 to 2.
    """

    in_channels: int = 3
    classes: int = 10
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    attention_at: tuple[int, ...] = ()
    middle_attention: bool = True
    pool_attention: bool = True
    head_channels: int = 32
    groups: int = 8
    dropout: float = 0.0
    patch: int = 1
    noise_scale: float = 250.0

    @property
    def encoder(self) -> UNetConfig:
        """The U-Net whose way down this is."""
        return UNetConfig(
            in_channels=self.in_channels,
            channels=self.channels,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention_at=self.attention_at,
            middle_attention=self.middle_attention,
            head_channels=self.head_channels,
            groups=self.groups,
            dropout=self.dropout,
            patch=self.patch,
            noise_scale=self.noise_scale,
        )

    def build(self) -> "Classifier":
        """A new classifier, its weights drawn from torch's global generator."""
        return Classifier(self)


def check_classifier(config: ClassifierConfig) -> None:
    """Raise ValueError, with the remedy, if no classifier of this shape can be built."""
    if config.classes < 2:
        raise ValueError(
            f"classes is {config.classes}: a classifier tells 2 or more apart. Images without "
            "labels can't train one; put each class in a sub-folder of its own."
        )
    check(config.encoder)
    width = config.encoder.widths[-1]
    if config.pool_attention and width % config.head_channels:
        raise ValueError(
            f"pooling by attention over {width} channels does not split into heads of "
            f"{config.head_channels}: choose head_channels that divides {width}, or "
            "pool_attention=False"
        )


class MeanPool(nn.Module):
    """(B, C, h, w) to (B, C), the mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class AttentionPool(nn.Module):
    """(B, C, h, w) to (B, C): the mean, and what it finds when it attends to all positions."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        mean = tokens.mean(1, keepdim=True)
        q = self._heads(self.query(mean))  # (B, heads, 1, d)
        k, v = (self._heads(part) for part in self.key_value(tokens).chunk(2, dim=2))
        found = attend(q, k, v).transpose(1, 2).flatten(2)  # (B, 1, C)
        return (mean + self.project(found))[:, 0]

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (-1, self.head_channels)).transpose(1, 2)


class Classifier(nn.Module):
    """The network that a ClassifierConfig describes.

    forward: x (B, in_channels, H, W) of any H and W, noise_level (B,); returns logits (B, classes).
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        check_classifier(config)
        self.config = config
        encoder = config.encoder
        width = encoder.widths[-1]
        self.embedding = Conditioning(config.channels, 4 * config.channels, 0, config.noise_scale)
        self.stem = nn.Conv2d(config.in_channels * config.patch**2, encoder.widths[0], 3, padding=1)
        self.down = nn.ModuleList(Down(encoder, level) for level in range(len(encoder.widths)))
        self.middle = Middle(encoder)
        self.norm = GroupNorm(config.groups, width)
        self.pool = (
            AttentionPool(width, config.head_channels) if config.pool_attention else MeanPool()
        )
        self.out = zeroed(nn.Linear(width, config.classes))

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        check_images(x, self.config.in_channels)
        embedding = F.silu(self.embedding(noise_level, None, x.shape[0]))
        padded, _ = pad_to_multiple(x, self.config.encoder.factors[-1])
        h = F.pixel_unshuffle(padded, self.config.patch)
        h = self.stem(channels_last(h))
        for down in self.down:
            h = down(h, embedding)[-1]
        h = self.middle(h, embedding)
        return self.out(self.pool(self.norm(h, silu=True)))
