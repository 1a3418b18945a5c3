"""One image of every kind, against pixel values worked out by hand."""

import random
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sfumato.data import images, limits
from sfumato.data.images import READ_ERRORS, centre, cover, decode, probe, reason

TURNED = {  # EXIF's meaning: what undoes the camera's turn, on an array of rows
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


def encoded(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(bits=16):
    """(16, 4096): every 16th level of 16 bits, or all of 12."""
    step = 2**bits // 4096
    return np.tile(np.arange(4096, dtype=np.uint16) * step, (16, 1))


def tiff(values, bits, sample_format=1):
    """A TIFF of one strip, byte by byte: Pillow cannot write 12 bits."""
    height, width = values.shape
    if bits == 12:
        low, high = values.ravel()[1::2].astype(int), values.ravel()[::2].astype(int)
        packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], 1)
        strip = packed.astype(np.uint8).tobytes()
    else:
        strip = values.tobytes()
    entries = [
        *((256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1)),
        *(
            (273, 4, 8),
            (277, 3, 1),
            (278, 4, height),
            (279, 4, len(strip)),
            (339, 3, sample_format),
        ),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    return head + strip + struct.pack("<H", len(entries)) + table + bytes(4)


def pixel(data, channels=None):
    """The first pixel as a tuple; grey as one number."""
    pixels = decode(data, channels=channels).pixels
    return int(pixels[0, 0]) if pixels.ndim == 2 else tuple(pixels[0, 0].tolist())


def one(mode, colour):
    return Image.new(mode, (3, 2), colour)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (one("L", 77), 77),
        (one("1", 1), 255),
        (one("RGB", (10, 20, 30)), (10, 20, 30)),
        (one("RGB", (9, 9, 9)), 9),
        # over white: (c * a + 255 * (255 - a)) / 255
        (one("LA", (100, 51)), 224),  # (5100 + 52020) / 255
        (one("RGBA", (200, 0, 0, 128)), (227, 127, 127)),  # 57985 / 255 = 227.4
        (one("RGBA", (1, 2, 3, 0)), 255),
        (one("I;16", 65535), 255),
        (one("I;16", 257 * 100), 100),
        (one("I;16", 257 * 100 + 129), 101),
    ],
    ids=lambda v: getattr(v, "mode", str(v)),
)
def test_png_modes(image, expected):
    assert pixel(encoded(image)) == expected


def test_palettes():
    palette = [0, 0, 0, 10, 20, 30, 90, 90, 90]
    image = one("P", 1)
    image.putpalette(palette)
    assert pixel(encoded(image)) == (10, 20, 30)
    assert pixel(encoded(image, transparency=1)) == 255  # the one see-through entry
    assert pixel(encoded(image, transparency=0)) == (10, 20, 30)
    # an opacity for each entry: 10 * 51/255 + 255 * 204/255 = 2 + 204
    assert pixel(encoded(image, transparency=b"\xff\x33\xff")) == (206, 208, 210)
    image.putdata([2] * 6)
    assert pixel(encoded(image)) == 90  # a palette's grey is grey


def test_colour_keys_of_images_without_an_alpha_channel():
    assert pixel(encoded(one("L", 7), transparency=7)) == 255
    assert pixel(encoded(one("L", 7), transparency=8)) == 7
    assert pixel(encoded(one("RGB", (1, 2, 3)), transparency=(1, 2, 3))) == 255
    keyed = encoded(one("I;16", 5140))
    chunk = b"tRNS" + struct.pack(">H", 5140)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert pixel(keyed) == 20
    assert pixel(keyed[:33] + chunk + keyed[33:]) == 255  # after the signature and IHDR


@pytest.mark.parametrize(
    ("image", "channels", "expected"),
    [
        (one("L", 8), 3, (8, 8, 8)),
        (one("L", 8), 4, (8, 8, 8, 255)),
        (one("RGB", (255, 0, 0)), 1, 76),  # ITU-R 601: 0.299 * 255 = 76.2
        (one("RGBA", (200, 0, 0, 128)), 3, (227, 127, 127)),
        (one("RGBA", (200, 0, 0, 128)), 4, (200, 0, 0, 128)),
        (one("LA", (100, 51)), 4, (100, 100, 100, 51)),
        (one("LA", (100, 51)), 1, 224),
    ],
)
def test_channels_asked_for(image, channels, expected):
    assert pixel(encoded(image), channels) == expected


