"""Conditions: what is dropped becomes null, captions are padded to one length, and guidance."""

from dataclasses import replace

import pytest
import torch

from sfumato.conditions import Captions, Labels, Nothing, cond_of, rows_of
from sfumato.config import SamplingConfig
from sfumato.denoiser import NetworkDenoiser
from sfumato.generation import Order, draw, wrapped
from sfumato.grids import KarrasGrid
from sfumato.networks.sd_unet import SDUNetConfig
from sfumato.parameterization import EDMPreconditioning
from sfumato.process import Karras
from sfumato.solvers import DDIM
from sfumato.text import TextConfig, caption_table
from tiny import CAPTIONS, CPU, FakeEncoder, fake_text

TEXT = TextConfig(max_tokens=9)


@pytest.fixture
def captions():
    table = caption_table(CAPTIONS, FakeEncoder(TEXT.max_tokens))
    return Captions(table, TEXT, table.rows(CAPTIONS))


@pytest.fixture
def denoiser():
    """A tiny network that reads captions, with nothing left at zero."""
    torch.manual_seed(0)
    network = SDUNetConfig(
        in_channels=3, channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), groups=4,
        head_channels=8, context=8, dropout=0.0, noise_scale=250.0,
    ).build()  # fmt: skip
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return NetworkDenoiser(network, Karras(), EDMPreconditioning(sigma_data=0.5)).eval()


def test_dropped_labels_are_the_null_class_and_others_their_own():
    conditions = Labels(3, torch.tensor([0, 1, 2, 1]))
    index, dropped = torch.tensor([3, 0, 2, 2]), torch.tensor([False, True, False, True])
    assert conditions.rows(index, dropped)["labels"].tolist() == [1, 3, 2, 3]
    assert conditions.null.tolist() == [3]
    assert conditions.asked([2, 0], None).tolist() == [2, 0]
    assert conditions.asked(None, None) is None


def test_a_model_without_classes_is_told_nothing_in_training():
    conditions = Nothing()
    assert conditions.null is None
    assert conditions.rows(torch.arange(3), torch.ones(3, dtype=torch.bool)) == {}


def test_labels_asked_of_a_model_without_classes_are_for_the_classifier_that_guides_it():
    assert Nothing().asked([1, 0], None).tolist() == [1, 0]
    assert Nothing().asked(None, None) is None


def test_the_condition_is_found_in_the_batch():
    tokens, mask = torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    assert cond_of({"x0": tokens}) is None
    assert cond_of({"labels": mask, "u": tokens}) is mask
    found = cond_of({"tokens": tokens, "mask": mask, "u": tokens})
    assert (found["tokens"] is tokens, found["mask"] is mask, len(found)) == (True, True, 2)


def test_rows_of_every_kind_of_condition():
    some, device = slice(1, 3), CPU
    assert rows_of(None, some, device) is None
    assert rows_of(torch.arange(4), some, device).tolist() == [1, 2]
    both = {"tokens": torch.arange(8).reshape(4, 2), "mask": torch.arange(4)}
    found = rows_of(both, some, device)
    assert (found["tokens"].tolist(), found["mask"].tolist()) == ([[2, 3], [4, 5]], [1, 2])


def test_dropped_captions_are_the_empty_one(captions):
    index, dropped = torch.tensor([0, 1, 2, 3]), torch.tensor([False, True, False, False])
    rows = captions.rows(index, dropped)
    null = captions.null
    for row in (1, 3):  # dropped; empty from the start
        assert torch.equal(rows["tokens"][row], null["tokens"][0])
        assert torch.equal(rows["mask"][row], null["mask"][0])
    for row in (0, 2):
        tokens, mask = FakeEncoder().encode([CAPTIONS[row]])
        assert torch.equal(rows["tokens"][row, : mask.shape[1]], tokens[0].half().float())


