"""Winograd's convolutions: what the definition gives, values and every gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato import native
from sfumato.networks import winograd
from sfumato.networks.convolving import doubled, pointwise
from sfumato.networks.winograd import convolve

needs_c = pytest.mark.skipif(
    bool(native.why_not()) or not native.can("winograd", torch.float32),
    reason=f"no C or no AVX here: {native.why_not()}",
)
TYPES = {torch.float32: 1e-6, torch.bfloat16: 6e-3}
# (batch, inputs, outputs, height, width): whole tiles, cut ones, a panel and a part of one; few
# tiles (forward up to 128, kernels up to 256), with more channels than a chunk, and many
SHAPES = [
    (8, 32, 48, 8, 8),
    (16, 80, 32, 7, 5),
    (129, 32, 64, 1, 1),
    (2, 64, 144, 16, 15),
    (70, 160, 80, 1, 1),
    (25, 144, 176, 4, 3),
    (65, 64, 144, 3, 3),
]


def gradients(function, layer, x, upward):
    x = x.detach().clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    layer.zero_grad()
    y = function(layer, x)
    y.backward(upward.to(y.dtype))
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


def plainly(layer, x):
    return layer(x)


def case(shape, bias=True, whole=False):
    """A layer, x and dy; whole: small whole numbers, of which every sum is exact."""
    batch, inputs, outputs, *size = shape
    make = torch.Generator().manual_seed(sum(shape))

    def draw(*sizes):
        if whole:
            return torch.randint(-2, 3, sizes, generator=make).float()
        return torch.randn(*sizes, generator=make)

    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    for parameter in layer.parameters():
        parameter.data.copy_(draw(*parameter.shape) * (4 if whole else 1))  # halves stay whole
    return layer, draw(batch, inputs, *size), draw(batch, outputs, *size)


def refuse(*_):
    raise AssertionError("the plain convolution was called")


@pytest.fixture
def never_plain(monkeypatch):
    monkeypatch.setattr(F, "conv2d", refuse)


def types():
    return [dtype for dtype in TYPES if not native.why_not() and native.can("winograd", dtype)]


@needs_c
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_definition(shape, bias):
    for dtype in types():
        layer, x, upward = case(shape, bias)
        x, upward = x.to(dtype), upward.to(dtype)
        wanted = gradients(plainly, copy.deepcopy(layer).double(), x.double(), upward.double())
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = gradients(convolve, layer, x, upward)
        for a, b in zip(found, wanted, strict=True):
            assert (a.double() - b).norm() <= TYPES[dtype] * b.norm()


@needs_c
@pytest.mark.parametrize("shape", SHAPES)
def test_of_whole_numbers_it_is_exact(shape):
    """In float32 whole numbers below 2^24 are, and the transforms only halve and add."""
    layer, x, upward = case(shape, whole=True)
    wanted = gradients(plainly, layer, x, upward)
    found = gradients(convolve, layer, x, upward)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def doubled_first(layer, x):
    return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))


@needs_c
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_doubled_pixels_give_what_they_give_one_by_one(shape, bias):
    for dtype in types():
        layer, x, upward = case(shape, bias)
        x, upward = x.to(dtype), F.pixel_shuffle(upward.repeat(1, 4, 1, 1), 2).to(dtype)
        upward[:, :, ::2, 1::2] *= -3  # no two of the four alike
        upward[:, :, 1::2] *= 2
        exact = copy.deepcopy(layer).double()
        wanted = gradients(doubled_first, exact, x.double(), upward.double())
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = gradients(doubled, layer, x, upward)
        for a, b in zip(found, wanted, strict=True):
            assert (a.double() - b).norm() <= TYPES[dtype] * b.norm()


@needs_c
@pytest.mark.parametrize("function", [convolve, doubled])
@pytest.mark.parametrize("dtype", TYPES)
def test_neither_the_threads_nor_the_batch_change_a_bit(dtype, function):
    if dtype not in types():
        pytest.skip(f"no {dtype} here")
    layer, x, upward = case((24, 64, 144, 8, 9))
    if function is doubled:
        upward = doubled_first(nn.Identity(), upward)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 5, 16):
            torch.set_num_threads(number)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                results.append(gradients(function, layer, x, upward))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(others[:3], results[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
        assert torch.equal(function(layer, x[8:16]), results[0][0][8:16])


@needs_c
def test_it_is_what_runs_where_it_fits(never_plain):
    layer, x, _ = case(SHAPES[0])
    assert convolve(layer, x).shape == (8, 48, 8, 8)
    assert doubled(layer, x).shape == (8, 48, 16, 16)


@pytest.mark.parametrize("channels", [32, 96])
def test_images_of_other_channels_are_refused_as_by_the_layer(channels):
    """C would read beyond the end of the one or the other."""
    with pytest.raises(RuntimeError, match=f"{channels} channels"):
        convolve(nn.Conv2d(64, 64, 3, padding=1), torch.zeros(8, channels, 8, 8))


LEFT_ALONE = {
    "another layer": nn.Identity(),
    "a step": nn.Conv2d(32, 32, 3, stride=2, padding=1),
    "no border": nn.Conv2d(32, 32, 3),
    "a wider view": nn.Conv2d(32, 32, 3, padding=2, dilation=2),
    "a wider view of the same border": nn.Conv2d(32, 32, 3, padding=1, dilation=2),
    "groups": nn.Conv2d(32, 32, 3, padding=1, groups=2),
    "another border": nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"),
    "another size": nn.Conv2d(32, 32, 5, padding=1),
    "few channels": nn.Conv2d(32, 16, 3, padding=1),
    "an odd number of channels": nn.Conv2d(32, 40, 3, padding=1),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_any_other_layer_is_left_alone(name):
    layer, x = LEFT_ALONE[name], torch.randn(16, 32, 8, 8)
    assert torch.equal(convolve(layer, x), layer(x))


@pytest.mark.parametrize("what", ["double", "few tiles", "bf16 weights", "meta"])
def test_what_it_does_not_take_goes_the_usual_way(what):
    layer, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(16, 32, 8, 8)
    if what == "double":
        layer, x = layer.double(), x.double()
    if what == "few tiles":
        x = x[:3]
    if what == "bf16 weights":
        layer, x = layer.bfloat16(), x.bfloat16()
    if what == "meta":
        assert convolve(layer.to("meta"), x.to("meta")).shape == x.shape
        return
    assert torch.equal(convolve(layer, x), layer(x))


@needs_c
@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_only_the_gradients_that_are_wanted_are_made(monkeypatch, wanted):
    layer, x, upward = case(SHAPES[0], whole=True)
    given = {"x": x, "weight": layer.weight, "bias": layer.bias}
    for value in given.values():
        value.requires_grad_()
    layer(x).backward(upward)
    exact, given[wanted].grad = given[wanted].grad, None
    for name, value in given.items():
        value.requires_grad_(name == wanted)
    if wanted != "weight":
        monkeypatch.setattr(winograd, "_of_weights", refuse)
    if wanted != "x":
        monkeypatch.setattr(winograd, "_of_pixels", refuse)
    convolve(layer, x).backward(upward)
    assert torch.equal(given[wanted].grad, exact)


@needs_c
def test_so_many_tiles_and_no_fewer_are_worth_it():
    layer, most = nn.Conv2d(32, 32, 3, padding=1), winograd.TILES
    for size, factor, tiles in (((8, 8), 1, 16), ((7, 7), 1, 16), ((4, 4), 2, 16), ((5, 5), 2, 25)):
        enough = -(-most // tiles)
        assert winograd.fits(layer, torch.zeros(enough, 32, *size), factor)
        assert not winograd.fits(layer, torch.zeros(enough - 1, 32, *size), factor)


@needs_c
def test_the_gradient_of_a_bias_alone_is_summed_in_float32():
    """8 images of 64 ones: 512 and a half are no bfloat16."""
    if torch.bfloat16 not in types():
        pytest.skip("no bfloat16 here")
    layer, x, upward = case(SHAPES[0])
    layer.weight.requires_grad_(False)
    upward[:] = 1.0
    upward[0, :, 0, 0] = 1.5
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(layer, x)
    y.backward(upward.to(y.dtype))
    assert layer.bias.grad.tolist() == [512.5] * 48


@needs_c
@pytest.mark.parametrize("what", ["x", "weight", "upward"])
def test_the_order_in_memory_changes_no_bit(what):
    """Networks keep their weights with channels last; images come with channels first."""
    layer, x, upward = case(SHAPES[3])
    parts = {"x": x, "weight": layer.weight.detach(), "upward": upward}
    found = []
    for order in (torch.channels_last, torch.contiguous_format):
        x, weight, dy = (
            value.clone(memory_format=order if name == what else torch.preserve_format)
            for name, value in parts.items()
        )
        layer.weight = nn.Parameter(weight)
        x.requires_grad_()
        y = convolve(layer, x)
        y.backward(dy)
        found.append((y, x.grad, layer.weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found))


@needs_c
def test_a_gradient_of_a_gradient_is_refused():
    layer, x, _ = case(SHAPES[0])
    x.requires_grad_()
    (first,) = torch.autograd.grad(convolve(layer, x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@needs_c
@pytest.mark.parametrize("shape", SHAPES[3:5])
def test_eight_lanes_give_what_sixteen_give(monkeypatch, tmp_path, shape):
    """The form for machines without AVX-512, built here whatever this machine has."""
    layer, x, upward = case(shape)
    wanted = gradients(convolve, layer, x, upward)
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-mno-avx512f"))
    narrow = {
        name: native.ctypes.CDLL(str(native.built(native.SOURCES / f"{name}.c")))
        for name in ("winograd", "winograd_weights")
    }
    monkeypatch.setattr(native, "library", narrow.get)
    assert not native.can.__wrapped__("winograd", torch.bfloat16)
    for a, b in zip(gradients(convolve, layer, x, upward), wanted, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


@pytest.mark.parametrize("function", [convolve, pointwise, doubled])
def test_a_layer_with_a_hook_is_called_itself(function):
    side = 1 if function is pointwise else 3
    layer, x = nn.Conv2d(32, 32, side, padding=side // 2), torch.randn(16, 32, 8, 8)
    seen = []
    layer.register_forward_hook(lambda module, inputs, y: seen.append(y.shape[1]))
    function(layer, x)
    assert seen == [32]
