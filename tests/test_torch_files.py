"""Files of other programs: tensors come out, and nothing in them is ever run."""

import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import Counter, OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sfumato.interop.torch_files import LEGACY, read_tensors
from sfumato.interop.torch_pickles import NAMES
from tiny import SHARED

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "c": torch.tensor([[1, 2]], dtype=torch.int64),
    "d": torch.tensor(True),
    "e": torch.arange(12.0, dtype=torch.bfloat16).reshape(3, 4).t(),
}
NESTED = {
    "model": OrderedDict(w=torch.nn.Parameter(torch.ones(2))),
    "opt": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
    "step": 7,
    "rate": 0.5,
    "name": "tiny",
    "scaler": None,
    "done": True,
    "size": torch.Size([2, 3]),
}


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


def write_zip(path, content, storages=(), **settings):
    """A file like torch.save's around any pickle."""
    with zipfile.ZipFile(path, "w", **settings) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for key, data in enumerate(storages):
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_legacy(path, content):
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = LEGACY + b"." + pickle.dumps(1001, 2) + pickle.dumps(machine, 2)
    path.write_bytes(head + content + pickle.dumps([], 2))
    return path


def tensor_pickle(numel=4, size=(4,), stride=(1,), offset=0, extra=b""):
    """The pickle of {"w": a tensor} as torch.save writes it, with any claims."""

    class Write(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if value == "S" else None

    buffer = io.BytesIO()
    call = Calls(torch._utils._rebuild_tensor_v2, "S", offset, size, stride, False, OrderedDict())
    Write(buffer, 2).dump({"w": call})
    return buffer.getvalue()[:-1] + extra + b"."


def flat(tree):
    """Tensors as lists, so that == compares all."""
    if isinstance(tree, torch.Tensor):
        tree = tree.detach()
        return (str(tree.dtype), tuple(tree.shape), tree.tolist())
    if isinstance(tree, dict):
        return {key: flat(value) for key, value in tree.items()}
    return [flat(value) for value in tree] if isinstance(tree, list | tuple) else tree


# What is read


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
def test_what_torch_saved_comes_back(legacy, suffix, tmp_path):
    """By content: no suffix means anything."""
    path = tmp_path / f"file{suffix}"
    for tree in (TENSORS, NESTED):
        torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
        back = read_tensors(path)
        assert flat(back) == flat(tree)
        assert type(back) is dict
        assert not any(value.requires_grad for value in back.get("model", back).values())


def test_safetensors_come_back(tmp_path):
    path = tmp_path / "file.bin"
    save_file({name: value.contiguous() for name, value in TENSORS.items()}, path)
    assert flat(read_tensors(path)) == flat(TENSORS)


def test_tensors_that_share_a_storage_still_do(tmp_path):
    whole = torch.arange(10.0)
    torch.save({"whole": whole, "part": whole[2:5]}, tmp_path / "views.pt")
    tree = read_tensors(tmp_path / "views.pt")
    assert tree["part"].tolist() == [2, 3, 4]
    assert tree["part"].untyped_storage().data_ptr() == tree["whole"].untyped_storage().data_ptr()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_files_of_the_world_are_read():
    sizes = {path.name: len(read_tensors(path)) for path in sorted((SHARED / "weights").iterdir())}
    assert sizes == {
        "ddpm_fashion.pt": 173,
        "ddpm_mnist.pt": 173,
        "ddpm_mnist_starter.pth": 29,
        "resnet20-12fca82f.th": 2,
        "taef2_decoder.pth": 79,
        "taef2_encoder.pth": 79,
    }


# What is refused by name


def plant(canary):
    Path(canary).write_text("ran")


ATTACKS = {
    "posix.system": lambda canary: (os.system, f"touch {canary}"),
    "builtins.eval": lambda canary: (eval, f"open({canary!r}, 'w')"),
    "builtins.exec": lambda canary: (exec, f"open({canary!r}, 'w')"),
    "builtins.getattr": lambda canary: (getattr, "text", "upper"),
    "builtins.bytearray": lambda canary: (bytearray, 10**12),
    "collections.Counter": lambda canary: (Counter, "aa"),
    "torch.FloatTensor": lambda canary: (torch.FloatTensor, 10**12),
    "test_torch_files.plant": lambda canary: (plant, canary),
    "torch.hub.load": lambda canary: (torch.hub.load, "a", "b"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("write", [write_zip, write_legacy], ids=["zip", "legacy"])
def test_a_call_of_anything_else_is_refused_by_name_and_not_run(write, name, protocol, tmp_path):
    canary = tmp_path / "canary"
    content = pickle.dumps({"weights": Calls(*ATTACKS[name](str(canary)))}, protocol)
    path = write(tmp_path / "model.pt", content)
    with pytest.raises(ValueError, match="asks for") as caught:
        read_tensors(path)
    name = name.replace("posix.", f"{os.system.__module__}.").removeprefix("builtins.")
    assert name in str(caught.value)
    assert "safetensors.torch.save_file" in str(caught.value)
    assert str(path) in str(caught.value)
    assert not canary.exists()


def test_the_attacks_are_real(tmp_path):
    """Or the canary above would prove nothing."""
    canary = tmp_path / "canary"
    content = pickle.dumps(Calls(*ATTACKS["posix.system"](str(canary))), 2)
    pickle.loads(content)
    assert canary.exists()


def test_a_tensor_that_is_poisoned_after_the_fact_is_refused(tmp_path):
    """A real file of torch.save whose data.pkl was replaced, as the known attacks do it."""
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    evil = pickle.dumps(Calls(os.system, f"touch {canary}"), 2)[:-1]
    folder = next(iter(content)).partition("/")[0]
    benign = content[f"{folder}/data.pkl"]
    content[f"{folder}/data.pkl"] = benign[:-1] + evil[2:] + b"0."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=r"asks for \w+\.system"):
        read_tensors(path)
    assert not canary.exists()


def test_no_name_that_is_let_through_can_run_anything():
    """They rebuild tensors and name the kinds of numbers, and that is all."""
    assert {name for name in NAMES if not name.endswith("Storage")} == {
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }


# What is refused for its claims


def test_claims_that_hold_are_read(tmp_path):
    """Or the refusals below would prove nothing."""
    path = write_zip(tmp_path / "good.pt", tensor_pickle(), [struct.pack("<4f", 1, 2, 3, 4)])
    assert read_tensors(path)["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"numel": 10**12, "size": (10**12,)}, r"claims 4,000,000,000,000 bytes where .* 16"),
        ({"numel": 5, "size": (5,)}, "claims 20 bytes where the file holds 16"),
        ({"size": (10**12,)}, "claims more than the 4 numbers"),
        ({"size": (10**12,), "stride": (0,)}, "claims more than the 4 numbers"),
        ({"size": (2,), "stride": (4,)}, "claims more than the 4 numbers"),
        ({"offset": 1}, "claims more than the 4 numbers"),
        ({"size": (-1,)}, "claims the size"),
        ({"size": (2, 2)}, "claims the size"),
        ({"numel": -4}, "claims -4 numbers"),
    ],
    ids=str,
)
def test_a_tensor_larger_than_its_numbers_is_refused(claims, message, tmp_path):
    path = write_zip(tmp_path / "big.pt", tensor_pickle(**claims), [bytes(16)])
    with pytest.raises(ValueError, match=message):
        read_tensors(path)


def test_a_legacy_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    number = pickle.BININT2 + struct.pack("<H", 1000)
    assert content.count(number) == 2  # of the storage, and of the tensor's size
    path.write_bytes(content.replace(number, pickle.BININT + struct.pack("<i", 2**30)))
    with pytest.raises(ValueError, match=r"claim 4,294,967,296 bytes; the whole file has"):
        read_tensors(path)


def test_a_compressed_archive_is_refused(tmp_path):
    bomb = write_zip(
        tmp_path / "bomb.pt", tensor_pickle(), [bytes(10**7)], compression=zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 20_000
    with pytest.raises(ValueError, match="it is compressed"):
        read_tensors(bomb)


def test_an_archive_with_two_pickles_of_one_name_is_refused(tmp_path):
    path = write_zip(tmp_path / "two.pt", tensor_pickle(), [bytes(16)])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/DATA.PKL", pickle.dumps({}, 2))
    with pytest.raises(ValueError, match="share names"):
        read_tensors(path)


def test_a_program_of_torchscript_is_refused(tmp_path):
    path = write_zip(tmp_path / "script.pt", pickle.dumps({}, 2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps((), 2))
    with pytest.raises(ValueError, match=r"TorchScript.*state_dict"):
        read_tensors(path)


def test_a_pickle_may_not_ask_for_memory_or_change_what_it_made(tmp_path):
    hungry = b"\x80\x02}" + pickle.LONG_BINPUT + struct.pack("<I", 2**31) + b"."
    with pytest.raises(ValueError, match="memory"):
        read_tensors(write_zip(tmp_path / "memo.pt", hungry))
    one = b"X\x01\x00\x00\x00"  # BINUNICODE of one letter
    built = b"\x80\x02}" + one + b"wctorch\nFloatStorage\n}" + one + b"aK\x01sbs."
    with pytest.raises(ValueError, match="changes what it has made"):
        read_tensors(write_zip(tmp_path / "build.pt", built, [bytes(16)]))


def test_a_small_file_of_endless_values_is_refused(tmp_path):
    """Lists of ten of the list before: ten lines, 10^12 values."""
    value = [0.5] * 10
    for _ in range(12):
        value = [value] * 10
    with pytest.raises(ValueError, match="more than 1,000,000"):
        read_tensors(write_zip(tmp_path / "laughs.pt", pickle.dumps({"w": value}, 2)))
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deeper than 32"):
        read_tensors(write_zip(tmp_path / "loop.pt", pickle.dumps({"w": loop}, 2)))


# What is refused as damaged


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_short_anywhere_is_an_error_of_ours(legacy, tmp_path):
    path = tmp_path / "cut.pt"
    torch.save(NESTED, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pt: "):
            read_tensors(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_flipped_byte_is_an_error_of_ours_or_still_tensors(legacy, tmp_path):
    path = tmp_path / "flipped.pt"
    torch.save(NESTED, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with suppress(ValueError):
            assert isinstance(read_tensors(path), dict)


def test_other_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "model.pt"
    for content, message in (
        (b"", "begins with b''"),
        (b"\x89PNG\r\n", "neither a safetensors file nor"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (struct.pack("<Q", 40) + b'{"w":{"dtype":"F32","shape":[9],"data_of', r"model\.pt: "),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_tensors(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="holds a list"):
        read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.pt")


def test_pickles_above_are_what_torch_writes(tmp_path):
    """tensor_pickle has the instructions of the real thing, so the refusals meet real files."""
    torch.save({"w": torch.zeros(4)}, tmp_path / "real.pt")
    with zipfile.ZipFile(tmp_path / "real.pt") as archive:
        real = archive.read("real/data.pkl")
    ours = {opcode.name for opcode, _, _ in pickletools.genops(tensor_pickle())}
    theirs = {opcode.name for opcode, _, _ in pickletools.genops(real)}
    assert ours - theirs <= {"BINGET"}
