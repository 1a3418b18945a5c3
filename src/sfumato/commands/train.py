"""sfumato train: from a plan to a folder with a trained model in it."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..__main__ import NOT_FINITE
from ..arguments import Train, UsageError
from ..assembly import lost_classes, splits_of
from ..config import AnyRun
from ..console import Reporter, reading
from ..data import ImageData
from ..devices import pick_device
from ..distributed import Group, number_of_process, own_device, peers_of
from ..doctor.record import words_on_run
from ..folder import find, read_metrics
from ..heartbeats import GONE
from ..page import write_page
from ..peers import LostPeerError, ToldError
from ..planning import fields_of, plan, resume_folder
from ..report.reading import draws, read_object
from ..trainer import Trainer, facts
from .sample import film_of_run

WORTH_A_FILM = 60.0  # seconds of training: a film takes some of its own


def run_train(args: Train) -> None:
    """Plan, then print the plan, or train a new run, or go on with an old one."""
    if args.source == "last" or (args.resume and not (args.source or args.out or args.config)):
        args = replace(args, source=str(find("last")))
    if (Path(args.source) / "run.json").is_file():
        args = replace(
            args, config=Path(args.source) / "run.json", resume=True, out=Path(args.source)
        )
        args = replace(args, source="")
    args = after_restart(args, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    device = own_device(pick_device(args.device))
    if args.dry_run or args.check:
        if number_of_process() == 0:
            tried(args, device)
        return
    code = trained(args, device)
    if code:
        sys.exit(code)


def tried(args: Train, device: torch.device) -> None:
    """The plan, or two steps of it, by one process alone."""
    run, data = plan(args, reading(Reporter(quiet=args.quiet).say))
    if args.dry_run:
        print_plan(run, data, device)
    else:
        check(run, data, device, args.out)


def trained(args: Train, device: torch.device) -> int:
    """Train, alone or as one of several processes; what to exit with."""
    try:
        with peers_of(device) as peers:
            quiet = args.quiet or peers.rank > 0
            run, data = plan(args, reading(Reporter(quiet=quiet).say))
            peers.rows(run.train.batch)  # refuses fewer images than processes
            trainer = Trainer(run, data, device, args.quiet)
            trainer.peers = peers
            if isinstance(peers, Group) and peers.rank:
                trainer.follow(peers)
            else:
                old = resume_folder(args, run.name) if args.resume else None
                folder, finished = trainer.start(old, args.out)
                if finished:
                    look_back(folder, device, args.quiet)
    except LostPeerError as error:
        print(f"sfumato: {error}", file=sys.stderr)
        return GONE
    except ToldError as error:
        return NOT_FINITE if isinstance(error.__cause__, FloatingPointError) else 1
    return trainer.code


def look_back(folder: Path, device: torch.device, quiet: bool) -> None:
    """Of a run that has ended: its film, on its page as well, and the doctor's verdict."""
    seconds = max((row.get("seconds", 0.0) for row in read_metrics(folder)), default=0.0)
    with Reporter(folder / "log.txt", quiet=quiet) as reporter:
        if seconds >= WORTH_A_FILM and draws(read_object(folder / "run.json")):
            reporter.say("filming how noise becomes images ...")
            film_of_run(folder, device)
            write_page(folder)
        reporter.say(words_on_run(folder))


def after_restart(args: Train, count: str) -> Train:
    """The words as meant where torchrun starts them again, `count` times: go on with the run.

    Raises: UsageError where they do not say in which folder it is.
    """
    if count == "0" or args.resume:
        return args
    if args.out is None:
        raise UsageError("torchrun started this again: add --out, so that it finds the run.")
    return replace(args, resume=(args.out / "run.json").is_file())


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
    bare = replace(data, images=data.images[:, :0])  # labels decide; of a part images are copies
    if lost := lost_classes(run, splits_of(run.data, bare)):
        reporter.warn(lost)
