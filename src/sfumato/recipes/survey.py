"""The systems of the survey: Improved DDPM, conditions, Stable Diffusion's U-Net and DiT."""

from dataclasses import replace

from ..bound import Hybrid, VariationalBound
from ..classification import ClassifierLoss
from ..config import ClassifierRun, DataConfig, Run, SamplingConfig
from ..discrete import CosineBetas, LinearBetas
from ..grids import KarrasGrid, TrailingGrid, UniformGrid
from ..importance import ImportanceSampled
from ..networks.classifier import ClassifierConfig
from ..networks.dit import DiTConfig
from ..networks.sd_unet import SDUNetConfig
from ..networks.unet import UNetConfig
from ..objective import Denoising, DiscreteTimes, LogitNormalTimes, LogNormalTimes, UniformTimes
from ..parameterization import EDMPreconditioning, PredictVelocity
from ..process import Karras, RectifiedFlow, Trigonometric
from ..solvers import Ancestral, Heun
from ..text import TextConfig
from ..training import TrainConfig
from .digits import NETWORK, digits
from .tutorials import FORGIVING, INDEX


def improved_ddpm() -> Run:
    """Improved DDPM: cosine schedule, learned variance, L_hybrid; 50 strided steps.

    Source: 003
    Command: sfumato train improved_ddpm; then sfumato evaluate last
    Trained: 12 min 01 s on one core, 1,042 steps; held-out loss 0.0547
    """
    return Run(
        name="improved_ddpm",
        recipe="improved_ddpm",
        data=DataConfig(source="digits", held_out=500),
        process=CosineBetas(steps=1000),
        parameterization=INDEX,
        objective=Hybrid(steps=1000, vlb_weight=0.001),
        network=UNetConfig(channels=32, multipliers=(1, 2), attention_at=(), patch=2),
        train=TrainConfig(seconds=900, batch=64, lr=2e-3),
        sampling=SamplingConfig(
            Ancestral(None), TrailingGrid(), steps=50, guidance=1.5, clipped=True
        ),
        learned_variance=True,
    )


def improved_ddpm_vlb() -> Run:
    """The variational bound itself as the loss, with importance-sampled times: fewest bits.

    Source: 003
    Command: sfumato train improved_ddpm_vlb; then sfumato evaluate last
    Trained: 12 min 00 s on one core, 1,739 steps; held-out loss 1.9506
    """
    return replace(
        improved_ddpm(),
        name="improved_ddpm_vlb",
        recipe="improved_ddpm_vlb",
        objective=ImportanceSampled(VariationalBound(steps=1000), steps=1000),
    )


def label_tokens() -> Run:
    """Labels as a sequence of one token, read by cross-attention instead of added to the time.

    Source: 003
    Command: sfumato train label_tokens
    Trained: 11 min 01 s on one core, 541 steps; held-out loss 0.1394
    """
    return Run(
        name="label_tokens",
        recipe="label_tokens",
        data=DataConfig(source="digits", held_out=500),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=0.0),
        objective=Denoising(LogNormalTimes(mean=-1.0, std=1.2)),
        network=SDUNetConfig(
            channels=32,
            multipliers=(1, 2, 2),
            blocks=1,
            groups=8,
            dropout=0.0,
            classes=10,
            context=64,
            label_tokens=True,
            noise_scale=250.0,
        ),
        train=TrainConfig(seconds=900, batch=64, lr=2e-3),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, guidance=2.0, clipped=True),
    )


def emoji_text() -> Run:
    """Text to image: 1,903 emoji at 32 x 32 and their names, read by MiniLM.

    Source: 003
    Command: sfumato train emoji_text; then sfumato sample last --prompt "a red heart" "green apple"
    Trained: 1 h 09 min on one core, 4,820 steps; held-out loss 0.1725
    """
    return Run(
        name="emoji_text",
        recipe="emoji_text",
        data=DataConfig(source="twemoji", size=32, held_out=100, label_dropout=0.15),
        process=Karras(),
        parameterization=EDMPreconditioning(sigma_data=0.0),
        objective=Denoising(LogNormalTimes(mean=-0.8, std=1.3)),
        network=SDUNetConfig(
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            groups=8,
            head_channels=48,
            dropout=0.0,
            noise_scale=250.0,
            patch=2,
        ),
        train=TrainConfig(seconds=2400, batch=64, lr=1.5e-3),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, guidance=2.0, clipped=True),
        text=TextConfig(max_tokens=16),
    )


