"""Training an autoencoder: the task behind AutoencoderRun."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..assembly import splits_of
from ..config import AutoencoderRun
from ..data import ImageData, generator_at
from ..devices import DTYPES
from ..folder import append_once
from ..latents import IN_RUN, measure, save_codec
from ..networks.describe import counted_call
from ..reconstruction import batches, held_out_batch, loss_of, psnr, reconstruct
from ..training import Batch, TrainState
from .task import Parts, Shown, cost

SHOWN = 8  # held-out images beside their reconstructions


@dataclass(frozen=True)
class Autoencoding:
    """An autoencoder to train; see the protocol Task."""

    run: AutoencoderRun
    parts: Parts

    @staticmethod
    def settled(run: AutoencoderRun, data: ImageData) -> AutoencoderRun:
        network = replace(run.network, in_channels=data.channels)
        train = replace(run.train, epoch_images=len(splits_of(run.data, data).train))
        return replace(run, network=network, train=train)

    @staticmethod
    def facts(run: AutoencoderRun, data: ImageData) -> dict[str, str]:
        network = run.network.build()
        latent = run.network.latent_shape(*data.size)
        eps = torch.empty(1, *latent, device="meta")
        forward = counted_call(network, (data.channels, *data.size), eps, with_level=False)
        values = data.channels * data.size[0] * data.size[1]
        less = values / (latent[0] * latent[1] * latent[2])
        return {
            "network": f"autoencoder, {cost(network, forward.get_total_flops())}",
            "latents": f"{latent[0]} channels of {latent[1]} x {latent[2]} (f = {run.network.f}), "
            f"{less:.3g} times fewer values than the image",
            "loss": str(run.objective),
        }

    @classmethod
    def of(cls, run: AutoencoderRun, parts: Parts) -> "Autoencoding":
        return cls(run, parts)

    def build(self) -> nn.Module:
        torch.manual_seed(generator_at(self.run.train.seed, "weights").initial_seed())
        network = self.run.network.build()
        return network.to(self.parts.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        precision = DTYPES[self.run.precision if self.run.precision in DTYPES else "fp32"]
        return loss_of(self.run.objective, precision)(model, batch)

    def batches(self) -> Callable[[int], Batch]:
        run, shape = self.run, self.run.network.latent_shape
        images = self.parts.train.images.to(self.parts.device)
        return batches(images, shape, run.train.batch, run.train.seed, run.crop, run.data.flip)

    def held_out_batch(self) -> Batch | None:
        held = self.parts.held_out
        if held is None:
            return None
        images = held.images.to(self.parts.device)
        return held_out_batch(images, self.run.network.latent_shape, self.run.train.seed)

    def levels(self, count: int) -> list[float]:
        return []

    def remember(self, model: nn.Module, batch: Batch, losses: Tensor) -> None:
        """Nothing to remember."""

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        return reconstruct(model, batch["images"])[0].float()

    def _seen(self) -> ImageData:
        return self.parts.held_out or self.parts.train

    def show(self, model: nn.Module, quick: bool) -> Shown | None:
        """Held-out images, and below each what is left of it after the latents."""
        originals = self._seen().images[:SHOWN].to(self.parts.device)
        decoded, _ = reconstruct(model, originals)
        worth = psnr(originals, decoded).mean().item()
        images = torch.cat([originals, decoded]).cpu()
        labels = ["original", f"decoded, {worth:.1f} dB"]
        return Shown(images, len(originals), labels, {"psnr_db": worth})

    def finish(self, state: TrainState) -> list[str]:
        """The codec's folder, with the latents' moments, measured on the training images."""
        device, images = self.parts.device, self._seen().images
        decoded, nats = reconstruct(state.average, images.to(device))
        means, stds = measure(state.average, self.parts.train.images)
        facts = {
            "psnr_db": psnr(images, decoded.cpu()).mean().item(),
            "kl_nats_an_image": nats.mean().item(),
            "images": len(images),
            "trained_on": self.parts.card.name,
            "steps": state.step,
        }
        folder = self.parts.folder
        weights = state.average.state_dict()
        save_codec(folder / IN_RUN, self.run.network, weights, means, stds, facts)
        append_once(folder, {"kind": "codec", "step": state.step, **facts})
        rounded = ", ".join(f"{std:.3g}" for std in stds)
        return [
            f"{facts['psnr_db']:.2f} dB PSNR, KL {facts['kl_nats_an_image']:,.0f} nats an image, "
            f"on {len(images):,} held-out images; deviations of the latents' channels: {rounded}",
            f"Next: sfumato train latent_unet --data {self.run.data.source} codec.weights={folder}",
        ]
