"""Muon: PyTorch's own on matrices, AdamW's on the rest, and what orthogonal means."""

import pytest
import torch
from torch import nn

from sfumato.checkpoint import load_optimizer, optimizer_tensors
from sfumato.muon import Muon, is_matrix, orthogonal
from sfumato.training import TrainConfig, TrainState, optimizer_of


def walked(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_of_a_matrix_it_is_pytorchs(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(4, *shape)
    own, peer = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
    theirs = torch.optim.Muon([peer], adjust_lr_fn="match_rms_adamw", **settings)
    # theirs averages, M = mu M + (1 - mu) G, which is ours but for a factor that O does not see;
    # and it works in bfloat16
    found, wanted = walked(Muon([own], **settings), own, gradients), walked(theirs, peer, gradients)
    assert (found - wanted).norm() < 0.02 * (wanted - start).norm()


def test_of_a_kernel_it_is_the_matrix_of_its_rows():
    torch.manual_seed(0)
    start, gradients = torch.randn(16, 4, 3, 3), torch.randn(3, 16, 4, 3, 3)
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    found = walked(Muon([kernel], 0.1), kernel, gradients)
    wanted = walked(Muon([matrix], 0.1), matrix, gradients.flatten(2))
    assert torch.equal(found.flatten(1), wanted)


@pytest.mark.parametrize("shape", [(64,), (11, 64), (4, 32, 3, 3), ()])
def test_of_the_rest_it_is_adamw(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(5, *shape)
    own, peer = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.97)}
    assert not is_matrix(own)
    found = walked(Muon([own], **settings), own, gradients)
    wanted = walked(torch.optim.AdamW([peer], **settings), peer, gradients)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_singular_values_become_nearly_one_and_vectors_stay():
    torch.manual_seed(0)
    u = torch.randn(20, 50)
    left, values, right = torch.linalg.svd(orthogonal(u), full_matrices=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    first, _, last = torch.linalg.svd(u, full_matrices=False)
    assert (left @ right - first @ last).norm() < 1e-2 * (first @ last).norm()


def test_a_run_says_which_it_wants():
    network = nn.Conv2d(16, 16, 3)
    assert isinstance(optimizer_of(network, TrainConfig(steps=1, muon=True)), Muon)
    assert isinstance(optimizer_of(network, TrainConfig(steps=1)), torch.optim.AdamW)
    with pytest.raises(ValueError, match="whole matrices"):
        TrainConfig(steps=1, muon=True, fsdp=True)


def test_it_goes_on_bit_for_bit_from_its_tensors():
    def begun():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 2, 3))
        config = TrainConfig(steps=9, muon=True)
        state = TrainState.fresh(network, config)
        return state, [torch.randn(3, 16, 8, 8) for _ in range(4)]

    def trained(state, batches):
        for x in batches:
            state.optimizer.zero_grad()
            state.model(x).square().mean().backward()
            state.optimizer.step()
        return [p.detach().clone() for p in state.model.parameters()]

    state, batches = begun()
    wanted = trained(state, batches)
    half, _ = begun()
    trained(half, batches[:2])
    tensors, groups = optimizer_tensors(half)
    again, _ = begun()
    again.model.load_state_dict(half.model.state_dict())
    load_optimizer(again, {k: v.clone() for k, v in tensors.items()}, groups)
    assert all(torch.equal(a, b) for a, b in zip(trained(again, batches[2:]), wanted))


def test_counts_that_were_read_on_the_cpu_follow_their_parameters():
    """As a resumed run's do, whose weights are on a GPU; PyTorch leaves them where they were."""
    own, there = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, device="meta"))
    own.grad = torch.ones(3)
    first = Muon([own], lr=0.1)
    first.step()
    again = Muon([there], lr=0.1)
    again.load_state_dict(first.state_dict())
    assert {value.device.type for value in again.state[there].values()} == {"meta"}


@pytest.mark.parametrize("value", [0.002, 0.01, 0.1, 0.7])
def test_singular_values_are_taken_as_near_to_one_as_told(value):
    """Of u with one large value and one that is this share of its norm."""
    large = (1 - value**2) ** 0.5
    for found in orthogonal(torch.diag(torch.tensor([large, value]))).diagonal():
        assert 0.68 < found < 1.21
    tiny = orthogonal(torch.diag(torch.tensor([1.0, 1e-6])))[1, 1]
    assert tiny == pytest.approx(485e-6, rel=1e-3)


def test_maps_of_16_features_are_matrices_and_narrower_ones_are_not():
    assert is_matrix(torch.zeros(16, 16))
    assert is_matrix(torch.zeros(16, 4, 2, 2))
    assert not is_matrix(torch.zeros(15, 16))
    assert not is_matrix(torch.zeros(256))


def test_no_gradient_turns_nothing_and_of_zeros_nothing_is_made():
    still, moved = (torch.nn.Parameter(torch.ones(16, 16)) for _ in range(2))
    moved.grad = torch.eye(16)
    Muon([still, moved], lr=0.1).step()
    assert torch.equal(still, torch.ones(16, 16))
    assert not torch.equal(moved, torch.ones(16, 16))
    assert torch.equal(orthogonal(torch.zeros(4, 4)), torch.zeros(4, 4))
