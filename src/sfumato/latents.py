"""Latents: the codec that an autoencoder makes, and its folder on disk.

encode:  uint8 pixels -> (mean - means) / stds, of about zero mean and unit variance a channel
decode:  undo that, then the autoencoder's decoder, then uint8

CODEC/{codec.json, weights.safetensors, manifest.json}
"""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from .codec import Pixels
from .interop.autoencoders import read_kl, read_taesd
from .interop.fitting import check_weights, skeleton
from .interop.limits import floats_of, like, shown
from .interop.reading import check_format, json_of, tensors_of
from .networks.autoencoder import AutoencoderConfig, cropped
from .networks.taesd import TAESDConfig
from .storage import TEMPORARY, DamagedError, commit_folder, read_folder

CODEC, WEIGHTS = "codec.json", "weights.safetensors"
IN_RUN = "codec"  # a run's own copy lies here
FORMAT = 1
AT_ONCE = 2**18  # pixels in a batch: TAESD's widest layer then takes 64 MiB
MEASURED = 1_000  # images that the channels' moments are measured on
NETWORKS: dict[str, Any] = {cls.__name__: cls for cls in (AutoencoderConfig, TAESDConfig)}

NetworkConfig = AutoencoderConfig | TAESDConfig
Floats = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class LatentCodec:
    """A Codec made of an autoencoder; see the module's first lines.

    model: what an AutoencoderConfig or a TAESDConfig builds, on the device that shall do the work.
    means, stds: of the latents' channels, as the model has them, over the data.
    """

    model: nn.Module
    config: NetworkConfig
    means: Floats
    stds: Floats

    def __post_init__(self) -> None:
        wanted = self.config.latent_channels
        if len(self.means) != wanted or len(self.stds) != wanted or min(self.stds) <= 0:
            raise ValueError(
                f"means {self.means} and stds {self.stds} came: {wanted} numbers each are wanted, "
                "one a latent channel, the stds above 0; measure() finds them"
            )

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of images to (c, h, w) of latents."""
        return self.config.latent_shape(*shape[1:])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to (B, c, h, w) float32 on the model's device.

        H and W that are no multiples of f are padded by repeating the border; `size` in decode
        cuts that off again.
        """
        device = self._device()
        mean, std = self._moments(device)
        parts = [
            (encoded_means(self.model, part.to(device)) - mean) / std
            for part in images.split(at_once(images))
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, c, h, w) to (B, C, f h, f w) uint8, or the (H, W) of `size` out of the middle."""
        mean, std = self._moments(x.device)
        pixels = self.config.f**2 * x.shape[2] * x.shape[3]
        parts = [
            Pixels().decode(self.model.decode((part.float() * std + mean).to(self._device())))  # type: ignore[operator]
            for part in x.split(max(1, AT_ONCE // pixels))
        ]
        images = torch.cat(parts)
        return images if size is None else cropped(images, *size)

    def fingerprint(self) -> str:
        """SHA-256 of all that decides what encode returns."""
        digest = hashlib.sha256(repr((self.config, self.means, self.stds)).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """means and stds as (c, 1, 1)."""
        mean, std = (torch.tensor(values, device=device) for values in (self.means, self.stds))
        return mean[:, None, None], std[:, None, None]


@dataclass(frozen=True)
class AutoencoderCodec:
    """A run's codec, as run.json has it. build() makes the LatentCodec.

    weights: a folder of save_codec, the folder of a run that holds one, a folder of diffusers'
        AutoencoderKL or of a pipeline with one, or TAESD's NAME_encoder.pth or its folder.
    f, means, stds: filled in by settled(): how many pixels a side of a latent covers, and the
        moments of the latents' channels.
    """

    weights: str = ""
    f: int = 0
    means: Floats = ()
    stds: Floats = ()

    def build(self, folder: Path, device: torch.device) -> LatentCodec:
        """The codec of a run in `folder`: of the run's own copy, or else of `weights`."""
        own = folder / IN_RUN
        saved = open_codec(own if (own / CODEC).exists() else Path(self.weights))
        return replace(saved, means=self.means, stds=self.stds).codec(device)

    def settled(self, images: Tensor) -> "AutoencoderCodec":
        """See settled. A run that goes on is settled already: it has its own autoencoder."""
        if self.f and self.means and self.stds:
            return self
        return settled(self, images, torch.device("cpu"))

    def install(self, folder: Path) -> None:
        """See install."""
        install(self, folder)

    def channels(self, image_channels: int) -> int:
        return len(self.means)

    def deviation(self, images: Tensor) -> float:
        """1: latents are standardised."""
        return 1.0


