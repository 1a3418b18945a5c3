"""Several processes: what each trains on, what they agree on, how a model is cut and saved.

Two real processes train in drills R3, D1, D2 and D5 (tests/test_drills.py); here one process is a
group of its own, or plays all of them in turn.
"""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from torch.distributed import HashStore

from sfumato import checkpoint, distributed, sharding, shards
from sfumato.bound import VariationalBound
from sfumato.data import generator_at, load
from sfumato.distributed import Group, Training, ended, not_come
from sfumato.heartbeats import ADVICE, LOST, Heartbeats
from sfumato.importance import ImportanceSampled
from sfumato.joining import join
from sfumato.peers import Alone, LostPeerError, ToldError
from sfumato.recipes import RECIPES
from sfumato.storage import DamagedError
from sfumato.tasks import TASKS, Parts, task_of
from sfumato.training import ALONE, TrainState, step_that_fits, take_step
from tiny import CPU, Hooks, fake_text, parts, pictures, run, small, train_in

SIZES = (1, 2, 3, 4, 7, 8)


# --- which rows are whose


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_one_process_s_whatever_the_batch(size):
    for n in range(size, 40):
        rows = [Group(HashStore(), rank, size).rows(n) for rank in range(size)]
        assert [row for part in rows for row in range(n)[part]] == list(range(n))
        assert max(part.stop - part.start for part in rows) == -(-n // size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [None, 1, 2, 3, 5])
def test_all_cut_their_rows_into_as_many_parts(size, most):
    """Else FSDP2 would wait for weights that nobody gathers."""
    for n in range(size, 40):
        cuts = [Group(HashStore(), rank, size).parts(n, most) for rank in range(size)]
        assert len({len(cut) for cut in cuts}) == 1
        assert [row for cut in cuts for part in cut for row in range(n)[part]] == list(range(n))
        sizes = [part.stop - part.start for cut in cuts for part in cut]
        assert min(sizes) > 0
        assert max(sizes) <= max(most or n, 2 if n % size else 1)


def test_one_alone_cuts_as_it_always_did():
    assert Alone().parts(12, 5) == [slice(0, 5), slice(5, 10), slice(10, 12)]
    assert Alone().parts(12, None) == [slice(0, 12)] == [Alone().rows(12)]


def test_fewer_images_than_processes_are_refused():
    with pytest.raises(ValueError, match=r"batch of 3 can't be shared by 4 processes.*--batch"):
        Group(HashStore(), 0, 4).rows(3)


# --- what they agree on


def test_what_each_process_adds_is_the_whole(monkeypatch):
    """Processes 0 to 2 in turn; their sum is taken here in place of all_reduce."""
    sent, losses = [], torch.rand(7)
    monkeypatch.setattr(dist, "all_reduce", lambda numbers: sent.append(numbers.clone()))
    for rank in range(3):
        group = Group(HashStore(), rank, 3)
        own = losses[group.rows(7)]
        group.whole(own.sum().item() / 7, own, 7)
    total = sum(sent)
    assert torch.equal(total[:7].float(), losses)
    assert total[7].item() == pytest.approx(losses.mean().item(), rel=1e-6)


@pytest.fixture(scope="module")
def group():
    """One process that is a group; never taken down, see distributed.KEPT."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    return Group(HashStore(), 0, 1)


def test_a_group_of_one_answers_as_one_alone(group):
    losses = torch.rand(5)
    total, found = group.whole(0.3, losses, 5)
    assert (total, group.lead(0.1), group.most(7)) == (0.3, 0.1, 7)
    assert torch.equal(found, losses)
    group.tell({"folder": "a", "checkpoint": None})
    assert group.told() == {"folder": "a", "checkpoint": None}


def test_process_0_has_the_dice_of_one_process_and_each_other_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sfumato.training.take_step", lambda *rest: seen.append(torch.initial_seed()) or {}
    )
    for peers in (ALONE, *(Group(HashStore(), rank, 3) for rank in range(3))):
        state, loss, batch_at, config = parts(run())
        step_that_fits(state, loss, batch_at, config, Hooks(), None, peers)
    assert seen[0] == seen[1] == generator_at(run().train.seed, "dropout", 0).initial_seed()
    assert len(set(seen)) == 3


# --- every kind of run, by DDP and by FSDP2


def in_pixels():
    return small(RECIPES["digits"]())


def by_dit():
    return small(RECIPES["dit_pixels"]())


def by_sd_unet():
    return small(RECIPES["label_tokens"]())


def of_captions():
    return small(RECIPES["emoji_text"]())


def with_importance():
    """Of two steps that remember one loss, so that the history is full, and used, in a step."""
    objective = ImportanceSampled(VariationalBound(steps=1000), steps=2, keep=1)
    return replace(small(RECIPES["improved_ddpm_vlb"]()), objective=objective)


def autoencoding():
    return small(RECIPES["autoencoder_f8"]())


def classifying():
    return small(RECIPES["noisy_classifier"]())


KINDS = [in_pixels, by_dit, by_sd_unet, of_captions, with_importance, autoencoding, classifying]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load(pictures(tmp_path_factory.mktemp("data")))


def task_for(kind, data, folder):
    config = TASKS[type(kind())].settled(kind(), data)
    return task_of(config, Parts(folder, None, data, None, CPU, lambda text: None))


def five_steps(task, peers, folder, fsdp=False):
    """(losses and gradients' norms of five steps, of which each shows the last; the weights)"""
    config = replace(task.run.train, fsdp=fsdp, micro_batch=3)  # of 6: the same parts for all
    state = TrainState.fresh(task.build(), config)
    joined = join(peers, Training(state, task.loss, Hooks(), config, folder, print))
    batch_at, told = task.batches(), []
    for step in range(5):
        torch.manual_seed(step)
        scalars = take_step(state, joined.loss, batch_at(step), config, task.remember, peers)
        told += [scalars["loss"], scalars["grad_norm"]]
    return told, joined.viewed(state).model.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_ddp_and_fsdp2_train_every_kind_of_run_as_one_process_does(
    kind, data, group, tmp_path, monkeypatch
):
    fake_text(monkeypatch)
    task = task_for(kind, data, tmp_path)
    wanted, weights = five_steps(task, ALONE, tmp_path)
    for fsdp in (False, True):
        found, others = five_steps(task, group, tmp_path, fsdp)
        assert found == pytest.approx(wanted, rel=1e-5)
        assert weights.keys() == others.keys()


def test_fsdp_alone_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"--fsdp.*torchrun --nproc-per-node"):
        train_in(tmp_path / "run", small(RECIPES["digits"](), fsdp=True), data)


# --- checkpoints in shards


def cut_run(group, folder, steps=2):
    """(a state cut by FSDP2 after some steps, its hooks, the plain state that it is)"""
    config = run(micro_batch=4)  # of 12: the same parts for all
    plain, loss, batch_at, settings = parts(config)
    settings = replace(settings, fsdp=True)
    state, told = parts(config)[0], []
    joined = join(group, Training(state, loss, Hooks(), settings, folder, told.append))
    for _ in range(steps):
        for each, by, peers in ((plain, loss, ALONE), (state, joined.loss, group)):
            torch.manual_seed(each.step)
            take_step(each, by, batch_at(each.step), settings, peers=peers)
    return state, joined, plain, told


def test_what_is_written_in_shards_is_read_as_one_process_writes_it(group, tmp_path):
    state, joined, plain, _ = cut_run(group, tmp_path)
    joined.hooks.save(state)
    path, files = checkpoint.newest(tmp_path)
    assert shards.in_shards(path)
    wanted = checkpoint.files_of(plain)
    assert json.loads(files["state.json"]) == {
        **json.loads(wanted["state.json"]),
        "seconds": 0.0,
    }
    for part in shards.PARTS:
        first, second = (tensors_of(all_[f"{part}.safetensors"]) for all_ in (wanted, files))
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_a_cut_state_that_is_read_again_is_the_same_bit_for_bit(group, tmp_path):
    state, joined, _, _ = cut_run(group, tmp_path)
    joined.hooks.save(state)
    again, loss, _, settings = parts(run())
    again.step = state.step  # as trainer._take leaves it
    cut = replace(settings, fsdp=True)
    join(group, Training(again, loss, Hooks(), cut, tmp_path, print))
    first, second = (sharding.tensors_of(each) for each in (state, again))
    assert first.keys() == second.keys()
    for name, value in first.items():
        pair = (
            getattr(tensor, "to_local", lambda t=tensor: t)() for tensor in (value, second[name])
        )
        assert torch.equal(*pair), name


def test_one_changed_byte_of_a_shard_is_found(group, tmp_path):
    state, joined, _, _ = cut_run(group, tmp_path)
    joined.hooks.save(state)
    folder = checkpoint.folders(tmp_path)[-1]
    assert set(shards.read_checked(folder)) == {"state.json"}
    shard = next(folder.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    for read in (shards.read_checked, checkpoint.read):
        with pytest.raises(DamagedError, match=shard.name):
            read(folder)


def test_a_save_that_the_disk_refuses_is_told_and_the_third_ends_the_run(
    group, tmp_path, monkeypatch
):
    state, joined, _, told = cut_run(group, tmp_path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharding.HuggingFaceStorageWriter, "write_data", full)
    joined.hooks.save(state)
    joined.hooks.save(state)
    assert [("No space left" in line, "2 of 3" in line) for line in told] == [
        (True, False),
        (True, True),
    ]
    assert not list((tmp_path / "checkpoints").iterdir())
    with pytest.raises(OSError, match=r"process 0 could not write its part.*No space left"):
        joined.viewed(state)
    with pytest.raises(OSError, match="3 saves in a row failed"):
        joined.hooks.save(state)
    monkeypatch.undo()
    joined.hooks.save(state)
    assert joined.viewed(state).step == state.step


def shard(pieces):
    """A file of {name: (first index in each dimension, piece)}, as DCP writes it."""
    places = {name: {"saved_offsets": list(at)} for name, (at, _) in pieces.items()}
    tensors = {name: piece.contiguous() for name, (_, piece) in pieces.items()}
    return save(tensors, metadata={"DCP_SHARDING_INFO": json.dumps(places)})


WEIGHT = torch.arange(12.0).view(4, 3)


def in_shards(*pieces):
    """A weight in shards from rows (begin, end), each at the place that is said."""
    return {
        f"shard-{number}.safetensors": shard({"weights.w": (at, WEIGHT[slice(*rows)])})
        for number, (rows, at) in enumerate(pieces)
    }


def test_pieces_make_up_the_tensor():
    files = in_shards(((0, 3), (0, 0)), ((3, 4), (3, 0)))
    found = shards.whole_files({**files, "state.json": b"{}"})
    assert torch.equal(tensors_of(found["weights.safetensors"])["w"], WEIGHT)
    assert found.keys() == {"state.json", *(f"{part}.safetensors" for part in shards.PARTS)}


def test_files_without_shards_stay_as_they_are():
    files = {"weights.safetensors": b"1", "state.json": b"2"}
    assert shards.whole_files(files) == files


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            dict(list(in_shards(((0, 2), (0, 0)), ((2, 4), (2, 0))).items())[1:]),
            "weights.w.*missing",
        ),
        (in_shards(((0, 3), (0, 0)), ((2, 4), (2, 0))), "weights.w.*overlap"),
        (in_shards(((0, 2), (0, 0)), ((2, 4), (1, 0))), "weights.w.*overlap"),
        (in_shards(((0, 2), (0, 0)), ((1, 2), (1, 0)), ((3, 4), (3, 0))), "weights.w.*over"),
        (in_shards(((0, 2), (0, 0)), ((2, 4), (2,))), "weights.w.*place"),
        (in_shards(((0, 2), (0, 0)), ((2, 4), (-2, 0))), "weights.w.*place"),
    ],
)
def test_pieces_that_do_not_fit_are_named(files, words):
    with pytest.raises(ValueError, match=words):
        shards.whole_files(files)


