"""Loss curves in two precisions: what bfloat16 is where the processor has none."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench import curves
from bench.options import Options
from bench.results import read
from conftest import normal

LOW = torch.bfloat16


def learned(layer, x):
    """(output, gradients of x and of the weights) of the output's square."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(weight.grad for weight in layer.parameters())]


class Watched(TorchDispatchMode):
    """Notes which products were computed, and in what."""

    def __init__(self):
        super().__init__()
        self.products = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in curves.PRODUCTS:
            kinds = {one.dtype for one in args if isinstance(one, torch.Tensor)}
            self.products.setdefault(func, set()).update(kinds)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "make", [lambda: torch.nn.Conv2d(3, 4, 3), lambda: torch.nn.Linear(6, 4)], ids=["conv", "line"]
)
def test_rounded_products_are_bfloat16s_forward_and_backward(make):
    """Of bfloat16's own values, added up in more digits, rounded once."""
    torch.manual_seed(0)
    layer, x = make().to(LOW), normal(2, 3, 6, 6).to(LOW)
    with Watched() as watched, curves.Rounded():
        found = learned(layer, x)
    assert {one.dtype for one in found} == {LOW}
    assert len(watched.products) >= 2  # forward and backward
    assert set().union(*watched.products.values()) == {torch.float32}
    exact = make().double()
    exact.load_state_dict(layer.state_dict())
    wide = exact(x.double())
    assert torch.allclose(found[0].double(), wide, rtol=2**-8, atol=1e-9)
    for low, high in zip(found[1:], learned(exact, x.double())[1:], strict=True):
        assert torch.allclose(low.double(), high, rtol=0.02, atol=0.02 * high.abs().max().item())


def test_rounded_leaves_float32_as_it_is_and_sees_what_autocast_makes():
    x, kernel = normal(1, 3, 8, 8).float(), normal(4, 3, 3, 3).float()
    with curves.Rounded():
        assert torch.equal(F.conv2d(x, kernel), F.conv2d(x, kernel, torch.zeros(4)))
        with torch.autocast("cpu", LOW):
            low = F.conv2d(x, kernel)
    wide = F.conv2d(x.to(LOW).double(), kernel.to(LOW).double())
    assert low.dtype == LOW
    assert torch.allclose(low.double(), wide, rtol=2**-8, atol=1e-9)


@pytest.mark.parametrize("emulated", [True, False])
def test_our_curve_is_of_bf16_on_every_machine(tmp_path, monkeypatch, emulated):
    monkeypatch.setattr(curves, "emulates_bf16", lambda device: emulated)
    options = Options(rounds=2, quick=True, only="unet2d-16", loss=True)
    options = replace(options, out=tmp_path, runs=tmp_path / "runs")
    curves.run(options)
    part = read("loss", tmp_path)["unet2d-16"]
    assert part.command == "python -m bench training --only unet2d-16 --loss --rounds 2 --quick"
    told, losses = part.more["reasons"], part.more["losses"]
    assert [len(losses[name]) for name, _, _ in curves.CURVES] == [2, 2, 2]
    assert (told["ours"] == curves.SIMULATED) == emulated
    if emulated:
        assert losses["ours"] != losses["ours, fp32"]
    assert losses["ours"][0] == pytest.approx(losses["ours, fp32"][0], rel=0.02)
    monkeypatch.setattr(curves, "ours", None)  # what is done is not done again
    curves.run(options)
    assert read("loss", tmp_path)["unet2d-16"].more == part.more
