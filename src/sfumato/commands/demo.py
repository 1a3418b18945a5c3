"""sfumato demo: digits, drawn by a model that was trained just now."""

from ..arguments import Demo, Train
from ..console import Reporter
from ..devices import pick_device
from ..doctor.record import words_on_run
from ..folder import read_metrics
from ..page import write_page
from ..planning import plan
from ..trainer import Trainer
from ..wrapping import wrapped
from .sample import film_of_run

ENOUGH_STEPS = 300  # a classifier reads 94 of 100 as they were asked for; at 470, 98


def run_demo(args: Demo) -> None:
    """Train the digits recipe for args.time, by Muon, then draw the grid, the film and the page."""
    train = Train(
        source="digits",
        name="demo",
        time=args.time,
        seed=args.seed,
        device=args.device,
        settings=("train.muon=true",),  # legible in half of AdamW's steps
    )
    run, data = plan(train)
    device = pick_device(args.device)
    trainer = Trainer(run, data, device, args.quiet)
    trainer.pointers = False
    folder, finished = trainer.start(None, args.out)
    if not finished:
        return
    with Reporter(folder / "log.txt", quiet=args.quiet) as reporter:
        reporter.say("filming how noise becomes images ...")
        film_of_run(folder, device)
        write_page(folder)
        step = read_metrics(folder)[-1]["step"]
        if step < ENOUGH_STEPS:
            early = f"These are early drawings, after {step:,} steps. On a slow or busy machine"
            reporter.say(wrapped(f"{early} give it more time: `sfumato demo --time 10m`"))
        reporter.say(
            f"Look at {folder / 'samples.png'}: ten rows, a digit a row, none of them real."
        )
        reporter.say(f"The film of how they came out of noise: {folder / 'film.webp'}")
        reporter.say(f"Everything on one page: {folder / 'index.html'}")
        reporter.say(words_on_run(folder))
        reporter.say(f"Next: `sfumato sample {folder}` draws more of them.")
