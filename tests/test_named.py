"""What --grid and --sampler say is read back from what they are said to be."""

import pytest

from conftest import CONTINUOUS, DISCRETE, name
from sfumato.grids import KarrasGrid, LeadingGrid, UniformGrid
from sfumato.named import GRIDS, SOLVERS, grid_named, grid_text, sampler_text
from sfumato.rivals import FIXED, standard_grids
from sfumato.solvers import DDIM, Heun
from sfumato.tuned import TunedGrid
from sfumato.typed import GRID_NAMES, UsageError, check_grid


@pytest.mark.parametrize("process", [*CONTINUOUS, *DISCRETE], ids=name)
def test_every_standard_grid_can_be_typed(process):
    for grid in standard_grids(process):
        text = grid_text(grid)
        check_grid(text)
        assert grid_named(text) == grid


def test_settings_stand_in_the_order_of_the_fields():
    assert grid_named("karras") == KarrasGrid()
    assert grid_named("karras:0.02,20,3") == KarrasGrid(0.02, 20.0, 3.0)
    assert grid_named("karras:,,3") == KarrasGrid(rho=3.0)
    assert grid_text(KarrasGrid(rho=3.0)) == "karras:,,3"
    even = KarrasGrid(0.02, 20.0, float("inf"))
    assert (grid_named("karras:0.02,20,inf"), grid_text(even)) == (even, "karras:0.02,20,inf")
    assert grid_text(KarrasGrid(1 / 3)) == "karras:0.3333333333333333"
    assert grid_named("leading:1") == LeadingGrid(1)
    assert grid_text(UniformGrid(0.001)) == "uniform:0.001"


def test_every_solver_has_a_name_and_ddim_its_eta():
    assert {sampler_text(solver): solver for solver in SOLVERS.values()} == SOLVERS
    assert {sampler_text(solver) for solver in FIXED.values()} == set(FIXED)
    assert sampler_text(DDIM(0.5)) == "ddim --eta 0.5"


def test_what_cannot_be_typed_has_no_text():
    assert grid_text(TunedGrid((1.0, 0.5))) is None
    assert sampler_text(Heun) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("karass", "did you mean karras"),
        ("karras:1,2,3,4", "karras has 3 settings, sigma_min, sigma_max, rho; 4 came"),
        ("karras:small", "numbers are wanted"),
        ("leading:0.5", "whole numbers are wanted"),
        ("trailing:1", "trailing has 0 settings, none; 1 came"),
    ],
)
def test_what_is_no_grid_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        grid_named(text)


def test_a_misspelt_grid_is_told_before_torch_is_imported():
    assert set(GRID_NAMES) == set(GRIDS)
    with pytest.raises(UsageError, match="did you mean karras"):
        check_grid("karass:0.02")
