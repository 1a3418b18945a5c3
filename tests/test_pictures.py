"""Every pixel of a grid is where its formula says, and every file gives its settings back."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sfumato.films import film, show_noisy
from sfumato.lettering import UNASSIGNED, font_for, has_letters, lines, lines_within
from sfumato.pictures import (
    BACKGROUND,
    INK,
    PAD,
    blank,
    data_preview,
    grid,
    read_settings,
    replacing,
    save_png,
)

GARMENTS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
GARMENTS += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def random_images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def enlarged(image, scale):
    """(C, H, W) as the pixels that a grid shows: (H, W) or (H, W, 3)."""
    pixels = image.numpy().transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def ink_of(mask):
    """How many pixels of a blank picture a mask changes."""
    canvas = blank("L", mask.size)
    canvas.paste(INK, (0, 0), mask)
    return int((np.asarray(canvas) != BACKGROUND).sum())


# --- grids


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("gap", "scale"), [(2, 3), (0, 1), (5, 2)])
def test_every_cell_is_its_image_and_all_else_is_background(channels, gap, scale):
    images = random_images(5, channels, 4, 6)
    picture = np.asarray(grid(images, columns=3, gap=gap, scale=scale)).copy()
    height, width = 4 * scale, 6 * scale
    assert picture.shape[:2] == (gap + 2 * (height + gap), gap + 3 * (width + gap))
    for index, image in enumerate(images):
        row, column = divmod(index, 3)
        y, x = gap + row * (height + gap), gap + column * (width + gap)
        cell = picture[y : y + height, x : x + width]
        assert np.array_equal(cell, enlarged(image, scale))
        cell[...] = BACKGROUND
    assert (picture == BACKGROUND).all()  # gaps, border, and the empty sixth place


@pytest.mark.parametrize(
    ("side", "columns", "scale"),
    [(28, 10, 3), (32, 10, 2), (8, 4, 9), (256, 8, 1), (28, 20, 2), (28, 40, 1)],
)
def test_small_images_are_enlarged_until_the_sheet_is_full(side, columns, scale):
    picture = grid(random_images(columns, 1, side, side), columns=columns)
    assert picture.size == (2 + columns * (side * scale + 2), 4 + side * scale)


def test_a_grid_is_square_unless_told_otherwise():
    assert grid(random_images(9, 1, 4, 4), scale=1).size == (20, 20)
    assert grid(random_images(10, 1, 4, 4), scale=1).size == (26, 20)


def test_labels_stand_in_margins_whole_and_leave_the_cells_alone():
    images = random_images(20, 1, 28, 28)
    rows = ["raw weights, first try", "EMA"]
    bare = grid(images, columns=10)
    labelled = grid(images, columns=10, row_labels=rows, column_labels=GARMENTS)
    left, top = labelled.width - bare.width, labelled.height - bare.height
    cells = labelled.crop((left, top, labelled.width, labelled.height))
    assert np.array_equal(np.asarray(cells), np.asarray(bare))

    beside, above = lines(rows, 14), lines_within(GARMENTS, 84, 14)
    assert left == max(mask.width for mask in beside) + 2 * PAD
    assert top == above[0].height + PAD
    margins = np.asarray(labelled).copy()
    margins[top:, left:] = BACKGROUND
    assert (margins != BACKGROUND).sum() == sum(map(ink_of, [*beside, *above]))


def test_a_row_label_is_at_the_height_of_its_row():
    picture = np.asarray(grid(random_images(3, 1, 28, 28), columns=1, row_labels=["", "II", ""]))
    inked = np.flatnonzero((picture[:, :15] != BACKGROUND).any(1))
    assert 2 + 86 < inked.min() < inked.max() < 2 + 86 + 84


def test_column_labels_shrink_and_then_turn_rather_than_overlap():
    upright, smaller, turned = (lines_within(GARMENTS, width, 14) for width in (84, 60, 30))
    assert max(mask.width for mask in upright) <= 84
    assert max(mask.width for mask in smaller) <= 60
    assert smaller[0].height < upright[0].height
    assert max(mask.width for mask in turned) <= 30
    assert max(mask.height for mask in turned) > 60


@pytest.mark.parametrize("text", ["Ankle boot", "jÁpgy|", "fjord,", "W"])
def test_a_line_holds_all_of_its_ink(text):
    mask = lines([text], 14)[0]
    canvas = Image.new("L", (400, 100))
    ImageDraw.Draw(canvas).text((100, 30), text, fill=255, font=font_for(text, 14))
    assert (np.asarray(mask) > 0).sum() == (np.asarray(canvas) > 0).sum()


def test_a_font_is_found_for_letters_that_the_usual_one_lacks():
    usual = ImageFont.load_default(14)
    assert has_letters(usual, "Ankle boot")
    assert not has_letters(usual, "é")
    assert has_letters(font_for("θ é Щ", 14), "θ é Щ")


def test_a_letter_that_no_font_has_is_announced():
    with pytest.warns(UserWarning, match="No font found here has all the letters"):
        lines([f"a{UNASSIGNED}"], 14)


def test_the_background_shows_through_transparent_parts():
    image = torch.tensor([10, 20, 30, 0], dtype=torch.uint8).view(1, 4, 1, 1)
    clear = grid(image, scale=1, gap=0).getpixel((0, 0))
    image[:, 3] = 255
    solid = grid(image, scale=1, gap=0).getpixel((0, 0))
    assert (clear, solid) == ((BACKGROUND,) * 3, (10, 20, 30))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(1, 1, 4, 4), {}, "needs uint8 images .* not float32"),
        (random_images(1, 5, 4, 4), {}, "C of 1, 3 or 4"),
        (random_images(4, 4, 3), {}, r"\(N, C, H, W\)"),
        (random_images(0, 1, 4, 4), {}, "nothing to draw"),
        (random_images(4, 1, 4, 4), {"row_labels": ["a"]}, "1 labels came for 2 rows"),
        (random_images(4, 1, 4, 4), {"column_labels": list("abc")}, "3 labels came for 2 columns"),
        (random_images(4, 1, 4, 4), {"columns": 0}, "columns 0"),
        (random_images(4, 1, 4, 4), {"scale": 0}, "scale 0"),
    ],
)
def test_a_grid_says_what_is_wrong(images, options, message):
    with pytest.raises(ValueError, match=message):
        grid(images, **options)


def test_the_preview_shows_class_after_class_and_leaves_missing_places_empty():
    images = random_images(6, 1, 28, 28)
    labels = torch.tensor([2, 0, 2, 0, 2, 0])
    picture = data_preview(images, ["cat", "dog", "eel"], labels, columns=2)
    left = picture.width - (2 + 2 * 86)
    pixels = np.asarray(picture)[2:, left + 2 :]
    shown = {(0, 0): 1, (0, 1): 3, (2, 0): 0, (2, 1): 2}
    for row in range(3):
        for column in range(2):
            cell = pixels[row * 86 : row * 86 + 84, column * 86 : column * 86 + 84]
            index = shown.get((row, column))
            wanted = BACKGROUND if index is None else enlarged(images[index], 3)
            assert (cell == wanted).all()


def test_the_preview_without_labels_is_a_plain_grid():
    images = random_images(12, 3, 8, 8)
    assert data_preview(images) == grid(images, columns=10)


def test_the_preview_refuses_labels_that_do_not_fit():
    images = random_images(3, 1, 8, 8)
    with pytest.raises(ValueError, match="2 labels came for 3 images"):
        data_preview(images, ["a"], torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="no image has a label below 1"):
        data_preview(images, ["a"], torch.tensor([4, 4, 4]))


# --- files

SETTINGS = {
    "class": "猫 é",
    "seed": 7,
    "sampler": {"kind": "Heun"},
    "text": 'a "b"\n\0',
    "none": None,
}


def test_a_png_gives_its_settings_and_pixels_back(tmp_path):
    picture = grid(random_images(4, 3, 8, 8))
    path = tmp_path / "new" / "grid.png"
    save_png(picture, path, SETTINGS)
    assert read_settings(path) == SETTINGS
    with Image.open(path) as read:
        assert read.text["sfumato"].isascii()
        assert json.loads(read.text["sfumato"]) == SETTINGS
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "jpg", "bmp"])
def test_a_foreign_picture_has_no_settings(tmp_path, suffix):
    path = tmp_path / f"foreign.{suffix}"
    Image.new("RGB", (4, 4)).save(path)
    assert read_settings(path) is None


def test_other_peoples_texts_are_not_taken_for_settings(tmp_path):
    text = PngInfo()
    text.add_text("parameters", '{"seed": 1}')
    text.add_text("Software", "sfumato")
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=text)
    Image.new("L", (4, 4)).save(tmp_path / "b.gif", comment=b"sfumatology")
    assert read_settings(tmp_path / "a.png") is None
    assert read_settings(tmp_path / "b.gif") is None


def test_damaged_settings_and_files_are_named(tmp_path):
    text = PngInfo()
    text.add_text("sfumato", '{"seed": 1')
    Image.new("L", (4, 4)).save(tmp_path / "half.png", pnginfo=text)
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"half\.png holds settings that are no JSON object"):
        read_settings(tmp_path / "half.png")
    with pytest.raises(ValueError, match=r"words\.png is not a picture"):
        read_settings(tmp_path / "words.png")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, torch.zeros(1)], ids=str)
def test_settings_that_json_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="plain JSON values"):
        save_png(Image.new("L", (4, 4)), tmp_path / "a.png", {"value": value})
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path) as draft:
            draft.write_bytes(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", b"old")]


def test_settings_are_read_without_torch():
    code = "import sys, sfumato.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- films


def test_without_noise_a_batch_is_shown_as_the_image_it_is():
    levels = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16)
    shown = show_noisy(0.5 * (levels / 127.5 - 1), alpha=0.5, sigma=0.0)
    assert np.array_equal(shown, levels.numpy().astype(np.uint8))


@pytest.mark.parametrize("sigma", [1.0, 80.0])
def test_noise_is_shown_as_noise_and_not_as_black_and_white(sigma):
    eps = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    shown = show_noisy(sigma * eps, alpha=0.0, sigma=sigma)
    saturated = ((shown == 0) | (shown == 255)).mean()
    # the first and the last of 32 levels: beyond -1.875 and 1.890 deviations lie 3.04 % and 2.94 %
    assert abs(saturated - 0.0598) < 0.004
    assert abs(shown.mean() - 127.5) < 2
    assert len(np.unique(shown)) == 32


def points(count, images, channels=1, side=8):
    """A made-up run: x_t, x0, alphas, sigmas."""
    x0 = random_images(images, channels, side, side) // 128 * 255
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    alphas = [0.9 * k / max(1, count - 1) for k in range(count)]
    sigmas = [1 - alpha for alpha in alphas]
    x_t = [a * (x0 / 127.5 - 1) + s * eps for a, s in zip(alphas, sigmas)]
    return x_t, [x0] * count, alphas, sigmas


def frames_of(path):
    with Image.open(path) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            picture.load()
            yield np.asarray(picture.convert("RGB")), picture.info.get("duration")


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_a_film_has_a_frame_a_point_and_holds_its_ends(tmp_path, suffix):
    x_t, x0, alphas, sigmas = points(6, 4)
    path = tmp_path / f"film.{suffix}"
    film(x_t, x0, path, alphas, sigmas, settings=SETTINGS, row_labels=["a", "b"])
    frames, durations = zip(*frames_of(path))
    assert durations == (800, 90, 90, 90, 90, 2500)
    assert len({frame.shape for frame in frames}) == 1
    assert read_settings(path) == SETTINGS
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0  # for ever


def corners_of(picture, frame):
    """(x, y) wherever the frame shows the picture, pixel by pixel."""
    wanted = np.asarray(picture.convert("RGB"))
    windows = np.lib.stride_tricks.sliding_window_view(frame, wanted.shape)[:, :, 0]
    found = np.argwhere((windows[:, :, ::7, ::5] == wanted[::7, ::5]).all((2, 3, 4)))
    return [(int(x), int(y)) for y, x in found if np.array_equal(windows[y, x], wanted)]


TOP = 12 + lines(["x_t"], 14)[0].height + PAD  # of a film's grids


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_a_grey_film_shows_the_grids_pixel_by_pixel(tmp_path, suffix):
    x_t, x0, alphas, sigmas = points(3, 4, side=28)
    path = tmp_path / f"film.{suffix}"
    film(x_t, x0, path, alphas, sigmas, scale=2)
    for (frame, _), x, alpha, sigma in zip(frames_of(path), x_t, alphas, sigmas):
        noisy = grid(torch.from_numpy(show_noisy(x, alpha, sigma)), scale=2)
        assert corners_of(noisy, frame) == [(12, TOP)]
        assert corners_of(grid(x0[0], scale=2), frame)[-1][1] == TOP


def palettes_of(path):
    """How many palettes a GIF holds: one for the file, one for each frame that brings its own."""
    data = path.read_bytes()

    def size_of(flags):
        return 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0

    at, count = 13 + size_of(data[10]), data[10] >> 7
    while data[at] != 0x3B:
        if data[at] == 0x2C:  # an image: its own palette, then the size of a code
            count += data[at + 9] >> 7
            at += 10 + size_of(data[at + 9]) + 1
        else:  # an extension
            at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return count


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gif_has_one_palette_for_all_frames(tmp_path, channels):
    x_t, x0, alphas, sigmas = points(8, 9, channels)
    film(x_t, x0, tmp_path / "film.gif", alphas, sigmas)
    assert palettes_of(tmp_path / "film.gif") == 1


def test_a_film_of_the_usual_size_stays_small(tmp_path):
    x_t, x0, alphas, sigmas = points(20, 40, side=28)
    film(x_t, x0, tmp_path / "film.webp", alphas, sigmas, columns=4)
    assert (tmp_path / "film.webp").stat().st_size < 1_000_000


def test_a_film_of_one_point_is_a_picture(tmp_path):
    x_t, x0, alphas, sigmas = points(1, 1)
    film(x_t, x0, tmp_path / "film.webp", alphas, sigmas, steps=[18])
    assert len(list(frames_of(tmp_path / "film.webp"))) == 1


def test_a_film_says_what_is_wrong(tmp_path):
    x_t, x0, alphas, sigmas = points(3, 4)
    with pytest.raises(ValueError, match=r"a \.webp or a \.gif file, not 'film\.mp4'"):
        film(x_t, x0, tmp_path / "film.mp4", alphas, sigmas)
    with pytest.raises(ValueError, match=r"equally many .* not \[3, 3, 2, 3, 3\]"):
        film(x_t, x0, tmp_path / "film.gif", alphas[:2], sigmas)
    with pytest.raises(ValueError, match="equally many"):
        film([], [], tmp_path / "film.gif", [], [])
    assert not list(tmp_path.iterdir())
