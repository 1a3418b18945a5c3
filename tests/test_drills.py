"""Every drill in its short form: what was tried has held. The full figures: python -m drills."""

import pytest

from drills import DRILLS
from drills.drill import Count, carried_out


@pytest.mark.parametrize("name", DRILLS)
def test_all_that_is_tried_holds(name):
    outcome = carried_out(name, DRILLS[name], short=True)
    assert outcome.passed, outcome


def test_a_drill_that_loses_tries_nothing_or_breaks_does_not_pass():
    def broken(short):
        raise OSError("no disk")

    counts = (lambda short: Count(3, 2), lambda short: Count(0, 0), broken)
    outcomes = [carried_out("X1", drill, True) for drill in counts]
    assert [outcome.passed for outcome in outcomes] == [False] * 3
    assert "no disk" in outcomes[2].note
