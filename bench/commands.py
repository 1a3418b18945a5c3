"""Commands in processes of their own."""

import os
import subprocess
from collections.abc import Mapping, Sequence


def finished(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command's words once it has ended well; environment is beside this process's own.

    Raises: RuntimeError with its last words where it failed.
    """
    settings = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done
