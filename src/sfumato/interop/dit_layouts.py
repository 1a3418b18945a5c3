"""The layouts of a DiT's weights elsewhere: the authors' state dict, and diffusers'.

Ours has the authors' keys but for `pos_embed` (1, N, width), which is computed here for any size
and therefore only compared. diffusers spells all keys differently, has q, k and v apart, and gives
every block an embedding of the noise level and class of its own; in models that were converted
from the authors' files these are equal, and become one. Two constants differ as well, and become
fields of DiTConfig: its frequencies are 10000^(-k / 127), and its norm before the MLP has 1e-5.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.dit import SIZES, DiTConfig, positions
from .fitting import check_weights, floating, sides, skeleton
from .torch_files import Tree

Weights = dict[str, Tensor]
POSITIONS, THEIR_POSITIONS = "pos_embed", "pos_embed.pos_embed"
HEADS = {width: heads for _, width, heads in SIZES.values()}
FRAME = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
IN_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
IN_EMBEDDING = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
}
FIXED = {  # what DiTTransformer2DModel may be set to, and ours can't
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}


def tensors(tree: Tree) -> Weights:
    """The tensors of the tree's first level, in float32."""
    return {str(k): floating(v) for k, v in tree.items() if isinstance(v, Tensor)}


def needed(weights: Weights, name: str) -> Tensor:
    if name not in weights:
        raise ValueError(f"there is no tensor {name} among the {len(weights)} of this file")
    return weights[name]


def from_original(weights: Weights, heads: int | None = None) -> tuple[DiTConfig, Weights]:
    """(config, weights) of the authors' state dict, pos_embed left out.

    heads: an attention's; None takes the paper's for the width, since no tensor tells.

    Raises: ValueError where pos_embed is not ours, the width is none of the paper's and no heads
    are given, or tensors are missing, unknown or misshapen.
    """
    width, in_channels, patch, _ = sides(weights, "x_embedder.proj.weight", 4)
    labels = weights.get("y_embedder.embedding_table.weight")
    config = DiTConfig(
        in_channels=in_channels,
        out_channels=len(needed(weights, "final_layer.linear.weight")) // patch**2,
        patch=patch,
        depth=sum(name.endswith(".attn.qkv.weight") for name in weights),
        width=width,
        heads=heads or heads_of(width),
        mlp_ratio=len(needed(weights, "blocks.0.mlp.fc1.weight")) / width,
        classes=0 if labels is None else len(labels) - 1,
    )
    if POSITIONS in weights:
        check_positions(weights[POSITIONS])
    ours = {name: value for name, value in weights.items() if name != POSITIONS}
    check_fit(config.build, ours)
    return config, ours


def heads_of(width: int) -> int:
    if width not in HEADS:
        raise ValueError(
            f"a DiT of width {width} is none of the paper's ({', '.join(map(str, HEADS))}), and "
            "its file does not say how many heads it has: in Python, interop.dit.from_original("
            "weights, heads=...)"
        )
    return HEADS[width]


def to_original(config: DiTConfig, weights: Weights, side: int) -> Weights:
    """Undo from_original, with the pos_embed of square images or latents of `side`.

    Raises: ValueError for a setting for which the authors' layout has no place.
    """
    wanted = {"frequency_shift": 0, "mlp_eps": 1e-6, "shared_embedding": True}
    check_settings(config, {**wanted, "noise_scale": 1.0}, "the authors' layout")
    n = grid_of(config, side)
    placed = positions(n, n, config.width, torch.zeros(()))[None]
    return {POSITIONS: placed, **weights}


def check_positions(given: Tensor) -> None:
    """Raise ValueError unless `given`, (1, N, width), are the positions of a square that we add."""
    side = isqrt(given.shape[1])
    if side**2 == given.shape[1]:
        apart = (given[0] - positions(side, side, given.shape[2], given)).abs().max().item()
        if apart < 1e-4:
            return
    raise ValueError(
        f"pos_embed {tuple(given.shape)} is not the fixed sines and cosines of a square of tokens, "
        "which are all that DiT has here; positions that were learned can't be read"
    )


def check_fit(build: Callable[[], nn.Module], weights: Weights, where: str = "the file") -> None:
    """Raise ValueError unless the weights are, by names, shapes and kinds, those of build()."""
    check_weights(skeleton(build, where), weights, where)


def check_settings(config: DiTConfig, wanted: dict[str, Any], whose: str) -> None:
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name} is {getattr(config, name)}; {whose} has only {value}: a network trained "
                f"with network.{name}={value} can be exported"
            )


def grid_of(config: DiTConfig, side: int) -> int:
    """Tokens to a side."""
    if side % config.patch:
        raise ValueError(f"a side of {side} is no multiple of the patch, {config.patch}")
    return side // config.patch


