"""Figures show the numbers that they were given, all of them, whole, whatever a run left behind."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from sfumato.pictures import read_settings
from sfumato.plots import (
    BUCKETS,
    EMA,
    EPOCH,
    EPOCHS,
    RAW,
    TEST,
    bars_figure,
    bound_figure,
    draw_bound,
    draw_losses,
    loss_figure,
    schedule_figure,
    smoothed,
    thinned,
)

NAN = float("nan")
SIZE = (1320, 552)  # 11 x 4.6 inches, 120 dots each


def train_row(step, loss, lr=1e-3):
    return {"kind": "train", "step": step, "images": 100 * step, "loss": loss, "lr": lr}


def held_out_row(step, raw, ema, levels=4):
    spread = np.linspace(2.0, 0.02, levels)
    return {
        "kind": "held_out",
        "step": step,
        "images": 100 * step,
        "raw": raw,
        "ema": ema,
        "raw_by_level": [raw * x for x in spread.tolist()],
        "ema_by_level": [ema * x for x in spread.tolist()],
        "level_log_snr": np.linspace(-8, 8, levels).tolist(),
    }


def rows_of(count, held_out=8):
    fall = [0.03 + 0.9 * 0.5 ** (8 * k / count) for k in range(count)]
    rows = [
        train_row(k, fall[k] * (1 + 0.2 * (k % 3)), 1e-3 * (1 - k / count)) for k in range(count)
    ]
    every = max(1, count // held_out)
    return rows + [held_out_row(k, fall[k], 0.9 * fall[k]) for k in range(0, count, every)]


EDGES = {
    "nothing": [],
    "one training row": [train_row(1, 0.5)],
    "one held-out row": [held_out_row(0, 1.0, 1.0)],
    "one of each": [train_row(0, 0.5), held_out_row(0, 1.0, 1.0)],
    "one level": [held_out_row(k, 1.0, 1.0, levels=1) for k in range(3)],
    "twenty levels": [held_out_row(k, 1.0, 0.9, levels=20) for k in range(3)],
    "only NaN": [train_row(k, NAN, NAN) for k in range(5)] + [held_out_row(0, NAN, NAN)],
    "gaps": [train_row(k, NAN if k % 7 < 3 else 0.5**k) for k in range(50)],
    "null": [train_row(k, None, None) for k in range(3)]
    + [held_out_row(2, 1.0, 0.5) | {"raw": None, "raw_by_level": [None, 1.0, 2.0, 3.0]}],
    "infinite": [train_row(0, float("inf")), train_row(1, 0.5), train_row(2, 0.4)],
    "equal": [train_row(k, 0.5) for k in range(10)],
    "negative": [train_row(k, 0.5 - k) for k in range(10)],
    "zero": [train_row(k, 0.0, 0.0) for k in range(10)],
    "other kinds": [{"kind": "note", "step": 3, "text": "resumed"}, train_row(1, 0.5)],
    "many": rows_of(100_000),
}


@pytest.mark.parametrize("rows", EDGES.values(), ids=EDGES.keys())
def test_any_run_gives_a_figure_of_the_promised_size(rows, tmp_path):
    loss_figure(rows, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == SIZE
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


@pytest.mark.parametrize("name", ["nothing", "one held-out row", "twenty levels", "equal", "gaps"])
def test_nothing_is_cut_off_at_the_edge(name):
    figure = draw_losses(EDGES[name])
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert 0 <= box.x0 < box.x1 <= 11
    assert 0 <= box.y0 < box.y1 <= 4.6


@pytest.mark.parametrize("name", ["one held-out row", "twenty levels", "many"])
def test_no_panel_runs_into_another(name):
    figure = draw_losses(EDGES[name])
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    touching = [
        (a, b) for a, b in itertools.combinations(range(4), 2) if boxes[a].overlaps(boxes[b])
    ]
    assert touching == []


def curves(axes, colour, style):
    return [
        line.get_xydata().tolist()
        for line in axes.lines
        if to_hex(line.get_color()) == to_hex(colour) and line.get_linestyle() == style
    ]


def test_the_held_out_losses_are_the_points_of_their_curves():
    rows = [held_out_row(k, 1 / (k + 1), 0.5 / (k + 1)) for k in (0, 10, 20)]
    losses, _, levels, _ = draw_losses(rows).axes
    assert curves(losses, EMA, "-") == [[[row["images"], row["ema"]] for row in rows]]
    assert curves(losses, RAW, "--") == [[[row["images"], row["raw"]] for row in rows]]
    solid = [line for line in levels.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    by_level = np.array([line.get_ydata() for line in solid]).T
    assert by_level.tolist() == [row["ema_by_level"] for row in rows]


def test_what_was_not_measured_is_a_gap():
    rows = [held_out_row(k, 1.0, 0.5) for k in range(3)]
    rows[1] |= {"ema": None, "ema_by_level": [None, 1.0, NAN, 1.0]}
    losses, _, levels, _ = draw_losses(rows).axes
    (ema,) = (line for line in losses.lines if line.get_color() == EMA)
    assert np.isnan(ema.get_ydata()).tolist() == [False, True, False]
    solid = [line for line in levels.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    gaps = [np.isnan(line.get_ydata()).tolist() for line in solid]
    assert gaps == [[False, missing, False] for missing in (True, False, True, False)]


def test_held_out_losses_without_levels_have_the_figure_to_themselves():
    rows = [{"kind": "held_out", "step": 1, "images": 100, "raw": 1.0, "ema": 0.5}]
    losses, rate = draw_losses(rows).axes
    assert curves(losses, EMA, "-") == [[[100, 0.5]]]
    assert losses.get_position().width == rate.get_position().width > 0.7


def test_before_anything_is_held_out_the_levels_have_an_empty_panel():
    _, _, levels = draw_losses([train_row(1, 0.5)]).axes
    assert [text.get_text() for text in levels.texts] == ["nothing measured yet"]


def epoch_rows(count):
    return [
        {"kind": "epoch", "step": 10 * k, "images": 1000 * k, "epoch": k, "loss": 1 / k}
        for k in range(1, count + 1)
    ]


def test_the_epochs_means_are_the_points_of_their_curve():
    epochs = epoch_rows(5)
    losses = draw_losses([*[train_row(k, 0.5) for k in range(1, 51)], *epochs]).axes[0]
    assert curves(losses, EPOCH, "-") == [[[row["images"], row["loss"]] for row in epochs]]
    assert "epoch mean  0.2" in [text.get_text() for text in losses.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("count", "drawn"), [(1, 0), (EPOCHS[0], 1), (EPOCHS[1], 1), (EPOCHS[1] + 1, 0)]
)
def test_epochs_are_drawn_where_they_are_neither_one_nor_too_many(count, drawn):
    assert len(curves(draw_losses(epoch_rows(count)).axes[0], EPOCH, "-")) == drawn


def test_the_test_loss_is_a_star_at_the_last_image():
    rows = [train_row(k, 0.5) for k in range(1, 51)]
    losses = draw_losses([*rows, {"kind": "test", "step": 50, "ema": 0.25}]).axes[0]
    assert curves(losses, TEST, "None") == [[[5000, 0.25]]]
    assert curves(draw_losses(rows).axes[0], TEST, "None") == []


def test_levels_are_ordered_from_noisy_to_clean_whatever_their_order_in_the_rows():
    row = held_out_row(1, 1.0, 1.0) | {"level_log_snr": [3.0, -5.0, 8.0, 0.0]}
    bar = draw_losses([row]).axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["-5.0", "0.0", "3.0", "8.0"]


def test_steps_that_ran_again_after_a_resume_count_once():
    rows = [train_row(k, 1.0) for k in range(10)] + [train_row(k, 0.5) for k in range(6, 12)]
    points = draw_losses(rows).axes[0].lines[0].get_xydata()
    assert points[:, 0].tolist() == [100 * k for k in range(12)]
    assert points[:, 1].tolist() == [1.0] * 6 + [0.5] * 6


@pytest.mark.parametrize(("lowest", "scale"), [(0.01, "log"), (0.9, "linear"), (-1.0, "linear")])
def test_losses_are_on_a_log_scale_where_that_helps(lowest, scale):
    rows = [train_row(0, 1.0), train_row(1, lowest)]
    assert draw_losses(rows).axes[0].get_yscale() == scale


def test_rows_with_different_levels_are_refused():
    rows = [held_out_row(0, 1.0, 1.0, levels=3), held_out_row(1, 1.0, 1.0, levels=4)]
    with pytest.raises(ValueError, match=r"raw_by_level has \[3, 4\] levels"):
        draw_losses(rows)


# --- the arithmetic


@pytest.mark.parametrize("window", [0, 1, 2, 5, 40])
def test_smoothing_is_the_median_of_a_centred_window(window):
    values = np.random.default_rng(0).normal(size=30)
    index, median = smoothed(values, window)
    half = window // 2
    wanted = [np.median([values[j] for j in range(30) if abs(j - k) <= half]) for k in range(30)]
    assert index.tolist() == list(range(30))
    assert median.tolist() == wanted


def test_one_wild_batch_does_not_move_the_smoothed_curve():
    values = np.ones(101)
    values[50] = 1e6
    assert (smoothed(values, 10)[1] == 1).all()


def test_smoothing_a_long_run_keeps_both_ends():
    index, median = smoothed(np.arange(100_000.0), 100, points=400)
    assert (len(index), index[0], index[-1]) == (400, 0, 99_999)
    assert median[200] == index[200]


def test_thinning_loses_neither_spikes_nor_order():
    values = np.random.default_rng(0).normal(size=100_000)
    values[[77_777, 99_999]] = 50, -50
    values[5] = NAN
    index = thinned(values)
    assert len(index) <= 2 * BUCKETS
    assert {77_777, 99_999} <= set(index.tolist())
    assert (np.diff(index) > 0).all()
    assert 5 not in index


def test_a_short_curve_is_not_thinned():
    assert thinned(np.array([1.0, NAN, 3.0])).tolist() == [0, 2]


# --- an evaluation

BARS = [{"x": k, "mean": 0.5 + k, "error": 0.1} for k in range(3)]


def test_the_bounds_bits_add_up_from_the_prior_to_the_decoder():
    each, spent, loss = draw_bound([5.0, 0.0, -float("inf")], [0.5, 2.0, 0.25], 0.125, BARS).axes
    divergences, decoder = (line.get_xydata().tolist() for line in each.lines[:2])
    assert divergences[0] == [0.0, 2.0]
    assert np.isnan(divergences[1][0])  # pure noise
    assert decoder == [[5.0, 0.5]]
    assert spent.lines[0].get_ydata().tolist() == [2.875, 2.375, 0.375]
    assert loss.containers[0].lines[0].get_xydata().tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]


def test_figures_of_an_evaluation_keep_their_settings(tmp_path):
    bound_figure([5.0, 0.0], [0.5, 2.0], 0.125, BARS, tmp_path / "a.png", {"run": "x"})
    panels = {"Right": ("sigma / alpha", BARS), "Nats": ("sigma / alpha", BARS)}
    bars_figure(panels, tmp_path / "b.png", {"run": "y"})
    assert [read_settings(tmp_path / name)["run"] for name in ("a.png", "b.png")] == ["x", "y"]


# --- the rest


def test_a_schedule_with_infinite_ends_is_drawn(tmp_path):
    t = torch.linspace(0, 1, 50)
    values = {"t": t, "alpha": 1 - t, "sigma": t, "log_snr": 2 * ((1 - t) / t).log()}
    schedule_figure(values, tmp_path / "schedule.png", "rectified flow")
    with Image.open(tmp_path / "schedule.png") as picture:
        assert picture.size == (1080, 384)


def test_a_schedule_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="missing: sigma, log_snr"):
        schedule_figure({"t": [0], "alpha": [1]}, tmp_path / "schedule.png")


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    code = f"""
import sys, sfumato.plots
early = [name for name in ("matplotlib", "torch") if name in sys.modules]
sfumato.plots.loss_figure([], {str(tmp_path / "loss.png")!r})
sys.exit(str(early) if early else "pyplot" if "matplotlib.pyplot" in sys.modules else 0)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
