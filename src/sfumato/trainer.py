"""From a plan to a folder with a trained model in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from . import checkpoint
from .assembly import lost_classes, splits_of
from .config import AnyRun
from .console import Reporter, count, duration
from .data import ImageData, fingerprint
from .data.changes import changes, index, index_text, read_index
from .data.quarantine import as_text
from .devices import SLOW_BF16, precision_here
from .distributed import Follower, Group, Training
from .doctor.before import warn_before
from .doctor.record import look_and_leave
from .folder import (
    DataCard,
    append_metrics,
    has_row,
    new_folder,
    read_card,
    read_metrics,
    rewind_metrics,
    write_card,
)
from .joining import join
from .kinds import dumps, read_run
from .locking import sole_writer
from .peers import Peers
from .pictures import data_preview, save_png
from .planning import check_same
from .prefetching import source_for
from .preflight import check_disk, forecast, rehearse, settle_memory
from .recipes.own_images import reasons
from .results import version
from .session import Session, steps_of
from .shards import in_shards, read_checked
from .stopping import StopRequest
from .storage import clear_unfinished, write_file
from .tasks import TASKS, Parts, Task, settle_precision, task_of
from .training import ALONE, Hooks, TrainState, losses_of, train
from .training_film import training_film

LEFT = {".lock", "log.txt"}  # of a start that failed before it was a run


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
Say = Callable[[str], None]
FEW_IMAGES = 100


class Trainer:
    """One run of `sfumato train`, new or resumed."""

    def __init__(self, run: AnyRun, data: ImageData, device: torch.device, quiet: bool) -> None:
        self.run, self.device, self.quiet = run, device, quiet
        self.peers: Peers = ALONE
        self.budget = run.train  # what the forecast is for
        self.code = 0  # to exit with: of the signal that ended training, if one did
        self.trial = False  # of --check: quick pictures, and no word of where they are
        self.pointers = True  # at the end say where the pictures are; the demo has its own words
        self.data = data
        self.splits = splits_of(run.data, data)

    def start(self, resume: Path | None, out: Path | None) -> tuple[Path, bool]:
        """Train until the budget is spent or Ctrl-C; (the run's folder, whether it was spent)."""
        folder = resume or self._new_folder(out)
        with sole_writer(folder), Reporter(folder / "log.txt", self.quiet) as reporter:
            stop = StopRequest()
            state, session, saved = self._prepare(folder, resume is not None, reporter, stop)
            before = state.step
            with stop.listening():
                self._tell_peers(folder, saved)
                try:
                    state = self._loop(state, session.task, session, folder, reporter.warn)
                finally:
                    session.saver.close()
                self.code = self.peers.most(stop.code)
            spent = self.run.train.progress(state.step, state.seconds) >= 1
            finished = spent and not self.code  # whoever asked to stop does not wait for pictures
            self._finish(state, session, finished, already=finished and state.step == before > 0)
        return folder, finished

    def _tell_peers(self, folder: Path, saved: Path | None) -> None:
        if isinstance(self.peers, Group):
            where = str(saved.resolve()) if saved is not None else None
            self.peers.tell({"folder": str(folder.resolve()), "checkpoint": where})

    def follow(self, group: Group) -> None:
        """Train as one of the other processes, in the folder that process 0 has made.

        Raises: ValueError where this process does not have its images, FileNotFoundError where it
        does not see its folder.
        """
        told = group.told()
        folder = Path(told["folder"])
        if not (folder / "run.json").is_file():
            raise FileNotFoundError(
                f"process {group.rank} does not see {folder}, which process 0 has made: all the "
                "machines of a run need a disk in common, under the same path."
            )
        self._check_data(folder, self._card())
        self.run, stop = read_run(folder), StopRequest()
        task = self._task(folder, say=lambda text: None)
        state = TrainState.fresh(task.build(), self.run.train)
        saved = Path(told["checkpoint"]) if told["checkpoint"] else None
        if saved is not None:
            self._take(saved, self._reader()(saved), state)
        if self.run.train.compiled:
            state.model.compile()
        with stop.listening():
            self._loop(state, task, Follower(stop), folder, warn=lambda text: None)
            self.code = group.most(stop.code)

    def _new_folder(self, out: Path | None) -> Path:
        if out is None:
            return new_folder(Path("runs"), self.run.name)
        if out.is_dir() and {path.name for path in out.iterdir()} <= LEFT:
            return out
        if out.exists():
            raise ValueError(
                f"--out {out} is there already, and no run is ever overwritten. Choose another "
                "name, or add --resume to go on with the run in it."
            )
        return new_folder(out.parent, out.name)

    def _prepare(
        self, folder: Path, resumed: bool, reporter: Reporter, stop: StopRequest
    ) -> tuple[TrainState, Session, Path | None]:
        card = self._card()
        task = self._task(folder, reporter.say)
        if resumed:
            self._check_data(folder, card)
            saved = read_run(folder)
            precision = saved.precision if self.run.precision == "auto" else self.run.precision
            self.run = check_same(saved, replace(self.run, precision=precision))
            if precision != saved.precision:
                reporter.warn(f"in {saved.precision} until now, in {precision} from here on")
            if precision_here(precision, self.device) != precision:
                reporter.warn(f"{SLOW_BF16}: `sfumato train {folder} --precision fp32` goes on so")
        else:
            precision, reason = settle_precision(task)
            self.run = replace(self.run, precision=precision)
        task = replace(task, run=self.run)  # type: ignore[type-var]
        at_start = checkpoint.folders(folder) == [checkpoint.folder_of(folder, 0)]  # distilled
        self._tell(folder, resumed and not at_start, reporter)
        if not resumed:
            reporter.say(f"  precision  {reason}")
            task = self._rehearse(task, folder, reporter)
        write_card(folder, card)
        if not resumed:
            list_files(folder, self.data)
        write_file(folder / "run.json", dumps(self.run).encode())  # last: it makes a folder a run
        state, saved = TrainState.fresh(task.build(), self.run.train), None
        if resumed:
            saved = self._restore(folder, state, reporter)
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
        session = Session(task, folder, card.name, held, self.device, reporter, stop)
        return state, session, saved

    def _tell(self, folder: Path, resumed: bool, reporter: Reporter) -> None:
        """The block that stands above the progress, and a word where images are few or none."""
        told = {**facts(self.run, self.data, self.device, folder), "split": self._split_words()}
        told["program"] = version()
        if self.peers.size > 1:
            way = "FSDP2" if self.run.train.fsdp else "DDP"
            told["processes"] = f"{self.peers.size}, by {way}, which share the batch"
        reporter.header(f"{'going on with' if resumed else 'training'} {self.run.name}", told)
        if len(self.splits.train) < FEW_IMAGES:
            reporter.warn(
                f"{len(self.splits.train)} images are few: the network will learn them by heart."
            )
        if lost := lost_classes(self.run, self.splits):
            reporter.warn(lost)

    def _rehearse(self, task: Task, folder: Path, reporter: Reporter) -> Task:
        """Time, memory and disk, told before they are spent; the task with what fits."""
        each = -(-self.run.train.batch // self.peers.size)  # images of a step, a process
        train = replace(self.run.train, batch=each)
        own = replace(task, run=replace(self.run, train=train))  # type: ignore[type-var]
        trial = rehearse(own)
        micro = settle_memory(own, trial, reporter.say)
        self.run = replace(self.run, train=replace(self.run.train, micro_batch=micro))
        room = check_disk(folder, trial.weights, self.run.train.keep)
        ahead = forecast(self.budget, trial.step_seconds, steps_of(self.budget))
        reporter.say(f"  forecast   {ahead}; {room}")
        warn_before(self.run, self.data, trial.step_seconds, self.device, folder, reporter.warn)
        return replace(task, run=self.run)  # type: ignore[type-var]

    def _task(self, folder: Path, say: Say) -> Task:
        return task_of(self.run, self._parts(folder, say))

    def _parts(self, folder: Path, say: Say) -> Parts:
        train_data, held = self.splits.train, self.splits.held_out
        return Parts(folder, self._card(), train_data, held, self.device, say)

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

    def _restore(self, folder: Path, state: TrainState, reporter: Reporter) -> Path | None:
        """Take the newest checkpoint; None where there is none.

        Of one in shards only the numbers are, where FSDP2 goes on with it: see sharding.joined.
        """
        if (folder / "checkpoints").exists():
            clear_unfinished(folder / "checkpoints")
        found = checkpoint.newest(folder, reporter.warn, read=self._reader())
        if found is None:
            reporter.warn("no checkpoint was saved before the stop; the run begins at step 0.")
            rewind_metrics(folder, 0)
            return None
        path, files = found
        self._take(path, files, state)
        rewind_metrics(folder, state.step)
        reporter.say(f"  goes on at step {state.step:,} of {path.name}")
        if changed := checkpoint.changed_circumstances(files, self.device):
            reporter.warn(f"equal to rounding from here on, not bit for bit: {changed}.")
        return path

    def _reader(self) -> Callable[[Path], dict[str, bytes]]:
        return read_checked if self.run.train.fsdp else checkpoint.read

    def _take(self, path: Path, files: dict[str, bytes], state: TrainState) -> None:
        if in_shards(path) and self.run.train.fsdp:
            checkpoint.take_scalars(state, checkpoint.scalars_in(files))
        else:
            checkpoint.restore(state, files)

    def _loop(
        self, state: TrainState, task: Task, hooks: Hooks, folder: Path, warn: Say
    ) -> TrainState:
        """Train; the state to look at afterwards, which process 0 has whole."""
        config = self.run.train
        joined = join(self.peers, Training(state, task.loss, hooks, config, folder, warn))
        with source_for(self.device, task.batches()) as batch_at:
            told, peers = task.remember, self.peers
            train(state, joined.loss, batch_at, config, joined.hooks, remember=told, peers=peers)
        return joined.viewed(state)

    def _test(self, state: TrainState, session: Session) -> None:
        """The loss of the averaged weights on the images that were kept apart."""
        if self.splits.test is None:
            return
        parts = replace(
            self._parts(session.folder, session.reporter.say), held_out=self.splits.test
        )
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
        self._last_look(state, session)
        held = [row for row in read_metrics(folder) if row["kind"] == "held_out"]
        best = f", held-out loss {held[-1]['ema']:.4f}" if held else ""
        say(f"Done: {state.step:,} steps in {duration(state.seconds)}{best}.")
        words = [
            f"Pictures: {folder / 'samples.png'} and {folder / 'loss.png'};",
            f"everything on one page: {folder / 'index.html'}",
            *session.task.finish(state),
        ]
        for line in words if self.pointers and not self.trial else ():
            say(line)

    def _last_look(self, state: TrainState, session: Session) -> None:
        """samples.png, the loss on the test images, loss.png, doctor.json and the page."""
        session.reporter.say("drawing the last samples ...")
        shown = session.task.show(state.average, quick=self.trial)
        if shown is not None:
            session.save_grid(state, shown, session.folder / "samples.png")
        if not has_row(session.folder, "test", state.step):  # an end that was cut short has none
            self._test(state, session)
        session.draw_losses(state)
        self._film(session)
        if not self.trial:
            look_and_leave(session.folder, self.data, self.device, session.reporter.warn)
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
    from .page import write_page

    write_page(folder)
