"""Small grey images in ten minutes on two cores: what was found to buy quality per second.

EDM, a network that sees squares of 2 x 2 pixels, Muon, an average as wide as a tenth of the run, a
rate that falls to nothing as the time ends. experiments/LOG.md has the ablations.
"""

from dataclasses import replace
from math import log

from ..config import DataConfig, Run, SamplingConfig
from ..grids import KarrasGrid
from ..objective import Denoising, LogNormalTimes
from ..parameterization import EDMPreconditioning
from ..solvers import DPMSolverPP2M
from ..training import TrainConfig
from .digits import digits

SAMPLING = SamplingConfig(DPMSolverPP2M(), KarrasGrid(), steps=12, guidance=1.5, clipped=True)


def digits_fast() -> Run:
    """The built-in digits, as well as ten minutes allow.

    Source: Karras et al. (2022)
    Command: sfumato train digits_fast
    Trained: 10 min 57 s on one core, 1,497 steps; held-out loss 0.1318
    """
    train = TrainConfig(seconds=600, muon=True)
    return replace(
        digits(), name="digits_fast", recipe="digits_fast", train=train, sampling=SAMPLING
    )


def fashion_fast() -> Run:
    """Fashion-MNIST, as well as ten minutes allow; its files are found where Debian puts them.

    Source: Karras et al. (2022)
    Command: sfumato train fashion_fast
    Trained: 12 min 06 s on two cores, 1,675 steps; held-out loss 0.1845
    """
    deviation = 0.70
    return replace(
        digits_fast(),
        name="fashion_fast",
        recipe="fashion_fast",
        data=DataConfig(source="fashion-mnist"),
        parameterization=EDMPreconditioning(sigma_data=deviation),
        objective=Denoising(LogNormalTimes(mean=round(-1.2 + log(deviation / 0.5), 3), std=1.2)),
    )
