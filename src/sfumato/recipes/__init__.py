"""Recipes: functions that return a Run. `sfumato train NAME` runs one, or FILE.py:FUNCTION."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from ..config import AnyRun
from ..kinds import near
from . import comparison, digits, fast, latents, report, survey, tutorials
from .own_images import own_images

Recipe = Callable[[], AnyRun]
RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        *(digits.digits, digits.digits_ddpm, digits.digits_flow),
        *(fast.digits_fast, fast.fashion_fast),
        *(tutorials.unet2d_mnist, tutorials.unet2d_small),
        *(tutorials.handmade_cifar10, tutorials.handmade_small),
        *(tutorials.four_conv_mnist, tutorials.tiny_mnist),
        *(survey.improved_ddpm, survey.improved_ddpm_vlb),
        *(survey.label_tokens, survey.emoji_text),
        *(latents.autoencoder_f4, latents.autoencoder_f8),
        *(latents.latent_unet, latents.latent_dit, latents.dit_s_2),
        *(survey.sd_unet, survey.sd_unet_small, survey.dit_pixels, survey.dit_flow),
        *(comparison.compare_unet2d, comparison.compare_sd_unet, comparison.compare_dit),
        *(report.lucid_cifar10, report.lucid_small),
        *(report.optimised_cifar10, report.optimised_small),
        *(report.stl10, report.celeba64, report.celebahq128, report.celebahq256),
        report.high_resolution_small,
        *(survey.digits_unlabelled, survey.noisy_classifier),
    )
}

__all__ = ["RECIPES", "Recipe", "own_images", "recipe_at"]


def recipe_at(name: str) -> Recipe | None:
    """The recipe of this name, or in a file of the user's, FILE.py:FUNCTION; None if it is neither.

    Raises: ValueError where the file has no such function.
    """
    if name in RECIPES:
        return RECIPES[name]
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return None
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file!r} to take the recipe {function!r} from.")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value)]
        raise ValueError(f"{file} has no function {function!r}; {near(function, there)}")
    return found
