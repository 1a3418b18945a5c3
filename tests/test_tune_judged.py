"""What sfumato tune says of a sampler: no more than its images tell."""

from dataclasses import replace

import pytest
import torch

from sfumato.commands.tune_judged import Judged
from sfumato.grids import KarrasGrid
from sfumato.multistep import DEIS
from sfumato.rivals import Rival
from sfumato.tuning import mean_distance

# a rival's distances in twelve images, and those of one that is nearer in all but the last
OTHER = torch.linspace(0.1, 0.32, 12)
UNSURE = OTHER * torch.tensor([0.9] * 11 + [1.2])


def judged_of(near, missed=None, grids=(6, 6)):
    best = Rival("deis", DEIS(3), KarrasGrid(), 6, mean_distance(OTHER))
    return Judged(
        near, OTHER, [best, replace(best, name="ddim", distance=0.4)], grids, missed or {}
    )


def test_the_error_of_a_gain_is_the_jackknifes():
    judged = judged_of(UNSURE)
    kept = [torch.arange(12) != i for i in range(12)]
    gains = [mean_distance(OTHER[rows]) - mean_distance(UNSURE[rows]) for rows in kept]
    middle = sum(gains) / 12
    wanted = (11 / 12 * sum((gain - middle) ** 2 for gain in gains)) ** 0.5
    assert judged.error == pytest.approx(wanted, rel=1e-6)
    assert judged.gain == pytest.approx(mean_distance(OTHER) - mean_distance(UNSURE), rel=1e-9)
    assert (judged.images, judged.nearer) == (12, 11)


@pytest.mark.parametrize(
    ("near", "levels", "closer", "better", "words"),
    [
        (0.9 * OTHER, None, 1, True, "is 1.11 times nearer to the teacher than the best fixed"),
        (1.1 * OTHER, None, -1, False, "is farther from the teacher than the best fixed solver"),
        (UNSURE, None, 0, False, "as near to the teacher as the best fixed solver, deis"),
        (OTHER, (0.2, 0.1), 0, False, "nothing was gained. More --time may help."),
        (UNSURE, (0.1, 0.2), 0, True, "it is nearer to the levels of the data, to which it is"),
        (1.1 * OTHER, (0.1, 0.2), -1, False, "it is nearer to the levels of the data, to which"),
    ],
)
def test_it_does_not_claim_what_it_did_not_measure(near, levels, closer, better, words):
    missed = {"teacher": 0.3, **dict(zip(("tuned", "deis"), levels or (), strict=False))}
    judged = judged_of(near, missed if levels else None)
    assert (judged.closer, judged.better) == (closer, better)
    assert words in judged.verdict()
    both = f"({mean_distance(near):.4f} against {mean_distance(OTHER):.4f}, a difference of "
    assert both + f"{judged.gain:+.4f} ± {2 * judged.error:.4f})" in judged.lines()[-1]


def test_images_that_are_no_numbers_are_no_gain():
    judged = judged_of(torch.full((12,), float("nan")))
    assert (judged.closer, judged.better, judged.tuned) == (-1, False, float("inf"))


def test_the_table_has_the_nearest_first():
    lines = judged_of(1.1 * OTHER).lines()
    assert [line.split()[0] for line in lines[:3]] == ["deis", "tuned", "ddim"]


def test_grids_that_were_not_tried_are_told():
    assert not any("grids" in line for line in judged_of(OTHER).lines())
    assert "were tried on 1 of 6 standard grids only" in judged_of(OTHER, grids=(1, 6)).lines()[3]


def test_levels_are_told_where_there_are_data_and_nothing_is_where_there_are_none():
    judged = judged_of(0.5 * OTHER, {"tuned": 0.05, "deis": 0.1})
    assert judged.lines()[-2] == (
        "How often values and neighbours' differences lie near the data's levels, off by: "
        "tuned 0.050, deis 0.100."
    )
    assert not any("levels" in line for line in judged_of(0.5 * OTHER).lines())
