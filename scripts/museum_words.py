"""What docs/museum.md and docs/museum.zh-CN.md say: of each exhibit its line, title and sentences."""

# ruff: noqa: RUF001, E501  (full-width punctuation is right in Chinese, and counts as two)

from collections.abc import Callable

Said = tuple[str, str, str]  # line of docs/sources.md, title, what happens and what is right

ENGLISH: dict[str, Said] = {
    "clamped": (
        "001:398",
        "x_t clamped at each step",
        "x_t is mostly noise, and a third of it lies outside [−1, 1]: cut off, it drags every pixel "
        "towards grey. Clip the estimate of x0 (`Clipped`), never x_t.",
    ),
    "one-step": (
        "001:399",
        "`return x` inside the loop",
        "One step of many is taken, so what comes back is noise, and looks like an untrained model. "
        "`sample` walks the whole grid.",
    ),
    "noise-at-the-end": (
        "001:389",
        "noise added at the last step, too",
        "What the text's `if t > 0` keeps out, left in: nothing takes it away again, and it stays as "
        "grain; the fewer the steps, the coarser. At s = 0 no solver here adds any.",
    ),
    "mean-only": (
        "004:155",
        "DDPM without its noise",
        "The mean of a step is not DDIM's: what was uncertain is averaged away, and thin, common "
        "shapes, ones above all, are left. `DDIM()` has the mean that goes without noise.",
    ),
    "t300": (
        "002:54",
        "T = 300 with the betas of 1000",
        "22 % of the image's amplitude is left at T, but sampling starts from pure noise: all of it "
        "comes out too bright. `LinearBetas(300)` scales its betas by 1000 / T.",
    ),
    "alpha": (
        "004:136",
        "α where ᾱ belongs, in x_t",
        "Half-way the noise has a deviation of 0.10 instead of 0.96, so that the network never learns "
        "to draw, only to dust. ᾱ is the product of all α so far.",
    ),
    "one-noise": (
        "003:32",
        "one ε for all steps",
        "The deviations of equal noises add, where the variances of independent ones do: after 200 "
        "steps the noise is 13 times too strong. One ε is right only for the jump to x_t at once.",
    ),
    "root": (
        "003:36",
        "a root too many over the product",
        "With √∏α for ᾱ the digit is still to be seen half-way, and no x_t is ever as noisy as "
        "sampling's start. ᾱ is the product itself.",
    ),
    "divided": (
        "004:116",
        "the mean divided by √ᾱ_t, not √α_t",
        "At t = T the mean is 156 times too large, and sampling explodes at once. Or take the form "
        "with x̂0, as `process.posterior` does.",
    ),
    "variance": (
        "004:151",
        "1 − α where 1 − ᾱ belongs, in the mean",
        "Each step takes away more noise than it should, so that thin shapes win and are grainy. "
        "The noise's weight is β / √(1 − ᾱ).",
    ),
    "log": (
        "003:42",
        "a log left out of the learned variance",
        "exp(v log β + (1 − v) β̃) is about √β at v = ½: ten times too much noise in the late steps, "
        "and grain. Both are logarithms: v log β + (1 − v) log β̃.",
    ),
    "zero-to-one": (
        "000:126",
        "images in [0, 1]",
        "The sampler's images are decoded from [−1, 1], so that black comes out grey. x0 is "
        "2 x − 1, made and undone in one place: `Pixels`.",
    ),
    "twice": (
        "004:296",
        "normalised twice",
        "Images in [−3, 1] under a clip to [−1, 1]: the estimate can't be as dark as the data, and "
        "bold digits win. One owner of the range.",
    ),
    "own-range": (
        "001:359",
        "each picture stretched to its own range",
        "Below, the images of [0, 1] as they are; above, the same ones by `normalize=True`: the fault "
        "is hidden and not mended. Decode by (x + 1) / 2 and clamp.",
    ),
    "no-time": (
        "003:80",
        "a network that is not told t",
        "It takes every image for half-way noisy, and lifts what is left of contrast until it "
        "saturates. `model(x_t, t)`: every block is told.",
    ),
    "rotated": (
        "004:452",
        "rotations as augmentation",
        "The model draws what it was shown: digits on their side and head. Nothing is rotated here, "
        "and mirrored only when asked.",
    ),
}
CHINESE: dict[str, Said] = {
    "clamped": (
        "001:398",
        "每步裁剪 x_t",
        "x_t 主要是噪声，三分之一落在 [−1, 1] 之外；切掉它们，每个像素都被拖向灰色。应裁剪对 x0 的估计"
        "（`Clipped`），绝不裁剪 x_t。",
    ),
    "one-step": (
        "001:399",
        "`return x` 写在循环里",
        "许多步只走了一步，得到的是噪声，看起来像没训练过。`sample` 会走完整个网格。",
    ),
    "noise-at-the-end": (
        "001:389",
        "最后一步也加噪声",
        "少了文中的 `if t > 0` 就会这样：再没有什么能把它去掉，于是成了颗粒；步数越少越粗。这里的求解器在 s = 0 都不加"
        "噪声。",
    ),
    "mean-only": (
        "004:155",
        "去掉噪声的 DDPM",
        "这一步的均值不是 DDIM 的均值：不确定的部分被平均掉，只剩细而常见的形状，多半是 1。不加噪声时该用 "
        "`DDIM()` 的均值。",
    ),
    "t300": (
        "002:54",
        "T = 300 却用 1000 步的 β",
        "终点还剩图像幅度的 22 %，采样却从纯噪声开始：整体偏亮。`LinearBetas(300)` 会把 β 乘以 1000 / T。",
    ),
    "alpha": (
        "004:136",
        "x_t 里把 ᾱ 写成 α",
        "走到一半噪声的标准差是 0.10 而不是 0.96，网络永远学不会画，只学会掸灰。ᾱ 是此前所有 α 的连乘。",
    ),
    "one-noise": (
        "003:32",
        "所有步共用一个 ε",
        "相同的噪声是标准差相加，独立的噪声才是方差相加：200 步后噪声强了 13 倍。只有一步跳到 x_t 时才是一个 ε。",
    ),
    "root": (
        "003:36",
        "连乘外多了一个根号",
        "把 √∏α 当作 ᾱ，走到一半还看得见数字，而任何 x_t 都不如采样起点那样嘈杂。ᾱ 就是连乘本身。",
    ),
    "divided": (
        "004:116",
        "均值除以 √ᾱ_t 而不是 √α_t",
        "在 t = T 处均值大了 156 倍，采样立刻发散。也可以用含 x̂0 的写法，`process.posterior` 就是如此。",
    ),
    "variance": (
        "004:151",
        "均值里把 1 − ᾱ 写成 1 − α",
        "每一步去掉的噪声都太多，细的形状占上风，还带颗粒。噪声的权重是 β / √(1 − ᾱ)。",
    ),
    "log": (
        "003:42",
        "学习方差里漏了一个 log",
        "v = ½ 时 exp(v log β + (1 − v) β̃) 约为 √β：后面几步的噪声大了约十倍，留下颗粒。两项都取对数："
        "v log β + (1 − v) log β̃。",
    ),
    "zero-to-one": (
        "000:126",
        "图像在 [0, 1]",
        "采样结果按 [−1, 1] 解码，于是黑色变灰。x0 是 2 x − 1，换算只在一处：`Pixels`。",
    ),
    "twice": (
        "004:296",
        "归一化了两次",
        "图像在 [−3, 1]，估计却裁剪到 [−1, 1]：估计不可能像数据那样暗，粗壮的数字占了上风。范围只归一处管。",
    ),
    "own-range": (
        "001:359",
        "每张图按自己的范围拉伸",
        "下面是 [0, 1] 错误的真实样子；上面是同一批图经过 `normalize=True`：错误被掩盖而没有被修正。应按 "
        "(x + 1) / 2 解码并截断。",
    ),
    "no-time": (
        "003:80",
        "不告诉网络 t",
        "它把每张图都当成走到一半的噪声，把剩下的对比度一直抬到饱和。`model(x_t, t)`：每个块都要知道时间。",
    ),
    "rotated": (
        "004:452",
        "用旋转做数据增强",
        "模型画出它见过的东西：横躺和倒立的数字。这里从不旋转，镜像也只在要求时才做。",
    ),
}
WORDS = {"en": ENGLISH, "zh": CHINESE}
INTRODUCTION = {
    "en": """# The museum of mistakes

[中文](museum.zh-CN.md) · [the lessons](lessons/README.md) · [line by line](sources.md)

Mistakes of five well-read tutorials, switched on one at a time. Nothing here was trained: the denoiser is the exact
one of 200 real digits, or of normal data with the digits' mean and covariance where the first would hide the fault,
and both rows start from the same noise. So what you see is what the fault does. `python scripts/museum.py` draws
all of it, and `tests/test_museum.py` measures that each fault moves a number in the direction that is told.

Below each stands what [the doctor](doctor.md) says, asked of the fault itself: the same script puts the process, the
solver, the network or the images into `sfumato doctor` and prints what comes out.
""",
    "zh": """# 错误博物馆

[English](museum.md) · [课程](lessons/README.zh-CN.md) · [逐行核对](sources.zh-CN.md)

五篇常见教程里的错误，一次打开一个。这里没有训练任何东西：去噪器是 200 个真实数字的精确去噪器；前者会掩盖错误之处，
用的是与数字同均值、同协方差的正态数据的精确去噪器。两行从同一份噪声出发，所以你看到的就是错误本身的后果。
`python scripts/museum.py` 画出全部图片，`tests/test_museum.py` 度量每个错误确实把某个数推向所说的方向。

每个错误下面是[医生](doctor.md)的话：同一个脚本把这个过程、求解器、网络或图像交给 `sfumato doctor`，原样印出它的回答。
""",
}
ROWS = {"en": "Above the fault, below the repair.", "zh": "上面是错误，下面是修正。"}


def page(language: str, names: list[str], doctor: Callable[[str, str], str]) -> str:
    """The whole page: an exhibit after the other. doctor(name, language): its words, Markdown."""
    parts = [INTRODUCTION[language]]
    for number, name in enumerate(names, 1):
        line, title, told = WORDS[language][name]
        picture = f"![{name}](museum/{name}.webp)"
        parts.append(f"## {number}. {title} ({line})\n\n{told}\n\n{picture}\n")
        parts.append(f"{doctor(name, language)}\n")
    parts.insert(1, f"{ROWS[language]}\n")
    return "\n".join(parts)
