"""Going on exactly where a run stopped: R1, R2, R4, R5, R6, R7, R8."""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from sfumato import checkpoint
from sfumato.assembly import batches, build, loss_of, settle
from sfumato.config import Run
from sfumato.data import ImageData
from sfumato.prefetching import prefetched
from sfumato.recipes import RECIPES
from sfumato.training import TrainConfig, TrainState, train

from .drill import Count, Drill
from .nursery import forked

CPU = torch.device("cpu")
STEPS = 20  # two epochs of ten batches
SETTINGS = {  # the grid: every combination is a run of its own
    "micro_batch": (None, 5),
    "precision": ("fp32", "bf16"),
    "ema_length": (0.02, 0.1),
    "flip": (False, True),
    "label_dropout": (0.0, 0.3),
}


class Quiet:
    """Hooks that stop after a step and note what is logged, and the clock."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.step = stop_at, 0
        self.rows: dict[int, dict[str, float]] = {}
        self.clock: list[float] = []

    def log(self, state: TrainState, scalars: dict[str, float]) -> None:
        self.step = state.step
        self.rows[state.step] = scalars
        self.clock.append(state.seconds)

    def stopped(self) -> bool:
        return self.stop_at is not None and self.step >= self.stop_at

    def preview(self, state: TrainState) -> None: ...

    def save(self, state: TrainState) -> None: ...

    def skipped(self, state: TrainState, reason: str) -> None:
        raise AssertionError(reason)

    def smaller(self, state: TrainState, micro_batch: int) -> None:
        raise AssertionError("memory is short")


class Looking(Quiet):
    """Draws numbers and changes modes where a preview is due, as a careless one would."""

    def preview(self, state: TrainState) -> None:
        torch.rand(7)
        torch.manual_seed(99)
        random.random()
        state.model.eval()
        state.average.train()
        with torch.no_grad():
            state.average.network(torch.randn(2, 1, 8, 8), torch.zeros(2))  # type: ignore[operator]


def images(count: int = 120) -> ImageData:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageData(pixels, torch.arange(count) % 3, tuple("abc"), "tiny", "a drill")


def run_with(**chosen: Any) -> Run:
    """The digits recipe with a network of some thousand weights and these settings."""
    recipe = RECIPES["digits"]()
    network = replace(
        recipe.network,
        channels=8,
        multipliers=(1,),
        blocks=1,
        attention_at=(),
        middle_attention=False,
        groups=4,
        dropout=0.1,
    )
    data = {name: chosen.pop(name) for name in ("flip", "label_dropout") if name in chosen}
    precision = chosen.pop("precision", "fp32")
    wanted = {"seconds": None, "steps": STEPS, "batch": 12, "warmup_steps": 4, **chosen}
    return settle(
        replace(
            recipe,
            data=replace(recipe.data, held_out=0, **data),
            network=network,
            train=replace(recipe.train, **wanted),
            precision=precision,
        ),
        images(),
    )


def trained(
    run: Run,
    hooks: Quiet,
    state: TrainState | None = None,
    config: TrainConfig | None = None,
    ahead: bool = False,
) -> TrainState:
    """ahead: with the next batch made in a thread, as beside a GPU."""
    state = TrainState.fresh(build(run, CPU), run.train) if state is None else state
    source = prefetched if ahead else nullcontext
    with source(batches(run, images(), CPU)) as batch_at:
        train(state, loss_of(run), batch_at, config or run.train, hooks)
    return state


def through_files(run: Run, state: TrainState) -> TrainState:
    """The state as another process would find it."""
    again = TrainState.fresh(build(run, CPU), run.train)
    checkpoint.restore(again, checkpoint.files_of(state))
    return again


def contents(state: TrainState) -> dict[str, bytes]:
    """All that training goes on with, but for the clock."""
    files = checkpoint.files_of(state)
    scalars = json.loads(files["state.json"])
    return {**files, "state.json": json.dumps({**scalars, "seconds": 0}).encode()}


def grid() -> Iterator[dict[str, Any]]:
    for values in itertools.product(*SETTINGS.values()):
        yield dict(zip(SETTINGS, values))


# --- the drills


def r1(short: bool) -> Count:
    """Stopped at a step and gone on with: the same weights, moments, averages and losses."""
    chosen = list(grid())[:: 11 if short else 1]
    tried = held = 0
    for number, settings in enumerate(chosen):
        ahead = bool(number.bit_count() % 2)  # as often with each setting as without
        run, whole = run_with(**settings), Quiet()
        wanted = contents(trained(run, whole))
        # a quarter of the stops is left out, another quarter for the next settings
        stops = (1, 9, 10) if short else [n for n in range(STEPS + 1) if (n + number) % 4]
        for stop in stops:
            first, second = Quiet(stop), Quiet()
            state = through_files(run, trained(run, first, ahead=ahead))
            same = contents(trained(run, second, state, ahead=ahead)) == wanted
            logged = {**first.rows, **second.rows} == whole.rows
            tried, held = tried + 1, held + (same and logged)
    return Count(tried, held, f"{len(chosen)} settings")


def r2(short: bool) -> Count:
    """Stopped again and again, within an epoch, across epochs and after the end."""
    dice, chains = random.Random(2), 3 if short else 100
    run, whole = run_with(micro_batch=5, flip=True, label_dropout=0.3), Quiet()
    wanted, held = contents(trained(run, whole)), 0
    for number in range(chains):
        within = range(11, 20) if number % 2 else range(1, STEPS)
        state, rows = None, {}
        for stop in [*sorted(dice.sample(within, 5)), STEPS, STEPS]:
            hooks = Quiet(stop)
            state = through_files(run, trained(run, hooks, state))
            rows |= hooks.rows
        held += contents(state) == wanted and rows == whole.rows  # type: ignore[arg-type]
    return Count(chains, held, "7 stops each")


def r4(short: bool) -> Count:
    """Each entry of a checkpoint deleted in turn: an error that names it, and nothing made up."""
    run = run_with()
    files = checkpoint.files_of(trained(run, Quiet(3)))
    saved, all_of = json.loads(files["state.json"]), {field.name for field in fields(TrainState)}
    tried, held = 1, int(all_of - {"model", "average", "optimizer"} <= saved.keys())
    for damaged, name in _without_each(files, every=5 if short else 1):
        tried += 1
        try:
            checkpoint.restore(TrainState.fresh(build(run, CPU), run.train), damaged)
        except ValueError as error:
            held += name in str(error)
    return Count(tried, held, "files, scalars, weights, averages and moments")


def _without_each(files: dict[str, bytes], every: int) -> Iterator[tuple[dict[str, bytes], str]]:
    """(a checkpoint without one entry, its name): every file, scalar, and `every`-th tensor."""
    for name in files:
        yield {key: value for key, value in files.items() if key != name}, name
    scalars = json.loads(files["state.json"])
    for name in scalars:
        left = {key: value for key, value in scalars.items() if key != name}
        yield {**files, "state.json": json.dumps(left).encode()}, name
    for file in ("weights.safetensors", "average.safetensors", "optimizer.safetensors"):
        tensors: dict[str, Tensor] = load(files[file])
        for name in list(tensors)[::every]:
            left = {key: value for key, value in tensors.items() if key != name}
            yield {**files, file: save(left)}, name


def r5(short: bool) -> Count:
    """Previews that draw random numbers and change modes leave training as it was."""
    tried = held = 0
    for settings in list(grid())[:: 11 if short else 3]:
        run = run_with(**settings)
        config = replace(run.train, previews=STEPS)
        wanted = contents(trained(run, Quiet()))
        found = contents(trained(run, Looking(), config=config))
        for files in (wanted, found):
            scalars = json.loads(files["state.json"])
            files["state.json"] = json.dumps({**scalars, "previews": 0}).encode()
        tried, held = tried + 1, held + (found == wanted)
    return Count(tried, held, f"{STEPS} previews each")


def r6(short: bool) -> Count:
    """Step, images and rate go on without a gap or a repeat, and the clock never goes back."""
    held, rounds = 0, 2 if short else 10
    run, whole = run_with(micro_batch=5), Quiet()
    trained(run, whole)
    for number in range(rounds):
        state, steps, rows, clock = None, [], {}, [0.0]
        for stop in (3 + number, 9 + number, STEPS):
            hooks = Quiet(stop)
            state = through_files(run, trained(run, hooks, state))
            steps += list(hooks.rows)
            rows |= hooks.rows
            clock += [*hooks.clock, state.seconds]
        counted = steps == list(range(1, STEPS + 1)) and rows == whole.rows
        held += counted and clock == sorted(clock) and state.step == STEPS  # type: ignore[union-attr]
    return Count(rounds, held, "three parts each")


def r7(short: bool) -> Count:
    """The same command twice gives the same bits; elsewhere it is said what is not as it was."""
    tried = held = 0
    for settings in list(grid())[:: 11 if short else 3]:
        run = run_with(**settings)
        first, second = (contents(trained(run, Quiet())) for _ in range(2))
        tried, held = tried + 2, held + (first == second) + _again_elsewhere(settings)
    told = [word in _told_of(word) for word in ("PyTorch", "device", "threads", "processes")]
    return Count(tried + 5, held + sum(told) + (_told_of("") == ""))


def _again_elsewhere(settings: dict[str, Any]) -> bool:
    """The same in another process, where Python's own hashes are others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the nursery has
    try:
        return digest(settings) == forked("resuming:digest", settings)
    finally:
        torch.set_num_threads(threads)


