"""Small public weights for MNIST: the networks of others, number for number, and their samples.

OUTPUTS were computed once with the two programs' own classes, their weights made of patterns by
`filled`, in float32. small_shapes.json holds the keys and shapes of their published files.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.codec import Pixels
from sfumato.denoiser import Clipped, NetworkDenoiser
from sfumato.discrete import LinearBetas
from sfumato.grids import uniform_times
from sfumato.interop import small
from sfumato.networks.small import PulferUNetConfig, StarterCNNConfig, sinusoids
from sfumato.noising import ScaledInput
from sfumato.sampling import sample
from sfumato.solvers import DDIM
from test_lucid import recorder
from tiny import SHARED

SHAPES = json.loads(Path(__file__).with_name("small_shapes.json").read_text())
CONFIGS = {
    "ddpm_mnist.pt": PulferUNetConfig(),
    "ddpm_mnist_starter.pth": StarterCNNConfig(input_scale=0.5),
}
LEVELS = {"ddpm_mnist.pt": [3.0, 417.0], "ddpm_mnist_starter.pth": [0.25, 0.75]}
OUTPUTS = {
    "ddpm_mnist.pt": [
        *(0.852922, 1.233331, 0.849046, 0.896359, 0.92824, 0.985586, 0.89397, 0.895063),
        *(0.972814, 0.831907, 0.948904, 0.972381),
    ],
    "ddpm_mnist_starter.pth": [
        *(-0.770395, -0.587266, -0.583546, -1.115534, -1.126279, -0.657647, -0.810204),
        *(-0.69985, -0.917543, -0.584234, -0.646217, -1.08972),
    ],
}
EVERY = pytest.mark.parametrize("name", CONFIGS)
HERE = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")


def filled(network):
    """Patterns in each parameter, numbered in the order of their names; near 1 for a gain."""
    for index, (name, parameter) in enumerate(sorted(network.named_parameters())):
        if name == "time_embed.weight":
            continue
        wide = recorder.pattern(tuple(parameter.shape), float(index))
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
        gain = ".ln.weight" in name or ".net.1.weight" in name
        parameter.data.copy_(1 + 0.3 * wide if gain else scale * wide)
    return network


def tree_of(name, config):
    """A file's content, around weights of ours."""
    weights = filled(config.build()).state_dict()
    if name == "ddpm_mnist.pt":
        return {f"network.{key}": value for key, value in weights.items()}
    betas = torch.linspace(1e-4, 0.02, 1001)
    tables = {"beta_t": betas, "alpha_t": (1 - betas).cumprod(0)}
    return tables | {f"gt.{key}": value for key, value in weights.items()}


# The networks


@EVERY
def test_outputs_are_those_of_the_program(name):
    network = filled(CONFIGS[name].build())
    x = recorder.pattern((2, 1, 28, 28), 0.1).float()
    with torch.no_grad():
        output = network(x, torch.tensor(LEVELS[name])).flatten()[::131]
    torch.testing.assert_close(output, torch.tensor(OUTPUTS[name]), rtol=0, atol=5e-6)


@EVERY
def test_keys_and_shapes_are_those_of_the_published_file(name):
    ours = {key: list(value.shape) for key, value in tree_of(name, CONFIGS[name]).items()}
    assert ours == SHAPES[name]


def test_the_unet_has_as_many_numbers_as_it_is_known_for():
    assert (
        sum(value.numel() for value in PulferUNetConfig().build().state_dict().values()) == 606852
    )


def test_the_table_is_read_at_whole_indices_and_in_a_line_between():
    network = PulferUNetConfig().build()
    rows = network.features(torch.tensor([0.0, 417.0, 999.0, 2000.0, 3.25]))
    table = sinusoids(1000, 100)
    assert torch.equal(rows[:4], table[[0, 417, 999, 999]])
    torch.testing.assert_close(rows[4], 0.75 * table[3] + 0.25 * table[4])
    assert not network.time_embed.weight.requires_grad


@EVERY
def test_other_sizes_and_labels_are_refused(name):
    network, level = CONFIGS[name].build(), torch.zeros(1)
    with pytest.raises(ValueError, match=r"32 x 32: .* 28 x 28 alone"):
        network(torch.zeros(1, 1, 32, 32), level)
    with pytest.raises(ValueError, match="without classes"):
        network(torch.zeros(1, 1, 28, 28), level, torch.zeros(1).long())
    with pytest.raises(ValueError, match="takes no labels"):
        replace(CONFIGS[name], classes=3).build()


