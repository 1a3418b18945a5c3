"""sfumato train: from a plan to a folder with a trained model in it."""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..arguments import Train
from ..config import AnyRun
from ..console import Reporter, reading
from ..data import ImageData
from ..devices import pick_device
from ..distributed import Group, number_of_process, own_device, peers_of
from ..folder import find
from ..planning import fields_of, plan, resume_folder
from ..trainer import Trainer, facts


def run_train(args: Train) -> None:
    """Plan, then print the plan, or train a new run, or go on with an old one."""
    if args.source == "last" or (args.resume and not (args.source or args.out or args.config)):
        args = replace(args, source=str(find("last")))
    if (Path(args.source) / "run.json").is_file():
        args = replace(
            args, config=Path(args.source) / "run.json", resume=True, out=Path(args.source)
        )
        args = replace(args, source="")
    device = own_device(pick_device(args.device))
    leads = number_of_process() == 0
    run, data = plan(args, reading(Reporter(quiet=args.quiet or not leads).say))
    if (args.dry_run or args.check) and not leads:
        return
    if args.dry_run:
        print_plan(run, data, device)
        return
    if args.check:
        check(run, data, device, args.out)
        return
    trainer = Trainer(run, data, device, args.quiet)
    with peers_of(device) as trainer.peers:
        if isinstance(trainer.peers, Group) and not leads:
            trainer.follow(trainer.peers)
        else:
            trainer.start(resume_folder(args, run.name) if args.resume else None, args.out)
    if trainer.code:
        sys.exit(trainer.code)


def check(run: AnyRun, data: ImageData, device: torch.device, out: Path | None) -> None:
    """The whole of a run in two steps, in a folder that is then removed; how long it would take."""
    root = out.parent if out is not None else Path("runs")
    new = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    short = replace(run.train, steps=2, images=None, epochs=None, seconds=None, previews=1)
    try:
        with TemporaryDirectory(prefix=".check-", dir=root) as folder:
            trainer = Trainer(replace(run, train=short), data, device, quiet=False)
            trainer.budget, trainer.trial = run.train, True
            _, finished = trainer.start(None, Path(folder) / "run")
    finally:
        for empty in new:
            empty.rmdir()
    if finished:
        print("All of it works: data, steps, held-out losses, samples, saving. Nothing was kept.")


def print_plan(run: AnyRun, data: ImageData, device: torch.device) -> None:
    """What --dry-run shows: the facts, then every field as --set takes it."""
    reporter = Reporter()
    reporter.header(f"plan of {run.name}", facts(run, data, device, None))
    reporter.say()
    for path, value in fields_of(run).items():
        reporter.say(f"  {path}={value}")