def test_every_caption_is_as_long_as_any_can_be(captions, monkeypatch):
    """And what is beyond its own tokens is masked and zero, so that a network can't see it."""
    fake_text(monkeypatch)
    new = captions.asked(None, ["a dog", "one two three four five six seven eight nine ten"])
    dropped = torch.zeros(2, dtype=torch.bool)
    for cond in (captions.null, captions.rows(torch.tensor([0, 2]), dropped), new):
        assert cond["tokens"].shape[1:] == (9, 8)
        assert cond["mask"].shape[1:] == (9,)
        assert not cond["tokens"][~cond["mask"]].any()
    assert captions.null["mask"].sum().item() == 2  # the marks at its ends
    assert new["mask"].sum(1).tolist() == [4, 9]


def test_padding_changes_nothing_that_is_drawn(captions, denoiser):
    x, t = torch.randn(2, 3, 8, 8), torch.tensor(1.0, dtype=torch.float64)
    short = captions.table.cond(torch.tensor([1, 2]))
    padded = captions.rows(torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    assert short["tokens"].shape[1] == 7
    assert padded["tokens"].shape[1] == 9
    torch.testing.assert_close(denoiser(x, t, short).x0, denoiser(x, t, padded).x0)


def test_only_new_prompts_load_the_encoder(captions, monkeypatch):
    built = fake_text(monkeypatch)
    known = captions.asked(None, ["a dog", "a red cat", "a dog"])
    assert built == []
    assert torch.equal(known["tokens"][0], known["tokens"][2])
    captions.asked(None, ["a blue cat"])
    assert built == [9]


def test_examples_are_captions_that_say_something(captions):
    assert captions.examples(10) == ["a red cat", "a dog", "two dogs in the grass"]
    assert captions.examples(1) == ["a dog"]


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 4.0])
def test_guidance_by_captions_is_between_its_branches_or_beyond(captions, denoiser, scale):
    x, t = torch.randn(3, 3, 8, 8), torch.tensor(0.8, dtype=torch.float64)
    cond = captions.rows(torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.bool))
    null = {name: value.expand(3, *value.shape[1:]) for name, value in captions.null.items()}
    with torch.no_grad():
        told, untold = denoiser(x, t, cond).x0, denoiser(x, t, null).x0
        found = wrapped(denoiser, SamplingConfig(guidance=scale), captions)(x, t, cond).x0
    assert (told - untold).abs().max() > 1e-3
    torch.testing.assert_close(found, untold + scale * (told - untold), rtol=1e-4, atol=1e-5)


class Counting(torch.nn.Module):
    """A network that remembers how many images it was shown in each call, and returns zeros."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, x, noise_level, cond):
        self.calls.append((len(x), None if cond is None else cond.tolist()))
        return x * 0


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, float("inf")), (0.5, 3.0), (3.0, float("inf")), (90.0, 100.0)]
)
def test_outside_the_interval_of_guidance_only_one_branch_runs(low, high):
    network = Counting()
    denoiser = NetworkDenoiser(network, Karras(), EDMPreconditioning(sigma_data=0.5)).eval()
    sampling = SamplingConfig(
        DDIM(), KarrasGrid(), steps=8, guidance=3.0, guidance_from=low, guidance_to=high
    )
    draw(denoiser, Order([0, 1], [2, 0], (1, 4, 4)), sampling, Labels(3), CPU)
    ratios = Karras().ratio(sampling.grid(Karras(), 8))[:-1].tolist()
    both, one = (4, [2, 0, 3, 3]), (2, [2, 0])
    assert network.calls == [both if low <= ratio <= high else one for ratio in ratios]
    inside = sum(call == both for call in network.calls)
    assert inside == {0.0: 8, 90.0: 0}.get(low, inside)
    assert (0 < inside < 8) == (0.0 < low < 90.0)


def test_the_interval_is_part_of_the_settings_of_a_run():
    config = replace(SamplingConfig(), guidance_from=0.3, guidance_to=4.0)
    assert (config.guidance_from, config.guidance_to) == (0.3, 4.0)
    for low, high in ((2.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="smaller one first"):
            SamplingConfig(guidance_from=low, guidance_to=high)


def test_one_condition_an_image():
    for given, word in (({"labels": [1]}, "labels"), ({"prompts": ["a"]}, "prompts")):
        with pytest.raises(ValueError, match=f"1 {word} for 2 seeds"):
            Order([0, 1], given.get("labels"), (1, 4, 4), given.get("prompts"))
