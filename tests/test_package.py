"""The package as a whole: its public names, and what importing it does not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato

SOURCE = Path(sfumato.__file__).parent


def test_every_public_name_is_there():
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None


def test_editors_are_told_of_the_same_names():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n))
    told = {
        (f"{node.module}", alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {(module, name) for name, module in sfumato._HOME.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Diffusion'"):
        sfumato.Diffusion  # noqa: B018


def test_importing_the_package_imports_no_torch():
    code = "import sys, sfumato; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_file_is_longer_than_400_lines():
    longest = {path: len(path.read_text("utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert not {path: n for path, n in longest.items() if n > 400}


def test_no_error_is_passed_over_in_silence():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert not all(isinstance(line, ast.Pass) for line in node.body), path
                assert node.type is not None, f"bare except in {path}"


def test_every_setting_that_a_run_may_name_is_a_public_name():
    from sfumato.kinds import KINDS

    beside = {"UniformGrid", "KarrasGrid", "LeadingGrid", "TrailingGrid", "LinspaceGrid"}
    beside |= {"Constant", "LinearDecay", "CosineDecay"}
    assert KINDS.keys() - beside <= set(sfumato.__all__)


def test_every_kind_of_network_is_exported_by_its_package():
    from sfumato import networks
    from sfumato.config import NetworkConfig
    from sfumato.kinds import ROLES

    assert {cls.__name__ for cls in ROLES[NetworkConfig]} <= set(networks.__all__)
