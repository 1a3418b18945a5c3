"""The doctor's bounds on images and plans: on either side what is found, and how bad it is."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.config import Run
from sfumato.data import ImageData
from sfumato.doctor import Finding
from sfumato.doctor.checks import of_average
from sfumato.doctor.data import (
    check_array,
    check_batch,
    check_file,
    check_flip,
    check_held_out,
    check_images,
    check_latents,
    check_sigma_data,
    some,
    turned_share,
)
from sfumato.doctor.plan import (
    check_average,
    check_budget,
    check_length,
    check_memory,
    check_rate,
    planned_steps,
    width_of,
)
from sfumato.networks import DiTConfig, UNet2DConfig, UNetConfig
from sfumato.recipes import RECIPES
from sfumato.train_config import TrainConfig
from test_doctor_faults import data_of, pictures

DIGITS: Run = RECIPES["digits"]()  # type: ignore[assignment]
DAY = 86_400.0


def told(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in findings]


def facts(findings: Iterable[Finding]) -> dict[str, Any]:
    (finding,) = findings
    return dict(finding.facts)


# --- images


def floats(low: float, high: float) -> Any:
    return np.linspace(low, high, 4 * 64).reshape(4, 8, 8)


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (0, 1.02, "range-01"),
        (-1e-9, 1, "range-01"),
        (-0.29, 1.29, "range-01"),
        (0, 1.31, "range-255"),
        (0, 255, "range-255"),
        (0, 255.1, "range-odd"),
        (-0.5, 0.5, "range-11"),
        (-1.02, 1.02, "range-11"),
        (-1.02, 1.03, "range-odd"),
        (-1.03, 1.02, "range-31"),
        (-3.02, 1.02, "range-31"),
        (-3.03, 1, "range-odd"),
        (-3, 1.03, "range-odd"),
        (-3, 0.51, "range-31"),
        (-3, 0.5, "range-odd"),
        (-0.5, 255, "range-odd"),
    ],
)
def test_a_range_of_floats_is_named(low: float, high: float, code: str) -> None:
    assert told(check_array(floats(low, high), "x")) == [(code, "wrong")]


def test_bytes_above_1_are_sound_and_booleans_are_0_and_1() -> None:
    images = np.zeros((9, 8, 8), np.uint8)
    assert told(check_array(images + np.uint8(1), "x")) == [("range-bytes", "wrong")]
    assert told(check_array(images + np.uint8(2), "x")) == []
    assert told(check_array(images > 0, "x")) == [("range-01", "wrong")]
    assert told(check_array(images[:0], "x")) == [("not-numbers", "wrong")]


def test_what_is_not_finite_is_counted_and_the_rest_still_has_its_range() -> None:
    images = floats(-1, 1)
    images[0, 0, :3] = nan, inf, -inf
    found = list(check_array(images, "x"))
    assert told(found) == [("not-finite", "wrong"), ("range-11", "wrong")]
    assert dict(found[0].facts)["share"] == pytest.approx(3 / images.size)
    assert told(check_array(np.full((4, 8, 8), nan), "x")) == [("not-finite", "wrong")]


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((9, 8, 8), True),
        *(((9, c, 8, 8), True) for c in (1, 3, 4)),
        *(((9, 8, 8, c), True) for c in (1, 3, 4)),
        ((9, 8, 8, 8), False),
        ((9, 3, 8, 3), False),
        ((9, 8, 8, 3, 3), False),
    ],
)
def test_the_channels_are_first_or_last(shape: tuple[int, ...], fits: bool) -> None:
    images = np.full(shape, 99, np.uint8)
    assert told(check_array(images, "x")) == ([] if fits else [("channels", "wrong")])


def test_every_picture_of_an_npz_is_looked_at_and_its_labels_are_not(tmp_path: Any) -> None:
    good, bad = np.full((9, 8, 8), 99, np.uint8), np.ones((9, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", good=good, bad=bad, labels=np.arange(9), names=np.zeros((9, 2)))
    found = list(check_file(tmp_path / "x.npz"))
    assert told(found) == [("range-bytes", "wrong")]
    assert facts(found)["name"] == "bad"


def test_those_that_are_looked_at_are_spread_over_all() -> None:
    assert some(range(10), 10) == range(10)
    assert list(some(range(11), 10)) == [0, 2, 4, 6, 8, 10]
    assert list(some(range(0), 10)) == []


def kinds(count: int, names: int = 2) -> ImageData:
    labels = torch.arange(count) % names
    return replace(data_of(pictures(count), labels), class_names=tuple("ab"[:names]))


def with_blank(blank: int, count: int) -> ImageData:
    images = pictures(count)
    images[:blank] = torch.arange(blank, dtype=torch.uint8)[:, None, None, None]
    return data_of(images)


def with_copies(copies: int, turns: int = 0) -> ImageData:
    images = pictures(1000)
    images[:copies] = images[-copies:].rot90(turns, (2, 3)) if copies else images[:0]
    return data_of(images)


def broken(files: int) -> ImageData:
    return data_of(pictures(1000), unreadable=(("a.png", "cut short"),) * files)


def rare(least: int, most: int) -> ImageData:
    labels = torch.tensor([0] * most + [1] * least)
    return data_of(pictures(len(labels)), labels)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (kinds(1000), []),
        (kinds(999), [("few-images", "risk")]),
        (with_blank(20, 1000), []),
        (with_blank(21, 1000), [("blank-images", "risk")]),
        (with_blank(9, 20), [("few-images", "risk")]),
        (with_blank(9, 21), [("blank-images", "risk"), ("few-images", "risk")]),
        (with_copies(9), []),
        (with_copies(11), [("duplicates", "risk")]),
        (with_copies(5, 1), []),  # five and the five that they are turned of
        (with_copies(6, 1), [("turned-copies", "risk")]),
        (with_copies(6, 2), [("turned-copies", "risk")]),
        (with_copies(6, 3), [("turned-copies", "risk")]),
        (broken(0), []),
        (broken(10), [("unreadable", "note")]),
        (broken(11), [("unreadable", "risk")]),
        (rare(50, 1000), []),
        (rare(49, 1000), [("rare-class", "risk")]),
        (data_of(pictures() % 2), [("range-bytes", "wrong")]),
        (data_of(pictures() % 3), []),
        (data_of(pictures()[:0]), [("no-images", "wrong")]),
        (data_of(pictures(channels=3)), []),
    ],
    ids=range(21),
)
def test_images_on_either_side_of_each_bound(
    data: ImageData, wanted: list[tuple[str, str]]
) -> None:
    assert told(check_images(data)) == wanted


def test_turned_copies_are_counted_on_both_sides_and_even_images_are_none() -> None:
    images = pictures(100)
    images[0] = images[1].rot90(1, (1, 2))
    images[2] = images[3].flip(1)  # a mirror image is no turn
    assert turned_share(images) == 2 / 100
    images[4:8] = 7
    assert turned_share(images) == 2 / 100
    wide = torch.randint(0, 256, (50, 1, 4, 8), dtype=torch.uint8)
    wide[0] = wide[1].rot90(2, (1, 2))
    assert turned_share(wide) == 2 / 50


@pytest.mark.parametrize(
    ("name", "channels", "classes", "wrong"),
    [
        ("mnist", 1, (), True),
        ("MNIST-test", 3, (), True),
        ("mnistlike", 1, (), False),
        ("mine", 1, ("a", "b"), True),
        ("mine", 3, ("a", "b"), False),
        ("mine", 1, ("a", "bc"), False),
        ("mine", 1, (), False),
    ],
)
def test_only_letters_must_not_be_mirrored(
    name: str, channels: int, classes: tuple[str, ...], wrong: bool
) -> None:
    data = ImageData(pictures(4, channels), None, classes, name, "a test")
    mirrored = replace(DIGITS.data, flip=True)
    assert told(check_flip(data, mirrored)) == ([("flip-letters", "wrong")] if wrong else [])
    assert told(check_flip(data, replace(mirrored, flip=False))) == []


def test_a_tenth_at_most_is_held_out_and_a_batch_may_be_all() -> None:
    one = replace(DIGITS.data, held_out=1)
    assert told(check_held_out(kinds(10), one)) == []
    assert told(check_held_out(kinds(9), one)) == [("no-held-out", "risk")]
    # Eleven, of which two are kept for the test: a tenth of nine is none.
    assert told(check_held_out(kinds(11), replace(one, test=2))) == [("no-held-out", "risk")]
    assert told(check_batch(64, 64)) == []
    assert told(check_batch(64, 65)) == [("batch-over-images", "risk")]


@pytest.mark.parametrize("factor", [1.59, 1 / 1.59])
def test_sigma_data_and_latents_may_be_off_by_less_than_two_thirds(factor: float) -> None:
    assert told(check_sigma_data(0.5 * factor, 0.5)) == []
    assert told(check_sigma_data(0.5 * factor**1.02, 0.5)) == [("sigma-data", "wrong")]
    assert told(check_sigma_data(0.0, 0.5)) == []


@pytest.mark.parametrize(
    ("std", "fits"), [(0.61, True), (0.59, False), (1.59, True), (1.61, False)]
)
def test_a_channel_of_latents_has_about_the_deviation_1(std: float, fits: bool) -> None:
    latents = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    latents -= latents.mean((0, 2, 3), keepdim=True)
    latents /= latents.std((0, 2, 3), keepdim=True)
    latents[:, 1] *= std
    found = list(check_latents(latents))
    assert told(found) == ([] if fits else [("latents-unscaled", "wrong")])
    if found:
        assert facts(found) == {"std": pytest.approx(std), "channel": 1}


# --- plans


def budget(**changes: Any) -> TrainConfig:
    none = {"steps": None, "images": None, "epochs": None, "seconds": None}
    return TrainConfig(**{**none, "batch": 10, **changes})


def test_the_first_reached_of_steps_images_and_epochs_ends_a_plan() -> None:
    assert planned_steps(budget(steps=70, images=800)) == 70
    assert planned_steps(budget(steps=90, images=800)) == 80
    assert planned_steps(budget(images=800, epochs=1.5, epoch_images=500)) == 75
    assert planned_steps(budget(seconds=1.0)) is None


@pytest.mark.parametrize(
    ("train", "seconds", "wanted"),
    [
        (budget(steps=1000), DAY / 1000, []),
        (budget(steps=1000), 1.01 * DAY / 1000, [("budget-long", "risk")]),
        (budget(steps=1000), 6.99 * DAY / 1000, [("budget-long", "risk")]),
        (budget(steps=1000), 7.01 * DAY / 1000, [("budget-long", "wrong")]),
        (budget(steps=1000, seconds=9 * DAY), 8 * DAY / 1000, [("budget-long", "wrong")]),
        (budget(steps=1000, seconds=300.0), 1.0, []),  # a clock that stops it first is no wait
        (budget(seconds=30 * DAY), 1.0, []),
        (budget(steps=300), 1.0, []),
        (budget(steps=299), 1.0, [("budget-few-steps", "risk")]),
        (budget(steps=50), 1.0, [("budget-few-steps", "risk")]),
        (budget(steps=49), 1.0, [("budget-few-steps", "wrong")]),
        (budget(seconds=300.0), 1.0, []),
        (budget(seconds=299.0), 1.0, [("budget-few-steps", "risk")]),
        (budget(steps=1000, seconds=49.0), 1.0, [("budget-few-steps", "wrong")]),
    ],
    ids=range(14),
)
def test_a_budget_is_neither_over_a_day_nor_under_300_steps(
    train: TrainConfig, seconds: float, wanted: list[tuple[str, str]]
) -> None:
    assert told(check_budget(train, seconds)) == wanted
    least = [(code.replace("-long", "-long-least"), severity) for code, severity in wanted]
    assert told(check_budget(train, seconds, at_least=True)) == least


def test_a_long_budget_is_told_in_days_and_steps_a_second() -> None:
    found = facts(check_budget(budget(steps=3 * 86_400), 2.0))
    assert found == {"days": 6.0, "steps": 3 * 86_400, "pace": 0.5}


def with_rate(lr: float) -> Run:
    return replace(DIGITS, train=replace(DIGITS.train, lr=lr))


def test_a_rate_is_bounded_by_the_width_and_from_below() -> None:
    width = width_of(DIGITS.network)
    assert width is not None
    assert told(check_rate(with_rate(0.5 / width))) == []
    assert told(check_rate(with_rate(0.51 / width))) == [("lr-high", "risk")]
    assert told(check_rate(with_rate(1.5 / width))) == [("lr-high", "risk")]
    assert told(check_rate(with_rate(1.51 / width))) == [("lr-high", "wrong")]
    assert facts(check_rate(with_rate(2 / width)))["better"] == pytest.approx(0.064 / width)
    assert told(check_rate(with_rate(1e-3 / width))) == []
    assert told(check_rate(with_rate(0.99e-3 / width))) == [("lr-low", "risk")]
    wide = replace(DIGITS, network=replace(DIGITS.network, channels=256))
    slow = [replace(wide, train=replace(wide.train, lr=lr)) for lr in (1e-5, 0.99e-5)]
    assert [told(check_rate(run)) for run in slow] == [[], [("lr-low", "risk")]]


def test_the_width_is_that_of_the_first_level_whatever_it_is_called() -> None:
    assert width_of(UNetConfig(channels=24)) == 24
    assert width_of(DiTConfig(width=48)) == 48
    assert width_of(UNet2DConfig(block_out_channels=(40, 80))) == 40
    assert width_of(object()) is None


def test_images_are_learned_by_heart_by_many_weights_in_many_passes() -> None:
    """passes weights / (images values): 1000 is the most, and 50 passes do no harm."""
    sized = {"batch": 10, "images": 100, "values": 64}
    assert told(check_memory(64_000, 1000, **sized)) == []  # 100 passes, 10 weights a number
    assert told(check_memory(64_064, 1000, **sized)) == [("by-heart", "risk")]
    assert told(check_memory(10**9, 500, **sized)) == []
    assert told(check_memory(10**9, 510, **sized)) == [("by-heart", "risk")]
    assert facts(check_memory(10**9, 510, **sized))["passes"] == 51


def test_an_average_holds_a_twentieth_of_the_first_steps_at_most() -> None:
    """(first / step)^(gamma + 1); of length 0.1 gamma is 6.94."""
    power = 7.9373
    bound = 100 / 0.05 ** (1 / power)
    assert told(check_average(int(bound) + 1, 0.1)) == []
    assert told(check_average(int(bound), 0.1)) == [("ema-young", "risk")]
    assert told(check_average(80, 0.1)) == [("ema-young", "risk")]
    assert facts(check_average(80, 0.1))["share"] == 1.0
    assert told(check_average(10, 0.1, first=1)) == []


def test_an_average_is_counted_from_the_first_step_of_the_log() -> None:
    rows = [{"kind": "train", "step": step} for step in (1001, 1100)]
    assert told(of_average(DIGITS, rows)) == [("ema-young", "risk")]
    assert facts(of_average(DIGITS, rows))["first"] == 1000
    assert told(of_average(DIGITS, rows[1:])) == [("ema-young", "risk")]
    assert told(of_average(DIGITS, [{"kind": "train", "step": step} for step in (1, 1100)])) == []
    assert told(of_average(DIGITS, [])) == []


def test_too_wide_an_average_keeps_the_beginning_of_the_run() -> None:
    """A tenth of it is of its first half: 0.5^(gamma + 1) = 0.1 at gamma = 2.32."""
    bound = (3.3219 / (4.3219**2 * 5.3219)) ** 0.5  # ema.power_of
    assert told(check_length(0.99 * bound)) == []
    assert told(check_length(1.01 * bound)) == [("ema-wide", "risk")]
