"""ADM: its blocks and its whole written out once more, and the published names and shapes."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from adm_layout import IMAGENET_64, IMAGENET_256, SMALL, rows, shapes
from sfumato.networks import flops, parameter_count, table
from sfumato.networks.adm import ADMConfig, Attention, Residual
from small_networks import alive, batch, close

TINY = ADMConfig(
    in_channels=2, out_channels=4, channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,),
    heads=2, classes=3, residual_resampling=True, groups=4,
)  # fmt: skip
PLAIN = replace(TINY, residual_resampling=False, scale_shift=False, heads_first=False)
POOLED = replace(PLAIN, conv_resampling=False)
VARIANTS = pytest.mark.parametrize(
    "config", [TINY, PLAIN, POOLED], ids=["residual", "convolution", "pooling"]
)
PUBLISHED = ADMConfig(
    out_channels=6, classes=1000, residual_resampling=True, head_channels=64, heads=4
)
AT_64 = replace(
    PUBLISHED, channels=192, multipliers=(1, 2, 3, 4), blocks=3, attention_at=(2, 4, 8),
    heads_first=False, dropout=0.1,
)  # fmt: skip
AT_128 = replace(
    PUBLISHED, channels=256, multipliers=(1, 1, 2, 3, 4), attention_at=(4, 8, 16),
    head_channels=None,
)  # fmt: skip
AT_256 = replace(PUBLISHED, channels=256, multipliers=(1, 1, 2, 2, 4, 4), attention_at=(8, 16, 32))
AT_512 = replace(
    PUBLISHED, channels=128, multipliers=(1, 2, 2, 4, 4, 8, 8), attention_at=(16, 32, 64),
    time_features=256,
)  # fmt: skip


# The published networks


@pytest.mark.parametrize(
    ("text", "config"), [(IMAGENET_64, AT_64), (IMAGENET_256, AT_256)], ids=["64", "256"]
)
def test_published_networks_have_their_names_and_shapes(text, config):
    with torch.device("meta"):
        state = config.build().state_dict()
    wanted = shapes(text, config.channels, classes=1000, outputs=6)
    assert {name: tuple(value.shape) for name, value in state.items()} == wanted


@pytest.mark.parametrize(
    ("config", "millions"), [(AT_64, 296), (AT_128, 422), (AT_256, 554), (AT_512, 559)]
)
def test_published_networks_have_their_sizes(config, millions):
    """Dhariwal and Nichol (2021), table of hyperparameters (from memory, but for 559)."""
    with torch.device("meta"):
        assert round(parameter_count(config.build()) / 1e6) == millions


# The formulas, written out once more


def group_norm(w, name, x, groups=4):
    """(B, C, ...) with the mean and variance of each image's groups of channels."""
    flat = x.reshape(len(x), groups, -1)
    middle, spread = flat.mean(2, keepdim=True), flat.var(2, unbiased=False, keepdim=True)
    normed = ((flat - middle) / (spread + 1e-5).sqrt()).reshape(x.shape)
    channel = (1, -1) + (1,) * (x.ndim - 2)
    return normed * w[f"{name}.weight"].view(channel) + w[f"{name}.bias"].view(channel)


def convolved(w, name, x, stride=1):
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w[f"{name}.bias"], stride=stride, padding=weight.shape[2] // 2)