@dataclass(frozen=True, eq=False)
class SavedCodec:
    """What a codec's folder holds.

    means, stds: empty where nobody measured them. facts: for people: psnr, kl, trained on.
    """

    config: NetworkConfig
    weights: dict[str, Tensor]
    means: Floats = ()
    stds: Floats = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def model(self, device: torch.device) -> nn.Module:
        """The network with its weights, which nothing trains any more.

        Raises: ValueError where the weights are of another shape than the configuration.
        """
        check_weights(skeleton(self.config.build, self.config), self.weights, self.config)
        with torch.random.fork_rng(devices=[]):  # building draws weights that are then replaced
            model = self.config.build()
        model.load_state_dict(self.weights)
        return model.to(device).eval().requires_grad_(False)

    def codec(self, device: torch.device) -> LatentCodec:
        return LatentCodec(self.model(device), self.config, self.means, self.stds)


def save_codec(
    folder: Path,
    config: NetworkConfig,
    weights: dict[str, Tensor],
    means: Floats,
    stds: Floats,
    facts: dict[str, Any],
) -> None:
    """Write a codec's folder, all or nothing; one that is there already is replaced."""
    described = {
        "format": FORMAT,
        "network": {"kind": type(config).__name__, **dataclasses.asdict(config)},
        "f": config.f,
        "means": list(means),
        "stds": list(stds),
        "facts": facts,
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    files = {CODEC: json.dumps(described, indent=1).encode(), WEIGHTS: save(plain)}
    old = folder.with_name(f"{TEMPORARY}old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    commit_folder(folder, files)
    shutil.rmtree(old, ignore_errors=True)


def read_codec(folder: Path) -> SavedCodec:
    """Undo save_codec.

    Raises: ValueError, naming the file, where one is not as it was written, is of a newer format
    or an unknown network, or holds other weights than that network's.
    """
    try:
        files = read_folder(folder)
    except DamagedError as error:
        raise ValueError(f"{error} Copy the codec's folder again.") from error
    if missing := {CODEC, WEIGHTS} - files.keys():
        raise ValueError(f"{folder} is no codec's folder: {sorted(missing)[0]} is not in it.")
    where, weights = folder / CODEC, tensors_of(files[WEIGHTS], folder / WEIGHTS)
    described = json_of(files[CODEC], where)
    check_format(described, FORMAT, where)
    config = network_config(described.get("network"), where)
    check_weights(skeleton(config.build, where), weights, folder / WEIGHTS)
    means, stds = (floats_of(described.get(name), f"{where}: {name}") for name in ("means", "stds"))
    return SavedCodec(config, weights, means, stds, facts_of(described, where))


def facts_of(described: dict[str, Any], where: Path) -> dict[str, Any]:
    facts = described.get("facts", {})
    if not isinstance(facts, dict):
        raise ValueError(f"{where}: facts = {shown(facts)}; an object is wanted.")
    return facts


def network_config(described: Any, where: object = CODEC) -> NetworkConfig:
    """The configuration that a codec.json names.

    Raises: ValueError, naming the file, for an unknown one, or settings that it can't have.
    """
    kind = described.get("kind") if isinstance(described, dict) else described
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise ValueError(
            f"{where}: no autoencoder {shown(kind)} is known; there is {', '.join(NETWORKS)}."
        )
    cls = NETWORKS[kind]
    known = {field.name: getattr(cls, field.name) for field in dataclasses.fields(cls)}
    settings = {name: value for name, value in described.items() if name != "kind"}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{where}: {kind} of a newer sfumato? It has no field {shown(name)}.")
        settings[name] = like(value, known[name], f"{where}.{name}")
    return cls(**settings)


def open_codec(path: Path) -> SavedCodec:
    """The autoencoder at a path; AutoencoderCodec.weights says which kinds there are.

    Raises: ValueError where there is none.
    """
    for folder in (path, path / IN_RUN):
        if (folder / CODEC).exists():
            return read_codec(folder)
    if any((path / part).exists() for part in ("config.json", "vae/config.json")):
        config, weights, (means, stds) = read_kl(path)
        return SavedCodec(config, weights, means, stds, {"trained by": "diffusers"})
    if path.suffix == ".pth" or any(path.glob("*_encoder.pth")):
        tiny, weights = read_taesd(path)
        return SavedCodec(tiny, weights, facts={"trained by": "madebyollin/taesd"})
    raise ValueError(
        f"no autoencoder at {path}: give a codec's or an autoencoder run's folder, a folder of "
        "diffusers' AutoencoderKL, or a TAESD's NAME_encoder.pth"
    )


def settled(codec: AutoencoderCodec, images: Tensor, device: torch.device) -> AutoencoderCodec:
    """The codec's configuration with f, means and stds filled in; those already given stay.

    images: (N, C, H, W) uint8, the data of the run; the moments are measured on some of them.
    """
    saved = open_codec(Path(codec.weights))
    means, stds = codec.means, codec.stds
    if not means or not stds:
        means, stds = measure(saved.model(device), images)
    return replace(codec, f=saved.config.f, means=means, stds=stds)


def install(codec: AutoencoderCodec, run: Path) -> None:
    """Copy the autoencoder of a settled codec into a run's folder, so that the run needs no other.

    A copy that is there already stays, since the run may have been trained on it.
    """
    if not (run / IN_RUN / CODEC).exists():
        saved = open_codec(Path(codec.weights))
        facts = {"from": codec.weights, **saved.facts}
        save_codec(run / IN_RUN, saved.config, saved.weights, codec.means, codec.stds, facts)


def encoded_means(model: nn.Module, images: Tensor) -> Tensor:
    """(B, C, H, W) uint8 to the means that the encoder gives, (B, c, h, w) float32."""
    mean, _ = model.encode(Pixels().encode(images))  # type: ignore[operator]
    return mean.float()


def at_once(images: Tensor) -> int:
    return max(1, AT_ONCE // (images.shape[2] * images.shape[3]))


@torch.no_grad()
def measure(model: nn.Module, images: Tensor) -> tuple[Floats, Floats]:
    """(means, stds) of the latents' channels over up to MEASURED images, spread over all of them.

    Raises: ValueError where a channel is the same everywhere, and so carries nothing.
    """
    device = next(model.parameters()).device
    some = images[:: -(-len(images) // MEASURED)]
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in some.split(at_once(some)):
        z = encoded_means(model, part.to(device)).cpu().double()
        count += z[:, 0].numel()
        total = total + z.sum((0, 2, 3))
        squares = squares + z.square().sum((0, 2, 3))
    means = total / count
    stds = (squares / count - means.square()).clamp(min=0).sqrt()
    if stds.min() < 1e-6:
        raise ValueError(
            f"latent channel {int(stds.argmin())} is the same in all images (its standard "
            "deviation is below 1e-6): train the autoencoder longer, with fewer latent channels "
            "or a smaller weight of the KL"
        )
    return tuple(means.tolist()), tuple(stds.tolist())
