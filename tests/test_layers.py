"""Imports point down: the mathematics knows nothing of files and training, nor they of it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato

ROOT = Path(sfumato.__file__).parent
LAYERS = [
    {"process"},
    {"discrete"},
    {"noising"},
    {"prediction", "parameterization"},
    {"denoiser"},
    {"exact", "guidance", "solvers", "objective", "likelihood", "grids"},
    {"multistep", "singlestep"},
    {"bound", "sampling", "importance", "classification", "consistency"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in sorted(names)}
# What may be used without any diffusion: it imports none of the layers.
APART = [
    "checkpoint",
    "codec",
    "console",
    "data",
    "ema",
    "films",
    "kept",
    "latent_cache",
    "latents",
    "lettering",
    "minilm",
    "networks",
    "page",
    "pictures",
    "plots",
    "reconstruction",
    "report",
    "spectra",
    "storage",
    "sweep_words",
    "text",
    "training",
    "training_film",
    "vocabulary",
]
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
STANDING_APART = [path for path in MODULES if path.with_suffix("").parts[0] in APART]


def module_name(path):
    """The dotted name below sfumato: data/idx.py is data.idx, data/__init__.py is data."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Dotted names below sfumato of the modules that a file imports, anywhere in it."""
    package = list(path.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            source = (node.module or "").split(".") if node.module else []
            if node.level:
                source = package[: len(package) - node.level + 1] + source
            elif source[0] == "sfumato":
                source = source[1:]
            else:
                continue
            for alias in node.names:
                deeper = ROOT.joinpath(*source, alias.name)
                is_module = deeper.with_suffix(".py").exists() or deeper.is_dir()
                yield ".".join([*source, alias.name] if is_module else source)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "sfumato":
                    yield ".".join(alias.name.split(".")[1:])


def test_every_layer_is_there():
    assert set(LEVEL) <= {module_name(path) for path in MODULES}


@pytest.mark.parametrize("name", LEVEL)
def test_imports_of_the_mathematics_point_down(name):
    for imported in imports(Path(f"{name}.py")):
        assert imported in LEVEL, f"{name} may not import {imported}, which is no mathematics"
        assert LEVEL[imported] < LEVEL[name], f"{name} may not import {imported}: it is not below"


@pytest.mark.parametrize("path", STANDING_APART, ids=str)
def test_what_stands_apart_imports_no_mathematics(path):
    used = {imported.split(".")[0] for imported in imports(path)}
    assert not used & set(LEVEL), f"{path} may not import {sorted(used & set(LEVEL))}"


def test_imports_make_no_circle():
    graph = {module_name(path): set(imports(path)) for path in MODULES}
    known = {name: {i for i in of if i in graph and i != name} for name, of in graph.items()}
    while leaves := [name for name, of in known.items() if not of]:
        known = {name: of - set(leaves) for name, of in known.items() if name not in leaves}
    assert not known, f"a circle among {sorted(known)}"


def test_the_reader_of_imports_sees_every_form():
    """Or the tests above would pass on nothing."""
    assert set(imports(Path("sampling.py"))) == {"denoiser", "prediction", "process", "solvers"}
    assert set(imports(Path("bound.py"))) == {"denoiser", "objective", "prediction", "process"}
    assert {name.split(".")[0] for path in MODULES for name in imports(path)} > set(LEVEL) - {
        "bound",
        "exact",
    }


STATE = """
import importlib, json, os, random, sys, threading, warnings
import numpy, torch

def state():
    return {
        "torch seed": torch.get_rng_state().tolist(),
        "numpy seed": str(numpy.random.get_state()),
        "random seed": str(random.getstate()),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "running": sorted(thread.name for thread in threading.enumerate()),
        "cuda": torch.cuda.is_initialized(),
    }

before = state()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


def test_importing_starts_nothing(tmp_path):
    """No file, no seed, no default, no thread: in a fresh process, for every module."""
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    names = [f"sfumato.{module_name(path)}".rstrip(".") for path in MODULES]
    names = [name for name in names if not name.endswith("__main__")]
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STATE, json.dumps(names)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == []
    assert list(cwd.iterdir()) == []
    assert list(home.iterdir()) == []
