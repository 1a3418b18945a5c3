"""Batches made beside training, where a GPU trains and the CPU throws the dice."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from .training import Batch


@contextmanager
def prefetched(batch_at: Callable[[int], Batch]) -> Iterator[Callable[[int], Batch]]:
    """batch_at with the next batch made in a thread while this one is trained on.

    The batches are the same, since each is a function of its step. Worth it where a GPU trains and
    the CPU throws the dice; on a CPU alone the two would only take turns.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead: dict[int, Future[Batch]] = {}

        def next_batch(step: int) -> Batch:
            made = ahead.pop(step, None) or pool.submit(batch_at, step)
            batch = made.result()
            ahead.clear()
            ahead[step + 1] = pool.submit(batch_at, step + 1)
            return batch

        yield next_batch