def test_cmyk():
    # no black: 255 - ink; with black k: (255 - ink) * (255 - k) / 255
    assert pixel(encoded(one("CMYK", (255, 0, 55, 0)), "TIFF")) == (0, 255, 200)
    assert pixel(encoded(one("CMYK", (0, 255, 255, 102)), "TIFF")) == (153, 0, 0)
    stored_inverted = encoded(one("CMYK", (0, 255, 255, 0)), "JPEG", quality=100)  # Adobe's way
    assert np.abs(np.subtract(pixel(stored_inverted), (255, 0, 0))).max() <= 2


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(ramp())),
        encoded(Image.fromarray(ramp()), "TIFF"),
        tiff(ramp(12), 12),
        b"P5 4096 16 65535\n" + ramp().astype(">u2").tobytes(),
        b"P5 4096 16 4095\n" + ramp(12).astype(">u2").tobytes(),
    ],
    ids=["png", "tiff", "tiff12", "pgm", "pgm12"],
)
def test_a_deep_ramp_keeps_its_levels(data):
    pixels = decode(data).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 4096)
    assert len(np.unique(pixels)) == 256  # Pillow's own conversion clips all over 255 to white
    assert (np.diff(pixels[0].astype(int)) >= 0).all()
    exact = np.rint(ramp()[0] / 257)  # 12 bits: the same up to the last level
    assert np.abs(pixels[0] - exact).max() <= 1


