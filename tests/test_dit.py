"""DiT: the paper's formulas written out once more, its sizes, and what all networks promise."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from sfumato.networks import flops, parameter_count, table
from sfumato.networks.dit import Block, DiTConfig, dit_size, positions
from small_networks import alive, batch, close

TINY = DiTConfig(in_channels=2, patch=2, depth=2, width=16, heads=2, classes=3)


def labels(n):
    return torch.arange(n) % 4  # the last is "no class"


# The paper, written out once more in loops


def norm(token):
    return (token - token.mean()) / (token.var(unbiased=False) + 1e-6).sqrt()


def dense(w, name, value):
    return w[f"{name}.weight"] @ value + w[f"{name}.bias"]


def silu(x):
    return x / (1 + (-x).exp())


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def told(w, level, label):
    """The level's cosines before its sines, 128 of each; then the class."""
    angles = [level * 10_000 ** (-k / 128) for k in range(128)]
    features = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
    hidden = silu(dense(w, "t_embedder.mlp.0", features))
    return dense(w, "t_embedder.mlp.2", hidden) + w["y_embedder.embedding_table.weight"][label]


def place(row, column, width):
    """Column first, and sines before cosines, unlike the noise level's."""
    quarter = width // 4
    f = [10_000 ** (-k / quarter) for k in range(quarter)]
    parts = [fn(i * fk) for i in (column, row) for fn in (math.sin, math.cos) for fk in f]
    return torch.tensor(parts, dtype=torch.float64)


def attention(w, name, tokens, heads):
    qkv = [dense(w, f"{name}.qkv", token).reshape(3, heads, -1) for token in tokens]
    rows = []
    for mine in qkv:
        mixed = []
        for head in range(heads):
            q = mine[0, head] / math.sqrt(mine.shape[2])
            weights = torch.stack([q @ other[1, head] for other in qkv]).exp()
            values = torch.stack([other[2, head] for other in qkv])
            mixed.append((weights[:, None] * values).sum(0) / weights.sum())
        rows.append(dense(w, f"{name}.proj", torch.cat(mixed)))
    return rows


def literal(w, config, x, level, label):
    """One image (C, H, W) through Peebles and Xie (2023), figure 3."""
    side, width = config.patch, config.width
    c = silu(told(w, level, label))
    grid = [(i, j) for i in range(x.shape[1] // side) for j in range(x.shape[2] // side)]
    tokens = []
    for i, j in grid:
        square = x[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
        linear = (w["x_embedder.proj.weight"] * square).sum((1, 2, 3)) + w["x_embedder.proj.bias"]
        tokens.append(linear + place(i, j, width))
    for n in range(config.depth):
        changes = dense(w, f"blocks.{n}.adaLN_modulation.1", c).reshape(6, width)
        inputs = [norm(token) * (1 + changes[1]) + changes[0] for token in tokens]
        mixed = attention(w, f"blocks.{n}.attn", inputs, config.heads)
        tokens = [token + changes[2] * m for token, m in zip(tokens, mixed)]
        for k, token in enumerate(tokens):
            h = dense(w, f"blocks.{n}.mlp.fc1", norm(token) * (1 + changes[4]) + changes[3])
            tokens[k] = token + changes[5] * dense(w, f"blocks.{n}.mlp.fc2", gelu(h))
    shift, scale = dense(w, "final_layer.adaLN_modulation.1", c).reshape(2, width)
    image = torch.empty(config.out_channels or len(x), *x.shape[1:], dtype=x.dtype)
    for (i, j), token in zip(grid, tokens):
        out = dense(w, "final_layer.linear", norm(token) * (1 + scale) + shift)
        square = out.reshape(side, side, -1).permute(2, 0, 1)  # channels lie last in a patch
        image[:, i * side : (i + 1) * side, j * side : (j + 1) * side] = square
    return image


def test_it_is_the_paper():
    config = replace(TINY, out_channels=4)
    network, (x, level) = alive(config.build()), batch(2, 2, 4, 6)
    given = torch.tensor([1, 3])
    output = network(x, level, given)
    for i, label in enumerate(given):
        wanted = literal(network.state_dict(), config, x[i], level[i].item(), label)
        close(output[i], wanted)
    assert output.std() > 0.1


def test_positions_are_their_closed_form():
    like = torch.zeros((), dtype=torch.float64)
    grid = positions(3, 5, 8, like).unflatten(0, (3, 5))
    for i in range(3):
        for j in range(5):
            close(grid[i, j], place(i, j, 8))


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_the_papers_sizes(size, millions):
    """Peebles and Xie (2023), table 4 (from memory): parameters of DiT-*/2 on latents."""
    latent = DiTConfig(in_channels=4, out_channels=8, patch=2, classes=1000)
    with torch.device("meta"):
        network = dit_size(size, latent).build()
    assert round(parameter_count(network) / 1e6) == millions


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="no DiT size 'XXL' is known: choose from S, B, L, XL"):
        dit_size("XXL")


# What every network promises


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (5, 2)], ids=str)
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_any_size_comes_back_as_it_went_in(size, patch):
    config = replace(TINY, in_channels=3, patch=patch, out_channels=6, classes=0)
    x = torch.randn(2, 3, *size)
    output = alive(config.build()).float()(x, torch.tensor([0.0, 999.0]))
    assert output.shape == (2, 6, *size)
    assert output.isfinite().all()


