"""Batches made beside training: while one is trained on, a thread makes the next."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from .training import Batch

LARGE = 2**18  # numbers in a batch: noise for fewer takes less than handing it over is worth


@contextmanager
def prefetched(
    batch_at: Callable[[int], Batch], least: int = 0
) -> Iterator[Callable[[int], Batch]]:
    """batch_at with the next batch made in a thread while this one is trained on.

    The batches are the same, since each is a function of its step. Those of fewer than `least`
    numbers are made when they are asked for: see source_for.
    """
    threads = torch.get_num_threads()
    # A team of threads of its own would wait, spinning, on the cores that the training step is on:
    # with it a step on two cores took 1.3 times as long (experiments/LOG.md).
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_be_one_thread).result()
        torch.set_num_threads(threads)  # or every thread yet to come would be told 1 as well
        ahead: dict[int, Future[Batch]] = {}

        def next_batch(step: int) -> Batch:
            made = ahead.pop(step, None)
            batch = batch_at(step) if made is None else made.result()
            ahead.clear()
            if sum(values.numel() for values in batch.values()) >= least:
                ahead[step + 1] = pool.submit(batch_at, step + 1)
            return batch

        yield next_batch


def _be_one_thread() -> None:
    torch.get_num_threads()  # settles this thread's number, or its first work would do it later
    torch.set_num_threads(1)


@contextmanager
def source_for(
    device: torch.device, batch_at: Callable[[int], Batch]
) -> Iterator[Callable[[int], Batch]]:
    """batch_at as training on the device asks it: ahead of time on a GPU, and where a CPU's batches
    are LARGE, since a step leaves a core idle now and then, which the dice can have."""
    least = LARGE if device.type == "cpu" else 0
    with prefetched(batch_at, least) as source:
        yield source