def half(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def silu(x):
    return x / (1 + (-x).exp())


def literal_residual(w, name, x, e, scale_shift, resample=lambda x: x):
    h = convolved(w, f"{name}.in_layers.2", resample(silu(group_norm(w, f"{name}.in_layers.0", x))))
    told = silu(e) @ w[f"{name}.emb_layers.1.weight"].T + w[f"{name}.emb_layers.1.bias"]
    told = told[:, :, None, None]
    if scale_shift:
        c = h.shape[1]
        h = group_norm(w, f"{name}.out_layers.0", h) * (1 + told[:, :c]) + told[:, c:]
    else:
        h = group_norm(w, f"{name}.out_layers.0", h + told)
    skip = resample(x)
    if f"{name}.skip_connection.weight" in w:
        skip = convolved(w, f"{name}.skip_connection", skip)
    return skip + convolved(w, f"{name}.out_layers.3", silu(h))


def literal_attention(w, name, x, heads, heads_first):
    c, d = x.shape[1], x.shape[1] // heads
    tokens = group_norm(w, f"{name}.norm", x.flatten(2))
    qkv = torch.einsum("oc,bcn->bon", w[f"{name}.qkv.weight"][..., 0], tokens)
    qkv = qkv + w[f"{name}.qkv.bias"][:, None]
    out = []
    for head in range(heads):
        starts = [(3 * head + i) * d if heads_first else i * c + head * d for i in range(3)]
        q, k, v = (qkv[:, start : start + d] for start in starts)
        weights = (torch.einsum("bdi,bdj->bij", q, k) / math.sqrt(d)).exp()
        weights = weights / weights.sum(2, keepdim=True)
        out.append(torch.einsum("bij,bdj->bdi", weights, v))
    mixed = torch.einsum("oc,bcn->bon", w[f"{name}.proj_out.weight"][..., 0], torch.cat(out, 1))
    return x + (mixed + w[f"{name}.proj_out.bias"][:, None]).view(x.shape)


def literal(w, config, x, level, cond):
    """The network of SMALL's rows."""

    def resampled(name, x, by):
        if config.residual_resampling:
            return literal_residual(w, name, x, e, config.scale_shift, half if by < 0 else double)
        if not config.conv_resampling:
            return half(x) if by < 0 else double(x)
        if by < 0:
            return convolved(w, f"{name}.op", x, stride=2)
        return convolved(w, f"{name}.conv", double(x))

    f = torch.tensor([10_000 ** (-k / 4) for k in range(4)], dtype=x.dtype)
    e = torch.cat([(level[:, None] * f).cos(), (level[:, None] * f).sin()], 1)
    e = silu(e @ w["time_embed.0.weight"].T + w["time_embed.0.bias"])
    e = e @ w["time_embed.2.weight"].T + w["time_embed.2.bias"] + w["label_emb.weight"][cond]
    h, skips, before_middle = x, [], True
    middle = ["middle_block.0", "middle_block.1", "middle_block.2"]
    for name, kind, _, _, attends, doubles in rows(SMALL):
        if name.startswith("output") and before_middle:
            before_middle = False
            h = literal_residual(w, middle[0], h, e, config.scale_shift)
            h = literal_attention(w, middle[1], h, config.heads, config.heads_first)
            h = literal_residual(w, middle[2], h, e, config.scale_shift)
        if name.startswith("output"):
            h = torch.cat([h, skips.pop()], 1)
        if kind == "conv":
            h = convolved(w, f"{name}.0", h)
        elif kind == "down":
            h = resampled(f"{name}.0", h, -1)
        else:
            h = literal_residual(w, f"{name}.0", h, e, config.scale_shift)
        if attends:
            h = literal_attention(w, f"{name}.1", h, config.heads, config.heads_first)
        if doubles:
            h = resampled(f"{name}.2", h, +1)
        if name.startswith("input"):
            skips.append(h)
    return convolved(w, "out.2", silu(group_norm(w, "out.0", h)))


@VARIANTS
def test_the_whole_is_its_formulas(config):
    network, (x, level) = alive(config.build()), batch(3, 2, 4, 6)
    cond = torch.tensor([0, 2, 1])
    wanted = literal(network.state_dict(), config, x, level, cond)
    close(network(x, level, cond), wanted)
    assert wanted.std() > 0.1


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize(("resampling", "by"), [(0, lambda x: x), (1, double), (-1, half)])
def test_a_residual_is_its_formula(scale_shift, resampling, by):
    block = alive(Residual(replace(TINY, scale_shift=scale_shift), 8, 16, resampling))
    x, e = batch(2, 8, 4, 6)[0], batch(2, 32, seed=1)[0]
    state = {f"b.{name}": value for name, value in block.state_dict().items()}
    close(block(x, e), literal_residual(state, "b", x, e, scale_shift, by))


@pytest.mark.parametrize("heads_first", [True, False])
def test_attention_is_its_formula_in_both_orders(heads_first):
    block = alive(Attention(replace(TINY, heads=4, heads_first=heads_first), 16))
    x, e = batch(2, 16, 3, 5)[0], batch(2, 32, seed=1)[0]
    state = {f"b.{name}": value for name, value in block.state_dict().items()}
    close(block(x, e), literal_attention(state, "b", x, 4, heads_first))
    other = literal_attention(state, "b", x, 4, not heads_first)
    assert not torch.allclose(block(x, e), other)


# What every network promises


@VARIANTS
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1)], ids=str)
def test_any_size_comes_back_as_it_went_in(config, size):
    output = alive(config.build())(*batch(2, 2, *size))
    assert output.shape == (2, 4, *size)
    assert output.isfinite().all()