def digest(settings: dict[str, Any]) -> str:
    """The SHA-256 of all that a run of these settings ends with."""
    found = contents(trained(run_with(**settings), Quiet()))
    whole = b"".join(found[name] for name in sorted(found))
    return hashlib.sha256(whole).hexdigest()


def _told_of(changed: str) -> str:
    """What is said of a checkpoint that was written where `changed` was another."""
    scalars = checkpoint.scalars_of(trained(run_with(steps=1), Quiet()))
    scalars["circumstances"].update({changed: "another"} if changed else {})
    return checkpoint.changed_circumstances({"state.json": json.dumps(scalars).encode()}, CPU)


def r8(short: bool) -> Count:
    """Going on with other settings is refused by their names, but for those that may change."""
    from sfumato.planning import FREE_TO_CHANGE, check_same, fields_of, with_settings

    run = run_with()
    changes = {
        "train.batch": "6",
        "train.lr": "0.5",
        "train.seed": "4",
        "train.weight_decay": "0.5",
        "train.ema_length": "0.05",
        "network.channels": "16",
        "network.blocks": "2",
        "data.flip": "true",
        "data.label_dropout": "0.5",
        "data.limit": "50",
    }
    tried = held = 0
    for name, value in changes.items():
        tried += 1
        try:
            check_same(run, with_settings(run, [f"{name}={value}"]))
        except ValueError as error:
            held += name in str(error)
    free = {"train.steps": "40", "train.keep": "5", "train.save_every_steps": "3"}
    for name, value in free.items():
        tried += 1
        changed = check_same(run, with_settings(run, [f"{name}={value}"]))
        held += fields_of(changed)[name] == value and name in FREE_TO_CHANGE
    with TemporaryDirectory() as folder:
        tried += 1
        held += _empty_is_refused(Path(folder))
    return Count(tried, held, f"{len(changes)} refused, {len(free)} allowed, and an empty folder")


def _empty_is_refused(folder: Path) -> bool:
    from sfumato.arguments import Train
    from sfumato.planning import resume_folder

    try:
        resume_folder(Train(source="digits", resume=True, out=folder), "digits", folder)
    except (ValueError, FileNotFoundError):
        return True
    return False


DRILLS: dict[str, Drill] = {
    **{"R1": r1, "R2": r2, "R4": r4, "R5": r5, "R6": r6, "R7": r7, "R8": r8},
}