def sd_unet() -> Run:
    """The survey's Stable-Diffusion U-Net: ch 64, ch_mult 1-2-4, two blocks, dropout 0.1.

    At 64 pixels, where attention at 16 is attention at factor 4. 15.7 M weights.

    Source: 003
    Command: sfumato train sd_unet --data FOLDER
    Trained: on one batch alone, loss 1.0042 to 0.7385 in 15 steps, 4 images
    """
    return Run(
        name="sd_unet",
        recipe="sd_unet",
        data=DataConfig(source="celeba", size=64, flip=True, labels=False),
        process=LinearBetas(steps=1000),
        parameterization=INDEX,
        objective=Denoising(DiscreteTimes(steps=1000)),
        network=SDUNetConfig(),
        train=TrainConfig(epochs=100, batch=64, lr=2e-4, preview_epochs=20),
        sampling=SamplingConfig(Ancestral(), TrailingGrid(), steps=250, clipped=True),
    )


def sd_unet_small() -> Run:
    """The same structure at 1.1 M weights, on digits, with their classes.

    Source: 003
    Command: sfumato train sd_unet_small
    Trained: 10 min 01 s on one core, 554 steps; held-out loss 0.0272
    """
    return replace(
        sd_unet(),
        name="sd_unet_small",
        recipe="sd_unet_small",
        data=DataConfig(source="digits", held_out=500),
        network=SDUNetConfig(channels=32, multipliers=(1, 2, 2), blocks=1, groups=8),
        train=TrainConfig(seconds=900, batch=64, lr=1e-3),
        sampling=replace(FORGIVING, guidance=1.5),
    )


def dit_pixels() -> Run:
    """A small DiT on pixels: patches of 4, six blocks 128 wide, a learned sigma.

    Source: 003
    Command: sfumato train dit_pixels
    Trained: 19 min 57 s on one core, 2,550 steps; held-out loss 0.0303
    """
    return Run(
        name="dit_pixels",
        recipe="dit_pixels",
        data=DataConfig(source="digits", held_out=500),
        process=LinearBetas(steps=1000),
        parameterization=INDEX,
        objective=Hybrid(steps=1000, vlb_weight=0.001),
        network=DiTConfig(patch=4, depth=6, width=128, heads=4),
        train=TrainConfig(seconds=1500, batch=64, lr=2e-3),
        sampling=SamplingConfig(
            Ancestral(None), TrailingGrid(), steps=100, guidance=1.5, clipped=True
        ),
        learned_variance=True,
    )


def dit_flow() -> Run:
    """The same DiT as a rectified flow, as in SiT: velocity, logit-normal times, Heun's method.

    Source: 003
    Command: sfumato train dit_flow
    Trained: 15 min 01 s on one core, 1,223 steps; held-out loss 0.1770
    """
    return replace(
        dit_pixels(),
        name="dit_flow",
        recipe="dit_flow",
        process=RectifiedFlow(),
        parameterization=PredictVelocity(),
        objective=Denoising(LogitNormalTimes()),
        learned_variance=False,
        sampling=SamplingConfig(Heun(), UniformGrid(), steps=25, guidance=1.5, clipped=True),
    )


def digits_unlabelled() -> Run:
    """The demo's model without labels: what a classifier can guide.

    Source: 004
    Command: sfumato train digits_unlabelled
    Trained: 10 min 00 s on one core, 2,440 steps; held-out loss 0.1651
    """
    return replace(
        digits(),
        name="digits_unlabelled",
        recipe="digits_unlabelled",
        data=DataConfig(source="digits", labels=False, held_out=500),
        network=NETWORK,
        train=TrainConfig(seconds=600, batch=64, lr=2e-3),
        sampling=SamplingConfig(Heun(), KarrasGrid(), steps=18, clipped=True),
    )


def noisy_classifier() -> ClassifierRun:
    """A classifier of noised images, to guide a model that knows no classes.

    Source: 004
    Command: sfumato train noisy_classifier; then
        sfumato sample digits_unlabelled --classifier noisy_classifier --classifier-scale 2
    Trained: 10 min 00 s on one core, 7,800 steps; held-out loss 0.4932
    """
    return ClassifierRun(
        name="noisy_classifier",
        recipe="noisy_classifier",
        data=DataConfig(source="digits", held_out=500),
        process=Trigonometric(),
        objective=ClassifierLoss(UniformTimes()),
        network=ClassifierConfig(patch=2, multipliers=(1, 2, 2), dropout=0.1),
        train=TrainConfig(seconds=600, batch=64, lr=1e-3),
    )
