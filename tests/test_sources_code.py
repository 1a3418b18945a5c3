"""What docs/sources.md says of the texts' programs, and of ours, and no other test holds.

`001:399` is line 399 of source 001. tests/test_sources.py holds formulas and numbers.
"""

import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato import checkpoint
from sfumato.assembly import batches
from sfumato.codec import Pixels
from sfumato.discrete import LinearBetas
from sfumato.exact import GaussianMixture
from sfumato.grids import UniformGrid
from sfumato.networks import table
from sfumato.networks.handmade import HandmadeConfig
from sfumato.networks.unet2d import UNet2DConfig
from sfumato.preflight import BESIDE_SAVED, SHARE_OF_FREE, fitting
from sfumato.process import Trigonometric
from sfumato.recipes import RECIPES
from sfumato.sampling import sample
from sfumato.solvers import DDIM
from sfumato.training import train
from tiny import CPU, Hooks, images, parts, run

SIX_LEVELS = UNet2DConfig(  # 003:199 to 207
    in_channels=3,
    block_out_channels=(128, 128, 256, 256, 512, 512),
    layers_per_block=2,
    attention_down=(False,) * 6,
    attention_up=(False,) * 6,
    middle_attention=True,
)


# ---- what does not run


def test_names_in_denoising_diffusion_pytorch():
    """004:233 to 279: none of the three is a name of 2.3.4, nor a method of its diffusion."""
    peer = pytest.importorskip("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    assert {"Unet", "GaussianDiffusion", "Trainer"} <= set(dir(peer))
    for missing in ("DDPMModel", "train_step", "create_trainer"):
        assert not any(hasattr(owner, missing) for owner in (peer, peer.GaussianDiffusion))


def test_every_latent_on_the_way_goes_through_the_network():
    """003:104: not z_T alone: each of ten steps asks about another z_t, at another time."""
    asked = []
    exact = GaussianMixture(Trigonometric(), torch.eye(4, dtype=torch.float64), 0.3)

    class Watched:
        process = exact.process

        def __call__(self, x_t, t, cond=None):
            asked.append((x_t.clone(), t.clone()))
            return exact(x_t, t, cond)

    times = UniformGrid()(exact.process, 10)
    z = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample(Watched(), z, times, DDIM())
    assert torch.equal(asked[0][0], z)
    for (before, earlier), (after, later) in pairwise(asked):
        assert not torch.equal(before, after)
        assert (later < earlier).all()
    assert len(asked) == 10


def test_backward_with_the_loss_multiplies_the_gradient_by_the_loss():
    """000:89 and 153: not only unneeded. Small losses learn more slowly, and it is L^2 / 2."""
    x = torch.tensor([1.0, -2.0, 4.0])
    grads = []
    for argument in (False, True):
        weight = torch.tensor(0.5, requires_grad=True)
        loss = F.mse_loss(weight * x, torch.zeros(3))
        loss.backward(loss if argument else None)
        grads.append(weight.grad)
    assert loss.item() == 1.75
    assert grads[0].item() == pytest.approx(7)
    assert grads[1].item() == pytest.approx(1.75 * 7)


def test_names_and_calls_that_do_not_exist():
    """001:25, 323, 332 and 336."""
    assert not hasattr(torch, "lc")
    assert not hasattr(torch, "opim")
    x0 = torch.zeros(4, 3, 8, 8)
    with pytest.raises(TypeError, match="not subscriptable"):
        x0.size[0]  # type: ignore[index]
    with pytest.raises(TypeError):
        torch.randn(0, 1000, (4,))  # type: ignore[call-overload]


def test_a_comment_is_no_value():
    """001:429."""
    with pytest.raises(SyntaxError):
        compile("f(\n  root = #where the data go\n  train = True)", "001", "exec")


def test_arguments_that_are_missing():
    """001:327 and 469: defined with four, called with two of them, and those exchanged."""

    def train(dataloader, model, optimizer, epochs):
        raise AssertionError("not reached")

    with pytest.raises(TypeError, match="'optimizer' and 'epochs'"):
        train("model", "dataloader")


def test_a_batch_of_pairs_has_no_names():
    """000:73 asks a (tensor, label) pair for its "images"; ours are dicts, labels and all."""
    pair = [torch.zeros(2, 1, 28, 28), torch.zeros(2)]
    with pytest.raises(TypeError, match="not str"):
        pair["images"]  # type: ignore[call-overload]
    batch = batches(run(), images(), CPU)(0)
    assert batch["images"].shape == (12, 1, 8, 8)
    assert batch["images"].dtype == torch.uint8


def test_three_channels_do_not_take_grey_digits():
    """000:22 and 23 with 000:126; here the run takes its channels from the data."""
    with pytest.raises(RuntimeError, match="3 channels, but got 1"):
        nn.Conv2d(3, 64, 3, padding=1)(torch.zeros(1, 1, 28, 28))
    assert run().network.in_channels == images().channels == 1


def test_noise_of_three_dimensions_is_no_batch():
    """001:376: 16 x 3 x S is read as one image of 16 channels."""
    with pytest.raises(RuntimeError, match="3 channels, but got 16"):
        nn.Conv2d(3, 64, 3, padding=1)(torch.randn(16, 3, 32))


def test_an_upsampled_map_does_not_go_beside_itself():
    """001:299 with 200 and 202: up3(x, x) puts H beside H / 2."""
    x = torch.zeros(1, 64, 16, 16)
    up = nn.ConvTranspose2d(64, 64, kernel_size=2, stride=2)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.cat([up(x), x], dim=1)


def test_a_return_inside_the_loop_ends_after_one_step():
    """001:379 to 399, with the indentation of the text."""

    def sampled(steps):
        calls = []
        for t in reversed(range(steps)):
            calls.append(t)
            return calls

    assert sampled(1000) == [999]


def test_a_lambda_does_not_reach_another_process():
    """002:326, on systems that start workers by spawning."""
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(lambda x: x * 2.0 - 1.0)


def test_a_network_without_its_time_is_a_wrong_call():
    """003:82."""
    with pytest.raises(TypeError, match="noise_level"):
        run().network.build()(torch.zeros(1, 1, 8, 8))


def test_names_in_diffusers():
    """004:204 writes DDMPipeline; 000:79 reads a setting that moved to .config."""
    diffusers = pytest.importorskip("diffusers")
    assert "DDPMPipeline" in dir(diffusers)
    assert "DDMPipeline" not in dir(diffusers)
    scheduler = diffusers.DDPMScheduler()
    assert scheduler.config.num_train_timesteps == 1000
    with pytest.warns(FutureWarning, match="num_train_timesteps"):
        assert scheduler.num_train_timesteps == 1000


# ---- what runs, and does something else


def test_two_owners_of_the_range_make_minus_three_to_one():
    """004:296: Normalize(0.5, 0.5), and then the library's own x 2 - 1."""
    pixels = torch.tensor([0.0, 0.5, 1.0])
    assert ((pixels - 0.5) / 0.5 * 2 - 1).tolist() == [-3, -1, 1]
    encoded = Pixels().encode(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2))
    assert encoded.flatten().tolist() == [-1, 1]


