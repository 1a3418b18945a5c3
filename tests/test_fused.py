"""Group norm, modulation and SiLU in one go: what the parts give, in every type and combination."""

import os
import subprocess
import sys
from math import isfinite

import pytest
import torch

from sfumato import native
from sfumato.networks import fused
from sfumato.networks.fused import norm_act, plain

needs_c = pytest.mark.skipif(bool(native.why_not()), reason=f"no C here: {native.why_not()}")
SHAPES = [(3, 64, 7, 8), (1, 128, 16, 32), (16, 128, 32, 32), (2, 96, 1, 8), (2, 24, 5, 4)]
TOLD = ["", "a", "cd", "acd"]  # which of add, scale (c) and shift (d) there are


def parts(shape, told, mean=0.0):
    batch, channels, side, groups = shape
    make = torch.Generator().manual_seed(batch * channels)
    draw = lambda *size: torch.randn(*size, generator=make, dtype=torch.float64)  # noqa: E731
    x = 3 * draw(batch, channels, side, side) + mean
    tensors = [x, draw(channels), draw(channels)]
    tensors += [draw(batch, channels) if name in told else None for name in "acd"]
    return tensors, draw(batch, channels, side, side), groups


def gradients(function, tensors, upward, groups, dtype, pixels=None, silu=True):
    """y and the gradient of each tensor that there is."""
    own = [None if t is None else t.to(dtype, copy=True) for t in tensors]
    own[0] = own[0].to(pixels or dtype).contiguous(memory_format=torch.channels_last)
    own = [t if t is None else t.requires_grad_() for t in own]
    y = function(*own[:3], groups, 1e-5, *own[3:], silu=silu)
    y.backward(upward.to(y.dtype))
    return [y.detach(), *(t.grad for t in own if t is not None)]


def worst(found, wanted):
    """The largest share that one of them is off by, of zeros how much; no number will do."""
    pairs = zip(found, wanted, strict=True)
    shares = [((a.double() - b).norm() / (b.norm() or 1.0)).item() for a, b in pairs]
    assert all(isfinite(share) for share in shares)
    return max(shares)


def outcome(function, *told):
    """What it gives, or that it was refused."""
    try:
        return function(*told)
    except RuntimeError:
        return "refused"


def same_outcome(ours, plain, *told):
    found, wanted = outcome(ours, *told), outcome(plain, *told)
    if isinstance(wanted, str) or isinstance(found, str):
        return found == wanted
    return torch.equal(found, wanted)


@needs_c
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_parts_in_float64(shape, told, silu):
    tensors, upward, groups = parts(shape, told)
    exact = gradients(plain, tensors, upward, groups, torch.float64, silu=silu)
    own = gradients(norm_act, tensors, upward, groups, torch.float32, silu=silu)
    assert worst(own, exact) < 1e-6
    bf16 = (torch.float32, torch.bfloat16)
    rounded = [tensors[0].bfloat16().double(), *tensors[1:]]
    exact = gradients(plain, rounded, upward.bfloat16().double(), groups, torch.float64, silu=silu)
    own = gradients(norm_act, rounded, upward, groups, *bf16, silu=silu)
    assert worst(own, exact) < 4e-3  # half a unit of bf16's last place is 2^-9


@needs_c
def test_a_large_mean_does_not_cancel():
    tensors, upward, groups = parts((4, 32, 8, 8), "", mean=3000.0)
    wide = [tensors[0].float().double(), *tensors[1:]]
    exact = gradients(plain, wide, upward, groups, torch.float64)
    assert worst(gradients(norm_act, wide, upward, groups, torch.float32), exact) < 1e-4


def alike_on_any_number_of_threads(compute):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(compute())
    finally:
        torch.set_num_threads(before)
    return all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0]))


@needs_c
def test_no_result_depends_on_the_number_of_threads():
    told = (*parts((3, 128, 16, 32), "acd"), torch.float32, torch.bfloat16)
    assert alike_on_any_number_of_threads(lambda: gradients(norm_act, *told))


@needs_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(dtype):
    x = torch.ones(2, 32, 4, 4, dtype=dtype)
    x[1, 3, 2, 2] = float("nan")
    y = norm_act(x, torch.ones(32), torch.zeros(32), 4, 1e-5)
    assert y[0].isfinite().all()
    assert y[1, :8].isnan().all()
    assert y[1, 8:].isfinite().all()


@needs_c
def test_the_c_is_what_ran(monkeypatch):
    x = torch.randn(2, 32, 4, 4)
    told = (torch.ones(32), torch.zeros(32), 4, 1e-5)
    monkeypatch.setattr(fused, "plain", lambda *told: pytest.fail("the parts ran"))
    norm_act(x, *told)
    norm_act(x.bfloat16(), *told)
    with pytest.raises(pytest.fail.Exception, match="the parts ran"):
        norm_act(x.double(), torch.ones(32).double(), torch.zeros(32).double(), 4, 1e-5)


def rows(*shape, dtype=torch.float32):
    return torch.linspace(0.5, 2, torch.Size(shape).numel(), dtype=dtype).view(shape)


LEFT_ALONE = {  # gamma, beta, groups, eps, add, scale, shift of 32 channels and a batch of 4
    "one row for all images": (rows(32), rows(32), 4, 1e-5, None, rows(1, 32), None),
    "one number an image": (rows(32), rows(32), 4, 1e-5, rows(4, 1), None, None),
    "too few weights": (rows(16), rows(16), 4, 1e-5),
    "other numbers": (rows(32), rows(32, dtype=torch.float64), 4, 1e-5),
    "every other number": (rows(64)[::2], rows(32), 4, 1e-5),
    "groups that leave channels over": (rows(32), rows(32), 5, 1e-5),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_of_another_shape_or_type_is_left_to_pytorch(name):
    """It broadcasts or refuses it; C would read beyond its end."""
    x = torch.randn(4, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    assert same_outcome(norm_act, plain, x, *LEFT_ALONE[name])


def test_it_can_be_mapped_over_images_by_torch_func():
    x, weights = torch.randn(3, 32, 4, 4), (rows(32), rows(32), 4, 1e-5)
    mapped = torch.func.vmap(lambda one: norm_act(one[None], *weights)[0])(x)
    torch.testing.assert_close(mapped, norm_act(x, *weights))


def test_without_c_the_parts_do_it():
    code = (
        "import torch; from sfumato import native; from sfumato.networks.fused import norm_act\n"
        "x = torch.randn(2, 8, 3, 3); ones = torch.ones(8)\n"
        "norm_act(x, ones, 0 * ones, 4, 1e-5); print(native.why_not())"
    )
    environment = {**os.environ, native.SWITCH: "0"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert told.stdout.decode().strip() == f"{native.SWITCH}=0", told.stderr.decode()


def test_a_compiler_that_fails_is_a_reason_and_not_an_end(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(native, "compiler", lambda: str(broken))
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(native.SWITCH, raising=False)
    native.why_not.cache_clear()
    try:
        assert "compiling it failed" in native.why_not()
    finally:
        native.why_not.cache_clear()
    assert not list((tmp_path / "home" / "native").iterdir())
