"""Networks: any size goes in and comes out, and blocks are their formulas."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sfumato.networks.embeddings import NoiseEmbedding
from sfumato.networks.fused_attention import SHORT, attend
from sfumato.networks.layers import GroupNorm, pad_to_multiple
from sfumato.networks.unet import Attention, Residual
from small_networks import LABELLED, SAME_CALL, TINY, alive, batch, close

# Shapes


@pytest.mark.parametrize("size", [(28, 28), (27, 31), (1, 1), (5, 2)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_any_size_and_channels_come_back_as_they_went_in(size, channels, patch):
    config = replace(
        TINY, in_channels=channels, multipliers=(1, 1, 2, 2), attention_at=(4 * patch,), patch=patch
    )
    x = torch.randn(2, channels, *size)
    output = alive(config.build()).float()(x, torch.tensor([1.0, 999.0]))
    assert output.shape == x.shape
    assert output.isfinite().all()
    twice = replace(config, out_channels=2 * channels).build()
    assert twice(x, torch.tensor([1.0, 999.0])).shape == (2, 2 * channels, *size)


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (8, 8), (9, 30), (27, 31)], ids=str)
def test_padding_repeats_the_border_and_is_cut_back(size):
    x = torch.randn(1, 2, *size)
    padded, box = pad_to_multiple(x, 8)
    assert [side % 8 for side in padded.shape[2:]] == [0, 0]
    assert max(p - s for p, s in zip(padded.shape[2:], size)) < 8
    assert torch.equal(padded[box], x)
    for cut, p, n in zip(box[1:], padded.shape[2:], size):
        assert 0 <= (p - n - cut.start) - cut.start <= 1  # as much before as after
    assert torch.equal(padded[..., 0, 0], x[..., 0, 0])
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])


def test_a_size_that_fits_is_not_padded():
    x = torch.randn(1, 1, 16, 24)
    assert pad_to_multiple(x, 8)[0] is x


def test_an_odd_size_is_the_padded_image_cut_back():
    network, (x, level) = alive(TINY.build()), batch(2, 1, 7, 9)
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    close(network(x, level), network(padded, level)[..., :7, :9])


# Beginnings


@SAME_CALL
def test_a_new_network_returns_zero(config, shape):
    x, level = batch(3, *shape)
    assert config.build().double()(x, level).abs().max() == 0


def test_a_new_block_is_its_skip():
    residual, attention = Residual(TINY, 8, 8), Attention(TINY, 8)
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 32)
    assert torch.equal(residual(x, embedding), x)
    assert torch.equal(attention(x), x)


@SAME_CALL
def test_two_eval_calls_agree(config, shape):
    network, (x, level) = alive(config.build()), batch(3, *shape)
    assert torch.equal(network(x, level), network(x, level))


def test_dropout_acts_in_training_only():
    network, (x, level) = alive(replace(TINY, dropout=0.5).build()), batch(3, 1, 8, 8)
    still = network(x, level)
    assert torch.equal(still, network(x, level))
    network.train()
    assert not torch.allclose(network(x, level), network(x, level))
    plain = alive(TINY.build())
    plain.load_state_dict(network.state_dict())
    close(still, plain(x, level))
    close(still, plain.train()(x, level))


@SAME_CALL
def test_gradient_reaches_every_parameter(config, shape):
    network = alive(replace(config, classes=2).build())
    x, level = batch(6, *shape)
    network(x, level, torch.tensor([0, 1, 2, 0, 1, 2])).square().mean().backward()
    without = [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0]
    assert without == []
    assert network.embedding.label.table.weight.grad.abs().amax(dim=1).min() > 0


@SAME_CALL
def test_a_state_dict_carries_the_network(config, shape):
    network, (x, level) = alive(config.build()), batch(2, *shape)
    other = alive(config.build(), seed=1)
    assert not torch.equal(other(x, level), network(x, level))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x, level), network(x, level))
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


# Conditions


@SAME_CALL
def test_each_label_and_the_null_class_soon_give_outputs_of_their_own(config, shape):
    network = replace(config, classes=3).build().double()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, level = (value[:1].expand(4, *value.shape[1:]) for value in batch(1, *shape))
    labels = torch.arange(4)
    for _ in range(2):  # the first step moves the last layer off zero, the second the blocks
        loss = (network(x, level, labels) - 1 - labels.view(-1, *[1] * len(shape))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outputs = network(x, level, labels).flatten(1)
    apart = torch.cdist(outputs, outputs) + torch.eye(4)
    assert apart.min() > 1e-6


@SAME_CALL
def test_no_condition_is_the_null_class(config, shape):
    network, (x, level) = alive(replace(config, classes=3).build()), batch(2, *shape)
    assert torch.equal(network(x, level), network(x, level, torch.tensor([3, 3])))
    assert not torch.allclose(network(x, level), network(x, level, torch.tensor([2, 2])))


@SAME_CALL
def test_wrong_calls_say_what_to_pass(config, shape):
    network, (x, level) = replace(config, classes=3).build().double(), batch(2, *shape)
    for outside in ([-1, 0], [0, 4]):
        with pytest.raises(ValueError, match=r"of 3 classes: use 0 to 2, or 3 for 'no class'"):
            network(x, level, torch.tensor(outside))
    with pytest.raises(ValueError, match=r"one integer class per image, shape \(2,\)"):
        network(x, level, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"one integer class per image, shape \(2,\)"):
        network(x, level, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"noise_level is \(\) for 2 images"):
        network(x, level[0])
    with pytest.raises(ValueError, match="set in_channels"):
        network(torch.cat([x, x], dim=1), level)
    with pytest.raises(ValueError, match="labels were given to a network without classes"):
        config.build().double()(x, level, torch.tensor([0, 1]))


RANGES = [(0.0, 1000.0, 1.0), (math.log(0.002) / 4, math.log(80) / 4, 250.0)]


@pytest.mark.parametrize(("low", "high", "scale"), RANGES, ids=["ddpm", "edm"])
def test_every_noise_level_has_an_embedding_of_its_own(low, high, scale):
    embedding = NoiseEmbedding(32, 64, scale).double()
    levels = torch.linspace(low, high, 1000, dtype=torch.float64)
    for vectors, least in [(embedding.features(levels), 0.1), (embedding(levels), 0.02)]:
        size = vectors.norm(dim=1).mean()
        apart = torch.cdist(vectors, vectors) / size + torch.eye(1000)
        assert apart.min() > least


def test_noise_features_are_the_sinusoids_of_the_formula():
    features = NoiseEmbedding(6, 4, scale=2.0).features(torch.tensor([1.5]))[0]
    angles = [3.0 * 10000 ** (-k / 3) for k in range(3)]
    wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    close(features, torch.tensor(wanted), 1e-6)


def test_noise_features_of_a_bf16_network_are_those_of_float32():
    level, embedding = torch.tensor([998.0, 999.0]), NoiseEmbedding(8, 4)
    wanted = embedding.features(level)
    embedding.bfloat16()
    assert torch.equal(embedding.features(level), wanted)
    assert embedding(level).dtype == torch.bfloat16


# Blocks against their formulas


def literal_norm(norm, x):
    """Wu and He (2018): each image and group of channels to mean 0 and variance 1."""
    grouped = x.reshape(len(x), norm.groups, -1)
    mean = grouped.mean(dim=2, keepdim=True)
    variance = grouped.var(dim=2, correction=0, keepdim=True)
    normal = ((grouped - mean) / torch.sqrt(variance + 1e-5)).view_as(x)
    return normal * norm.weight[:, None, None] + norm.bias[:, None, None]


def test_group_norm_is_its_formula_also_for_one_value():
    norm = alive(GroupNorm(4, 8))
    x, _ = batch(3, 8, 5, 5)
    close(norm(x), literal_norm(norm, x))
    single = alive(GroupNorm(8, 8))
    close(single(x[:1, :, :1, :1]), single.bias.view(1, 8, 1, 1))


def test_group_norm_of_bf16_is_float32s_rounded():
    norm, x = GroupNorm(4, 8), torch.randn(3, 8, 5, 5).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


@pytest.mark.parametrize("scale_shift", [True, False], ids=["scale_shift", "additive"])
@pytest.mark.parametrize("width", [8, 16])
def test_residual_is_its_formula(scale_shift, width):
    block = alive(Residual(replace(TINY, scale_shift=scale_shift), 8, width))
    (x, _), (embedding, _) = batch(3, 8, 5, 5), batch(3, 32, seed=1)
    told = (embedding @ block.modulation.weight.T + block.modulation.bias)[:, :, None, None]
    h = F.conv2d(F.silu(literal_norm(block.norm1, x)), block.conv1.weight, block.conv1.bias, 1, 1)
    if scale_shift:
        h = literal_norm(block.norm2, h) * (1 + told[:, :width]) + told[:, width:]
    else:
        h = literal_norm(block.norm2, h + told)
    h = F.conv2d(F.silu(h), block.conv2.weight, block.conv2.bias, 1, 1)
    skip = x if width == 8 else F.conv2d(x, block.skip.weight, block.skip.bias)
    close(block(x, embedding), skip + h)


def literal_attention(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v


@pytest.mark.parametrize("tokens", [1, 49, SHORT, SHORT + 1])
def test_short_and_long_attention_are_the_same_formula(tokens):
    q, k, v = (batch(2, 3, tokens, 8, seed=seed)[0] for seed in range(3))
    close(attend(q, k, v), literal_attention(q, k, v))


def test_attention_block_is_its_formula():
    block = alive(Attention(TINY, 16))  # two heads of 8
    x, _ = batch(3, 16, 4, 5)
    tokens = literal_norm(block.norm, x).flatten(2).mT
    q, k, v = (tokens @ block.qkv.weight.T + block.qkv.bias).chunk(3, dim=2)
    heads = [literal_attention(q[..., h], k[..., h], v[..., h]) for h in (slice(8), slice(8, 16))]
    mixed = torch.cat(heads, dim=2) @ block.project.weight.T + block.project.bias
    close(block(x), x + mixed.mT.reshape(x.shape))


def test_attention_does_not_care_where_a_feature_is():
    block, (x, _) = alive(Attention(TINY, 16)), batch(2, 16, 4, 5)
    order = torch.randperm(20)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    close(block(shuffled).flatten(2), block(x).flatten(2)[:, :, order])


# The whole


@SAME_CALL
def test_an_image_does_not_depend_on_the_rest_of_its_batch(config, shape):
    network, (x, level) = alive(replace(config, classes=3).build()), batch(5, *shape)
    labels = torch.tensor([0, 1, 2, 3, 0])
    together = network(x, level, labels)
    alone = [network(x[i : i + 1], level[i : i + 1], labels[i : i + 1]) for i in range(5)]
    close(together, torch.cat(alone))


def test_a_feature_of_the_first_level_is_a_patch():
    network = alive(replace(TINY, patch=2, attention_at=(4,)).build())
    seen = []
    network.stem.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x, level = batch(1, 1, 8, 8)
    network(x, level)
    assert seen[0].shape == (1, 4, 4, 4)
    assert torch.equal(seen[0][0, :, 1, 2], x[0, 0, 2:4, 4:6].flatten())


@pytest.mark.parametrize("patch", [1, 2])
def test_features_stay_channels_last(patch):
    network = alive(replace(TINY, in_channels=3, patch=patch, attention_at=(2,)).build())
    formats = {}
    for name in ("stem", "middle", "up.0", "up.1"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: formats.update(
                {name: y.is_contiguous(memory_format=torch.channels_last)}
            )
        )
    x, level = batch(2, 3, 16, 16)
    network(x, level)
    assert formats == {"stem": True, "middle": True, "up.0": True, "up.1": True}
    other_format = x.contiguous(memory_format=torch.channels_last)
    close(network(other_format, level), network(x, level))


def test_bf16_autocast_is_close_to_float32():
    network = alive(LABELLED.build()).float()
    x, level = (value.float() for value in batch(4, 1, 28, 28))
    exact = network(x, level, torch.tensor([0, 1, 2, 3]))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, level, torch.tensor([0, 1, 2, 3]))
    assert 0 < (rounded - exact).square().mean().sqrt() < 0.03 * exact.std()  # 0.01 as measured


@SAME_CALL
def test_an_exported_network_takes_any_batch(config, shape):
    network = alive(replace(config, classes=3).build())
    (x, level), labels, free = batch(2, *shape), torch.tensor([0, 3]), torch.export.Dim("batch")
    program = torch.export.export(
        network, (x, level, labels), dynamic_shapes=({0: free}, {0: free}, {0: free})
    )
    (x, level), labels = batch(5, *shape), torch.tensor([0, 1, 2, 3, 0])
    close(program.module()(x, level, labels), network(x, level, labels))


# Against diffusers, with the same weights


@pytest.mark.parametrize("scale_shift", [True, False], ids=["scale_shift", "additive"])
def test_residual_is_that_of_diffusers(scale_shift):
    from diffusers.models.resnet import ResnetBlock2D

    ours = alive(Residual(replace(TINY, scale_shift=scale_shift), 8, 16))
    theirs = ResnetBlock2D(
        in_channels=8, out_channels=16, temb_channels=32, groups=4, eps=1e-5,
        time_embedding_norm="scale_shift" if scale_shift else "default",
    ).double()  # fmt: skip
    names = {"modulation": "time_emb_proj", "skip": "conv_shortcut"}
    state = {
        ".".join([names.get(name.split(".")[0], name.split(".")[0]), name.split(".")[1]]): value
        for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(state)
    (x, _), (embedding, _) = batch(3, 8, 5, 5), batch(3, 32, seed=1)
    close(ours(x, F.silu(embedding)), theirs(x, embedding))


def test_attention_is_that_of_diffusers():
    from diffusers.models.attention_processor import Attention as Theirs

    ours = alive(Attention(TINY, 16))
    theirs = Theirs(
        16, heads=2, dim_head=8, norm_num_groups=4, bias=True, residual_connection=True
    ).double()
    parts = [value.chunk(3) for value in (ours.qkv.weight, ours.qkv.bias)]
    state = {
        f"to_{letter}.{kind}": parts[j][i]
        for i, letter in enumerate("qkv")
        for j, kind in enumerate(("weight", "bias"))
    }
    for kind in ("weight", "bias"):
        state[f"to_out.0.{kind}"] = getattr(ours.project, kind)
        state[f"group_norm.{kind}"] = getattr(ours.norm, kind)
    theirs.load_state_dict(state)
    x, _ = batch(3, 16, 4, 5)
    close(ours(x), theirs(x))