def test_the_raw_time_swamps_its_embedding():
    """001:105 to 116: to a new network of raw t all late steps look alike; of sinusoids not."""
    torch.manual_seed(0)
    raw = nn.Sequential(nn.Linear(1, 256), nn.SiLU(), nn.Linear(256, 256))
    late = torch.tensor([500.0, 999.0])
    alike = F.cosine_similarity(*raw(late[:, None]), dim=0).item()
    assert alike > 0.9999
    assert raw(late[:, None]).std() > 30  # of what is added to maps of deviation 1
    told = HandmadeConfig().build().embedding(late, None, 2)
    assert F.cosine_similarity(*told, dim=0).item() < 0.9


def test_accumulation_leaves_the_last_batches_over():
    """004:376 to 383: five batches in twos are two steps and a rest for the next epoch."""
    weight = nn.Parameter(torch.zeros(()))
    optimizer, steps = torch.optim.SGD([weight], 1.0), 0
    for index in range(5):
        (weight / 2).backward()
        if (index + 1) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    assert steps == 2
    assert weight.grad is not None
    assert weight.grad.item() == 0.5


def test_a_wrapped_compiled_network_renames_its_weights():
    """004:415: torch.compile(network) saves "_orig_mod.weight"; compiling in place does not."""
    network = nn.Linear(1, 1)
    assert list(torch.compile(network, backend="eager").state_dict()) == [
        "_orig_mod.weight",
        "_orig_mod.bias",
    ]
    network.compile(backend="eager")
    assert list(network.state_dict()) == ["weight", "bias"]