# --- signs of life


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def three():
    """The heartbeats of three processes and their clock."""
    store, clock = HashStore(), Clock()
    return [Heartbeats(store, rank, 3, clock) for rank in range(3)], clock


def all_beat(beats, number):
    for one in [*beats, *beats]:  # the second time all have spoken
        one.beat(number)


def test_a_silent_process_is_named(three):
    beats, clock = three
    all_beat(beats, 1)
    assert [one.verdict(8) for one in beats] == [""] * 3
    for clock.now in range(1, 10):
        for one in beats[::2]:
            one.beat(10 + clock.now)
    assert [one.silent(8) for one in beats[::2]] == [[1], [1]]
    wanted = f"process 1 of 0 to 2 gave no sign of life for 8 s. {ADVICE}"
    assert beats[0].verdict(8) == beats[2].verdict(8) == wanted
    assert beats[0].verdict(10) == ""


def test_one_that_has_ended_well_is_not_missed(three):
    beats, clock = three
    all_beat(beats, 1)
    beats[1].stop()
    for clock.now in range(100):
        beats[2].beat(clock.now + 2)
        beats[0].beat(clock.now + 2)
    assert beats[2].verdict(8) == beats[0].verdict(8) == ""


def test_why_one_ended_is_told_by_itself_and_process_0(three):
    beats, clock = three
    all_beat(beats, 1)
    beats[1].leave("the images differ")
    all_beat(beats[::2], 2)
    assert beats[0].verdict(60) == ""  # it may find the same by itself
    clock.now = 4
    all_beat(beats[::2], 3)
    assert beats[0].verdict(60) == "process 1 has ended: the images differ"
    assert beats[2].verdict(60) == "process 2 ends with process 1, which tells why."


