"""One process that has imported torch once, and forks for each thing that is tried in it.

An audit hook can't be taken back, a limit of memory can't be raised again and a crash ends all: so
each is tried in a fork, which hands back JSON and is gone.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from functools import cache
from importlib import import_module
from typing import Any

import torch

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PATIENCE = 900  # seconds; beyond, the fork hangs and is killed


def forked(job: str, *arguments: Any) -> Any:
    """What the function "module:name" of drills returns in a fork; arguments and result are JSON.

    Raises: RuntimeError where it raised, crashed or hung.
    """
    nurse = _nurse()
    assert nurse.stdin is not None
    assert nurse.stdout is not None
    nurse.stdin.write(json.dumps([job, arguments]) + "\n")
    nurse.stdin.flush()
    answer = json.loads(nurse.stdout.readline() or '{"error": "the nursery is gone"}')
    if "error" in answer:
        raise RuntimeError(f"{job}: {answer['error']}")
    return answer["result"]


@cache
def _nurse() -> subprocess.Popen[str]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    nurse = subprocess.Popen(
        [sys.executable, "-c", f"import {__name__}; {__name__}.serve()"],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths, "CI": "true", "MPLBACKEND": "agg"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, nurse)
    return nurse


def _end(nurse: subprocess.Popen[str]) -> None:
    nurse.communicate()  # closes its stdin, at which it ends


def serve() -> None:
    """Fork for each line that is asked for, and write what came of it."""
    for module in ("train", "sample", "evaluate", "import_", "info"):
        import_module(f"sfumato.commands.{module}")
    for module in ("figure", "cm", "backends.backend_agg"):  # the first plot of each fork would
        import_module(f"matplotlib.{module}")
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # its first use imports for seconds
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(line, writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            answer = pipe.read()
        status = os.waitpid(child, 0)[1]
        print(answer or json.dumps({"error": f"died: status {status}"}), flush=True)


def _work(line: str, writing: int) -> None:
    """In the fork: do it, answer and end, whatever happens; its own words go nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    signal.alarm(PATIENCE)
    try:
        job, arguments = json.loads(line)
        module, name = job.split(":")
        answer = {"result": getattr(import_module(f"drills.{module}"), name)(*arguments)}
    except BaseException as error:  # also SystemExit: the answer must come
        answer = {"error": f"{type(error).__name__}: {error}"}
    with open(writing, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(answer))
    os._exit(0)


def command(words: list[str], out: int | None = None, gone: int | None = None) -> int:
    """A fork that runs the command as if it were typed; its number."""
    number = os.fork()
    if number:
        return number
    code: Any = 1
    with contextlib.suppress(BaseException):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["sfumato", *words]
        if out is not None and gone is not None:
            os.close(gone)
            os.dup2(out, 1)
            sys.stdout = os.fdopen(1, "w", buffering=1)
        from sfumato.__main__ import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    os._exit(code)


def exit_code(number: int) -> int:
    """How the process ended, once it has: as subprocess tells it, -n where signal n killed it."""
    status = os.waitpid(number, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
