"""The judge of a data set on disk: evaluate trains it once for the same images.

    CACHE/NAME/{judge.safetensors, judge.json, manifest.json}

NAME is a hash of the images' fingerprint (pixels, labels, order), of how the judge is made, of the
device and of PyTorch's version. What holds for feature_cache.py holds here: a folder appears whole
or not at all, a damaged one is removed, told of and made anew, and together they take at most MOST
bytes, those that were not read for the longest time going first.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from . import judging
from .data import ImageData, fingerprint
from .data.cache import SHARE, clear_abandoned, make_room
from .judging import EyeConfig, Judge, Notice, load_judge, save_judge, train_judge
from .storage import MANIFEST, DamagedError, make_folders, retire

MOST = 2**27  # bytes of all judges together; one takes about half a million
FORMAT = 1  # to be raised where a judge is made in another way than before

Say = Callable[[str], None]


@dataclass(frozen=True)
class JudgeCache:
    """The folder of all judges, and who is told of trouble with it."""

    folder: Path
    warn: Say

    def judge(self, data: ImageData, device: torch.device, notice: Notice | None = None) -> Judge:
        """The judge of these images: as it was kept, or else trained, and kept."""
        path = self.path(data, device)
        kept = self._read(path, device)
        if kept is not None:
            return kept
        judge = train_judge(data, device, notice=notice)
        self._keep(path, judge)
        return judge

    def path(self, data: ImageData, device: torch.device) -> Path:
        how = (FORMAT, EyeConfig.fitting(data), judging.LEAST_STEPS, judging.BATCH)
        settings = (*how, fingerprint(data), device.type, torch.__version__)
        return self.folder / hashlib.sha256(repr(settings).encode()).hexdigest()[:20]

    def _read(self, path: Path, device: torch.device) -> Judge | None:
        """What was kept; None for nothing, or nothing sound."""
        if not path.exists():
            return None
        try:
            judge = load_judge(path, device)
            os.utime(path / MANIFEST)  # when it was last read decides which judges go first
        except (DamagedError, ValueError) as error:
            self.warn(f"A kept judge was damaged ({error}); it is made anew.")
            self._retire(path)
        except OSError as error:
            self.warn(f"A kept judge can't be read ({error}); it is made anew.")
        else:
            return judge
        return None

    def _retire(self, path: Path) -> None:
        try:
            retire(path)
        except OSError as error:
            self.warn(f"It could not be removed: {error}")

    def _keep(self, path: Path, judge: Judge) -> None:
        """A disk that refuses is told of, and nothing is lost."""
        size = sum(value.nbytes for value in judge.eye.state_dict().values())
        try:
            make_folders(self.folder)
            clear_abandoned(self.folder)
            if size > min(MOST, SHARE * shutil.disk_usage(self.folder).free) or path.exists():
                return
            make_room(self.folder, MOST - size)
            save_judge(judge, path)
        except OSError as error:
            self.warn(f"The judge was not kept for the next time: {error}")
