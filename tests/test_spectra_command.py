"""sfumato spectra measures the run's own pictures and data; films of training come with epochs."""

import json
import re
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.__main__ import main
from sfumato.commands import spectra as command
from sfumato.data import load, split
from sfumato.generation import draw
from sfumato.latents import AutoencoderCodec
from sfumato.loading import load_run
from sfumato.pictures import read_settings
from sfumato.spectra import Spectra, radial_likeness, radial_power
from sfumato.tasks.diffusion import rows_to_draw

CPU = torch.device("cpu")
TINY = [
    *("network.channels=4", "network.multipliers=[1]", "network.blocks=1", "network.groups=2"),
    *("network.attention_at=[]", "network.middle_attention=false", "--sample-steps", "2"),
    *("--precision", "fp32", "--limit", "120", "--batch", "12", "--device", "cpu", "--quiet"),
]
LOOKS = 6


def call(words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sfumato", *words])
        patch.setattr(command, "STEPS", 4)
        main()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of a tiny network, looked at every 0.4 of one."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ("--epochs", "2", "--preview-epochs", "0.4", "--out", str(out))
    call(["train", "digits", *words, *TINY])
    return out


@pytest.fixture(scope="module")
def told(run):
    call(["spectra", str(run), "--device", "cpu", "--samples", "20", "--quiet"])
    return json.loads((run / "spectra.json").read_text())


# --- the film


def test_a_run_with_previews_by_epochs_leaves_a_film_of_them(run):
    steps = sorted(int(path.stem[5:]) for path in (run / "samples").glob("step-*.png"))
    assert len(steps) == LOOKS
    with Image.open(run / "training.webp") as film:
        assert film.n_frames == LOOKS
    assert read_settings(run / "training.webp")["steps"] == steps


def test_a_run_without_leaves_none(tmp_path):
    call(
        ["train", "digits", "--steps", "1", "--previews", "1", "--out", str(tmp_path / "a"), *TINY]
    )
    assert (tmp_path / "a" / "samples.png").is_file()
    assert not (tmp_path / "a" / "training.webp").exists()


# --- what is measured


def test_in_training_it_is_the_power_of_the_saved_samples(run, told):
    saved = sorted((run / "samples").glob("*.npy"))
    samples = [torch.from_numpy(np.load(path)) for path in saved]
    measured = told["in_training"]
    assert measured["at"] == [int(path.stem[5:]) for path in saved]
    for power, likeness, images in zip(measured["power"], measured["likeness"], samples):
        assert power == radial_power(images)[1].tolist()
        assert likeness == radial_likeness(images, samples[-1])[1].tolist()
    assert measured["likeness"][-1] == pytest.approx([1.0] * len(power), abs=1e-12)


def test_the_data_are_the_training_images_alone(told):
    train, _ = split(load("digits", limit=120), 12)
    assert told["images"] == len(train) == 108
    assert told["power"]["data"] == radial_power(train.images)[1].tolist()


def test_in_sampling_it_is_the_estimates_of_x0_along_the_noise_levels(run, told):
    """The last step goes to t = 0, where x is the estimate: so its power is the images' own."""
    measured, loaded = told["in_sampling"], load_run(str(run), CPU)
    levels = measured["at"]
    assert len(levels) == 4
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == pytest.approx(loaded.run.process.largest_ratio)
    order, _ = rows_to_draw(loaded.run, loaded.conditions, loaded.card, 2)
    settings = replace(command.followed(loaded.run.sampling), steps=4)
    images = draw(loaded.denoiser, order, settings, loaded.conditions, CPU)
    assert told["sampling"]["images"] == len(order) == 20
    assert told["sampling"]["guidance"] == 1.0
    assert loaded.run.sampling.guidance != 1.0
    wanted = radial_power(images)[1]
    last = torch.tensor(measured["power"][-1], dtype=torch.float64)
    torch.testing.assert_close(last, wanted, rtol=0.05, atol=1e-4)


@dataclass(frozen=True)
class Doubling:
    """Latents of half the size."""

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return (shape[0], shape[1] // 2, shape[2] // 2)

    def decode(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_latents_are_decoded_before_they_are_measured(run, monkeypatch):
    monkeypatch.setattr(command, "STEPS", 3)
    loaded = load_run(str(run), CPU)
    latent = replace(loaded, codec=Doubling(), run=replace(loaded.run, codec=AutoencoderCodec()))
    spectra, _ = command.in_sampling(latent, 10)
    pixels, _ = command.in_sampling(loaded, 10)
    assert torch.equal(spectra.frequencies, pixels.frequencies)  # of 28 x 28 pixels, not of 14 x 14
    checker = spectra.power[:, spectra.frequencies > 0.5 + 1e-9]
    assert checker[-1].mean() < pixels.power[-1, -1]  # doubled pixels hold nothing fine


def test_other_images_than_the_runs_own_are_refused(run):
    card = (run / "data.json").read_text()
    (run / "data.json").write_text(card.replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(SystemExit, match="not what run was trained on"):
        call(["spectra", str(run), "--device", "cpu", "--quiet"])
    (run / "data.json").write_text(card)


def test_too_few_previews_are_said_and_sampling_is_told_all_the_same(tmp_path):
    class Heard:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def warn(self, text: str) -> None:
            self.lines.append(text)

    heard = Heard()
    assert command.in_training(tmp_path, heard) is None
    assert "holds 0 step-*.npy" in heard.lines[0]
    target = torch.ones(15, dtype=torch.float64)
    assert command.words_of(target, None, falling())[0].startswith("In sampling")


def test_the_figure_knows_how_it_was_made(run, told):
    settings = read_settings(run / "spectra.png")
    assert settings["sampling"] == told["sampling"]
    assert settings["step"] == told["step"]


# --- what is told


def falling(first="low"):
    """Rings 1 ... 14 of which one more is right at each of 14 places, from one end."""
    frequencies = torch.arange(15, dtype=torch.float64) / 28
    place, ring = torch.arange(14)[:, None], torch.arange(15)[None]
    right = (ring <= place + 1) if first == "low" else (ring >= 14 - place)
    power = torch.where(right, 1.0, 0.01).double()
    return Spectra(tuple(range(100, 1500, 100)), frequencies, power, power)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("low", "low step 300, middle step 800, high step 1,200"),
        ("high", "low step 1,200, middle step 700, high step 200"),
    ],
)
def test_an_order_that_is_known_is_told_as_it_is(first, words):
    target = torch.ones(15, dtype=torch.float64)
    _, power, likeness = command.part_words("In it", falling(first), target, "step {:,.0f}")
    sign, verdict = ("+", "low frequencies first") if first == "low" else ("-", "details first")
    for line in (power, likeness):
        assert words in line
        assert f"{sign}1.00: {verdict}." in line


def test_what_never_came_is_told():
    target = torch.ones(15, dtype=torch.float64)
    target[10:] = 9.0
    line = command.part_words("In it", falling(), target, "{:.0f}")[1]
    assert re.search(r"high never, 5 of 14 rings never", line)
    assert command.verdict(0.2) == command.verdict(-0.2) == "no clear order"


def test_a_run_without_images_has_no_spectrum_to_compare_with(run):
    loaded = load_run(str(run), CPU)
    bare = replace(loaded, run=replace(loaded.run, data=replace(loaded.run.data, source="")))
    with pytest.raises(ValueError, match="imported without images"):
        command.training_images(bare, None)


@pytest.mark.parametrize(("missing", "said"), [(5, "low frequencies first"), (6, "too early")])
def test_where_most_frequencies_never_come_no_order_is_told(missing, said):
    arrival = command.Arrival(1.0, 2.0, None, 0.9, rings=10, missing=missing, share=0.5)
    assert said in command.arrival_words(arrival, "step {:g}")
