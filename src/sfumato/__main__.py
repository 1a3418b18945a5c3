"""The `sfumato` command; `python -m sfumato` is the same."""

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

RUNNERS = {  # what was typed: the module that does it, imported only then, and its function
    "Demo": ("demo", "run_demo"),
    "Recipes": ("recipes", "run_recipes"),
    "Train": ("train", "run_train"),
    "Sample": ("sample", "run_sample"),
    "Distill": ("distill", "run_distill"),
    "Tune": ("tune", "run_tune"),
    "Evaluate": ("evaluate", "run_evaluate"),
    "Sweep": ("sweep", "run_sweep"),
    "Compare": ("compare", "run_compare"),
    "Spectra": ("spectra", "run_spectra"),
    "Report": ("report", "run_report"),
    "Explain": ("explain", "run_explain"),
    "Doctor": ("doctor", "run_doctor"),
    "Import": ("import_", "run_import"),
    "Export": ("export", "run_export"),
    "Info": ("info", "run_info"),
}


NOT_FINITE = 3  # exit code: losses or images were not numbers


def main() -> None:
    """run; as one of several processes that torchrun started, end at once after it.

    Taking the interpreter down could wait for the threads of torch.distributed, and they for it.
    """
    if not ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        run()
        return
    # Where a process is gone PyTorch would print its C++ frames above what we say of it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code: Any = 0
    try:
        run()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    with suppress(OSError):  # nobody reads it any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run() -> None:
    """Run the command that was typed; a mistake of the caller's is one line and exit code 1.

    Other codes: 2 for an option that there is not, 3 where numbers were not finite, 4 where another
    process of the run is gone, 128 + n where signal n ended a training run, which then is saved.
    """
    # Threads that wait for one another spin only briefly before they sleep. By default a step takes
    # several times as long where another program wants a core (experiments/LOG.md); as fast alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # read when torch loads
    warnings.formatwarning = lambda message, *rest, **more: f"note: {message}\n"  # no file, no line
    from .arguments import UsageError
    from .memory import keep_freed
    from .parsing import parse
    from .places import check_names
    from .storage import DamagedError
    from .wrapping import for_reader

    keep_freed()
    if sys.argv[1:] in (["--version"], ["version"]):
        from . import __version__

        print("sfumato", __version__)
        return
    try:
        command = parse(sys.argv[1:])
        check_names(command)  # before torch is imported, which takes as long as all else together
        runner(type(command).__name__)(command)
    except (UsageError, ValueError, OSError, DamagedError) as error:
        sys.exit(for_reader(f"sfumato: {error}"))
    except FloatingPointError as error:
        print(f"sfumato: {error}", file=sys.stderr)
        sys.exit(NOT_FINITE)
    except MemoryError as error:
        sys.exit(f"sfumato: out of memory: {error}. Choose a smaller --size or --limit.")
    except KeyboardInterrupt:
        sys.exit("sfumato: stopped at once; what was last saved is kept.")


def runner(name: str) -> Callable[[Any], None]:
    """A command's function. While its modules load, and in them later, nobody looks for garbage.

    They stay; looking through them took a twentieth of the time to the first step.
    """
    module, function = RUNNERS[name]
    whole = f"{__package__}.commands.{module}"
    if whole not in sys.modules:
        gc.disable()
        try:
            import_module(whole)
        finally:
            gc.enable()
        gc.freeze()
    found: Callable[[Any], None] = getattr(sys.modules[whole], function)
    return found


if __name__ == "__main__":
    main()
