"""What a step frees is kept for the next: counted in page faults, which no busy machine changes."""

import ctypes
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from sfumato.memory import keep_freed

def faults(count=12_000_000):  # 48 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(count).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual, told = faults(), keep_freed()
faults()  # takes a block or a few, as the heap lies
kept = min(faults() for _ in range(4))  # a system may take idle pages back in between
keep_freed(False)
print(usual, told, kept, faults(60_000_000))  # larger than any hole that is left in the heap
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_large_blocks_are_taken_from_the_system_once():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    usual, told, kept, again = done.stdout.split()
    assert (told == "True") == hasattr(ctypes.CDLL(None), "mallopt")
    if told == "False":
        pytest.skip("this system's allocator can't be told")
    assert int(kept) < int(usual) / 100
    assert int(again) > 5 * int(usual) / 2
