"""Train the classifiers whose features `sfumato evaluate` measures with, and write their weights.

    python scripts/train_features.py mnist PATH/TO/mnist
    python scripts/train_features.py fashion PATH/TO/fashion-mnist

The folders hold the four IDX files of a data set. The seed is fixed; so are the weights for one
machine, thread count and version of PyTorch. Shifts by 1 pixel are all of the augmentation:
neither data set is the same when mirrored. Batch norm is folded into the convolutions at the end,
and the weights are rounded to float16; the accuracy that is printed last is of these.
"""

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sfumato.codec import Pixels
from sfumato.data import ImageData, batch_indices, generator_at, load
from sfumato.features import ResNetConfig, SmallResNet

ASSETS = Path(__file__).parents[1] / "src/sfumato/assets"
BATCH, SHIFT, LR, DECAY, EMA = 128, 1, 0.15, 5e-4, 0.998
EPOCHS = {"mnist": 4, "fashion": 9}  # 4 and 8 minutes of one core
Weights = dict[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=EPOCHS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    images, test = (load(str(args.data), split=split) for split in ("train", "test"))
    epochs = args.epochs or EPOCHS[args.name]
    network = train(images, test, epochs, args.seed)
    halves = {key: value.half().contiguous() for key, value in folded(network).state_dict().items()}
    final = SmallResNet(ResNetConfig())
    final.load_state_dict({key: value.float() for key, value in halves.items()})
    final.eval().requires_grad_(False)
    mean, std = standardization(final, images.images)
    right = accuracy(final, test)
    facts = {
        "data": args.name,
        "test_accuracy": round(right, 4),
        "epochs": epochs,
        "seed": args.seed,
    }
    out = args.out or ASSETS / f"features_{args.name}.safetensors"
    tensors = {**halves, "features.mean": mean, "features.std": std}
    out.write_bytes(save(tensors, {"facts": json.dumps(facts)}))
    print(f"{out}: {right:.2%} of the test set right, {out.stat().st_size:,} bytes")


def train(data: ImageData, test: ImageData, epochs: int, seed: int) -> SmallResNet:
    """The moving average of the weights after one cycle of SGD."""
    torch.manual_seed(seed)
    network = SmallResNet(ResNetConfig(), batch_norm=True)
    network = network.to(memory_format=torch.channels_last)
    average = deepcopy(network).eval()
    steps = epochs * len(data) // BATCH
    optimizer = torch.optim.SGD(groups(network), lr=LR, momentum=0.9, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.2)
    begun = time.perf_counter()
    for step in range(steps):
        index = batch_indices(len(data), BATCH, seed, step)
        x = Pixels().encode(shifted(data.images[index], generator_at(seed, "shift", step)))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network.logits(network(x))
        loss = F.cross_entropy(logits.float(), data.labels[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        follow(average, network, min(EMA, (1 + step) / (10 + step)))
        if (step + 1) % 200 == 0:
            seconds = time.perf_counter() - begun
            print(
                f"step {step + 1:,} of {steps:,}, loss {loss.item():.3f}, {seconds:.0f} s",
                flush=True,
            )
        if (step + 1) % 2000 == 0:
            print(f"test: {accuracy(average, test):.2%}", flush=True)
    return average


def groups(network: nn.Module) -> list[dict[str, object]]:
    """Weight decay for what multiplies, none for biases and norms."""
    wide = [p for p in network.parameters() if p.ndim > 1]
    return [
        {"params": wide, "weight_decay": DECAY},
        {"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]


def shifted(images: Tensor, dice: torch.Generator) -> Tensor:
    """Each image moved by up to SHIFT pixels either way, black coming in: uint8 as before."""
    count, _, height, width = images.shape
    wide = F.pad(images, (SHIFT,) * 4)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count), generator=dice)
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    return wide[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(average.state_dict().values(), network.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)


def folded(network: SmallResNet) -> SmallResNet:
    """The same function with its batch norms inside the convolutions."""
    plain = SmallResNet(ResNetConfig())
    plain.out = network.out
    for name in ("stem", "down1", "down2"):
        setattr(plain, name, fuse_conv_bn_eval(*getattr(network, name)))
    for name in ("block1", "block2"):
        block = [fuse_conv_bn_eval(*pair) for pair in getattr(network, name)]
        setattr(plain, name, nn.ModuleList(block))
    return plain


@torch.no_grad()
def standardization(network: SmallResNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, std), (D,) each, of the features of the training images."""
    parts = [network(Pixels().encode(part)).double() for part in images.split(500)]
    features = torch.cat(parts)
    return features.mean(0).float(), features.std(0).clamp(min=1e-6).float()


@torch.no_grad()
def accuracy(network: SmallResNet, data: ImageData) -> float:
    right = [
        network.logits(network(Pixels().encode(images))).argmax(1) == labels
        for images, labels in zip(data.images.split(500), data.labels.split(500))
    ]
    return torch.cat(right).double().mean().item()


if __name__ == "__main__":
    main()
