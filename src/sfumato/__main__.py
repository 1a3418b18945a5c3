"""The `sfumato` command; `python -m sfumato` is the same."""

import os
import sys


def main() -> None:
    """Run the command that was typed; a mistake of the caller's is one line and exit code 1."""
    # Threads that wait for one another spin only briefly before they sleep. By default a step takes
    # several times as long where another program wants a core (experiments/LOG.md); as fast alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # read when torch loads
    from .arguments import Demo, Info, Sample, Train, UsageError, parse

    if sys.argv[1:] in (["--version"], ["version"]):
        from . import __version__

        print("sfumato", __version__)
        return
    try:
        command = parse(sys.argv[1:])
        if isinstance(command, Info):
            from .commands.info import run_info

            run_info(command)
        elif isinstance(command, Sample):
            from .commands.sample import run_sample

            run_sample(command)
        elif isinstance(command, Train):
            from .commands.train import run_train

            run_train(command)
        elif isinstance(command, Demo):
            from .commands.demo import run_demo

            run_demo(command)
    except (UsageError, ValueError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"sfumato: {error}")
    except MemoryError as error:
        sys.exit(f"sfumato: out of memory: {error}. Choose a smaller --size or --limit.")
    except KeyboardInterrupt:
        sys.exit("sfumato: stopped at once; what was last saved is kept.")


if __name__ == "__main__":
    main()
