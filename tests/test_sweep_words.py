"""A sweep's sentences name the best, and all that nothing tells from it."""

from typing import Any

from sfumato.sweep_words import alike, drawn_words, nearest_words

GRID = {"kind": "UniformGrid"}


def row(sampler: str, distance: float | None, quality: float = 1.0, guidance: float = 1.0) -> Any:
    return {
        "sampler": sampler,
        "distance": distance,
        "error": 0.001,
        "calls": 10,
        "guidance": guidance,
        "grid": GRID,
        "quality": {"value": quality, "error": 0.1},
        "seconds_an_image": 0.5,
        "command": None,
    }


def sentence(least: float, *rows: Any) -> str:
    record = {"floor": {"1": least}, "rows": rows}
    return nearest_words(record, 10, 1.0)[0]


def test_what_is_nearer_than_two_that_have_converged_is_not_told_apart():
    rows = (row("heun", 0.01), row("ddim", 0.02), row("unipc", 0.03))
    assert sentence(0.02, *rows).endswith("s an image; ddim can't be told from it.")
    assert sentence(0.005, *rows).endswith("0.5000 s an image.")
    tied = {**rows[0], "ties": ["unipc"]}
    assert sentence(0.005, tied, *rows[1:]).endswith("image; unipc can't be told from it.")


def test_a_tie_at_another_guidance_says_so():
    best = row("heun", None, quality=1.0)
    near = [row("heun", None, 1.1, guidance=2.0), row("ddim", None, 1.2), row("lms", None, 9.0)]
    assert alike(best, near) == ["heun at guidance 2", "ddim"]
    (text,) = drawn_words({"rows": [best, *near]}, 10)
    assert text.endswith("1 ± 0.1; within the error: heun at guidance 2, ddim.")
