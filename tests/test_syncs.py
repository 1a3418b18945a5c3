"""A training step waits for a GPU once, when its scalars are read: seen on the CPU by its calls."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato import training
from sfumato.devices import read, wait
from sfumato.training import take_step
from tiny import parts, run

WAITING = {  # what reads a tensor's numbers, and so waits for whatever computes them
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten.unique_consecutive.default,
    torch.ops.aten.repeat_interleave.Tensor,
}
BY_INDEX = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
METHODS = ("tolist", "numpy", "cpu", "__array__")  # which no dispatcher sees, of a CPU's tensors


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = [i for i in args[1] if i is not None] if func in BY_INDEX else []
        counted = any(i.dtype in (torch.bool, torch.uint8) for i in masks)
        assert func not in WAITING, f"{func} waits"
        assert not counted, f"{func} of a mask waits"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_reading(monkeypatch):
    """Tensors that are read in their whole."""

    def waits(self, *told, **more):
        raise AssertionError("a tensor is read: that waits")

    for name in METHODS:
        monkeypatch.setattr(torch.Tensor, name, waits)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_step_reads_its_numbers_once_and_nothing_else(monkeypatch, request, micro_batch):
    state, loss, batch_at, *_ = parts(run())
    config = replace(run().train, micro_batch=micro_batch)
    reads = []
    monkeypatch.setattr("sfumato.networks.embeddings.check_labels", lambda *_: None)  # of CPUs only
    monkeypatch.setattr(training, "read", lambda values: reads.append(values) or read(values))
    take_step(state, loss, batch_at(0), config)  # the first sets the optimizer up
    kept = []
    monkeypatch.setattr(training, "read", lambda values: kept.append(values) or [0.5] * len(values))
    with NoWaiting():
        batch = batch_at(1)  # whose dice are the CPU's own, and may be read
        request.getfixturevalue("no_reading")
        take_step(state, loss, batch, config)
    reads += kept
    assert len(reads) == 2
    assert all(value.shape == () for value in reads[1])


WAITS = {
    "a number": lambda x: x.sum().item(),
    "a mask": lambda x: x[x > 0],
    "what a mask is given": lambda x: x.index_put_((x > 0,), torch.zeros(())),
    "its values, each once": lambda x: x.unique(),
    "a list": lambda x: x.tolist(),
    "an array": lambda x: x.numpy(),
    "a copy for the CPU": lambda x: x.cpu(),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_test_would_see_a_wait(name, no_reading):
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        WAITS[name](torch.ones(3))


@pytest.mark.parametrize(("kind", "waits"), [("cpu", 0), ("cuda", 1), ("mps", 1)])
def test_a_clock_waits_for_every_accelerator(monkeypatch, kind, waits):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    wait(torch.device(kind))
    assert waited == [torch.device(kind)] * waits


def test_what_is_read_are_the_numbers():
    values = [torch.tensor(0.1), torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(2.5)]
    assert read(values) == [value.item() for value in values]
    assert read(values[:1]) == [values[0].item()]
