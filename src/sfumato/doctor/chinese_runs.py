"""The machine, a run and refusals, in Chinese; chinese.py has the rest."""

# ruff: noqa: RUF001
_GROUP = "`sfumato evaluate {run} --samples 500` 会给出带误差的测量。"

CHINESE_RUNS: dict[str, tuple[str, str, str]] = {
    # 机器
    "gpu-unused": (
        "在 CPU 上训练，而 PyTorch 能用这里的 GPU。",
        "GPU 快 20 到 100 倍。",
        "`{train} --device auto`",
    ),
    "gpu-unreached": (
        "机器有 NVIDIA GPU，但 PyTorch {version} 用不了它。",
        "GPU 快 20 到 100 倍。",
        "安装 PyTorch 的 CUDA 版：`GO_TORCH=cuda python3 go.py test`",
    ),
    "bf16-emulated": (
        "训练用 bf16，而这个处理器只能用软件模拟它。",
        "一步要花 fp32 的十倍左右的时间。",
        "`{train} --precision fp32`",
    ),
    "memory-short": (
        "权重、平均和优化器要 {needed:.1f} GB，只剩 {free:.1f} GB。",
        "训练会在开始或中途被系统杀掉。",
        "更小的网络（自己的图像用 `--preset tiny`），或关掉别的程序",
    ),
    "disk-short": (
        "检查点要 {needed:.2f} GB，磁盘只剩 {free:.2f} GB。",
        "存不下的训练，一断电就全没了。",
        "清理磁盘、换一个 `--out`，或 `{train} train.keep=1`",
    ),
    # 训练结果
    "no-steps": (
        "还没有训练过一步。",
        "没有可以判断的。",
        "`sfumato train {run}`",
    ),
    "unfinished": (
        "停在第 {step:,} 步，预算的 {done:.0%}。",
        "学习率还没有降下来，所以样本比结束时粗糙。",
        "`sfumato train {run}` 从那里继续",
    ),
    "batches-skipped": (
        "损失不是有限数：{step:,} 步中跳过了 {share:.1%}。",
        "数值溢出：学习率太高，或有损坏的图像。",
        "学习率降到三分之一：`{train} --lr {better:.2g} --precision fp32`",
    ),
    "loss-diverged": (
        "训练损失现在是 {now:.3g}，曾经是 {best:.3g}。",
        "学习率 {lr:g} 太高：权重总是跳过目标。",
        "新开一次训练，学习率降到三分之一：`{train} --lr {better:.2g}`",
    ),
    "gradients-cut": (
        "梯度长 {norm:.3g}，被裁到 {clip:g}。",
        "每一步都一样长，不管错在哪里：学习率，或数据的尺度。",
        "降低学习率：`{train} --lr {better:.2g}`；用 `sfumato doctor {data}` 查图像范围",
    ),
    "slowed": (
        "训练从每秒 {first:,.0f} 张慢到 {now:,.0f} 张。",
        "别的程序占了核心或内存，或机器过热。",
        "关掉别的程序；`sfumato train {run} {longer}` 从这里继续。",
    ),
    "not-learning": (
        "{step:,} 步之后留出损失是 {now:.3g}，开始时是 {first:.3g}。",
        "什么也没学到：学习率太低或太高，或图像与设置不合。",
        "看这里的其他发现；否则 `{train} --lr 1e-3`",
    ),
    "memorising": (
        "在背诵：留出损失从 {best:.3g}（第 {step:,} 步）升到 {now:.3g}，训练损失是 {own:.3g}。",
        "网络把图像背了下来，会画出它们的副本。",
        "`sfumato sample {run} --best` 用那时的平均；更多图像或更小的网络才能治",
    ),
    "ema-behind": (
        "EMA 落后：平均权重的损失是 {ema:.3g}，权重本身是 {raw:.3g}。",
        "平均还记着较差的模型，而样本是用它画的。",
        "继续训练：`sfumato train {run} {longer}`；眼下用 `sfumato sample {run} --raw`",
    ),
    "improving": (
        "各噪声水平都还在进步：从第 {before:,} 步到第 {step:,} 步，"
        "低噪声 {low:.1%}，高噪声 {high:.1%}。",
        "再训练，图像会更好。",
        "`sfumato train {run} {longer}`",
    ),
    "improving-high": (
        "高噪声还在进步（从第 {before:,} 步到第 {step:,} 步 {high:.1%}），低噪声已平({low:.1%})。",
        "布局和颜色还会更好；细节已到这个网络的极限。",
        "`sfumato train {run} {longer}`",
    ),
    "improving-low": (
        "低噪声还在进步（从第 {before:,} 步到第 {step:,} 步 {low:.1%}），高噪声已平({high:.1%})。",
        "细节还会更好；布局和颜色已经学会。",
        "`sfumato train {run} {longer}`",
    ),
    "improving-middle": (
        "中间的噪声还在进步（从第 {before:,} 步到第 {step:,} 步 {middle:.1%}），两端已平。",
        "形状还会更好。",
        "`sfumato train {run} {longer}`",
    ),
    "flat": (
        "各噪声水平都已平：从第 {before:,} 步到第 {step:,} 步，留出损失低噪声降 {low:.1%},"
        "高噪声降 {high:.1%}。",
        "这个网络在这个学习率下已经学到头。",
        "样本不够好就新开一次训练，用更大的网络",
    ),
    "rising": (
        "留出损失在上升：从第 {before:,} 步到第 {step:,} 步，低噪声 {low:+.1%}，"
        "中噪声 {middle:+.1%}，高噪声 {high:+.1%}。",
        "现在学到的，换别的图像就不成立。",
        "`sfumato sample {run} --best` 取上升之前的平均；更多图像才能治好",
    ),
    "tint": (
        "偏色：{channel}的均值偏 {shift:+.2f}（[-1, 1] 中，误差 {error:.2f}）。",
        "颜色最后学会，在高噪声处；引导和步数太少也会偏。",
        "继续训练：`sfumato train {run} {longer}`，或 `sfumato sample {run} --guidance 1`。"
        + _GROUP,
    ),
    "pale": (
        "发白：{channel}的起伏只有真实图像的 {spread:.0%}。",
        "采样步数太少，或还没决定的东西被平均了。",
        "`sfumato sample {run} --steps 50`。" + _GROUP,
    ),
    "loud": (
        "生硬：{channel}的起伏是真实图像的 {spread:.0%}。",
        "引导太强会这样，残留的噪声也会。",
        "`sfumato sample {run} --guidance 1`。" + _GROUP,
    ),
    "grainy": (
        "样本在最细的尺度上比真实图像多 {gap:.0f} dB：颗粒。",
        "噪声还在：没训练好，或缺了采样的最后几步。",
        "继续训练：`sfumato train {run} {longer}`；`sfumato spectra {run}` 显示各尺度。",
    ),
    "one-image": (
        "样本全都一样：变化只有真实图像的 {variety:.0%}。",
        "不管什么噪声都画同一张图：模型坏了，或远没训练好。",
        "看这里的其他发现；`sfumato sample {run} --raw --count 16`",
    ),
    # 通用
    "refused": (
        "被拒绝，原文：{error}",
        "训练会用同样的话中止。",
        "改正其中说的地方。",
    ),
    "no-data": (
        "读不到图像，原文：{error}",
        "没有图像，只看了设置。",
        "把 FOLDER 换成图像所在的地方：`{doctor} --data FOLDER`",
    ),
    "data-gone": (
        "读不到这次训练的图像，原文：{error}",
        "没有把样本和它们比较。",
        "把图像放回原处。",
    ),
}
