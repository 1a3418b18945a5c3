"""Every way into sfumato that takes files, each with a place for a hostile one.

Run in a fork of the nursery, under an audit hook that notes what must not happen, and stops it.
"""

import hashlib
import io
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sfumato
from sfumato.__main__ import main
from sfumato.storage import MANIFEST

from .hostile_pickles import IMAGES, MODULE, SUFFIXES, WEIGHTS, WORD, attacks
from .hostile_runs import prepare

FORBIDDEN = (
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "os.startfile",
    ),
    *("subprocess.Popen", "pty.spawn", "socket.connect", "socket.bind", "socket.getaddrinfo"),
    *("urllib.Request", "webbrowser.open", "ctypes.dlopen", "pickle.find_class", "code.__new__"),
)
IMPORTS = (MODULE, "pdb", "pydoc", "runpy", "pty", "cProfile", "timeit", "webbrowser", "trace")


TREE = str(Path(sfumato.__file__).parents[2])
ASKED = ("git", "-C", TREE, "describe", "--always", "--dirty")  # results.version, of itself


class Stopped(Exception):
    """Something that must not happen was about to."""


def of_the_program_itself(event: str, arguments: tuple[Any, ...]) -> bool:
    """Its own symbols, of which memory.py asks for one, and the commit of its own source tree."""
    if event == "subprocess.Popen":
        return tuple(arguments[1]) == ASKED
    return (event, arguments) == ("ctypes.dlopen", (None,))


