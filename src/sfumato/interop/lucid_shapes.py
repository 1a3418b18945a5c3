"""The settings of a U-Net of denoising-diffusion-pytorch, from the shapes of its weights alone."""

from torch import Tensor

from ..config import NetworkConfig
from ..networks.lucid import LucidUNetConfig
from .fitting import check_weights, skeleton

GROUPS = 8  # of version 1.9, which no shape tells


def config_of(weights: dict[str, Tensor]) -> LucidUNetConfig:
    """The configuration whose state dict has these keys and shapes.

    Raises: ValueError where there is none, naming the first differences.
    """
    try:
        config = _config(weights)
    except (KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"no U-Net of denoising-diffusion-pytorch 1.9 to 2.3: {error} is missing. Older files "
            "have another layout; load and save them there with a newer version."
        ) from error
    check_fits(config, weights, "denoising-diffusion-pytorch")
    return config


def _config(weights: dict[str, Tensor]) -> LucidUNetConfig:
    levels = sum(
        key.startswith("downs.") and key.endswith(".0.block1.proj.weight") for key in weights
    )
    channels = weights["time_mlp.1.weight"].shape[0] // 4
    inputs, outputs = weights["init_conv.weight"].shape[1], weights["final_conv.weight"].shape[0]
    ends = [f"downs.{i}.3.1.weight" for i in range(levels - 1)] + [f"downs.{levels - 1}.3.weight"]
    stem = weights["init_conv.weight"].shape[0]
    full = tuple(i for i in range(levels) if f"downs.{i}.2.to_out.weight" in weights)
    memory = [weights[f"downs.{i}.2.mem_kv"].shape for i in range(levels)]
    depth = [3 if i in full else 2 for i in range(levels)]
    conditioned = inputs == 2 * outputs
    waves = weights.get("time_mlp.0.weights")
    return LucidUNetConfig(
        in_channels=outputs if conditioned else inputs,
        out_channels=outputs,
        channels=channels,
        multipliers=tuple(weights[end].shape[0] // channels for end in ends),
        stem_channels=None if stem == channels else stem,
        full_attention_at=None if full == (levels - 1,) else full,
        heads=_one_for_all([shape[1] for shape in memory]),
        head_channels=_one_for_all([shape[d] for shape, d in zip(memory, depth)]),
        memories=memory[0][5 - depth[0]],
        groups=0 if "mid_block1.block1.norm.g" in weights else GROUPS,
        self_condition=conditioned,
        fourier_features=0 if waves is None else 2 * len(waves),
    )


def _one_for_all(values: list[int]) -> tuple[int, ...]:
    return tuple(values[:1] if len(set(values)) == 1 else values)


def check_fits(config: NetworkConfig, weights: dict[str, Tensor], program: str) -> None:
    """Raise ValueError unless the network of `config` has exactly these keys and shapes."""
    check_weights(skeleton(config.build, program), weights, program)
