"""sfumato train: from a plan to a folder with a trained model in it."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .. import checkpoint
from ..arguments import Train
from ..assembly import splits_of
from ..config import AnyRun, dumps, read_run
from ..console import Reporter, count, duration, reading
from ..data import ImageData, fingerprint
from ..data.changes import changes, index, index_text, read_index
from ..data.quarantine import as_text
from ..devices import pick_device
from ..folder import (
    DataCard,
    append_metrics,
    find,
    new_folder,
    read_card,
    read_metrics,
    rewind_metrics,
    write_card,
)
from ..locking import sole_writer
from ..pictures import data_preview, save_png
from ..planning import check_same, fields_of, plan, resume_folder
from ..prefetching import prefetched
from ..preflight import check_disk, forecast, rehearse, settle_memory
from ..recipes.own_images import reasons
from ..session import Session, steps_of
from ..stopping import StopRequest
from ..storage import clear_unfinished, write_file
from ..tasks import TASKS, Parts, Task, settle_precision, task_of
from ..training import TrainState, losses_of, train
from ..training_film import training_film


def run_train(args: Train) -> None:
    """Plan, then print the plan, or train a new run, or go on with an old one."""
    if args.source == "last" or (args.resume and not (args.source or args.out or args.config)):
        args = replace(args, source=str(find("last")))
    if (Path(args.source) / "run.json").is_file():
        args = replace(
            args, config=Path(args.source) / "run.json", resume=True, out=Path(args.source)
        )
        args = replace(args, source="")
    device = pick_device(args.device)
    run, data = plan(args, reading(Reporter(quiet=args.quiet).say))
    if args.dry_run:
        print_plan(run, data, device)
        return
    if args.check:
        check(run, data, device, args.out)
        return
    folder = resume_folder(args, run.name) if args.resume else None
    trainer = Trainer(run, data, device, args.quiet)
    trainer.start(folder, args.out)
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


def budget_words(run: AnyRun) -> str:
    """The budget as people say it."""
    train = run.train
    parts = []
    if train.steps is not None:
        parts.append(f"{count(train.steps)} steps")
    if train.images is not None:
        parts.append(f"{count(train.images)} images")
    if train.epochs is not None:
        parts.append(f"{train.epochs:g} epochs")
    if train.seconds is not None:
        parts.append(duration(train.seconds))
    return " or ".join(parts)


def facts(
    run: AnyRun, data: ImageData, device: torch.device, folder: Path | None
) -> dict[str, str]:
    """The block that is printed before training."""
    micro = run.train.micro_batch or run.train.batch
    parts = -(-run.train.batch // micro)
    described = {
        "device": f"{device}, {torch.get_num_threads()} threads"
        if device.type == "cpu"
        else f"{device}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else ''}",
        "data": data.describe(),
        **TASKS[type(run)].facts(run, data),
        **reasons(run, data, device),
        "plan": f"{budget_words(run)}, batch {run.train.batch}"
        + (f" in {parts} parts" if parts > 1 else "")
        + f", lr {run.train.lr:g}, seed {run.train.seed}",
    }
    if folder is not None:
        described["folder"] = str(folder)
    return described


def list_files(folder: Path, data: ImageData) -> None:
    """files.txt, a digest of every image by its name; quarantine.txt, what could not be read."""
    digests = index(data)
    if digests is not None:
        write_file(folder / FILES, index_text(digests).encode())
    if data.unreadable:
        write_file(folder / "quarantine.txt", as_text(data.unreadable).encode())


def changed_files(folder: Path, data: ImageData) -> str:
    """A sentence on the files that were added, removed or changed; empty where none is known."""
    digests = index(data)
    if digests is None or not (folder / FILES).exists():
        return ""
    return f"{changes(read_index((folder / FILES).read_text('utf-8')), digests)}. "


FILES = "files.txt"
FEW_IMAGES = 100


class Trainer:
    """One run of `sfumato train`, new or resumed."""

    def __init__(self, run: AnyRun, data: ImageData, device: torch.device, quiet: bool) -> None:
        self.run, self.device, self.quiet = run, device, quiet
        self.budget = run.train  # what the forecast is for
        self.code = 0  # to exit with: of the signal that ended training, if one did
        self.trial = False  # of --check: quick pictures, and no word of where they are
        self.data = data
        self.splits = splits_of(run.data, data)

    def start(self, resume: Path | None, out: Path | None) -> tuple[Path, bool]:
        """Train until the budget is spent or Ctrl-C; (the run's folder, whether it was spent)."""
        folder = resume or self._new_folder(out)
        with sole_writer(folder), Reporter(folder / "log.txt", self.quiet) as reporter:
            stop = StopRequest()
            state, session = self._prepare(folder, resume is not None, reporter, stop)
            before = state.step
            with stop.listening():
                try:
                    self._loop(state, session)
                finally:
                    session.saver.close()
            self.code = stop.code
            finished = self.run.train.progress(state.step, state.seconds) >= 1
            self._finish(state, session, finished, already=finished and state.step == before > 0)
        return folder, finished

    def _new_folder(self, out: Path | None) -> Path:
        if out is None:
            return new_folder(Path("runs"), self.run.name)
        if out.exists():
            raise ValueError(
                f"--out {out} is there already, and no run is ever overwritten. Choose another "
                "name, or add --resume to go on with the run in it."
            )
        return new_folder(out.parent, out.name)

    def _prepare(
        self, folder: Path, resumed: bool, reporter: Reporter, stop: StopRequest
    ) -> tuple[TrainState, Session]:
        card = self._card()
        task = self._task(folder, reporter)
        if resumed:
            self._check_data(folder, card)
            saved = read_run(folder)
            precision = saved.precision if self.run.precision == "auto" else self.run.precision
            self.run = check_same(saved, replace(self.run, precision=precision))
        else:
            precision, reason = settle_precision(task)
            self.run = replace(self.run, precision=precision)
        task = replace(task, run=self.run)  # type: ignore[type-var]
        self._tell(folder, resumed, reporter)
        if not resumed:
            reporter.say(f"  precision  {reason}")
            task = self._rehearse(task, folder, reporter)
        write_card(folder, card)
        if not resumed:
            list_files(folder, self.data)
        write_file(folder / "run.json", dumps(self.run).encode())  # last: it makes a folder a run
        state = TrainState.fresh(task.build(), self.run.train)
        if resumed:
            self._restore(folder, state, reporter)
        else:
            picture = data_preview(
                self.splits.train.images, card.class_names, self.splits.train.labels
            )
            save_png(
                picture, folder / "data-preview.png", {"made_by": "sfumato train", **vars(card)}
            )
        if self.run.train.compiled:
            state.model.compile()  # in place, so that the saved names stay as they are
        held = task.held_out_batch()
        return state, Session(task, folder, card.name, held, self.device, reporter, stop)

    def _tell(self, folder: Path, resumed: bool, reporter: Reporter) -> None:
        """The block that stands above the progress, and a word where the images are few."""
        reporter.header(
            f"{'going on with' if resumed else 'training'} {self.run.name}",
            {**facts(self.run, self.data, self.device, folder), "split": self._split_words()},
        )
        if len(self.splits.train) < FEW_IMAGES:
            reporter.warn(
                f"{len(self.splits.train)} images are few: the network will learn them by heart."
            )

    def _rehearse(self, task: Task, folder: Path, reporter: Reporter) -> Task:
        """Time, memory and disk, told before they are spent; the task with what fits."""
        trial = rehearse(task)
        micro = settle_memory(task, trial, reporter.say)
        self.run = replace(self.run, train=replace(self.run.train, micro_batch=micro))
        room = check_disk(folder, trial.weights, self.run.train.keep)
        ahead = forecast(self.budget, trial.step_seconds, steps_of(self.budget))
        reporter.say(f"  forecast   {ahead}; {room}")
        return replace(task, run=self.run)  # type: ignore[type-var]

    def _task(self, folder: Path, reporter: Reporter) -> Task:
        return task_of(self.run, self._parts(folder, reporter))

    def _parts(self, folder: Path, reporter: Reporter) -> Parts:
        train_data, held = self.splits.train, self.splits.held_out
        return Parts(folder, self._card(), train_data, held, self.device, reporter.say)

    def _split_words(self) -> str:
        held, test = (0 if d is None else len(d) for d in (self.splits.held_out, self.splits.test))
        words = f"{count(len(self.splits.train))} images to train on, {count(held)} held out"
        return f"{words}, {count(test)} kept for a test at the end" if test else words

    def _card(self) -> DataCard:
        data = self.data
        return DataCard(
            name=data.name,
            source=data.source,
            fingerprint=fingerprint(data),
            images=len(data),
            channels=data.channels,
            size=data.size,
            class_names=data.class_names,
        )

    def _check_data(self, folder: Path, card: DataCard) -> None:
        before = read_card(folder)
        if before.fingerprint != card.fingerprint:
            raise ValueError(
                f"the images are not those that the run began with: it had {before.images:,} of "
                f"{before.size}, now there are {card.images:,} of {card.size}, or their pixels or "
                f"labels changed. {changed_files(folder, self.data)}Bring the old ones back, or "
                "start a new run."
            )

    def _restore(self, folder: Path, state: TrainState, reporter: Reporter) -> None:
        if (folder / "checkpoints").exists():
            clear_unfinished(folder / "checkpoints")
        found = checkpoint.newest(folder, reporter.warn)
        if found is None:
            reporter.warn("no checkpoint was saved before the stop; the run begins at step 0.")
            rewind_metrics(folder, 0)
            return
        path, files = found
        checkpoint.restore(state, files)
        rewind_metrics(folder, state.step)
        reporter.say(f"  goes on at step {state.step:,} of {path.name}")

    def _loop(self, state: TrainState, session: Session) -> None:
        task, on_cpu = session.task, self.device.type == "cpu"
        source = nullcontext(task.batches()) if on_cpu else prefetched(task.batches())
        with source as batch_at:
            train(state, task.loss, batch_at, self.run.train, session, remember=task.remember)

    def _test(self, state: TrainState, session: Session) -> None:
        """The loss of the averaged weights on the images that were kept apart."""
        if self.splits.test is None:
            return
        parts = replace(self._parts(session.folder, session.reporter), held_out=self.splits.test)
        task = task_of(self.run, parts)
        batch = task.held_out_batch()
        assert batch is not None
        train_config = self.run.train
        most = train_config.micro_batch or train_config.batch
        loss = losses_of(state.average, task.loss, batch, most).mean().item()
        append_metrics(session.folder, {"kind": "test", "step": state.step, "ema": loss})
        session.reporter.say(f"test loss on {len(self.splits.test):,} images: {loss:.4f}")

    def _finish(self, state: TrainState, session: Session, finished: bool, already: bool) -> None:
        folder, say = session.folder, session.reporter.say
        session.reporter.end_progress()
        if already:
            say(
                f"The run had ended: {budget_words(self.run)} are spent. To train it longer give a "
                f"larger budget: sfumato train {folder} --steps {2 * state.step}"
            )
        if not finished:
            if not self.trial:
                say(f"Stopped and saved at step {state.step:,}. Go on with: sfumato train {folder}")
            return
        self._last_look(state, session, tested=already)
        held = [row for row in read_metrics(folder) if row["kind"] == "held_out"]
        best = f", held-out loss {held[-1]['ema']:.4f}" if held else ""
        say(f"Done: {state.step:,} steps in {duration(state.seconds)}{best}.")
        words = [
            f"Pictures: {folder / 'samples.png'} and {folder / 'loss.png'};",
            f"everything on one page: {folder / 'index.html'}",
            *session.task.finish(state),
        ]
        for line in () if self.trial else words:
            say(line)

    def _last_look(self, state: TrainState, session: Session, tested: bool) -> None:
        """samples.png, the loss on the test images, loss.png and the page."""
        shown = session.task.show(state.average, quick=self.trial)
        if shown is not None:
            session.save_grid(state, shown, session.folder / "samples.png")
        if not tested:
            self._test(state, session)
        session.draw_losses(state)
        self._film(session)
        _write_page(session.folder)

    def _film(self, session: Session) -> None:
        """training.webp: the grids of a run whose previews were asked for by epochs."""
        drawn = any((session.folder / "samples").glob("step-*.png"))
        if self.run.train.preview_epochs is None or not drawn:
            return
        film = training_film(session.folder)
        if not self.trial:
            session.reporter.say(f"Film of the training: {film}")


def _write_page(folder: Path) -> None:
    from ..page import write_page

    write_page(folder)
