"""The loop: budgets, rates, averages, accumulation, randomness by step, resuming."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

from sfumato import checkpoint, ema
from sfumato.assembly import batches, by_level, held_out_batch, level_log_snr, loss_of
from sfumato.prefetching import LARGE, prefetched, source_for
from sfumato.schedules import Constant, CosineDecay, LinearDecay
from sfumato.train_config import previews_due
from sfumato.training import (
    TrainConfig,
    losses_of,
    split,
    take_step,
    train,
)
from tiny import CPU, Hooks, images, parts, run, same


def trained(config, stop_at=None, state=None):
    fresh, loss, batch_at, settings = parts(config)
    state = state or fresh
    hooks = Hooks(stop_at)
    train(state, loss, batch_at, settings, hooks)
    return state, hooks


@pytest.fixture(scope="module")
def never_stopped():
    """run() to its end: flips, label dropping, dropout, accumulation, warm-up, decay, average."""
    return trained(run())


@pytest.mark.parametrize("stop_at", [0, 1, 7, 13, 19])
def test_a_run_that_stops_anywhere_and_goes_on_is_the_run_that_never_did(
    tmp_path, stop_at, never_stopped
):
    config, (whole, hooks) = run(), never_stopped
    stopped, _ = trained(config, stop_at)
    assert stopped.step == stop_at
    checkpoint.write(tmp_path, stopped, keep=2)
    again = parts(config)[0]
    found = checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.restore(again, found[1])
    assert same(again, stopped)
    torch.manual_seed(99)  # what else happened to the global generator must not matter
    again, rest = trained(config, state=again)
    assert same(again, whole)
    assert [row["loss"] for row in rest.rows] == [row["loss"] for row in hooks.rows][stop_at:]


def test_the_same_seed_is_the_same_run_and_a_different_one_another():
    first, again, other = (trained(run(steps=3, seed=seed))[0] for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


def test_what_previews_draw_does_not_change_the_training(never_stopped):
    class Disturbing(Hooks):
        def preview(self, state):
            super().preview(state)
            torch.manual_seed(123)
            torch.randn(1000)
            state.model.eval()  # as 001:373 and 002:360 leave it: no dropout from here on

    state, loss, batch_at, settings = parts(run())
    hooks = Disturbing()
    train(state, loss, batch_at, settings, hooks)
    assert len(hooks.previews) > 2
    assert same(state, never_stopped[0])


def test_parts_of_a_batch_add_up_to_its_gradient():
    config = replace(run(), network=replace(run().network, dropout=0.0))
    gradients = []
    for most in (None, 5, 1):
        state, loss, batch_at, settings = parts(config)
        settings = replace(settings, micro_batch=most, grad_clip=1e9)
        torch.nn.init.normal_(state.model.network.out.conv.weight, std=0.1, generator=_seeded())
        take_step(state, loss, batch_at(0), settings)
        gradients.append([p.grad.clone() for p in state.model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def _seeded():
    return torch.Generator().manual_seed(0)


def test_split_keeps_every_row_in_order():
    batch = {"x": torch.arange(12), "y": torch.arange(12) * 2}
    pieces = list(split(batch, 5))
    assert [len(piece["x"]) for piece in pieces] == [5, 5, 2]
    assert torch.equal(torch.cat([piece["y"] for piece in pieces]), batch["y"])


def test_batch_k_does_not_depend_on_the_batches_before_it():
    config = run()
    forwards, alone = batches(config, images(), CPU), batches(config, images(), CPU)
    seen = [forwards(step) for step in range(6)]
    for step in (5, 2, 0):
        for name, rows in alone(step).items():
            assert torch.equal(rows, seen[step][name]), name
    assert not torch.equal(seen[0]["eps"], seen[1]["eps"])


def test_labels_are_dropped_to_the_null_class_at_the_asked_rate():
    batch_at = batches(run(batch=500), images(), CPU)
    labels = torch.cat([batch_at(step)["labels"] for step in range(20)])
    assert set(labels.unique().tolist()) == {0, 1, 2, 3}  # 3 classes, the null class is index 3
    share = (labels == 3).double().mean().item()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(labels))


def test_flips_mirror_about_half_of_the_images_and_only_when_asked():
    data = images()
    config = run(batch=200)
    plain = replace(config, data=replace(config.data, flip=False))
    flipped, straight = (batches(c, data, CPU)(3)["images"] for c in (config, plain))
    equal = (flipped == straight).flatten(1).all(1)
    mirrored = (flipped == straight.flip(-1)).flatten(1).all(1)
    assert (equal | mirrored).all()
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 7}, 7), ({"steps": None, "images": 50}, 5), ({"steps": 9, "images": 36}, 3)],
)
def test_the_budget_ends_at_the_first_limit(budget, steps):
    state, hooks = trained(run(**budget))
    assert state.step == steps
    assert hooks.saved[-1] == steps


def test_a_budget_of_seconds_follows_the_clock_and_takes_the_rate_to_zero_with_it():
    config = run(steps=None, seconds=10.0, warmup_steps=0, decay=LinearDecay(hold=0.5))
    state, loss, batch_at, settings = parts(config)
    ticks = iter(range(1000))
    hooks = Hooks()
    train(state, loss, batch_at, settings, hooks, clock=lambda: float(next(ticks)))
    assert state.seconds >= 10
    assert state.step == 10
    rates = [row["lr"] / settings.lr for row in hooks.rows]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(("cost", "saves"), [(0.0, [4, 7, 10, 12]), (0.2, [4, 10, 12])])
def test_saving_by_the_clock_waits_for_thirty_times_its_cost(cost, saves):
    now = [0.0]

    class Slow(Hooks):
        def log(self, state, scalars):
            super().log(state, scalars)
            now[0] += 1

        def save(self, state):
            super().save(state)
            now[0] += cost

    state, loss, batch_at, settings = parts(run(steps=12, save_every_seconds=3.0))
    hooks = Slow()
    train(
        state,
        loss,
        batch_at,
        replace(settings, save_every_seconds=3.0),
        hooks,
        clock=lambda: now[0],
    )
    assert hooks.saved == saves


def test_a_budget_is_required():
    with pytest.raises(ValueError, match="--time"):
        TrainConfig()


@pytest.mark.parametrize("name", ["steps", "batch", "lr", "micro_batch", "grad_clip"])
def test_nothing_may_be_zero(name):
    with pytest.raises(ValueError, match=rf"train\.{name} = 0"):
        TrainConfig(**{"images": 10, name: 0})


def test_rates_of_the_schedules():
    assert Constant()(0.9) == 1
    assert [LinearDecay(0.5, 0.2)(p) for p in (0, 0.5, 0.75, 1.0)] == pytest.approx(
        [1, 1, 0.6, 0.2]
    )
    assert [CosineDecay()(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [CosineDecay(0.1)(p) for p in (0, 0.5, 1, 2)] == pytest.approx([1, 0.55, 0.1, 0.1])
    for refused in ({"floor": 2.0}, {"floor": -0.1}, {"floor": float("nan")}):
        for kind in (LinearDecay, CosineDecay):
            with pytest.raises(ValueError, match="floor"):
                kind(**refused)
    with pytest.raises(ValueError, match="hold"):
        LinearDecay(hold=1.5)
    config = TrainConfig(steps=100, lr=2.0, warmup_steps=4, decay=Constant())
    assert [config.lr_at(step, 0) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_a_run_with_a_larger_budget_gets_the_previews_of_its_new_end():
    config = run(steps=2, previews=2)
    state, first = trained(config)
    assert first.previews == [0, 1, 2]
    _, more = trained(run(steps=8, previews=2), state=state)
    assert more.previews[-1] == 8
    _, nothing_new = trained(run(steps=8, previews=2), state=state)
    assert nothing_new.previews == []


def test_no_previews_where_none_are_asked_for():
    assert trained(run(previews=0))[1].previews == []


def test_the_optimizer_gets_the_rate_and_settings_of_the_run():
    config = run(betas=(0.8, 0.95), weight_decay=0.03, decay=CosineDecay(floor=0.1))
    state, loss, batch_at, settings = parts(config)
    for step in range(6):
        take_step(state, loss, batch_at(step), settings)
        (group,) = state.optimizer.param_groups
        assert group["lr"] == settings.lr_at(step, step / 20)
    assert (tuple(group["betas"]), group["weight_decay"]) == ((0.8, 0.95), 0.03)


def test_the_gradient_is_clipped():
    state, loss, batch_at, settings = parts(run(grad_clip=1e-3))
    take_step(state, loss, batch_at(0), settings)
    norm = torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None])
    assert norm.norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("share", [0.5, 0.995, 1.0, 1.005, 1.5])
def test_gradients_about_the_bound_are_those_of_torch_bit_for_bit(share):
    """Also where they are not touched for being below it."""
    state, loss, batch_at, settings = parts(run(grad_clip=1e9))
    norm = take_step(state, loss, batch_at(0), settings)["grad_norm"]
    wanted = [p.grad for p in state.model.parameters()]
    state, loss, batch_at, settings = parts(run(grad_clip=share * norm))
    torch._foreach_mul_(wanted, torch.clamp(share * norm / (torch.tensor(norm) + 1e-6), max=1.0))
    take_step(state, loss, batch_at(0), settings)
    assert all(torch.equal(p.grad, w) for p, w in zip(state.model.parameters(), wanted))


def test_the_warm_up_never_outlasts_a_tenth_of_the_budget():
    config = TrainConfig(steps=50, lr=1.0, warmup_steps=1000, decay=Constant())
    assert [config.lr_at(step, step / 50) for step in (1, 4, 5, 20)] == pytest.approx(
        [0.2, 0.8, 1, 1]
    )


def test_every_die_of_a_batch_is_thrown_anew_each_step_and_for_each_seed():
    data = images()
    first, second = batches(run(), data, CPU), batches(run(seed=1), data, CPU)
    steps = [first(0), first(1), second(0)]
    for name in ("images", "u", "eps", "labels"):
        for a, b in ((0, 1), (0, 2)):
            assert not torch.equal(steps[a][name], steps[b][name]), name
    assert len(steps[0]["eps"].flatten(1).unique(dim=0)) == 12  # and anew for each image


def test_prefetched_batches_are_the_same_in_any_order():
    batch_at, made = batches(run(), images(), CPU), []

    def counted(step):
        made.append(step)
        return batch_at(step)

    with prefetched(counted) as ahead:
        for step in (0, 1, 2, 9, 10, 3):  # on, and where a run goes on elsewhere
            found, wanted = ahead(step), batch_at(step)
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert sorted(made) == [0, 1, 2, 3, 3, 4, 9, 10, 11]  # none twice but 3, once too early


def test_only_large_batches_of_a_cpu_are_made_ahead_and_by_one_thread_of_the_system(request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    threads, seen = torch.get_num_threads(), []

    def batch_at(step):
        seen.append((step, torch.get_num_threads()))
        return {"x": torch.zeros(LARGE - 1 + step % 2)}

    with source_for(CPU, batch_at) as source:
        source(0)  # small: none is made beside it
        assert seen == [(0, threads)]
        source(1)
        source(2)
    assert seen == [(0, threads), (1, threads), (2, 1)]
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:  # and so has a thread that is begun later
        assert pool.submit(torch.get_num_threads).result() == threads
    with source_for(torch.device("cuda"), batch_at) as source:  # a GPU's batches: all of them
        source(4)
    assert seen[3:] == [(4, threads), (5, 1)]


def test_an_error_in_a_prefetched_batch_is_not_lost():
    def broken(step):
        if step == 2:
            raise OSError("the disk is gone")
        return {"x": torch.zeros(1)}

    with prefetched(broken) as ahead:
        ahead(0)
        ahead(1)
        with pytest.raises(OSError, match="disk is gone"):
            ahead(2)


def test_held_out_images_keep_their_labels():
    data = images()
    batch = held_out_batch(run(), data, CPU)
    wanted = {(tuple(x.flatten().tolist()), y) for x, y in zip(data.images, data.labels.tolist())}
    found = zip(batch["images"], batch["labels"].tolist(), strict=True)
    assert {(tuple(x.flatten().tolist()), y) for x, y in found} == wanted
    assert not torch.equal(batch["images"], data.images)  # shuffled against the times


def test_previews_come_from_the_start_and_get_rarer():
    assert [previews_due(p, 4) for p in (0, 1 / 16, 0.2, 0.25, 0.6, 1)] == [1, 2, 2, 3, 4, 5]
    _, hooks = trained(run(previews=4, steps=16))
    assert hooks.previews == [0, 1, 4, 9, 16]


def test_the_averages_weights_are_the_recurrence():
    config = run()
    state, loss, batch_at, settings = parts(config)
    expected = None
    for step in range(8):
        take_step(state, loss, batch_at(step), settings)
        now = state.model.state_dict()["network.stem.weight"].double()
        decay = (1 - 1 / (step + 1)) ** (ema.power_of(settings.ema_length) + 1)
        expected = now if expected is None else decay * expected + (1 - decay) * now
    found = state.average.state_dict()["network.stem.weight"].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_the_averages_profile_is_as_wide_as_asked(length):
    n = 4000
    weights = [0.0] * (n + 1)
    left = 1.0
    for step in range(n, 0, -1):  # the share of step's weights in the average after n steps
        decay = ema.decay_at(step, length)
        weights[step] = left * (1 - decay)
        left *= decay
    assert left == 0.0  # nothing of the initial weights
    mean = sum(i * w for i, w in enumerate(weights)) / n
    spread = math.sqrt(sum((i / n - mean) ** 2 * w for i, w in enumerate(weights)))
    assert spread == pytest.approx(length, rel=0.01)


def test_ema_length_out_of_range_is_refused():
    with pytest.raises(ValueError, match="between 0 and"):
        TrainConfig(steps=1, ema_length=0.9999)


def test_the_held_out_loss_is_the_same_every_time_and_sorted_by_noise():
    config = run()
    batch = held_out_batch(config, images(), CPU)
    again = held_out_batch(config, images(), CPU)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert (batch["u"].diff() > 0).all()
    state, loss, _, _ = parts(config)
    first = losses_of(state.model, loss, batch, 10)
    assert torch.equal(first, losses_of(state.model, loss, batch, 10))
    assert state.model.training  # left as it was
    torch.testing.assert_close(first, losses_of(state.model, loss, batch, None))
    levels = level_log_snr(config, 4)
    assert levels == sorted(levels, reverse=True)
    assert by_level(torch.arange(8.0), 4) == [0.5, 2.5, 4.5, 6.5]


def test_training_learns_the_brightness_of_the_classes():
    config = run(steps=150, batch=24, micro_batch=None, lr=3e-3)
    state, _ = trained(config)
    batch = held_out_batch(config, images(), CPU)
    before = losses_of(parts(config)[0].model, loss_of(config), batch, None).mean()
    after = losses_of(state.average, loss_of(config), batch, None).mean()
    assert after < 0.8 * before
