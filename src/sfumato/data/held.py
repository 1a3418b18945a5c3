"""How many images of a set are held back from training: what was asked for, and never too many.

It imports nothing, so that a report can tell it of a run without torch.
"""


def held_back(count: int, held_out: int = 512, test: int = 0) -> tuple[int, int]:
    """(held out for the losses on the way, kept for one test at the end) of `count` images.

    The test takes at most a fifth of all, and what is held out at most a tenth of the rest.
    """
    tested = min(test, count // 5)
    return min(held_out, (count - tested) // 10), tested