def test_an_odd_size_is_the_padded_image_cut_back():
    network, (x, level) = alive(TINY.build()), batch(2, 2, 7, 9)
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    close(network(x, level), network(padded, level)[..., :7, :9])


def test_a_new_network_returns_zero_and_a_new_block_its_input():
    x, level = batch(3, 2, 8, 8)
    assert TINY.build().double()(x, level, labels(3)).abs().max() == 0
    tokens, c = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert torch.equal(Block(TINY)(tokens, c), tokens)


def test_none_is_the_last_class_and_every_class_is_its_own():
    network, (x, level) = alive(TINY.build()), batch(1, 2, 4, 4)
    outputs = [network(x, level, torch.tensor([label])) for label in range(4)]
    close(network(x, level), outputs[3])
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


def test_images_do_not_meet():
    network, (x, level) = alive(TINY.build()), batch(3, 2, 4, 6)
    together = network(x, level, labels(3))
    alone = [network(x[i : i + 1], level[i : i + 1], labels(3)[i : i + 1]) for i in range(3)]
    close(together, torch.cat(alone))


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_reaches_every_parameter(shared):
    network = alive(replace(TINY, shared_embedding=shared).build())
    x, level = batch(4, 2, 4, 4)
    network(x, level, labels(4)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0] == []


def test_blocks_that_are_told_alike_are_told_once():
    """shared_embedding=False with equal copies is shared_embedding=True."""
    shared = alive(TINY.build())
    own = alive(replace(TINY, shared_embedding=False).build())
    state = dict(shared.state_dict())
    copies = {f"more_embedders.0.{k}": v for k, v in state.items() if k[:2] in ("t_", "y_")}
    x, level = batch(2, 2, 4, 4)
    assert not torch.allclose(own(x, level, labels(2)), shared(x, level, labels(2)))
    own.load_state_dict(state | copies)
    close(own(x, level, labels(2)), shared(x, level, labels(2)))


def test_noise_scale_multiplies_the_level():
    network, scaled = alive(TINY.build()), replace(TINY, noise_scale=250.0).build().double()
    scaled.load_state_dict(network.state_dict())
    x, level = batch(2, 2, 4, 4)
    close(scaled(x, level / 250), network(x, level))


def test_bf16_autocast_is_close_to_float32():
    network = alive(TINY.build()).float()
    x, level = (value.float() for value in batch(4, 2, 8, 8))
    exact = network(x, level, labels(4))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, level, labels(4))
    assert 0 < (rounded - exact).square().mean().sqrt() < 0.03 * exact.std()  # 0.004 as measured


def test_an_exported_network_takes_any_batch():
    network, free = alive(TINY.build()), torch.export.Dim("batch")
    (x, level), shapes = batch(2, 2, 4, 4), ({0: free}, {0: free}, {0: free})
    program = torch.export.export(network, (x, level, labels(2)), dynamic_shapes=shapes)
    x, level = batch(5, 2, 4, 4)
    close(program.module()(x, level, labels(5)), network(x, level, labels(5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, t: (x[0], t, None), r"wants images \(B, 2, H, W\)"),
        (lambda x, t: (x, t[:1], None), "pass one level per image"),
        (lambda x, t: (x, t, torch.tensor([0, 4])), "labels from 0 to 4 .* 3 classes"),
        (lambda x, t: (x, t, torch.tensor([0.0, 1.0])), "one integer class"),
    ],
)
def test_a_wrong_call_says_what_is_wanted(call, message):
    with pytest.raises(ValueError, match=message):
        TINY.build().double()(*call(*batch(2, 2, 4, 4)))


def test_labels_are_refused_where_there_are_no_classes():
    with pytest.raises(ValueError, match="build the network with classes"):
        replace(TINY, classes=0).build().double()(*batch(2, 2, 4, 4), labels(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "does not split into 3 heads"),
        ({"width": 6, "heads": 2}, "choose a multiple of 4"),
        ({"patch": 0}, "patch is 0: it must be 1 or more"),
        ({"out_channels": 0}, "None for as many as in"),
        ({"classes": -1}, "give 0 for none"),
        ({"mlp_ratio": 0.0}, "choose one above 0"),
    ],
    ids=str,
)
def test_a_wrong_config_says_what_to_change(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change).build()


def test_a_config_survives_json():
    assert DiTConfig(**json.loads(json.dumps(asdict(TINY)))) == TINY


def test_the_table_adds_up_and_flops_are_their_closed_form():
    network, n, d = TINY.build(), 4 * 4, 16
    rows = table(network, (2, 8, 8), classes=3)
    assert sum(row.parameters for row in rows) == parameter_count(network)
    block = n * (4 * d * d + 2 * n * d + 8 * d * d) + 6 * d * d
    once = 256 * d + d * d + 2 * d * d
    wanted = 2 * (2 * block + once + 2 * n * 8 * d)
    assert sum(row.flops for row in rows) == flops(network, (2, 8, 8), classes=3) == wanted
