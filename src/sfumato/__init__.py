"""sfumato: train, sample, measure and understand image diffusion models of your own.

Names are imported from their modules when they are first used, so that `import sfumato`, and with
it every --help, costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {  # module: the public names in it
    "process": "Karras LinearVP Process RectifiedFlow SubVP Trigonometric",
    "discrete": "CosineBetas DiscreteVP LinearBetas ScaledLinearBetas SigmoidBetas",
    "noising": "ScaledInput SigmoidSignal",
    "prediction": "Prediction",
    "parameterization": "EDMPreconditioning PredictData PredictNoise PredictV PredictVelocity",
    "denoiser": "Clipped Denoiser DynamicallyThresholded NetworkDenoiser OnProcess",
    "exact": "Empirical GaussianMixture",
    "guidance": "Autoguidance ByClassifier ByGradient ClassifierFree Unconditional Within",
    "classification": "ClassifierLoss NoisyClassifier log_prob_of",
    "solvers": "DDIM Ancestral Churn DPMSolverPP2M Euler EulerMaruyama Heun Solver",
    "multistep": "DEIS IPNDM LMS DPMSolverPP TimeDEIS UniPC",
    "singlestep": "DPMSolver2",
    "tuned": "TunedGrid TunedSolver",
    "grids": "karras_times leading_times linspace_times trailing_times uniform_times",
    "sampling": "SeededNoise back_and_forth known_region prior sample trajectory",
    "objective": "DataMSE Denoising DiscreteTimes EDMWeight LogitNormalTimes LogNormalTimes "
    "MinSNR OutputMSE UniformTimes draws stratified",
    "importance": "ImportanceSampled",
    "consistency": "ConsistencyGrid ConsistencyTuning MultistepConsistency pseudo_huber",
    "bound": "Hybrid VariationalBound variational_bound",
    "likelihood": "bits_per_dim exact_divergence hutchinson log_likelihood",
    "evaluation": "flow_bits variational_bits",
    "spectra": "radial_power",
    "features": "Features features_of",
    "measuring": "Estimate Moments class_accuracy class_balance frechet frechet_estimate nearest",
    "discrepancy": "kernel_distance",
    "covering": "density_coverage precision_recall",
    "tuning": "Pairs Table fitted_rows refined table_of",
    "tuned_runs": "Tuned find_tuned",
    "doctor": "Finding look_at_data look_at_plan look_at_run verdict",
    "loading": "Loaded load_run",
    "generation": "Order draw",
    "muon": "Muon",
    "reconstruction": "ReconstructionLoss psnr",
    "codec": "Pixels",
    "latents": "AutoencoderCodec LatentCodec",
    "text": "TextConfig",
    "data": "ImageData load",
    "networks.adm": "ADMConfig",
    "networks.autoencoder": "AutoencoderConfig",
    "networks.classifier": "ClassifierConfig",
    "networks.describe": "flops parameter_count",
    "networks.dit": "DiTConfig dit_size",
    "networks.four_conv": "FourConvConfig",
    "networks.handmade": "HandmadeConfig",
    "networks.lucid": "LucidUNetConfig",
    "networks.sd_unet": "SDUNetConfig",
    "networks.small": "PulferUNetConfig StarterCNNConfig",
    "networks.taesd": "TAESDConfig",
    "networks.unet": "UNetConfig",
    "networks.unet2d": "UNet2DConfig",
    "config": "AutoencoderRun ClassifierRun DataConfig Run SamplingConfig",
    "training": "TrainConfig TrainState train",
    "pictures": "data_preview grid read_settings save_png",
    "films": "film",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from .bound import Hybrid, VariationalBound, variational_bound
    from .classification import ClassifierLoss, NoisyClassifier, log_prob_of
    from .codec import Pixels
    from .config import AutoencoderRun, ClassifierRun, DataConfig, Run, SamplingConfig
    from .consistency import (
        ConsistencyGrid,
        ConsistencyTuning,
        MultistepConsistency,
        pseudo_huber,
    )
    from .covering import density_coverage, precision_recall
    from .data import ImageData, load
    from .denoiser import Clipped, Denoiser, DynamicallyThresholded, NetworkDenoiser, OnProcess
    from .discrepancy import kernel_distance
    from .discrete import CosineBetas, DiscreteVP, LinearBetas, ScaledLinearBetas, SigmoidBetas
    from .doctor import Finding, look_at_data, look_at_plan, look_at_run, verdict
    from .evaluation import flow_bits, variational_bits
    from .exact import Empirical, GaussianMixture
    from .features import Features, features_of
    from .films import film
    from .generation import Order, draw
    from .grids import karras_times, leading_times, linspace_times, trailing_times, uniform_times
    from .guidance import (
        Autoguidance,
        ByClassifier,
        ByGradient,
        ClassifierFree,
        Unconditional,
        Within,
    )
    from .importance import ImportanceSampled
    from .latents import AutoencoderCodec, LatentCodec
    from .likelihood import bits_per_dim, exact_divergence, hutchinson, log_likelihood
    from .loading import Loaded, load_run
    from .measuring import (
        Estimate,
        Moments,
        class_accuracy,
        class_balance,
        frechet,
        frechet_estimate,
        nearest,
    )
    from .multistep import DEIS, IPNDM, LMS, DPMSolverPP, TimeDEIS, UniPC
    from .muon import Muon
    from .networks.adm import ADMConfig
    from .networks.autoencoder import AutoencoderConfig
    from .networks.classifier import ClassifierConfig
    from .networks.describe import flops, parameter_count
    from .networks.dit import DiTConfig, dit_size
    from .networks.four_conv import FourConvConfig
    from .networks.handmade import HandmadeConfig
    from .networks.lucid import LucidUNetConfig
    from .networks.sd_unet import SDUNetConfig
    from .networks.small import PulferUNetConfig, StarterCNNConfig
    from .networks.taesd import TAESDConfig
    from .networks.unet import UNetConfig
    from .networks.unet2d import UNet2DConfig
    from .noising import ScaledInput, SigmoidSignal
    from .objective import (
        DataMSE,
        Denoising,
        DiscreteTimes,
        EDMWeight,
        LogitNormalTimes,
        LogNormalTimes,
        MinSNR,
        OutputMSE,
        UniformTimes,
        draws,
        stratified,
    )
    from .parameterization import (
        EDMPreconditioning,
        PredictData,
        PredictNoise,
        PredictV,
        PredictVelocity,
    )
    from .pictures import data_preview, grid, read_settings, save_png
    from .prediction import Prediction
    from .process import Karras, LinearVP, Process, RectifiedFlow, SubVP, Trigonometric
    from .reconstruction import ReconstructionLoss, psnr
    from .sampling import SeededNoise, back_and_forth, known_region, prior, sample, trajectory
    from .singlestep import DPMSolver2
    from .solvers import DDIM, Ancestral, Churn, DPMSolverPP2M, Euler, EulerMaruyama, Heun, Solver
    from .spectra import radial_power
    from .text import TextConfig
    from .training import TrainConfig, TrainState, train
    from .tuned import TunedGrid, TunedSolver
    from .tuned_runs import Tuned, find_tuned
    from .tuning import Pairs, Table, fitted_rows, refined, table_of


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