# ---- shapes of the survey's walk through UNet2DModel


def test_shapes_on_the_way_through_six_levels():
    """003:211 to 227: the time has 512 features, a level's own output is half its input's side."""
    with torch.device("meta"):
        network = SIX_LEVELS.build()
        seen = {row.block: row.shape for row in table(network, (3, 128, 128))}
    assert SIX_LEVELS.embedding == 512
    assert seen["conv_in"] == (128, 128, 128)
    down = [seen[f"down_blocks.{i}"] for i in range(6)]
    assert [shape[1] for shape in down] == [64, 32, 16, 8, 4, 4]  # the text: 128 to 4
    up = [seen[f"up_blocks.{i}"] for i in range(6)]
    assert up == [
        *((512, 8, 8), (512, 16, 16)),
        *((256, 32, 32), (256, 64, 64)),
        *(2 * [(128,) * 3]),
    ]
    assert seen["conv_out"] == (3, 128, 128)  # the text: 128 channels


def test_the_way_up_is_no_mirror():
    """000:56: one residual block more a level, which is where the skips of all of them go."""
    with torch.device("meta"):
        network = UNet2DConfig().build()
    down = [len(block.resnets) for block in network.down_blocks]
    up = [len(block.resnets) for block in network.up_blocks]
    assert (down, up) == ([2] * 4, [3] * 4)


# ---- what is done here instead


def test_no_network_here_pools_by_the_maximum():
    """004:28 and 35: U-Nets of diffusion shrink by strides and means, and use SiLU, not ReLU."""
    kinds: dict[str, set[str]] = {}
    for name, recipe in RECIPES.items():
        config = recipe().network
        with torch.device("meta"):
            network = config.build()
        kinds[name] = {type(module).__name__ for module in network.modules()}
    assert not any("MaxPool2d" in found for found in kinds.values())
    assert {name for name, found in kinds.items() if "ReLU" in found} == {"four_conv_mnist"}


def test_tables_follow_the_times():
    """001:73, 002:274 and 367 index a table in one memory by times in another."""
    t = torch.empty(4, device="meta")
    assert LinearBetas(10).alpha(t).device == t.device


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps():
    """002:346 prints the last batch's."""
    state, loss, batch_at, config = parts(run(steps=None, epochs=2))
    hooks = Hooks()
    train(state, loss, batch_at, config, hooks)
    ends = [i for i, row in enumerate(hooks.rows) if "epoch_loss" in row]
    assert [hooks.rows[i]["epoch"] for i in ends] == [1, 2]
    first = [row["loss"] for row in hooks.rows[: ends[0] + 1]]
    assert hooks.rows[ends[0]]["epoch_loss"] == pytest.approx(sum(first) / len(first))


def test_the_best_average_takes_the_place_of_the_one_before(tmp_path: Path):
    """004:415: the held-out loss says which is best (session.py); the last stays too."""
    state, *_ = parts(run())
    for step in (3, 7):
        state.step = step
        checkpoint.write_best(tmp_path, state, 0.1)
    assert [path.name for path in checkpoint.best_folders(tmp_path)] == ["step-000000007"]


@pytest.mark.parametrize(("free", "images"), [(None, 64), (1.0, 64), (0.9, 32), (0.2, 8), (0.0, 1)])
def test_a_batch_is_halved_until_it_fits(free, images):
    """004:473 has a table of GPUs; here the memory that an image takes is measured."""
    needed = 64 * 1e6 * BESIDE_SAVED / SHARE_OF_FREE
    memory = None if free is None else int(free * needed * 1.0001)
    assert fitting(1e6, 64, memory) == images
