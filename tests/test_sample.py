"""sfumato sample: what each image shows, and what stands beside the rows and columns."""

import pytest

from sfumato.commands.sample import column_labels, each_shows, row_labels
from sfumato.generation import Order

NAMES = ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("count", "columns", "shown"),
    [
        (1, 10, "a"),
        (3, 10, "abc"),
        (5, 2, "aabbc"),  # three rows: a class each
        (4, 2, "aabb"),  # two rows, and no column could be named
        (9, 2, "aabbccaab"),
        (12, 10, "aaaaaaaaaabb"),
        (12, 6, "abcabcabcabc"),
    ],
)
def test_classes_have_a_row_each_or_all_their_turn(count, columns, shown):
    assert "".join(each_shows("abc", count, columns)) == shown


@pytest.mark.parametrize("count", [1, 5, 30])
def test_one_class_that_was_asked_for_is_all_that_is_drawn(count):
    assert each_shows([7], count, 10) == [7] * count


@pytest.mark.parametrize(
    ("labels", "columns", "rows", "across"),
    [
        ([0, 1, 2], 10, None, ["cat", "dog", "owl"]),
        ([0, 1, 2, 0], 3, None, ["cat", "dog", "owl"]),
        ([0, 1, 2, 0], 2, None, None),
        ([2, 2, 1], 2, ["owl", "dog"], None),
    ],
)
def test_rows_and_columns_of_one_class_have_its_name(labels, columns, rows, across):
    order = Order(range(len(labels)), labels, (1, 8, 8))
    assert row_labels(order, NAMES, columns) == rows
    assert column_labels(order, NAMES, columns) == across


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 8, 10, 1000])
@pytest.mark.parametrize("columns", [1, 4, 8, 10])
@pytest.mark.parametrize("count", [1, 7, 10, 16, 40, 100])
def test_what_is_drawn_unless_told_otherwise_has_names(classes, columns, count):
    labels = each_shows(range(classes), count, columns)
    order, names = Order(range(count), labels, (1, 8, 8)), tuple(map(str, range(classes)))
    assert row_labels(order, names, columns) or column_labels(order, names, columns)


def test_prompts_stand_above_the_columns_that_show_them():
    order = Order([0, 1], None, (1, 8, 8), ["a cat", "a dog"])
    assert column_labels(order, NAMES, 2) == ["a cat", "a dog"]