def watch(canary: Path) -> list[str]:
    """A list that grows with each forbidden event from now on; each is stopped where it begins."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        odd = event in FORBIDDEN and not of_the_program_itself(event, arguments)
        odd |= event == "import" and arguments[0] in IMPORTS
        odd |= event in ("open", "os.mkdir") and str(arguments[0]) == str(canary)
        if odd:
            seen.append(f"{event} {arguments[:1]}"[:120])
            raise Stopped(event)

    sys.addaudithook(hook)
    return seen


# --- the entry points


@dataclass(frozen=True)
class Entry:
    """words: of the command; {name} is what was put there. place: puts the k-th attack there.

    A refusal must name the file that place returns, or the folder that it is in.
    """

    name: str
    place: Callable[[Path, bytes, int], Path]
    words: str


def in_checkpoint(part: str, kind: str = "run/checkpoints") -> Callable[[Path, bytes, int], Path]:
    """The file of a committed folder, with a manifest that agrees."""

    def place(root: Path, content: bytes, number: int) -> Path:
        folder = next(path for path in sorted((root / kind).glob("*")) if path.is_dir())
        return committed(folder, part, WEIGHTS[(number % 2) * 4](content))

    return place


def committed(folder: Path, part: str, content: bytes) -> Path:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / part).write_bytes(content)
    manifest[part] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder / part


def in_file(name: str) -> Callable[[Path, bytes, int], Path]:
    def place(root: Path, content: bytes, number: int) -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return place


def as_weights(root: Path, content: bytes, number: int) -> Path:
    """A file of weights, in every wrapping and with every suffix in turn."""
    path = root / f"model{SUFFIXES[number % len(SUFFIXES)]}"
    path.write_bytes(WEIGHTS[number % len(WEIGHTS)](content))
    return path


def as_images(root: Path, content: bytes, number: int) -> Path:
    name, wrap = IMAGES[number % len(IMAGES)]
    path = root / name
    path.write_bytes(wrap(content))
    return path


def as_image_folder(root: Path, content: bytes, number: int) -> Path:
    """CIFAR's own names in a folder of their own."""
    folder = root / f"set{number}"
    folder.mkdir()
    for name in ("test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (folder / name).write_bytes(content)
    return folder


def as_diffusers(part: str, kind: str, weights: str) -> Callable[[Path, bytes, int], Path]:
    """A folder of diffusers whose weights are the attack."""

    def place(root: Path, content: bytes, number: int) -> Path:
        folder = root / f"{part}{number}" / part
        folder.mkdir(parents=True)
        config = {"_class_name": kind, "sample_size": 8, "block_out_channels": [32]}
        levels = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
        more = levels if kind == "UNet2DModel" else {}
        (folder / "config.json").write_text(json.dumps({**config, **more}))
        path = folder / f"diffusion_pytorch_model.{weights}"
        path.write_bytes(WEIGHTS[number % len(WEIGHTS)](content))
        return path.parent.parent

    return place


def as_taesd(root: Path, content: bytes, number: int) -> Path:
    folder = root / f"tiny{number}"
    folder.mkdir()
    for half in ("encoder", "decoder"):
        (folder / f"a_{half}.pth").write_bytes(WEIGHTS[number % len(WEIGHTS)](content))
    return folder


def as_encoder(weights: str) -> Callable[[Path, bytes, int], Path]:
    def place(root: Path, content: bytes, number: int) -> Path:
        folder = root / f"text{number}"
        folder.mkdir()
        vocabulary = {"version": "1.0", "model": {"type": "WordPiece", "vocab": {"[UNK]": 0}}}
        model = {"unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        vocabulary["model"] |= {**model, "max_input_chars_per_word": 100}  # type: ignore[operator]
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
        (folder / "model.safetensors").write_bytes(b"")
        (folder / weights).write_bytes(content)
        return folder

    return place


LATENT = "train latent_unet --data digits --limit 40 --size 8 --steps 1 codec.weights={}"
ENTRIES = (
    *(
        Entry(f"resume, {part}", in_checkpoint(part), "train run")
        for part in ("weights.safetensors", "optimizer.safetensors", "state.json")
    ),
    Entry("resume, run.json", in_file("run/run.json"), "train run"),
    Entry("resume, data.json", in_file("run/data.json"), "train run"),
    Entry("sample, average", in_checkpoint("average.safetensors"), "sample run --count 1"),
    Entry(
        "sample, best",
        in_checkpoint("average.safetensors", "run/best"),
        "sample run --best --count 1",
    ),
    Entry("sample, manifest.json", in_checkpoint(MANIFEST), "sample run --count 1"),
    Entry("sample, run.json", in_file("run/run.json"), "sample run --count 1"),
    Entry("sample, data.json", in_file("run/data.json"), "sample run --count 1"),
    Entry(
        "sample, classifier",
        in_checkpoint("average.safetensors", "classifier/checkpoints"),
        "sample run --classifier classifier --count 1",
    ),
    Entry(
        "sample, classifier's run.json",
        in_file("classifier/run.json"),
        "sample run --classifier classifier --count 1",
    ),
    Entry("evaluate, average", in_checkpoint("average.safetensors"), "evaluate run --limit 4"),
    Entry("evaluate, --data", as_images, "evaluate run --limit 4 --data {}"),
    Entry("info, run.json", in_file("run/run.json"), "info run"),
    Entry("info, codec.json", in_file("run/codec/codec.json"), "info run"),
    Entry("export, average", in_checkpoint("average.safetensors"), "export run"),
    Entry("import, a file", as_weights, "import {}"),
    Entry("import, unet .bin", as_diffusers("unet", "UNet2DModel", "bin"), "import {}/unet"),
    Entry(
        "import, unet .safetensors",
        as_diffusers("unet", "UNet2DModel", "safetensors"),
        "import {}/unet",
    ),
    Entry(
        "import, transformer",
        as_diffusers("transformer", "DiTTransformer2DModel", "bin"),
        "import {}",
    ),
    Entry("train, images", as_images, "train {}"),
    Entry("train, a folder of CIFAR's", as_image_folder, "train {}"),
    Entry("train, --config", in_file("given.json"), "train digits --config {}"),
    Entry("codec.weights, own", in_file("codec/weights.safetensors"), LATENT.format("codec")),
    Entry("codec.weights, TAESD", as_taesd, LATENT),
    Entry("codec.weights, vae", as_diffusers("vae", "AutoencoderKL", "bin"), LATENT),
    Entry(
        "text.encoder, weights",
        as_encoder("model.safetensors"),
        "train captioned --captions --steps 1 text.encoder={}",
    ),
    Entry(
        "text.encoder, vocabulary",
        as_encoder("tokenizer.json"),
        "train captioned --captions --steps 1 text.encoder={}",
    ),
)


def as_dcp(root: Path, content: bytes, number: int) -> Path:
    """A folder of torch.distributed.checkpoint."""
    folder = root / f"dcp{number}"
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (folder / name).write_bytes(content)
    return folder


def as_dcp_step(root: Path, content: bytes, number: int) -> Path:
    """The same as a checkpoint of the run, with a manifest that agrees."""
    folder = root / "run" / "checkpoints" / "step-000000009"
    folder.mkdir()
    (folder / MANIFEST).write_text("{}")
    committed(folder, ".metadata", content)
    return committed(folder, "__0_0.distcp", content).parent


DCP = (
    Entry("import, DCP", as_dcp, "import {}"),
    Entry("train, DCP", as_dcp, "train {}"),
    Entry("sample, DCP", as_dcp_step, "sample run --count 1"),
    Entry("evaluate, DCP", as_dcp_step, "evaluate run --limit 4"),
    Entry("codec.weights, DCP", as_dcp, LATENT),
)
OPEN: tuple[str, ...] = (  # where a refusal is not yet in words that name the file
)


# --- the trial, in a fork


def tried_dcp(short: bool) -> dict[str, Any]:
    """The same at the places where a folder of torch.distributed may lie."""
    return tried(short, DCP)


def tried(short: bool, entries: tuple[Entry, ...] = ENTRIES) -> dict[str, Any]:
    """Every attack at every entry point (short: at one each); what was run, and what was refused.

    Returns {"tried": by entry, "run": what must not have happened, "else": [entry, how it ended]
    where it was not refused in plain words that name the file}.
    """
    with TemporaryDirectory() as name, chdir(name):
        root = Path(name)
        canary = root / WORD
        prepare(root, canary)
        wanted = list(cases(attacks(canary), entries, short))
        seen, other = watch(canary), []
        for entry, (what, content), number in wanted:
            if told := attempt(entry, content, number, root):
                other.append((entry.name, f"{what}: {told}"))
            if canary.exists():
                seen.append(f"{entry.name}, {what}: the canary is there")
                canary.unlink()
    return {"tried": Counter(entry.name for entry, *_ in wanted), "run": seen, "else": other}


def cases(
    found: list[tuple[str, bytes]], entries: tuple[Entry, ...], short: bool
) -> Iterator[tuple[Entry, tuple[str, bytes], int]]:
    for number, attack in enumerate(found):
        for place, entry in enumerate(entries):
            if not short or (place - number) % len(entries) == 0:
                yield entry, attack, number


def attempt(entry: Entry, content: bytes, number: int, root: Path) -> str:
    """Run the command on the planted file; "" where it is refused in words that name the file."""
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    planted = entry.place(root, content, number)
    sys.argv = ["sfumato", *entry.words.format(planted.relative_to(root)).split(), "--quiet"]
    if sys.argv[1] in ("info", "export"):
        sys.argv.pop()
    told = ended()
    restore(root, before)
    names = (planted.name, planted.parent.name)
    if not told.startswith("sfumato: "):
        return told[:300]
    return "" if any(name in told for name in names) else f"does not name it: {told[:200]}"


def ended() -> str:
    """How main() ends: the one line that it says, or the name of what got through."""
    words = io.StringIO()
    try:
        with redirect_stdout(words), redirect_stderr(words):
            main()
    except SystemExit as end:
        return f"{end.code}\n{words.getvalue()}"
    except Exception as error:  # a traceback, for whoever typed the command
        return f"traceback of {type(error).__name__}: {error}"
    return "it went through: " + words.getvalue()[-200:]


def restore(root: Path, before: dict[Path, bytes]) -> None:
    """The folder as it was."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_file() and path not in before:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for path, content in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def control() -> tuple[int, int]:
    """(attacks that the hook sees when they are unpickled, of how many): else it proves nothing."""
    with TemporaryDirectory() as name, chdir(name):
        canary = Path(name) / WORD
        seen, noticed = watch(canary), 0
        for _, content in attacks(canary):
            before = len(seen)
            with suppress(Exception):  # most are stopped by the hook
                pickle.loads(content)
            noticed += len(seen) > before or canary.exists()
    return noticed, len(attacks(canary))
