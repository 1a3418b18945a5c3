"""Batches that are not finite are left out, those that memory is short for are run in parts."""

from dataclasses import replace

import pytest
import torch

from sfumato.data import generator_at
from sfumato.training import take_step, train
from tiny import Hooks, fingerprint, parts, run, same


def poisoned(batch_at, steps):
    """The same batches, with a value that is no number in those of `steps`."""

    def at(step):
        batch = batch_at(step)
        if step in steps:
            batch["eps"][2, 0, 0, 0] = float("nan")
        return batch

    return at


def test_a_batch_that_is_not_finite_is_left_out_and_the_rest_is_as_without_it():
    """The reference never calls take_step for that batch."""
    state, loss, batch_at, settings = parts(run(steps=6))
    hooks = Hooks()
    train(state, loss, poisoned(batch_at, {3}), settings, hooks)
    wanted, _, _, _ = parts(run(steps=6))
    for step in range(6):
        torch.manual_seed(generator_at(settings.seed, "dropout", step).initial_seed())
        if step == 3:
            wanted.step += 1
        else:
            take_step(wanted, loss, batch_at(step), settings)
    assert same(state, wanted)
    assert (state.skipped, hooks.left_out) == (1, [4])
    assert [row["step"] for row in hooks.rows] == [1, 2, 3, 5, 6]


def test_ten_such_batches_in_a_row_stop_the_run_and_leave_it_as_it_was():
    state, loss, batch_at, settings = parts(run(steps=30))
    healthy, _, _, _ = parts(run(steps=30))
    train(healthy, loss, batch_at, settings, Hooks(stop_at=3))
    hooks = Hooks()
    with pytest.raises(FloatingPointError, match=r"10 batches in a row.*loss is nan.*--lr"):
        train(state, loss, poisoned(batch_at, set(range(3, 13))), settings, hooks)
    assert hooks.left_out == list(range(4, 13))
    assert (hooks.saved, state.step) == ([12], 12)
    assert all(map(torch.equal, fingerprint(state), fingerprint(healthy)))


def test_nine_bad_batches_a_good_one_and_nine_more_do_not_stop_it():
    state, loss, batch_at, settings = parts(run(steps=19))
    train(state, loss, poisoned(batch_at, set(range(19)) - {9}), settings, Hooks())
    assert (state.step, state.skipped) == (19, 18)


def test_an_epoch_that_ends_with_a_skipped_batch_starts_the_next_with_nothing():
    config = run(steps=8, batch=10)
    config = replace(config, train=replace(config.train, epoch_images=20))
    state, loss, batch_at, settings = parts(config)
    hooks = Hooks()
    train(state, loss, poisoned(batch_at, {1}), settings, hooks)
    told = {row["epoch"]: row["epoch_loss"] for row in hooks.rows if "epoch" in row}
    losses = {row["step"]: row["loss"] for row in hooks.rows}
    assert told.keys() == {2, 3, 4}
    for epoch, mean in told.items():
        assert mean == pytest.approx((losses[2 * epoch - 1] + losses[2 * epoch]) / 2)


def test_a_batch_that_memory_is_too_short_for_is_run_in_parts_with_the_same_result():
    config = run(steps=4, batch=12, micro_batch=None)
    state, loss, batch_at, settings = parts(config)
    most = 4

    def tight(model, batch):
        if len(batch["u"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(model, batch)

    hooks = Hooks()
    train(state, tight, batch_at, settings, hooks)
    assert hooks.parts == [6, 3]
    wanted, _, _, _ = parts(config)
    train(wanted, loss, batch_at, replace(settings, micro_batch=3), Hooks())
    assert same(state, wanted)


def test_one_image_that_does_not_fit_is_an_error():
    state, _, batch_at, settings = parts(run(steps=4))

    def full(model, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    hooks = Hooks()
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        train(state, full, batch_at, settings, hooks)
    assert hooks.parts == [2, 1]

    def broken(model, batch):
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes"):
        train(state, broken, batch_at, settings, hooks)
    assert hooks.parts == [2, 1]
