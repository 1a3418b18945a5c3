"""Schedulers of diffusers that no pipeline of UNet2D drives: their own loop, and as read here."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.interop.diffusers_defaults import INSTEAD
from sfumato.interop.diffusers_schedulers import ON_RATIO, read_schedule
from sfumato.named import SOLVERS
from sfumato.sampling import SeededNoise

diffusers = pytest.importorskip("diffusers")
peers = pytest.importorskip("peers")
from test_diffusers_pipeline import (  # noqa: E402
    EULER,
    SEEDS,
    STEPS,
    TRAILING,
    pipeline,
    points,
    saved,
)

pytestmark = peers.OLD_NUMPY
UNIPC, DEIS_, LMS_, KDPM2, KDPM2A, EULER_A = (
    f"{name}Scheduler"
    for name in (
        *("UniPCMultistep", "DEISMultistep", "LMSDiscrete"),
        *("KDPM2Discrete", "KDPM2AncestralDiscrete", "EulerAncestralDiscrete"),
    )
)
SCIPY = pytest.mark.skipif(find_spec("scipy") is None, reason="diffusers' LMS needs SciPy")


@pytest.mark.parametrize(
    ("name", "settings", "within"),
    [
        (UNIPC, {}, 4e-5),
        (UNIPC, {"solver_order": 3, "prediction_type": "sample"}, 4e-5),
        (EULER_A, {}, 2e-5),
        (EULER, {"timestep_spacing": "leading", "steps_offset": 1}, 2e-5),
        (KDPM2, {}, 5e-3),
        (KDPM2A, {"timestep_spacing": "leading"}, 5e-3),
        pytest.param(LMS_, {}, 2e-5, marks=SCIPY),
    ],
)
def test_a_scheduler_by_its_own_loop_draws_the_same_here(
    name: str,
    settings: dict[str, Any],
    within: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, ours = both(name, {**TRAILING, **settings}, tmp_path, monkeypatch)
    assert peers.difference(ours[-1:], theirs[-1:]) <= within


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_with_bh1_agrees_until_its_last_step_which_is_not_a_number_there(
    order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"solver_order": order, "solver_type": "bh1", **TRAILING}
    theirs, ours = both(UNIPC, settings, tmp_path, monkeypatch)
    assert peers.difference(ours[:-1], theirs[:-1]) <= 4e-5
    assert theirs[-1].isnan().all()
    assert ours[-1].isfinite().all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_agrees_until_its_last_step(
    order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both(DEIS_, {"solver_order": order, **TRAILING}, tmp_path, monkeypatch)
    assert peers.difference(ours[:-1], theirs[:-1]) <= 4e-5
    assert 5e-3 < (ours[-1] - theirs[-1]).abs().max() < 0.1  # of a lowest noise of 0.01


def both(
    name: str, settings: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Tensor]]:
    """x after every step of diffusers' scheduler, called as its pages say, and of ours."""
    made, found = pipeline(name, **settings), saved(folder, name, **settings)
    made.scheduler.set_timesteps(STEPS)
    source, empty = SeededNoise(SEEDS), torch.empty(2, 3, 8, 8)

    def drawn(*_: Any, **__: Any) -> Tensor:
        return source(empty)

    for module in ("k_dpm_2_ancestral_discrete", "euler_ancestral_discrete"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", drawn)
    # Not init_noise_sigma, which under leading spacing is that of the images and the noise.
    x = source(empty) * (made.scheduler.sigmas[0] if name in ON_RATIO else 1)
    with torch.no_grad():
        theirs = peers.theirs(made.scheduler, lambda x, label: made.unet(x, label).sample, x)
    return theirs, points(found)


def test_a_scheduler_that_is_not_read_is_refused_with_what_to_do() -> None:
    for name in INSTEAD:
        assert hasattr(diffusers, name)
        with pytest.raises(ValueError, match="after the import draw by `sfumato") as refused:
            read_schedule({"_class_name": name})
        sampler = re.search(r"--sampler ([^`]+)`", str(refused.value))
        assert sampler is not None
        assert sampler[1] in SOLVERS
