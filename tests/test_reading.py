"""Strangers' JSON, safetensors, settings and weights: what is read, and what is refused."""

import json
import struct

import pytest
import torch
from safetensors.torch import save

from sfumato.folder import read_card
from sfumato.interop import limits, reading
from sfumato.interop.fitting import check_finite, check_weights
from sfumato.interop.reading import json_of, tensors_of
from sfumato.kinds import dumps, loads, override, read_run
from sfumato.recipes import RECIPES

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    *(torch.uint64, torch.uint32, torch.uint16),
)
CARD = {"name": "a", "source": "b", "fingerprint": "c", "images": 5, "channels": 1}
CARD |= {"size": [8, 8], "class_names": ["0", "1"]}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_that_is_written_is_read(dtype):
    tensors = {"a": torch.ones(2, 3).to(dtype), "empty": torch.zeros(0, 4).to(dtype)}
    found = tensors_of(save(tensors), "x")
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == dtype for name in found)
    assert found["a"].view(torch.uint8).tolist() == tensors["a"].view(torch.uint8).tolist()


def with_header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


OVERLAPPING = with_header({"a": entry([2], [0, 8]), "b": entry([1], [4, 8])}, bytes(8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x begins with b''"),
        (struct.pack("<Q", 10**9) + b"{" * 9, "claims a header of 1,000,000,000 bytes"),
        (OVERLAPPING, "'b' begins at byte 4, the one before ends 8"),
        (with_header({"a": entry([1], [4, 8])}, bytes(8)), "'a' begins at byte 4, the one before"),
        (with_header({"a": entry([1], [0, 4])}, bytes(8)), "claim 4 bytes, of 8"),
        (with_header({"a": entry([2**40, 2**40], [0, 4])}, bytes(4)), "claims 4 bytes"),
        (with_header({"a": entry([-1], [0, 4])}, bytes(4)), "no whole numbers from 0"),
        (with_header({"a": entry([True], [0, 4])}, bytes(4)), "no whole numbers from 0"),
        (with_header({"a": entry([1], [0, 4], "F31")}, bytes(4)), r"dtype \W*F31"),
        (with_header({"a\x1b[2J": entry([1], [0, 4])}, bytes(4)), r"x1b\[2J' is no name"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_by_what_it_says(content, message):
    with pytest.raises(ValueError, match=message):
        tensors_of(content, "x")


def test_too_many_tensors_are_refused_before_they_are_listed(monkeypatch):
    monkeypatch.setattr(reading, "json_of", lambda *_: pytest.fail("it was parsed"))
    many = {f"t{n}": entry([0], [0, 0]) for n in range(reading.MAX_TENSORS * 5 // 4 + 1)}
    with pytest.raises(ValueError, match="more than 50,000 tensors"):
        tensors_of(with_header(many), "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ("[1]", "x holds a list"),
        ("\x80", "x is not JSON"),
        ('{"a":' * 41 + "1" + "}" * 41, "nests deeper than 40"),
        ("[" * 100_000, "x is not JSON"),
        ('{"a": ' + "9" * 5_000 + "}", "x is not JSON"),
    ],
)
def test_json_that_no_writer_makes_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        json_of(text.encode("latin-1"), "x")


def test_json_at_the_limit_and_infinity_are_read():
    assert json_of(b'{"a":' * 39 + b'{"b": -Infinity}' + b"}" * 39, "x")
    assert json_of(b'{"a": -Infinity}', "x") == {"a": -float("inf")}


# --- settings


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/tmp/x", "", ".", "a//b", "C:/x", "a\\b", "a\nb", "x" * 201]
)
def test_a_run_whose_name_leads_out_of_its_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"run\.json: name = "):
        loads(dumps(RECIPES["digits"]()).replace('"name": "digits"', f'"name": {json.dumps(name)}'))


@pytest.mark.parametrize("name", ["digits-2", "model (1)", "a/b", "été", "x.y", "x" * 200])
def test_names_that_are_in_use_stay(name):
    limits.check_name(name, "x")


@pytest.mark.parametrize(
    ("path", "value", "most"),
    [
        ("network.channels", 10**12, "1,000,000"),
        ("network.blocks", 33, "32"),
        ("network.multipliers", [1] * 17, "16"),
        ("data.size", 10**12, "1,000,000,000"),
        ("train.seed", 2**64, "9,223,372,036,854,775,808"),
    ],
)
def test_sizes_beyond_all_use_are_refused_where_they_stand(path, value, most):
    with pytest.raises(ValueError, match=rf"run\.{path} .*{most}"):
        override(RECIPES["digits"](), path, json.dumps(value))


def test_a_run_is_named_by_its_file(tmp_path):
    (tmp_path / "run.json").write_text(dumps(RECIPES["digits"]()))
    assert read_run(tmp_path) == RECIPES["digits"]()
    (tmp_path / "run.json").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=rf"{tmp_path}/run\.json is not JSON"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "'more'"),
        ({"size": 8}, "whole numbers"),
        ({"size": [8, -8]}, "whole numbers"),
        ({"images": True}, "whole numbers"),
        ({"class_names": [1]}, "texts"),
        ({"name": None}, "texts"),
    ],
)
def test_a_card_of_other_types_is_refused(tmp_path, change, message):
    (tmp_path / "data.json").write_text(json.dumps(CARD))
    assert read_card(tmp_path).shape == (1, 8, 8)
    (tmp_path / "data.json").write_text(json.dumps({**CARD, **change}))
    with pytest.raises(ValueError, match=rf"data\.json: .*{message}"):
        read_card(tmp_path)


# --- weights


def test_what_does_not_fit_is_counted_and_named():
    wanted = {"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}
    given = {"a": torch.ones(4), "b": torch.ones(3, dtype=torch.int64), "d": torch.ones(1)}
    message = (
        "x: 4 weights do not fit the network that is described, which has 3: a: (4,), not (2,); "
        "b is torch.int64, not torch.float32; c is missing; d has no place. They are of another "
        "network."
    )
    with pytest.raises(ValueError, match=r"^x: 4") as caught:
        check_weights(wanted, given, "x")
    assert str(caught.value) == message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_weights_that_are_no_numbers_are_counted_and_named(dtype):
    good, bad = torch.ones(3).to(dtype), torch.tensor([1.0, float("nan")]).to(dtype)
    check_finite({"a": good, "n": torch.ones(2, dtype=torch.int64)}, "x")
    with pytest.raises(ValueError, match=r"x: 1 of 2 tensors hold NaN or infinity, as b:"):
        check_finite({"a": good, "b": bad}, "x")