def pairs(config: DiTConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(our parameter, those of diffusers that it is, one below the other); ours may repeat."""
    whole: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in FRAME.items()}
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}.", f"transformer_blocks.{i}."
        whole |= {ours + mine: (theirs + other,) for mine, other in IN_BLOCK.items()}
        whole[f"{ours}attn.qkv"] = tuple(f"{theirs}attn1.to_{letter}" for letter in "qkv")
    for mine, others in whole.items():
        for kind in ("weight", "bias"):
            yield f"{mine}.{kind}", tuple(f"{other}.{kind}" for other in others)
    for i in range(config.depth):
        owner = "" if config.shared_embedding or not i else f"more_embedders.{i - 1}."
        yield from ((owner + mine, (other,)) for mine, other in embedding_pairs(i))


def embedding_pairs(block: int) -> Iterator[tuple[str, str]]:
    """The same of what tells a block of the noise level and the class, without its owner."""
    theirs, table = f"transformer_blocks.{block}.norm1.emb.", "embedding_table.weight"
    yield f"y_embedder.{table}", f"{theirs}class_embedder.{table}"
    for mine, other in IN_EMBEDDING.items():
        for kind in ("weight", "bias"):
            yield f"{mine}.{kind}", f"{theirs}{other}.{kind}"


def from_diffusers(described: dict[str, Any], state: Weights) -> tuple[DiTConfig, Weights]:
    """(config, weights) of a DiTTransformer2DModel's config.json and state dict.

    Raises: ValueError for a setting that ours has not, and where tensors are missing, unknown or
    misshapen.
    """
    for name, value in FIXED.items():
        if described.get(name, value) != value:
            raise ValueError(f"{name} is {described[name]!r}; only {value!r} can be read")
    if THEIR_POSITIONS in state:
        check_positions(state[THEIR_POSITIONS])
    state = {name: value for name, value in state.items() if name != THEIR_POSITIONS}
    config = diffusers_config(described)
    if odd := sorted({other for _, others in pairs(config) for other in others} ^ state.keys()):
        there = "unknown" if odd[0] in state else "missing"
        raise ValueError(f"{len(odd)} tensors are missing or unknown: {odd[0]} is {there}")
    hidden = len(state["transformer_blocks.0.ff.net.0.proj.weight"])
    config = replace(
        config, mlp_ratio=hidden / config.width, shared_embedding=told_alike(config, state)
    )
    ours = {mine: torch.cat([state[other] for other in others]) for mine, others in pairs(config)}
    check_fit(config.build, ours)
    return config, ours


def told_alike(config: DiTConfig, state: Weights) -> bool:
    """Whether all blocks' embeddings of the noise level and the class are equal."""
    return all(
        torch.equal(state[other], state[first])
        for i in range(1, config.depth)
        for (_, other), (_, first) in zip(embedding_pairs(i), embedding_pairs(0), strict=True)
    )


def diffusers_config(described: dict[str, Any]) -> DiTConfig:
    """What config.json says; what it leaves out is DiTTransformer2DModel's default."""
    heads = described.get("num_attention_heads", 16)
    return DiTConfig(
        in_channels=described.get("in_channels", 4),
        out_channels=described.get("out_channels"),
        patch=described.get("patch_size", 2),
        depth=described.get("num_layers", 28),
        width=heads * described.get("attention_head_dim", 72),
        heads=heads,
        classes=described.get("num_embeds_ada_norm", 1000),
        frequency_shift=1,
        mlp_eps=described.get("norm_eps", 1e-5),
    )


def to_diffusers(config: DiTConfig, weights: Weights, side: int) -> tuple[dict[str, Any], Weights]:
    """Undo from_diffusers: (config.json, state dict) for images or latents of `side`.

    Raises: ValueError for a setting for which DiTTransformer2DModel has no place.
    """
    wanted = {"frequency_shift": 1, "mlp_ratio": 4.0, "noise_scale": 1.0}
    check_settings(config, wanted, "DiTTransformer2DModel")
    if not config.classes:
        raise ValueError("DiTTransformer2DModel always has classes; this network has none")
    grid_of(config, side)
    state: Weights = {}
    for mine, others in pairs(config):
        parts = weights[mine].chunk(len(others))
        state |= {other: part.clone() for other, part in zip(others, parts, strict=True)}
    return description(config, side), state


def description(config: DiTConfig, side: int) -> dict[str, Any]:
    return {
        "_class_name": "DiTTransformer2DModel",
        **FIXED,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels or config.in_channels,
        "num_layers": config.depth,
        "sample_size": side,
        "patch_size": config.patch,
        "num_embeds_ada_norm": config.classes,
        "norm_eps": config.mlp_eps,
    }