def test_who_is_gone_is_told_by_all_in_the_words_of_the_first(three):
    beats, clock = three
    all_beat(beats, 1)
    beats[1].leave("process 2 is gone", LOST)
    beats[0].beat(2)
    clock.now = 4
    assert beats[0].verdict(60) == "process 2 is gone"


def test_a_meeting_point_that_is_gone_ends_the_run(three):
    beats, clock = three
    all_beat(beats, 1)
    clock.now = 9
    assert "process 0 of 0 to 2 is gone (silent for 8 s)" in beats[1].verdict(8)


def test_the_same_reason_in_all_processes_is_told_once(monkeypatch):
    monkeypatch.setattr("sfumato.heartbeats.time.sleep", lambda seconds: None)
    store, error = HashStore(), ValueError("no such recipe")
    first, second = (Heartbeats(store, rank, 2) for rank in range(2))
    assert ended(first, error) is error
    told = ended(second, ValueError("no such recipe"))
    assert isinstance(told, ToldError)


def test_an_error_that_comes_of_a_lost_process_names_it(monkeypatch):
    monkeypatch.setattr("sfumato.heartbeats.time.sleep", lambda seconds: None)
    store, clock = HashStore(), Clock()
    beats = [Heartbeats(store, rank, 2, clock) for rank in range(2)]
    all_beat(beats, 1)
    clock.now = 3.5
    beats[0].beat(2)
    found = ended(beats[0], RuntimeError("Connection closed by peer"))
    assert isinstance(found, LostPeerError)
    assert "process 1 of 0 to 1 gave no sign of life" in str(found)


def test_those_that_did_not_come_are_named_by_all(monkeypatch):
    monkeypatch.setattr(distributed.time, "sleep", lambda seconds: None)
    store = HashStore()
    assert not_come(store, 1, 4, -1.0) == "0, 2, 3"
    assert not_come(store, 2, 4, 60.0) == "0, 2, 3"  # what the first found
    assert not_come(HashStore(), 0, 1, 60.0) == ""
