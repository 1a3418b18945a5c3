"""A training step waits for a GPU once, when its scalars are read: seen on the CPU by its calls."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato import training
from sfumato.devices import read
from sfumato.training import take_step
from tiny import parts, run

WAITING = {  # what reads a tensor's numbers, and so waits for whatever computes them
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITING, f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_step_reads_its_numbers_once_and_nothing_else(monkeypatch, micro_batch):
    state, loss, batch_at, *_ = parts(run())
    config = replace(run().train, micro_batch=micro_batch)
    reads = []
    monkeypatch.setattr("sfumato.networks.embeddings.check_labels", lambda *_: None)  # of CPUs only
    monkeypatch.setattr(training, "read", lambda values: reads.append(values) or read(values))
    take_step(state, loss, batch_at(0), config)  # the first sets the optimizer up
    with NoWaiting():
        take_step(state, loss, batch_at(1), config)
    assert len(reads) == 2
    assert all(value.shape == () for value in reads[1])


def test_the_test_would_see_a_wait():
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(()).item()


def test_what_is_read_are_the_numbers():
    values = [torch.tensor(0.1), torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(2.5)]
    assert read(values) == [value.item() for value in values]
    assert read(values[:1]) == [values[0].item()]
