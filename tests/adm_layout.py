"""Published networks of guided-diffusion, as data: a row a stage, and what each row is made of.

A row: the stage's name, what it is, channels in and out, whether it attends, and whether its
resolution changes afterwards. The sizes follow from the flags in that program's README.md. `skips`
in the way up are written into the channels in: 1344 = 768 from below + 576 from the way down.
"""

IMAGENET_64 = """
input_blocks.0   conv    3  192
input_blocks.1   res   192  192
input_blocks.2   res   192  192
input_blocks.3   res   192  192
input_blocks.4   down  192  192
input_blocks.5   res   192  384  attends
input_blocks.6   res   384  384  attends
input_blocks.7   res   384  384  attends
input_blocks.8   down  384  384
input_blocks.9   res   384  576  attends
input_blocks.10  res   576  576  attends
input_blocks.11  res   576  576  attends
input_blocks.12  down  576  576
input_blocks.13  res   576  768  attends
input_blocks.14  res   768  768  attends
input_blocks.15  res   768  768  attends
output_blocks.0  res  1536  768  attends
output_blocks.1  res  1536  768  attends
output_blocks.2  res  1536  768  attends
output_blocks.3  res  1344  768  attends  up
output_blocks.4  res  1344  576  attends
output_blocks.5  res  1152  576  attends
output_blocks.6  res  1152  576  attends
output_blocks.7  res   960  576  attends  up
output_blocks.8  res   960  384  attends
output_blocks.9  res   768  384  attends
output_blocks.10 res   768  384  attends
output_blocks.11 res   576  384  attends  up
output_blocks.12 res   576  192
output_blocks.13 res   384  192
output_blocks.14 res   384  192
output_blocks.15 res   384  192
"""

IMAGENET_256 = """
input_blocks.0   conv    3  256
input_blocks.1   res   256  256
input_blocks.2   res   256  256
input_blocks.3   down  256  256
input_blocks.4   res   256  256
input_blocks.5   res   256  256
input_blocks.6   down  256  256
input_blocks.7   res   256  512
input_blocks.8   res   512  512
input_blocks.9   down  512  512
input_blocks.10  res   512  512  attends
input_blocks.11  res   512  512  attends
input_blocks.12  down  512  512
input_blocks.13  res   512 1024  attends
input_blocks.14  res  1024 1024  attends
input_blocks.15  down 1024 1024
input_blocks.16  res  1024 1024  attends
input_blocks.17  res  1024 1024  attends
output_blocks.0  res  2048 1024  attends
output_blocks.1  res  2048 1024  attends
output_blocks.2  res  2048 1024  attends  up
output_blocks.3  res  2048 1024  attends
output_blocks.4  res  2048 1024  attends
output_blocks.5  res  1536 1024  attends  up
output_blocks.6  res  1536  512  attends
output_blocks.7  res  1024  512  attends
output_blocks.8  res  1024  512  attends  up
output_blocks.9  res  1024  512
output_blocks.10 res  1024  512
output_blocks.11 res   768  512  up
output_blocks.12 res   768  256
output_blocks.13 res   512  256
output_blocks.14 res   512  256  up
output_blocks.15 res   512  256
output_blocks.16 res   512  256
output_blocks.17 res   512  256
"""

SMALL = """
input_blocks.0   conv    2    8
input_blocks.1   res     8    8
input_blocks.2   down    8    8
input_blocks.3   res     8   16  attends
output_blocks.0  res    32   16  attends
output_blocks.1  res    24   16  attends  up
output_blocks.2  res    24    8
output_blocks.3  res    16    8
"""

Row = tuple[str, str, int, int, bool, bool]
Shapes = dict[str, tuple[int, ...]]


def rows(text: str) -> list[Row]:
    """(name, kind, channels in, channels out, attends, doubles afterwards) of each line."""
    found = []
    for line in text.strip().splitlines():
        name, kind, inputs, outputs, *marks = line.split()
        found.append((name, kind, int(inputs), int(outputs), "attends" in marks, "up" in marks))
    return found


def layer(name: str, *weight: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": (weight[0],)}


def residual(name: str, inputs: int, outputs: int, embedding: int) -> Shapes:
    skip = layer(f"{name}.skip_connection", outputs, inputs, 1, 1) if inputs != outputs else {}
    return {
        **layer(f"{name}.in_layers.0", inputs),
        **layer(f"{name}.in_layers.2", outputs, inputs, 3, 3),
        **layer(f"{name}.emb_layers.1", 2 * outputs, embedding),
        **layer(f"{name}.out_layers.0", outputs),
        **layer(f"{name}.out_layers.3", outputs, outputs, 3, 3),
        **skip,
    }


def attention(name: str, width: int) -> Shapes:
    return {
        **layer(f"{name}.norm", width),
        **layer(f"{name}.qkv", 3 * width, width, 1),
        **layer(f"{name}.proj_out", width, width, 1),
    }


def shapes(text: str, channels: int, classes: int, outputs: int) -> Shapes:
    """Every tensor of a network of these rows, with "BigGAN" resampling and scale-shift norms."""
    embedding, coarsest = 4 * channels, max(row[3] for row in rows(text))
    finest = rows(text)[0][3]
    found = {
        **layer("time_embed.0", embedding, channels),
        **layer("time_embed.2", embedding, embedding),
        **({"label_emb.weight": (classes, embedding)} if classes else {}),
        **residual("middle_block.0", coarsest, coarsest, embedding),
        **attention("middle_block.1", coarsest),
        **residual("middle_block.2", coarsest, coarsest, embedding),
        **layer("out.0", finest),
        **layer("out.2", outputs, finest, 3, 3),
    }
    for name, kind, inputs, width, attends, doubles in rows(text):
        stem = layer(f"{name}.0", width, inputs, 3, 3)
        found |= stem if kind == "conv" else residual(f"{name}.0", inputs, width, embedding)
        found |= attention(f"{name}.1", width) if attends else {}
        last = f"{name}.{1 + attends}"
        found |= residual(last, width, width, embedding) if doubles else {}
    return found
