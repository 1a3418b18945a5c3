"""A transformer's norm, modulation and gate, each in one go: their formulas, in every type."""

import pytest
import torch
import torch.nn.functional as F

from sfumato import native
from sfumato.networks import DiTConfig
from sfumato.networks.fused_tokens import PAIRS, gated, modulated
from test_fused import alike_on_any_number_of_threads, needs_c, worst

SHAPES = [(3, 70, 20), (2, 129, 33), (1, 1, 4), (5, 64, 384)]  # (B, N, D)
PRECISE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}  # half a unit of bf16's last place is 2^-9


def case(shape, mean=0.0):
    """Tokens, two modulations, a branch, and two upward gradients, in numbers that bf16 holds."""
    batch, _, features = shape
    make = torch.Generator().manual_seed(sum(shape))

    def draw(*sizes):
        return torch.randn(*sizes, generator=make).bfloat16().double()

    changes = draw(batch, 1, 2 * features).chunk(2, dim=2)  # not contiguous, as in a DiT
    return draw(*shape) * 3 + mean, *changes, draw(*shape), draw(*shape)


def norm_by_hand(tokens, shift, scale, eps=1e-6):
    deviation = tokens - tokens.mean(2, keepdim=True)
    variance = deviation.square().mean(2, keepdim=True)
    return deviation / (variance + eps).sqrt() * (1 + scale) + shift


def gate_by_hand(tokens, gate, h):
    return tokens + gate * h


def gradients(function, tensors, upward, autocast=False):
    """y and every tensor's gradient."""
    own = [t.detach().clone().requires_grad_() for t in tensors]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = function(*own)
    y.backward(upward.to(y.dtype))
    return [y.detach(), *(t.grad for t in own)]


def refuse(*_, **__):
    raise AssertionError("PyTorch's norm was called")


@needs_c
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_modulated_is_its_formula_in_float64(shape, pair, monkeypatch):
    tokens, shift, scale, _, upward = case(shape)
    exact = gradients(norm_by_hand, (tokens, shift, scale), upward)
    monkeypatch.setattr(F, "layer_norm", refuse)
    own = (tokens.to(pair[0]), shift.to(pair[1]), scale.to(pair[1]))
    found = gradients(modulated, own, upward, autocast=pair[0] != pair[1])
    assert found[0].dtype == pair[1]
    assert [t.dtype for t in found[1:]] == [t.dtype for t in own]
    assert worst(found, exact) < PRECISE[pair[1]]


@needs_c
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gated_is_its_formula_in_float64(shape, pair, monkeypatch):
    tokens, gate, _, h, upward = case(shape)
    exact = gradients(gate_by_hand, (tokens, gate, h), upward)
    own = (tokens.to(pair[0]), gate.to(pair[1]), h.to(pair[1]))
    found = gradients(gated, own, upward)
    assert [t.dtype for t in found] == [pair[0], *(t.dtype for t in own)]
    assert "_Gated" in type(gated(own[0].requires_grad_(), *own[1:]).grad_fn).__name__
    assert worst(found, exact) < PRECISE[pair[1]]


@needs_c
def test_a_large_mean_does_not_cancel():
    tokens, shift, scale, _, upward = case((2, 8, 64), mean=3000.0)
    exact = gradients(norm_by_hand, (tokens.float().double(), shift, scale), upward)
    own = [t.float() for t in (tokens, shift, scale)]
    assert worst(gradients(modulated, own, upward), exact) < 1e-4


@needs_c
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_a_token_that_is_one_number_is_its_shift(eps):
    tokens, shift, scale, _, _ = case((2, 8, 16))
    flat = torch.full_like(tokens, 5.0).float().requires_grad_()
    y = modulated(flat, shift.float(), scale.float(), eps)
    assert torch.equal(y, shift.float().expand_as(y))
    near = (tokens * eps**0.5).float()  # a variance of which eps is a part
    found = modulated(near, shift.float(), scale.float(), eps)
    assert worst([found], [norm_by_hand(near.double(), shift, scale, eps)]) < 1e-6


@needs_c
def test_what_is_no_number_stays_none_and_alone():
    tokens, shift, scale, h, _ = (t.float() for t in case((2, 3, 8)))
    tokens[1, 2, 3] = float("nan")
    bad = modulated(tokens, shift, scale).isnan()
    assert bad.sum() == 8 and bad[1, 2].all()  # noqa: PT018
    assert gated(tokens, scale, h).isnan().sum() == 1


@needs_c
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_no_result_depends_on_the_number_of_threads(pair):
    tokens, shift, scale, h, upward = case((5, 130, 64))
    tokens, h = tokens.to(pair[0]), h.to(pair[1])
    told = (tokens, shift.to(pair[1]), scale.to(pair[1])), upward, pair[0] != pair[1]
    assert alike_on_any_number_of_threads(lambda: gradients(modulated, *told))
    told = (tokens, scale.to(pair[1]), h), upward
    assert alike_on_any_number_of_threads(lambda: gradients(gated, *told))


@pytest.mark.parametrize("absent", [True, False])
def test_without_c_it_is_pytorchs(absent, monkeypatch):
    tokens, shift, scale, h, upward = case((2, 5, 12))  # in float64, which C has not
    if absent:
        monkeypatch.setattr(native, "takes", lambda name, x: False)
        tokens, shift, scale, h = (t.float() for t in (tokens, shift, scale, h))
    told = [t.double() for t in (tokens, shift, scale, h)]
    exact = gradients(norm_by_hand, told[:3], upward)
    found = gradients(modulated, (tokens, shift, scale), upward)
    assert worst(found, exact) < (1e-6 if absent else 1e-14)
    assert (
        "_Modulated" not in type(modulated(tokens, shift.requires_grad_(), scale).grad_fn).__name__
    )
    assert torch.equal(gated(tokens, scale, h), tokens + scale * h)


def network_and_batch():
    make = torch.Generator().manual_seed(0)
    network = DiTConfig(in_channels=4, patch=2, depth=2, width=32, heads=2, classes=3).build()
    for parameter in network.parameters():  # its gates would be zero
        parameter.data.copy_(torch.randn(parameter.shape, generator=make) * 0.1)
    x = torch.randn(3, 4, 6, 8, generator=make)
    return network, (x, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 1, 3]))


def of_network(network, batch):
    network.zero_grad()
    y = network(*batch)
    y.square().mean().backward()
    return [y.detach(), *(p.grad.clone() for p in network.parameters())]


@needs_c
def test_a_transformer_is_the_same_with_and_without(monkeypatch):
    network, batch = network_and_batch()
    found = of_network(network, batch)
    monkeypatch.setattr(native, "takes", lambda name, x: False)
    assert worst(found, [t.double() for t in of_network(network, batch)]) < 1e-5
