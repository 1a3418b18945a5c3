"""The judge of a data set on disk: evaluate trains it once for the same images.

    CACHE/NAME/{judge.safetensors, judge.json, manifest.json}

NAME is a hash of the images' fingerprint (pixels, labels, order), of how the judge is made, of the
device and of PyTorch's version. How folders come and go is kept.py's; together they take at most
MOST bytes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from . import judging, kept
from .data import ImageData, fingerprint
from .judging import EyeConfig, Judge, Notice, load_judge, save_judge, train_judge
from .storage import DamagedError

MOST = 2**27  # bytes of all judges together; one takes about half a million
FORMAT = 1  # to be raised where a judge is made in another way than before
WHAT = "The judge of these images"


@dataclass(frozen=True)
class JudgeCache:
    """The folder of all judges, and who is told of trouble with it."""

    folder: Path
    warn: kept.Say

    def judge(self, data: ImageData, device: torch.device, notice: Notice | None = None) -> Judge:
        """The judge of these images: as it was kept, or else trained, and kept."""
        path = self.path(data, device)
        known = kept.read(path, lambda path: opened(path, device), WHAT, self.warn)
        if known is not None:
            return known
        judge = train_judge(data, device, notice=notice)
        size = sum(value.nbytes for value in judge.eye.state_dict().values())
        kept.put(path, size, MOST, lambda path: save_judge(judge, path), WHAT, self.warn)
        return judge

    def path(self, data: ImageData, device: torch.device) -> Path:
        how = (FORMAT, EyeConfig.fitting(data), judging.LEAST_STEPS, judging.BATCH)
        settings = (*how, fingerprint(data), device.type, torch.__version__)
        return self.folder / hashlib.sha256(repr(settings).encode()).hexdigest()[:20]


def opened(path: Path, device: torch.device) -> Judge:
    """Raises: DamagedError where it is no judge."""
    try:
        return load_judge(path, device)
    except ValueError as error:
        raise DamagedError(f"{path}: {error}") from error