def test_another_size_may_be_built():
    network = PulferUNetConfig(size=20, channels=2).build()
    assert network(torch.zeros(1, 1, 20, 20), torch.zeros(1)).shape == (1, 1, 20, 20)
    with pytest.raises(ValueError, match="12, 20, 28"):
        PulferUNetConfig(size=32).build()


# The files


@EVERY
def test_a_file_reads_back(name, tmp_path):
    tree = tree_of(name, CONFIGS[name])
    torch.save(tree, tmp_path / name)
    model = small.read(tmp_path / name)
    assert model.run.network == CONFIGS[name]
    assert model.shape == (1, 28, 28)
    back = model.run.network.build()
    back.load_state_dict(model.weights)
    x = recorder.pattern((2, 1, 28, 28), 0.1).float()
    with torch.no_grad():
        output = back(x, torch.tensor(LEVELS[name])).flatten()[::131]
    torch.testing.assert_close(output, torch.tensor(OUTPUTS[name]), rtol=0, atol=5e-6)


def test_the_starters_noise_is_that_of_its_own_tables():
    """At its step i: x' = sqrt(alpha_i) x0' + sqrt(1 - alpha_i) eps, told i / T, x' = x / 2."""
    tree = tree_of("ddpm_mnist_starter.pth", CONFIGS["ddpm_mnist_starter.pth"])
    run = small.of_tree(tree, "starter.pth").run
    i = torch.tensor([1, 17, 500, 999, 1000])
    t = run.process.process.times_of(i)
    kept = (1 - tree["beta_t"].double()).cumprod(0)[i]
    torch.testing.assert_close(run.process.alpha(t), kept.sqrt(), rtol=1e-5, atol=0)
    torch.testing.assert_close(run.process.sigma(t) / 2, (1 - kept).sqrt(), rtol=1e-5, atol=0)
    told = run.parameterization(run.process, t).c_noise
    torch.testing.assert_close(told, i / 1000, check_dtype=False)


def test_what_only_looks_like_one_is_refused_and_others_are_not_claimed():
    tree = tree_of("ddpm_mnist.pt", CONFIGS["ddpm_mnist.pt"])
    tree["network.down1.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"1 weights do not fit .*: down1\.bias: \(3,\)"):
        small.of_tree(tree, "a.pt")
    assert small.of_tree({"w": torch.zeros(1)}, "b.pt") is None
    with pytest.raises(ValueError, match="do not lie on a line"):
        small.linear_betas(torch.linspace(0.1, 0.6, 50) ** 2)


# The published weights, where they are


def digits(folder, n):
    content = gzip.decompress((SHARED / folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(content, np.uint8, n * 784, 16).reshape(n, 1, 28, 28)
    return Pixels().encode(torch.from_numpy(pixels.copy()))


def loaded(name):
    model = small.read(SHARED / "weights" / name)
    network = model.run.network.build().eval()
    network.load_state_dict(model.weights)
    return model.run, NetworkDenoiser(network, model.run.process, model.run.parameterization)


@HERE
@pytest.mark.parametrize(
    ("name", "folder", "loss"),
    [
        ("ddpm_mnist.pt", "mnist", 0.04),
        ("ddpm_fashion.pt", "fashion-mnist", 0.07),
        ("ddpm_mnist_starter.pth", "mnist", 0.03),
    ],
)
def test_the_published_weights_know_the_noise_in_images_they_never_saw(name, folder, loss):
    """0.028, 0.049 and 0.017 on 200 images; a wrong clock or range gives 0.3 and more."""
    run, denoiser = loaded(name)
    x0 = digits(folder, 50)
    u = (torch.arange(50, dtype=torch.float64) + 0.5) / 50
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert run.objective(denoiser, x0, None, u, eps).mean() < loss


@HERE
def test_samples_of_the_published_weights_have_the_ink_of_digits():
    run, denoiser = loaded("ddpm_mnist_starter.pth")
    assert run.process == ScaledInput(LinearBetas(1001, rescaled=False), 0.5)
    eps = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    end = torch.tensor(1.0, dtype=torch.float64)
    x = sample(
        Clipped(denoiser),
        run.process.sigma(end).float() * eps,
        uniform_times(run.process, 20),
        DDIM(),
    )
    ink = (x > 0).float().mean(dim=(1, 2, 3))
    assert (ink > 0.03).all()
    assert (ink < 0.35).all()
    assert ((x < -0.8) | (x > 0.8)).float().mean() > 0.8  # black and white, not grey
