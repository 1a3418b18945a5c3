"""What docs/distributed.md and docs/slurm.sh tell people to type."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sfumato.arguments import Train, UsageError
from sfumato.commands.train import after_restart
from sfumato.parsing import parse

DOCS = Path(__file__).parents[1] / "docs"


def commands():
    text = (DOCS / "distributed.md").read_text("utf-8")
    return re.findall(r"^torchrun .*? -m sfumato (.*)$", text, re.MULTILINE)


def test_the_commands_can_be_parsed():
    found = [parse(words.split()) for words in commands()]
    assert len(found) == 4
    assert [command.fsdp for command in found] == [False, True, False, False]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_script_asks_for_what_its_comment_says(tmp_path):
    """With stand-ins for Slurm's programs: a new run, then the same that goes on; requeued if not
    done, and not where nothing was saved."""
    for name, body in {
        "scontrol": 'echo "scontrol $*" >> calls; echo first',
        "srun": 'echo "srun $*" >> calls; exit $(cat code)',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def calls(code):
        (tmp_path / "code").write_text(str(code))
        (tmp_path / "calls").unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", DOCS / "slurm.sh", "images", "mine"],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"},
            check=False,
        )
        assert done.returncode == code
        return (tmp_path / "calls").read_text()

    assert "-m sfumato train images --out runs/mine --epochs 400" in calls(1)
    assert "requeue" not in calls(1)
    (tmp_path / "runs/mine/checkpoints/step-000000007").mkdir(parents=True)
    (tmp_path / "runs/mine/run.json").write_text("{}")
    assert "scontrol requeue 7" in calls(1)
    assert "-m sfumato train runs/mine\n" in calls(0)
    assert "requeue" not in calls(0)


def test_what_torchrun_starts_again_goes_on(tmp_path):
    args = Train("digits", out=tmp_path / "run")
    assert after_restart(args, "0") == args
    assert not after_restart(args, "1").resume
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert not after_restart(args, "0").resume
    assert after_restart(args, "1").resume
    with pytest.raises(UsageError, match="--out"):
        after_restart(Train("digits"), "1")
