"""Attention and conditions: diffusers' numbers, masks that mask, labels and texts that matter."""

from dataclasses import replace

import pytest
import torch
from diffusers import Transformer2DModel

from sd_unets import LABEL_TOKENS, LABELS, SMALL, TEXT, alive, close, images, text
from sfumato.networks.attention import SpatialAttention, SpatialTransformer, attend_where
from sfumato.networks.conditioning import Tokens

# Attention


@pytest.mark.parametrize("real", [4, 2, 1])
def test_transformer_is_that_of_diffusers_and_of_stable_diffusion(real):
    """Its block is BasicTransformerBlock: same keys, same numbers, masked tokens included."""
    ours = alive(SpatialTransformer(16, 6, 4, 8, 0.0))
    theirs = Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=16,
        cross_attention_dim=6,
        norm_num_groups=4,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    x, _ = images(channels=16, size=(4, 6))
    given = text(real=real)
    tokens, mask = given["tokens"], given["mask"]
    with torch.no_grad():
        wanted = theirs(x, tokens, encoder_attention_mask=mask.long(), return_dict=False)[0]
        close(ours(x, Tokens(tokens, mask)), wanted)


def test_linear_attention_is_an_average_with_weights_that_sum_to_one():
    """Shen et al. (2021): softmax(q) softmax(k)^T as an N x N matrix, here formed."""
    block = alive(SpatialAttention(8, 4, linear=True))
    x, _ = images(channels=8, size=(3, 5))
    h = torch.nn.functional.group_norm(x, 4, block.norm.weight, block.norm.bias, 1e-6)
    q, k, v = (
        torch.einsum("oc,bcn->bno", layer.weight[:, :, 0, 0], h.flatten(2)) + layer.bias
        for layer in (block.q, block.k, block.v)
    )
    weights = torch.einsum("bnc,bmc->bnm", q.softmax(2), k.softmax(1))
    close(weights.sum(2), torch.ones(2, 15))
    mixed = torch.einsum("bnm,bmc->bcn", weights, v).unflatten(2, (3, 5))
    close(block(x), x + block.proj_out(mixed))
    assert (block(x) - x).std() > 0.01


def test_tokens_that_are_not_real_get_no_weight():
    q, k, v = torch.randn(3, 2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    kept = mask[0].nonzero()[:, 0]
    some, none = attend_where(q, k, v, mask)
    scores = q[0] @ k[0][:, kept].transpose(1, 2) / 2
    close(some, scores.softmax(2) @ v[0][:, kept])
    close(none, torch.zeros(1, 5, 4), 0)


# Conditions


def test_what_a_masked_token_holds_does_not_matter():
    network, (x, level), given = alive(TEXT.build()), images(), text()
    output = network(x, level, given)
    changed = given["tokens"].clone()
    changed[:, 3] = float("nan")
    close(network(x, level, {**given, "tokens": changed}), output, 0)
    shorter = {name: value[:, :3] for name, value in given.items()}
    close(network(x, level, shorter), output)
    changed = given["tokens"].clone()
    changed[:, 0] += 1
    assert (network(x, level, {**given, "tokens": changed}) - output).abs().max() > 1e-3


def test_order_of_the_tokens_does_not_matter():
    network, (x, level), given = alive(TEXT.build()), images(), text()
    order = torch.tensor([2, 3, 0, 1])
    turned = {name: value[:, order] for name, value in given.items()}
    close(network(x, level, turned), network(x, level, given))


def test_no_real_token_is_no_text():
    network, (x, level), given = alive(TEXT.build()), images(), text(real=0)
    output = network(x, level, given)
    assert output.isfinite().all()
    close(network(x, level), output)
    assert (network(x, level, text()) - output).abs().max() > 1e-3


def test_a_mixed_batch_is_its_images_one_by_one():
    network, (x, level), given = alive(TEXT.build()), images(), text()
    given["mask"] = torch.stack([given["mask"][0], torch.zeros(4, dtype=torch.bool)])
    both = network(x, level, given)
    for i in range(2):
        alone = {name: value[i : i + 1] for name, value in given.items()}
        close(network(x[i : i + 1], level[i : i + 1], alone), both[i : i + 1])


def test_pooled_context_is_the_mean_of_the_real_tokens():
    network, given = alive(TEXT.build()), text(real=2)
    x, _ = images()
    _, embedding = network.condition(torch.zeros(2, 32), given, x)
    close(embedding, network.condition.pooled(given["tokens"][:, :2].mean(1)))
    assert replace(TEXT, pooled_context=False).build().condition.pooled is None


def test_a_new_condition_adds_nothing_to_a_trained_network():
    """So that an unconditional network can learn texts later."""
    plain, (x, level) = alive(SMALL.build()), images()
    conditional = TEXT.build().eval()
    missing, unexpected = conditional.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all("cross" in name or name.startswith("condition.") for name in missing)
    close(conditional(x, level, text()), plain(x, level), 0)


@pytest.mark.parametrize("config", [LABELS, LABEL_TOKENS], ids=["added", "token"])
def test_each_label_is_another_network_and_none_is_the_last(config):
    network, (x, level) = alive(config.build()), images()
    outputs = [network(x, level, torch.full((2,), label)) for label in range(4)]
    close(network(x, level), outputs[3], 0)
    for i in range(4):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().max() > 1e-3


def test_a_label_token_goes_by_cross_attention_alone():
    network, (x, _) = alive(LABEL_TOKENS.build()), images()
    embedding, labels = torch.randn(2, 32), torch.tensor([0, 3])
    tokens, unchanged = network.condition(embedding, labels, x)
    assert unchanged is embedding
    assert tokens.mask.all()
    close(tokens.values[:, 0], network.condition.label.table.weight[[0, 3]], 0)


# Mistakes


@pytest.mark.parametrize(
    ("config", "cond", "message"),
    [
        (SMALL, torch.tensor([0, 1]), "without one"),
        (LABELS, text(), "network of classes"),
        (TEXT, torch.tensor([0, 1]), "label_tokens"),
        (TEXT, {"tokens": torch.zeros(2, 4, 6)}, r"cond is \['tokens'\]"),
        (TEXT, text(context=5), "text encoder's features"),
        (TEXT, text(n=1), "for 2 images"),
        (TEXT, {**text(), "mask": torch.ones(2, 4)}, "must be bool"),
    ],
)
def test_wrong_conditions_say_what_to_do(config, cond, message):
    with pytest.raises(ValueError, match=message):
        config.build()(*images(), cond)
