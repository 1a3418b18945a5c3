"""What the doctor says in Chinese; the codes and the order are those of english.py."""

# ruff: noqa: RUF001
from .chinese_runs import CHINESE_RUNS


def _saved(how: str, load: str = "{load}") -> str:
    python = f"import numpy as np; x = {load}; np.save('{{saved}}', {how})"
    return f'`python3 -c "{python}"`，再 `sfumato train {{saved}}`'


_BYTES = "(x.clip(0, 1) * 255).round().astype(np.uint8)"
_ORIGINAL = _saved(_BYTES, load="np.load('FILE')")

CHANNELS = {"red": "红", "green": "绿", "blue": "蓝", "grey": "灰度", "opacity": "不透明度"}
SEVERITY = {"wrong": "错误", "risk": "风险", "note": "说明"}
CHINESE: dict[str, tuple[str, str, str]] = {
    # 图像
    "no-images": (
        "{name} 里没有图像：{shapes}。",
        "图像应为数组 (N, H, W)，或带 1、3、4 个通道，或文件夹里的图片文件。",
        "看看里面有什么：`sfumato info {data}`",
    ),
    "not-numbers": (
        "{name} 的类型是 {dtype}。",
        "像素应是 0 到 255 的数。",
        f"存成 uint8：{_saved('x.astype(np.uint8)')}",
    ),
    "not-finite": (
        "{name} 中有 {share:.2%} 不是数（NaN 或无穷）。",
        "只要一个，一步之内全部权重都变成 NaN。",
        f"去掉这些图像：{_saved('x[np.isfinite(x).reshape(len(x), -1).all(1)]')}",
    ),
    "channels": (
        "{name} 的形状是 {shape}，看不出通道在哪一维。",
        "图像应为 (N, H, W)，或在第二维或最后一维有 1、3、4 个通道。",
        f"若最后一维的前三个是红、绿、蓝：{_saved('x[..., :3]')}",
    ),
    "range-bytes": (
        "{name} 是字节，但最大值只有 {high:g}。",
        "字节应到 255：可能是 [0, 1] 的图像被取整，或掩码没有乘 255。网络看到的是一片黑。",
        f"从原来的浮点数（这里写作 FILE）重做：{_ORIGINAL}",
    ),
    "range-01": (
        "{name} 是 {dtype}，范围 {low:.3g} 到 {high:.3g}：图像在 [0, 1]。",
        "扩散要求均值约为 0。用 [0, 1] 的图像，终点噪声的中心不对，样本发灰发白。",
        f"存成字节，[-1, 1] 由这里做：{_saved(_BYTES)}",
    ),
    "range-11": (
        "{name} 是 {dtype}，范围 {low:.3g} 到 {high:.3g}：已经在 [-1, 1]。",
        "会被再缩放一次，变成 [-3, 1]。",
        f"存成字节：{_saved('((x + 1) * 127.5).round().astype(np.uint8)')}",
    ),
    "range-31": (
        "{name} 是 {dtype}，范围 {low:.3g} 到 {high:.3g}：归一化做了两次。",
        "[0, 1] 的像素做两次 2x - 1 得到 [-3, 1]；裁剪到 [-1, 1] 后一半色调丢失，样本过暗。",
        f"还原两次：{_saved('((x + 3) * 63.75).round().astype(np.uint8)')}",
    ),
    "range-255": (
        "{name} 是 {dtype}，范围 {low:.3g} 到 {high:.3g}，但不是字节。",
        "只有 uint8 能毫无疑问地说明 255 是白色。",
        f"存成字节：{_saved('x.round().astype(np.uint8)')}",
    ),
    "range-16": (
        "{name} 是 {dtype}，范围 {low:.3g} 到 {high:.3g}：每像素 16 位。",
        "这里的图像是 8 位；65535 是不是白色，要由你来说。",
        f"存成字节：{_saved('(x / 257).round().astype(np.uint8)')}",
    ),
    "range-odd": (
        "{name} 是 {dtype}，范围 {low:.3g} 到 {high:.3g}：不是常见的图像范围。",
        "标准化（减均值、除标准差）后的图像，没有这两个数就无法还原显示。",
        f"把 STD、MEAN 换成你的数：{_saved('(x * STD + MEAN).clip(0, 255).astype(np.uint8)')}",
    ),
    "grey-as-rgb": (
        "{images:,} 张三通道图像全是灰度。",
        "网络得自己学会三个通道相等，学得不准就是偏色，通常偏绿。",
        "`{train} --channels 1`",
    ),
    "blank-images": (
        "{share:.1%} 的图像只有一种颜色。",
        "它们最先被学会，也会同样频繁地被画出来。",
        "删掉它们，或查查为什么解码成这样：`sfumato info {data}`",
    ),
    "duplicates": (
        "看过的图像中 {share:.1%} 是别的图像的副本。",
        "副本会被背下来；若有一份在留出集里，留出损失就好得不真实。",
        "从 {data} 里删掉，再 `{train}`",
    ),
    "shared-pictures": (
        "看过的图像中 {share:.1%} 与别的图像完全相同，只是文字不同。",
        "两种说法都对就没有问题，比如两国共用的旗帜：模型会把一个画成另一个。"
        "留出集里若有这样的图，就不算没见过。",
        "两种说法都对就不用管；否则改正 {data} 的文字。",
    ),
    "few-images": (
        "只有 {images:,} 张图像；{enough:,} 张以上的模型才会创造。",
        "图像太少，网络只会画出见过的图。",
        "增加图像；否则用小网络和短时间：`sfumato train {data} --preset tiny --time 10m`",
    ),
    "unreadable": (
        "{files:,} 个文件({share:.1%})无法读取，第一个是 {first}。",
        "它们被跳过；太多则说明下载不完整。",
        "重新下载；`sfumato info {data}` 列出它们。",
    ),
    "turned-copies": (
        "看过的图像中 {share:.0%} 是别的图像转 90 或 180 度的副本。",
        "模型画它见过的东西：横躺和倒立的图。对天空和细胞是对的，对数字和人脸是错的。",
        "除非这些图像本来不分上下，否则把副本删掉，再 `{train}`",
    ),
    "rare-class": (
        "类别 {name} 有 {least:,} 张，最大的类别有 {most:,} 张。",
        "很少见到的类别画不好，会像别的类别。",
        "给它增加图像，或不用类别训练：`{train} --no-labels`",
    ),
    "flip-letters": (
        "{name} 的一半图像被左右翻转(data.flip)。",
        "翻转的数字和字母不再是字：模型会学着画它们。",
        "`{train} data.flip=false`",
    ),
    "no-held-out": (
        "没有留出图像：要求 {held_out} 张，共 {images:,} 张。",
        "没有留出图像，就看不出模型是在学习还是在背诵。",
        "`{train} data.held_out=500`，或增加图像（最多留出十分之一）。",
    ),
    "batch-over-images": (
        "批大小 {batch:,} 超过全部 {images:,} 张图像。",
        "每一步都有图像出现两次，花费多于收获。",
        "`{train} --batch {images}`",
    ),
    "sigma-data": (
        "sigma_data 是 {stated:g}，而图像的标准差是 {measured:.3g}。",
        "只有两者一致，EDM 的预处理才让输入和目标都是单位大小。",
        "`{train} parameterization.sigma_data=0`（会自动测量）",
    ),
    "latents-unscaled": (
        "潜变量通道 {channel} 的标准差是 {std:.3g}，应为 1。",
        "噪声水平是为单位大小的数据设计的：太大的潜变量永远盖不住，太小的一下就没了。",
        "`{train} 'codec.means=[]' 'codec.stds=[]'`（会在图像上重新测量）",
    ),
    # 过程
    "signal-left": (
        "最后一步还剩图像幅度的 {share:.1%}：{process}。",
        "采样从纯噪声开始，网络从没见过：亮度和颜色会错。"
        "把 T = 1000 的 beta 用在 T = 300 就会这样。",
        "`{train} process.rescaled=true`，或 `process=CosineBetas`，Karras 用 `process.t_max=80`",
    ),
    "few-betas": (
        "过程只有 {steps} 步。",
        "步子小，逆向一步才近似高斯；步数这么少，图像里会留下噪声。",
        "`{train} process.steps=1000 objective.times.steps=1000`；采样仍可少走几步",
    ),
    "clock-backwards": (
        "t = 0 处 alpha 是 {alpha:.3g}、sigma 是 {sigma:.3g}，或噪声不随 t 增大。",
        "这里 t = 0 是干净图像(alpha 1,sigma 0)，噪声增大到 t_max。流模型的时间有时相反。",
        "把过程的时间倒过来：t -> t_max - t。",
    ),
    "x-clamped": (
        "x_t 只到 {largest:.3g}，本应到 {reaches:.3g}：它被裁剪了。",
        "加噪图像没有边界。裁剪之后不再是高斯，加进去的噪声也就找不回来。",
        "去掉 diffuse 里的裁剪。只有 x0 的估计可以裁剪：`{train} sampling.clipped=true`",
    ),
    "diffuse-off": (
        "走到一半 diffuse 得到 {image:.3g} x0 + {noise:.3g} eps，而过程说是 "
        "{alpha:.3g} x0 + {sigma:.3g} eps；最多相差 {error:.3g}。",
        "训练和采样的噪声水平就不是一回事。常见的是 alpha_bar、alpha 或根号写错了位置，"
        "或者每一步都加同一个 eps。",
        "alpha 是 sqrt(alpha_bar),sigma 是 sqrt(1 - alpha_bar);diffuse 交给 Process。",
    ),
    "rates-off": (
        "过程的 rates 与 alpha、sigma 的斜率相差 {error:.0%}。",
        "Heun、Euler 等 ODE 求解器跟着 rates 走，会走到别处。",
        "重新推导：rates(t) = (d alpha / dt, d sigma / dt)。",
    ),
    "zero-snr": (
        "在 {process} 的终点没有信号，{way} 没有定义。",
        "那里噪声不含图像的信息，x0 = (x_t - sigma eps) / alpha 要除以 0。",
        "`{train} parameterization=PredictV`",
    ),
    "level-table": (
        "网络的时间表有 {rows} 行，却要查 {low:.4g} 到 {high:.4g}。",
        "查不到的行会中止训练，在 GPU 上的报错还看不出原因。",
        "`{train} network.steps=1000 parameterization.time_scale=1000 "
        "parameterization.time_offset=-1`",
    ),
    "level-raw": (
        "{network} 收到的噪声水平是 {low:.4g} 到 {high:.4g}，它要的大约是 0 到 1。",
        "直接送入步数，比旁边的像素大几百倍，把像素淹没了。",
        "水平为 0 到 1000 时：`{train} network.noise_scale=0.001`",
    ),
    "level-log": (
        "{network} 要对噪声水平取对数，而水平是 {low:.4g} 到 {high:.4g}。",
        "0 或负数没有对数，损失会变成 NaN。fourier=True 要的是噪声的 sigma 本身。",
        "`{train} network.fourier=false`",
    ),
    "level-untold": (
        "无论告诉 {network} 什么噪声水平，回答都一样。",
        "它只能从图像猜有多少噪声，会把小噪声当作细节，或把细节当作噪声。",
        "嵌入噪声水平，并加进每个块：network(x_t, level, cond)",
    ),
    "level-narrow": (
        "网络的正弦嵌入看到的噪声水平只从 {low:.3g} 到 {high:.3g}。",
        "它们看起来都一样：网络分不清输入有多少噪声。EDM 的 c_noise 需要约 250 的 noise_scale。",
        "`{train} network.noise_scale={wanted:.0f}`",
    ),
    "level-wide": (
        "网络的正弦嵌入看到的噪声水平从 {low:.3g} 到 {high:.3g}。",
        "相邻的水平看起来毫不相干，学到一个帮不了下一个。",
        "`{train} network.noise_scale={wanted:.2g}`",
    ),
    "steps-differ": (
        "过程有 {process} 步，训练却在 {objective} 步中抽取。",
        "训练的步和采样的步不是同一些。",
        "`{train} objective.times.steps={process}`（变分界用 `objective.steps={process}`）",
    ),
    "untrained-high": (
        "训练最高只到 sigma / alpha = {highest:.3g}，需要 {needed:g} 以上。",
        "采样从网络没见过的噪声开始，什么也画不出来。",
        "`{train} objective.times.mean=-1.2 objective.times.std=1.2`（LogNormalTimes）",
    ),
    "untrained-low": (
        "训练最低从 sigma / alpha = {lowest:.3g} 开始。",
        "采样的最后几步决定细节，却没有训练：颗粒会留下。",
        "`{train} objective.times.mean=-1.2 objective.times.std=1.2`，或 "
        "`objective.times=DiscreteTimes`",
    ),
    "weight-high": (
        "{weight} 只把 {share:.2%} 的损失给高噪声，而那里占 {steps:.0%} 的步。",
        "布局和颜色在那里决定；不训练就是一块块色斑。"
        "min-SNR 适合预测噪声：预测数据时它随信噪比降到零。",
        "`{train} objective.weight=EDMWeight objective.weight.most=100`",
    ),
    "weight-low": (
        "{weight} 只把 {share:.2%} 的损失给低噪声，而那里占 {steps:.0%} 的步。",
        "细节在那里决定；不训练就一直有颗粒。",
        "`{train} objective.weight=OutputMSE`",
    ),
    # 采样
    "clipped-latents": (
        "sampling.clipped 把潜变量裁剪到 [-1, 1]。",
        "潜变量的标准差是 1：三分之一在范围之外，会被切掉。",
        "`{train} sampling.clipped=false`",
    ),
    "variance-missing": (
        "采样器要用学到的方差，网络却没有学。",
        "训练全部结束后，采样才报错。",
        "`{train} sampling.solver.variance_mix=0.0`，或 `learned_variance=true objective=Hybrid`",
    ),
    "variance-untrained": (
        "网络有方差的输出，{objective} 却不训练它。",
        "它们停在初始值，用到它们的采样器会加错噪声。",
        "`{train} objective=Hybrid`，或 `learned_variance=false`",
    ),
    "grid-refused": (
        "做不出 {steps} 步的时间网格，原文：{error}",
        "网格从训练过程自己的时间里选取。",
        "`{train} sampling.grid=UniformGrid`，或让 `--sample-steps` 少于过程的步数",
    ),
    "grid-starts-late": (
        "采样的第一个时间 t = {first:.3g} 处还剩图像的 {share:.1%}。",
        "但它还是从纯噪声开始：亮度和对比度会错。",
        "`{train} sampling.grid=TrailingGrid`，或更多 `--sample-steps`，或去掉 "
        "`sampling.grid.sigma_max`",
    ),
    "grid-ends-early": (
        "{steps} 步中的最后一步从 sigma / alpha = {last:.3g} 直接到 0。",
        "细节成了各种可能的平均：模糊。在 Karras 的时钟上均匀走，步数都花在噪声里。",
        "`{train} sampling.grid=KarrasGrid`，或更多 `--sample-steps`",
    ),
    "grid-unfinished": (
        "采样停在 sigma / alpha = {end:.3g}，而不是 0。",
        "采样停在噪声里，得到的东西像没训练过。常见的是 return 写进了循环。",
        "时间网格应结束在 t = 0：`{train} sampling.grid=UniformGrid`",
    ),
    "solver-noise": (
        "{solver} 用 {steps} 步，在一张完全已知的图像上留下 {noise:.3f} 的噪声。",
        "再没有人把它去掉，于是成了颗粒；步数越少越粗。常见的是最后一步也加了噪声。",
        "走向 t = 0 的那一步不加噪声：if s == 0 就返回均值",
    ),
    "solver-explodes": (
        "{solver} 用 {steps} 步画出的起伏是完美网络的 {times:,.0f} 倍。",
        "这一步不是去噪，而是放大：常见的是该除以 sqrt(alpha_t)，却除以 sqrt(alpha_bar_t)。",
        "均值和方差见 Process.posterior(x_t, x0, t, s)；或用 `{train} --sampler ddpm`",
    ),
    "solver-inconsistent": (
        "网络完美时，{solver} 用 {steps} 步得到起伏的 {kept:.1%}，用 {twice} 步是 {more:.1%}："
        "步数更多也不接近 100 %。",
        "正确的求解器会越来越接近。所以这一步的某个系数错了，或者漏掉了该加的噪声。",
        "均值和方差见 Process.posterior(x_t, x0, t, s)；不加噪声的均值是 DDIM 的："
        "`{train} --sampler ddpm`，或 `ddim`",
    ),
    "solver-pale": (
        "即使网络完美，{solver} 用 {steps} 步也只得到图像起伏的 {kept:.0%}。",
        "低于 100 % 样本平淡发白，高于则生硬。",
        "更多步：`{train} --sample-steps {more}`；或 `--sampler dpm++2m`",
    ),
    "guidance-no-classes": (
        "模型没有类别和文字，却要求引导 {scale:g}。",
        "没有可以引导的条件，采样会拒绝。",
        "`{train} --guidance 1`，或把图像按类别放进子文件夹",
    ),
    "guidance-no-dropout": (
        "引导为 {scale:g}，而 label_dropout 是 0。",
        "引导需要无标签的模型，只有丢掉一些标签才训练得到它。",
        "`{train} --label-dropout 0.1`",
    ),
    "guidance-strong": (
        "引导 {scale:g} 太强。",
        "颜色过饱和，多样性消失。",
        "`{train} --guidance 2`",
    ),
    "dropout-high": (
        "丢掉了 {dropout:.0%} 的标签。",
        "模型几乎学不到标签的意思。",
        "`{train} --label-dropout 0.1`",
    ),
    "ddim-brief": (
        "DDIM 配只训练 {steps:,} 步的噪声预测；需要 {enough:,} 步以上。",
        "第一步估计的误差按 sigma / alpha 放大，DDIM 把它带到最后，成为白斑。祖先采样会忘掉它。",
        "`{train} --sampler ddpm --sample-steps 100`，或训练更久",
    ),
    # 计划
    "lr-high": (
        "网络宽 {width}，学习率 {lr:g}。",
        "网络越宽，能承受的学习率越低；超过它，损失会跳上去不再下来。",
        "`{train} --lr {better:.2g}`",
    ),
    "lr-low": (
        "学习率 {lr:g}。",
        "这是微调用的；从头训练时，通常的预算内几乎学不到东西。",
        "`{train} --lr 1e-3`",
    ),
    "noise-stuck": (
        "{patch} x {patch} 像素的方块有 {values} 个数，第一层只有 {width} 个通道。",
        "预测噪声（或 v）的网络必须让噪声全部通过。通不过的会作为颗粒留在图里；图像本身却通得过。",
        "`{train} parameterization=PredictData objective.weight=EDMWeight "
        "objective.weight.most=100`，或减小 `network.patch`",
    ),
    "budget-long": (
        "按每秒 {pace:.2g} 步，{steps:,} 步要 {days:.1f} 天。",
        "在等得起的时间里，这个预算达不到目标。",
        "`{train} --time 8h`、小一些的配方（`sfumato recipes`），或用 GPU",
    ),
    "budget-long-least": (
        "按每秒最多 {pace:.2g} 步，{steps:,} 步至少要 {days:.1f} 天。",
        "在等得起的时间里，这个预算达不到目标。",
        "`{train} --time 8h`、小一些的配方（`sfumato recipes`），或用 GPU；`{train} --check` "
        "会实测一步",
    ),
    "budget-few-steps": (
        "按每秒 {pace:.2g} 步，预算只有 {steps:,} 步；{enough} 步以上才画得出东西。",
        "在那之前只有色斑：模型没有坏，只是还没训练好。",
        "更长的 `--time`、更小的 `--size`，自己的图像可用更小的 `--preset`",
    ),
    "few-steps": (
        "训练了 {steps:,} 步，每秒 {pace:.2g} 步；{enough} 步以上才画得出东西。",
        "在那之前只有色斑：模型没有坏，只是还没训练好。",
        "继续训练：`sfumato train {run} --steps 1000`；步数越多越好",
    ),
    "by-heart": (
        "{weights:,} 个权重把 {images:,} 张图像看 {passes:,.0f} 遍。",
        "它们装得下每一张图，会画出副本。",
        "更小的网络（自己的图像用 `--preset tiny`）、更短的 `--time`，或更多图像",
    ),
    "ema-young": (
        "训练 {step:,} 步后，平均权重中 {share:.0%} 来自前 {first:,} 步。",
        "平均还没到它的时间尺度：它的样本比权重本身更差。",
        "继续训练：`sfumato train {run} {longer}`；眼下用 `sfumato sample {run} --raw`",
    ),
    "ema-wide": (
        "平均权重(ema_length {length:g})中 {share:.0%} 来自前半程。",
        "这么宽的平均跟不上后来学到的东西。",
        "`{train} --ema 0.1`",
    ),
    **CHINESE_RUNS,
}