def test_a_new_network_returns_zero():
    assert TINY.build().double()(*batch(2, 2, 4, 4)).abs().max() == 0


def test_no_class_adds_nothing():
    network, (x, level) = alive(TINY.build()), batch(1, 2, 4, 4)
    outputs = [network(x, level, torch.tensor([label])) for label in range(4)]
    close(network(x, level), outputs[3])
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    with torch.no_grad():
        network.label_emb.weight[1] = 0
    close(network(x, level, torch.tensor([1])), outputs[3])


@VARIANTS
def test_gradient_reaches_every_parameter(config):
    network, (x, level) = alive(config.build()), batch(4, 2, 4, 4)
    network(x, level, torch.tensor([0, 1, 2, 3])).square().mean().backward()
    assert [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0] == []


def test_bf16_autocast_is_close_to_float32():
    network = alive(TINY.build()).float()
    x, level = (value.float() for value in batch(4, 2, 8, 8))
    exact = network(x, level)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, level)
    assert 0 < (rounded - exact).square().mean().sqrt() < 0.03 * exact.std()


@VARIANTS
def test_the_table_adds_up(config):
    network = config.build()
    listed = table(network, (2, 8, 8), classes=3)
    assert sum(row.parameters for row in listed) == parameter_count(network)
    assert sum(row.flops for row in listed) == flops(network, (2, 8, 8), classes=3)


def test_a_config_survives_json():
    fields = json.loads(json.dumps(asdict(AT_64)))
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    assert ADMConfig(**fields) == AT_64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "does not split into 3 heads"),
        ({"head_channels": 5}, "does not split into heads of 5"),
        ({"attention_at": (4,)}, r"choose from \(1, 2\)"),
        ({"channels": 10}, "4 groups do not divide"),
        ({"time_features": 7}, "make time_features .* even"),
        ({"multipliers": ()}, "give one per level"),
        ({"blocks": 0}, "blocks is 0: it must be 1 or more"),
        ({"out_channels": 0}, "1 or more, or None"),
        ({"dropout": 1.0}, "less than 1"),
        ({"classes": -1}, "give 0 for none"),
    ],
    ids=str,
)
def test_a_wrong_config_says_what_to_change(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change).build()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, t: (x[0], t, None), r"wants images \(B, 2, H, W\)"),
        (lambda x, t: (x, t[:1], None), "pass one level per image"),
        (lambda x, t: (x, t, torch.tensor([0, 4])), "labels from 0 to 4 .* 3 classes"),
    ],
)
def test_a_wrong_call_says_what_is_wanted(call, message):
    with pytest.raises(ValueError, match=message):
        TINY.build().double()(*call(*batch(2, 2, 4, 4)))


def test_labels_are_refused_where_there_are_no_classes():
    with pytest.raises(ValueError, match="build the network with classes"):
        replace(TINY, classes=0).build().double()(*batch(2, 2, 4, 4), torch.tensor([0, 1]))
