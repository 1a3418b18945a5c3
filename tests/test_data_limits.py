"""What is refused by its header, and what is left packed."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from drills.bombs import chunk, packed, tiff
from packing import as_folder, png
from sfumato.data import limits, load, unpacking
from sfumato.data.colour import lab_to_rgb
from sfumato.data.images import decode, probe
from sfumato.data.limits import without_text
from sfumato.data.unpacking import check_ratio, read_packed


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- text in a PNG ------------------------------------------------------------------------------


def with_chunks(*chunks):
    """A PNG of one grey pixel, 77, with these before its pixels and again after them."""
    whole = png(77, (1, 1))
    header, end = whole[:33], whole.index(b"IEND") - 4
    return header + b"".join(chunks) + whole[33:end] + b"".join(chunks) + whole[end:]


def test_text_is_taken_out_of_a_png_and_the_rest_stays():
    text = [chunk(b"tEXt", b"k\0v"), chunk(b"zTXt", b"k\0\0" + packed(9)), chunk(b"iTXt", b"k")]
    profile = chunk(b"iCCP", b"p\0\0" + packed(9))
    kept = [chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0")]
    assert without_text(with_chunks(*text, *kept, profile)) == with_chunks(*kept)
    assert without_text(png()) == png()
    for other in (b"", b"tEXt", with_chunks()[:20] + b"tEXt", png()[:8] + b"tEXt"):
        assert without_text(other) == other


def test_more_text_than_pillow_allows_is_no_reason_to_lose_the_image():
    data = with_chunks(chunk(b"zTXt", b"k\0\0" + packed(2**21)))
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(data)).load()
    assert decode(data).pixels.tolist() == [[77]]


def test_the_first_exif_block_that_is_kept_as_text_turns_the_image():
    block = Image.Exif()
    block[0x0112] = 6
    written = block.tobytes()
    lines = b"\nexif\n%8d\n" % len(written) + written.hex().encode() + b"\n"
    key = b"Raw profile type exif\0\0"
    turning = chunk(b"zTXt", key + zlib.compress(lines))
    bomb = chunk(b"zTXt", key + packed(2**21))
    whole = png(0, (2, 3))
    data = whole[:33] + turning + bomb + whole[33:]
    assert without_text(data) == whole[:33] + turning + whole[33:]
    assert (probe(data), probe(whole)) == ((3, 2), (2, 3))


# --- headers ------------------------------------------------------------------------------------


def test_pixels_a_byte(monkeypatch):
    monkeypatch.setattr(limits, "SMALL", 100)
    data = encoded(Image.new("L", (50, 50)), "PNG")
    per_byte = 2500 / len(data)
    for most, refused in ((per_byte + 1, False), (per_byte - 1, True)):
        monkeypatch.setattr(limits, "MAX_PIXELS_A_BYTE", most)
        if refused:
            with pytest.raises(ValueError, match=r"50 x 50 pixels in .* bytes, which hold"):
                decode(data)
        else:
            decode(data)
    bits = encoded(Image.new("1", (50, 50)), "PNG")
    monkeypatch.setattr(limits, "MAX_PIXELS_A_BYTE", 2500 / len(bits) / 7)
    decode(bits)


@pytest.mark.parametrize("kind", [{"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {}])
def test_honest_tiffs_are_read(kind):
    noise = np.random.default_rng(0).integers(0, 256, (70, 50), np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(noise), "TIFF", **kind)).pixels, noise)


@pytest.mark.parametrize(("tile", "refused"), [(1024, False), (1040, True), (2**15, True)])
def test_tiles_larger_than_the_image(tile, refused):
    data = tiff(4, 4, tile=tile, compression=8)
    if not refused:
        assert probe(data) == (4, 4)
        return
    for read in (probe, decode):
        with pytest.raises(ValueError, match=f"tiles of {tile} x {tile} for an image of 4 x 4"):
            read(data)


def test_scans_are_counted(monkeypatch):
    data = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert scans > 5
    monkeypatch.setattr(limits, "MAX_SCANS", scans)
    decode(data)
    monkeypatch.setattr(limits, "MAX_SCANS", scans - 1)
    with pytest.raises(ValueError, match=f"{scans} scans"):
        decode(data)
    decode(encoded(Image.new("L", (8, 8)), "JPEG") + b"\xff\xda" * 1000)  # a film behind it


def test_decode_needs_no_word_with_pillow_before(monkeypatch):
    known = dict(Image.OPEN)
    monkeypatch.setattr(Image, "OPEN", {})
    monkeypatch.setattr(Image, "_initialized", 0)
    monkeypatch.setattr(Image, "init", lambda: Image.OPEN.update(known))
    assert decode(png(5)).pixels[0, 0] == 5


# --- packed data --------------------------------------------------------------------------------


def test_a_bomb_is_told_by_its_ratio():
    check_ratio(unpacking.FREE + 200 * 1000, 1000)
    with pytest.raises(ValueError, match=r"over 200 times as many.* Unpack it yourself"):
        check_ratio(unpacking.FREE + 200 * 1000 + 1, 1000)


def test_packed_data_are_read_until_their_ratio_shows(monkeypatch):
    monkeypatch.setattr(unpacking, "FREE", 5_000_000)
    for size, refused in ((4_900_000, False), (50_000_000, True)):
        raw = io.BytesIO(gzip.compress(bytes(size)))
        with gzip.open(raw) as stream:
            if refused:
                with pytest.raises(ValueError, match="200 times"):
                    read_packed(stream, raw, 10**9)
                assert stream.tell() < 20_000_000
            else:
                assert len(read_packed(stream, raw, 10**9)) == size
    with gzip.open(io.BytesIO(gzip.compress(b"abcdef"))) as stream:
        assert read_packed(stream, io.BytesIO(), 4) == b"abcd"


def test_archives_and_arrays_of_zeros_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE", 1000)
    zeros = bytes(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", zeros)
    with pytest.raises(ValueError, match=r"not one of 1 images .* 200 times"):
        load(tmp_path / "a.zip")
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros((300, 32, 32), np.uint8))
    with pytest.raises(ValueError, match=r"b\.npz cannot be read .* 200 times"):
        load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.zeros((300, 32, 32), np.uint8))
    assert len(load(tmp_path / "c.npz")) == 300
    header = bytes((0, 0, 8, 3)) + struct.pack(">III", 300, 32, 32)
    packed_idx = gzip.compress(header + bytes(300 * 1024))
    folder = as_folder(tmp_path / "d", {"train-images-idx3-ubyte.gz": packed_idx})
    with pytest.raises(ValueError, match="200 times"):
        load(folder)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.data.containers.MAX_MEMBER", 200)
    folder = as_folder(tmp_path, {"a.png": png() + bytes(200)})
    with pytest.raises(ValueError, match=r"a\.png \(\d+ bytes, over the limit of 200 for one file"):
        load(folder)


# --- CIELAB -------------------------------------------------------------------------------------


def test_lab_is_what_littlecms_makes_of_it():
    colours = np.random.default_rng(0).integers(40, 216, (64, 64, 3), np.uint8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    how = (
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.NOOPTIMIZE,
    )  # else by a rough table
    there = ImageCms.buildTransform(srgb, lab, "RGB", "LAB", *how)
    back = ImageCms.buildTransform(lab, srgb, "LAB", "RGB", *how)
    image = ImageCms.applyTransform(Image.fromarray(colours), there)
    theirs = np.asarray(ImageCms.applyTransform(image, back)).astype(int)
    assert np.abs(lab_to_rgb(np.asarray(image)).astype(int) - theirs).max() <= 1
    ours = decode(encoded(image, "TIFF")).pixels
    assert np.array_equal(ours, lab_to_rgb(np.asarray(image)))


def test_lab_s_greys_are_grey_and_its_ends_black_and_white():
    ramp = np.zeros((1, 256, 3), np.uint8)
    ramp[..., 0] = np.arange(256)
    out = lab_to_rgb(ramp)
    assert (out == out[..., :1]).all()
    assert (out[0, 0].tolist(), out[0, 255].tolist()) == ([0] * 3, [255] * 3)
