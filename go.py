#!/usr/bin/env python3
"""Set sfumato up and run it; needs nothing but Python 3.11 or newer.

    python3 go.py demo     train on the built-in digits, draw digits, show the losses
    python3 go.py test     lint, type check and tests
    python3 go.py shell    install everything and say how to activate it
    python3 go.py sfumato ARGUMENTS...    the command itself, without activating anything

The first call makes .venv beside this file and installs PyTorch and sfumato there; later calls
start at once. GO_TORCH chooses the PyTorch build: auto (default), cpu, cuda, or skip (you have put
one into .venv yourself). Arguments after the command are handed on: python3 go.py demo --time 60s
"""

import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
ACTIVATE = r".venv\Scripts\activate" if os.name == "nt" else "source .venv/bin/activate"
TORCH = "2.13.0"  # the release that the tests run on; the package itself accepts a range
# A process a core, a file to a process; by name, else the longest file of one test comes last.
TESTS = ["pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], TESTS)
COMMANDS = {  # the extras to install, and the python -m commands to run one after the other
    "demo": ("", [["sfumato", "demo"]]),
    "sfumato": ("", [["sfumato"]]),
    "test": ("[dev]", CHECKS),
    "shell": ("[dev]", []),
}


def run(*command, **options):
    print("+", *command, flush=True)
    return subprocess.run([str(word) for word in command], **options).returncode == 0


def pip(*arguments, **options):
    quiet = ("-q", "--disable-pip-version-check", "--no-input")
    return run(PYTHON, "-m", "pip", "install", *quiet, *arguments, **options)


def uv(*arguments, **options):
    """pip's work several times faster; it also knows which PyTorch build fits the GPU driver."""
    links = os.environ.get("PIP_FIND_LINKS", "")  # wheels on this disk that pip has been told of
    environment = {**os.environ, "UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", links)}
    command = ("-m", "uv", "pip", "install", "-q", "--compile-bytecode", "--python", PYTHON)
    return run(PYTHON, *command, *arguments, env=environment, **options)


def install_torch(want, install):
    """Install the PyTorch build that fits; True if it worked."""
    pin = f"torch=={TORCH}"
    if want == "skip":
        return True
    if want == "auto" and platform.system() == "Linux" and not shutil.which("nvidia-smi"):
        want = "cpu"  # the registry's own file for Linux is the CUDA build: 3 GB of no use here
    if want == "cpu" and install(f"{pin}+cpu", stderr=subprocess.DEVNULL):
        return True  # a wheel on this disk, or a mirror that has it
    backend = {"cpu": "cpu", "cuda": "auto"}.get(want, "auto")
    return (install is uv and uv(pin, "--torch-backend", backend)) or pip(pin)


def setup(extras):
    want = os.environ.get("GO_TORCH", "auto")
    key = " ".join([(ROOT / "pyproject.toml").read_text(), TORCH, want, extras, sys.version])
    key = hashlib.sha256(key.encode()).hexdigest()
    stamp = VENV / "ready.txt"
    if stamp.exists() and key in stamp.read_text().split():
        return
    print("First set-up: about 0.3 GB to download; 3 GB where a GPU needs CUDA.", flush=True)
    try:
        if not PYTHON.exists():
            venv.EnvBuilder(with_pip=True).create(VENV)
    except subprocess.CalledProcessError:
        sys.exit("This Python cannot make environments (Debian, Ubuntu: apt install python3-venv).")
    install = uv if pip("uv>=0.9") else pip
    limit = VENV / "constraints.txt"  # keeps every later package from replacing PyTorch
    limit.write_text("" if want == "skip" else f"torch=={TORCH}\n")
    if not install_torch(want, install) or not install("-c", limit, "-e", f"{ROOT}{extras}"):
        sys.exit("Set-up failed; the lines above say why. Running the same command again goes on.")
    with stamp.open("a") as file:
        file.write(key + "\n")


def main():
    if sys.version_info < (3, 11):  # noqa: UP036  this file is what an older Python sees first
        sys.exit(f"Python 3.11 or newer is needed; this is {platform.python_version()}.")
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(__doc__)
    extras, commands = COMMANDS[name]
    setup(extras)
    if name == "shell":
        print("Everything is installed. Activate it:", ACTIVATE)
    rest = sys.argv[2:]
    for i, command in enumerate(commands):
        arguments = rest if i == len(commands) - 1 else []
        result = subprocess.run([str(PYTHON), "-m", *command, *arguments], cwd=ROOT)
        if result.returncode:
            sys.exit(result.returncode)
    if name == "demo":
        print(f"To type sfumato as above: {ACTIVATE}  (or: python3 go.py sfumato ...)")


if __name__ == "__main__":
    main()