def test_big_endian_16_bit():
    values = np.array([[0, 257, 65535]], ">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    assert decode(encoded(image, "TIFF")).pixels.tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(("kind", "dtype"), [(1, "<u4"), (2, "<i4")])
def test_integers_of_32_bits_hold_16(kind, dtype):
    values = np.array([[0, 257, 300, 65535]]).astype(dtype)
    assert pixel_row(tiff(values, 32, kind)) == [0, 1, 1, 255]
    assert pixel_row(tiff(0 * values, 32, kind)) == [0] * 4


@pytest.mark.parametrize("values", [[0, 255], [0, 1], [0, 65536], [-1, 70000]])
@pytest.mark.parametrize(("bits", "kind", "dtype"), [(32, 1, "<u4"), (32, 2, "<i4")])
def test_integers_of_32_bits_that_leave_a_doubt_are_refused(values, bits, kind, dtype):
    """[0, 255] may be 8 bits, or a dark image of 16, and is not taken by its own range."""
    data = tiff(np.array([values]).astype(dtype), bits, kind)
    with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
        decode(data)


def test_signed_integers_of_16_bits_are_refused():
    with pytest.raises(ValueError, match="signed integers"):
        decode(tiff(np.array([[0, 32767]], "<i2"), 16, 2))


def test_a_dark_image_stays_as_dark_as_its_neighbours():
    """16 bits, and floats: half the values are half the light, wherever the brightest lies."""
    bright, dark = np.array([[0, 40000]], "<u2"), np.array([[0, 200]], "<u2")
    assert [pixel_row(encoded(Image.fromarray(v), "TIFF")) for v in (bright, dark)] == [
        [0, 156],
        [0, 1],
    ]
    assert pixel_row(tiff(np.array([[0, 0.5, 1]], "<f4"), 32, 3)) == [0, 128, 255]
    assert pixel_row(tiff(np.array([[0, 0.1, 0.2]], "<f4"), 32, 3)) == [0, 26, 51]


def pixel_row(data):
    (row,) = decode(data).pixels.tolist()
    return row


@pytest.mark.parametrize("bad", [-0.5, 1.2, 255, 256, np.nan])
def test_floats_beyond_0_and_1_are_refused(bad):
    """Were 255 taken for white here, a neighbour of at most 1 would be 255 times too bright."""
    with pytest.raises(ValueError, match=r"float values .* save it from 0 to 1, or as 8 bits"):
        decode(tiff(np.array([[0, bad]], "<f4"), 32, 3))


def test_floats_that_rounding_took_beyond_0_and_1_are_black_and_white():
    values = np.array([[-1e-9, -0.0009, 0.5, 1.0000001, 1.0009]], "<f4")
    assert pixel_row(tiff(values, 32, 3)) == [0, 0, 128, 255, 255]
    with pytest.raises(ValueError, match=r"float values from 0\.0 to 1\.0010002, of which"):
        decode(tiff(np.array([[0, 1.0010002]], "<f4"), 32, 3))
    with pytest.raises(ValueError, match=r"float values from -0\.0010002 to 1\.0, of which"):
        decode(tiff(np.array([[-0.0010002, 1]], "<f4"), 32, 3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_turns_the_image_upright(orientation, kind):
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8], stored[:8, 24:], stored[8:, :16] = 60, 120, 240
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(Image.fromarray(stored), kind, exif=exif, **options)
    upright = TURNED[orientation](stored)
    pixels = decode(data).pixels
    assert probe(data) == pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= (2 if kind == "JPEG" else 0)
    small = decode(data, (upright.shape[0] // 4, upright.shape[1] // 4)).pixels
    assert small.shape == (upright.shape[0] // 4, upright.shape[1] // 4)
    assert abs(int(small[0, 0]) - int(upright[0, 0])) <= 20  # right corner (Lanczos rings a little)


def test_a_damaged_exif_block_leaves_the_pixels():
    data = encoded(one("L", 9), "JPEG", exif=b"Exif\0\0rubbish")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's "Corrupt EXIF data"
        assert pixel(data) == 9


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [one("RGB", (255, 0, 0)), one("RGB", (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixel(data) == (255, 0, 0)


def test_cover_scales_by_one_factor_and_keeps_the_centre():
    stripes = np.repeat(np.array([10, 20, 30, 40, 50, 60], np.uint8)[None], 2, axis=0)
    wide = Image.fromarray(stripes)  # 2 x 6; the middle 2 x 2 is 30, 40
    assert np.asarray(cover(wide, (2, 2))).tolist() == [[30, 40], [30, 40]]
    assert np.asarray(cover(wide, (2, 4))).tolist() == [[20, 30, 40, 50]] * 2
    assert np.asarray(cover(wide, None)).tolist() == stripes.tolist()
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    assert np.asarray(cover(tall, (2, 2))).tolist() == [[30, 30], [40, 40]]
    for size in ((7, 3), (1, 1), (33, 17)):
        assert (
            np.asarray(cover(one("RGB", (5, 6, 7)), size)).tolist()
            == [[[5, 6, 7]] * size[1]] * size[0]
        )


def test_centre_cuts_out_the_middle():
    rows = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    assert np.asarray(centre(rows, (2, 3))).tolist() == [[6, 7, 8], [11, 12, 13]]
    assert np.asarray(centre(rows, (9, 1))).tolist() == [[2], [7], [12], [17]]
    assert centre(rows, None) is rows
    cut = decode(encoded(rows), (1, 1), crop=(2, 1))
    assert (cut.pixels.shape, cut.enlarged) == ((1, 1), False)
    assert decode(encoded(rows), (3, 3), crop=(2, 2)).enlarged


def test_shrinking_is_antialiased():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    small = decode(encoded(Image.fromarray(checks.astype(np.uint8))), (8, 8)).pixels
    assert np.abs(small.astype(int) - 127.5).max() <= 4  # a mean of both, not the one or the other


def test_a_big_jpeg_decodes_reduced_to_the_same_picture(monkeypatch):
    y, x = np.mgrid[0:512, 0:768]
    smooth = np.stack([x / 3, y / 2, (x + y) / 5], -1).astype(np.uint8)
    data = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    reduced = decode(data, (32, 32)).pixels.astype(int)
    whole = np.asarray(cover(Image.open(BytesIO(data)), (32, 32))).astype(int)
    assert np.abs(reduced - whole).max() <= 3
    seen = []
    monkeypatch.setattr(images, "cover", lambda image, size: seen.append(image.size) or image)
    decode(data, (64, 64))
    assert seen == [(192, 128)]  # a quarter: still twice what is wanted


def test_enlarging_is_told():
    data = encoded(Image.new("L", (40, 20)))
    assert decode(data, (21, 21)).enlarged
    assert decode(data, (20, 41)).enlarged
    assert not decode(data, (20, 40)).enlarged
    assert not decode(data).enlarged


def test_opacity_does_not_bleed_in_resizing():
    half = np.zeros((4, 4, 4), np.uint8)
    half[:, :2] = (255, 0, 0, 255)  # opaque red beside see-through black
    small = decode(encoded(Image.fromarray(half)), (1, 1), 4).pixels[0, 0].tolist()
    assert small[:3] == [255, 0, 0]
    assert 120 <= small[3] <= 135


def announcing(width, height):
    """A small PNG whose header tells of many pixels."""
    data = bytearray(encoded(one("L", 0)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def broken():
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)))
    jpeg = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    return {
        "truncated png": (whole[: len(whole) // 2], "truncated"),
        "truncated jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "text": (b"no image at all", "not an image"),
        "empty": (b"", "empty"),
        "a bomb": (announcing(10_000, 8_000), "10000 x 8000 is 80 megapixels"),
        "a big bomb": (announcing(30_000, 30_000), "exceeds limit"),  # Pillow's own check
        "postscript": (postscript, "not an image"),
    }


@pytest.mark.parametrize("name", broken())
def test_broken_files_give_their_reason(name):
    data, why = broken()[name]
    with pytest.raises(READ_ERRORS) as caught:
        decode(data, (8, 8))
    assert why in reason(caught.value)
    assert "0x" not in reason(caught.value)


def test_the_pixel_limit_is_checked_before_decoding(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 100)
    assert decode(encoded(Image.new("L", (10, 10)))).pixels.shape == (10, 10)
    data = encoded(Image.new("L", (101, 1)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for read in (probe, decode):
        with pytest.raises(ValueError, match="101 x 1"):
            read(data)


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_files_raise_only_what_is_caught():
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8))
    dice = random.Random(0)
    seeds = [encoded(noise, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM")]
    survived, reasons = 0, set()
    for attempt in range(1000):
        data = bytearray(seeds[attempt % len(seeds)])
        for _ in range(dice.choice((1, 4))):
            data[dice.randrange(min(len(data), dice.choice((60, 2000))))] = dice.randrange(256)
        try:
            survived += decode(bytes(data), (8, 8)).pixels.shape[:2] == (8, 8)
        except READ_ERRORS as error:
            reasons.add(reason(error))
    assert "" not in reasons
    assert 0 < survived < 1000
