"""The machine, a run and refusals, in English; english.py has the rest."""

_GROUP = "`sfumato evaluate {run} --samples 500` measures it with its error."

ENGLISH_RUNS: dict[str, tuple[str, str, str]] = {
    # the machine
    "gpu-unused": (
        "The run is on the CPU, and there is a GPU that PyTorch reaches.",
        "A GPU is 20 to 100 times as fast.",
        "`{train} --device auto`",
    ),
    "gpu-unreached": (
        "The machine has an NVIDIA GPU, which PyTorch {version} does not reach.",
        "A GPU is 20 to 100 times as fast.",
        "Install PyTorch's CUDA build: `GO_TORCH=cuda python3 go.py test`",
    ),
    "bf16-emulated": (
        "The run is in bf16, which this processor does in software.",
        "A step takes about ten times as long as in fp32.",
        "`{train} --precision fp32`",
    ),
    "memory-short": (
        "Weights, average and optimizer take {needed:.1f} GB; {free:.1f} GB are free.",
        "The run would be killed, at the start or in the middle.",
        "A smaller network (of images of your own `--preset tiny`), or other programs closed",
    ),
    "disk-short": (
        "The checkpoints take {needed:.2f} GB; {free:.2f} GB are free on the disk.",
        "A run that can't save is lost with the first power cut.",
        "Free some, choose another `--out`, or `{train} train.keep=1`",
    ),
    # a run
    "no-steps": (
        "The run has no step yet.",
        "There is nothing to judge.",
        "`sfumato train {run}`",
    ),
    "unfinished": (
        "The run stopped at step {step:,}, {done:.0%} of its budget.",
        "Its rate had not fallen yet, so that its samples are rougher than at the end.",
        "`sfumato train {run}` goes on from there",
    ),
    "batches-skipped": (
        "Losses were not finite: {share:.1%} of {step:,} steps were left out.",
        "Numbers overflow: the rate is too high, or an image is damaged.",
        "A third of the rate: `{train} --lr {better:.2g} --precision fp32`",
    ),
    "loss-diverged": (
        "The training loss is {now:.3g}; it had been {best:.3g}.",
        "A rate of {lr:g} is too high: the weights jump over what they look for.",
        "A third of it, in a new run: `{train} --lr {better:.2g}`",
    ),
    "gradients-cut": (
        "Gradients are {norm:.3g} long, and cut to {clip:g}.",
        "Every step then has the same length: the rate, or the scale of the data, is wrong.",
        "A lower rate: `{train} --lr {better:.2g}`; for the range of the images "
        "`sfumato doctor {data}`",
    ),
    "slowed": (
        "Training slowed from {first:,.0f} to {now:,.0f} images/s.",
        "Another program takes the cores or the memory, or the machine is hot.",
        "Close other programs; `sfumato train {run} {longer}` goes on from here.",
    ),
    "not-learning": (
        "After {step:,} steps the held-out loss is {now:.3g}; it began at {first:.3g}.",
        "Nothing is learned: the rate is far off, or the images do not fit the plan.",
        "Read what else is found here; else `{train} --lr 1e-3`",
    ),
    "memorising": (
        "memorising: the held-out loss rose from {best:.3g} (step {step:,}) to {now:.3g}, "
        "training's own is {own:.3g}.",
        "The network learns its images by heart, and will draw copies of them.",
        "`sfumato sample {run} --best` takes the average of then; more images cure",
    ),
    "ema-behind": (
        "EMA behind: the averaged weights' loss is {ema:.3g}, the weights' own {raw:.3g}.",
        "The average still remembers a worse model, and samples are drawn from it.",
        "Train on: `sfumato train {run} {longer}`; meanwhile `sfumato sample {run} --raw`",
    ),
    "improving": (
        "Still improving at every noise level: from step {before:,} to {step:,} by {low:.1%} at "
        "low and {high:.1%} at high noise.",
        "More steps will make better images.",
        "`sfumato train {run} {longer}`",
    ),
    "improving-high": (
        "Still improving at high noise ({high:.1%} from step {before:,} to {step:,}), flat at low "
        "noise ({low:.1%}).",
        "Layout and colour still get better; fine detail is as good as this network makes it.",
        "`sfumato train {run} {longer}`",
    ),
    "improving-low": (
        "Still improving at low noise ({low:.1%} from step {before:,} to {step:,}), flat at high "
        "noise ({high:.1%}).",
        "Fine detail still gets better; layout and colour are learned.",
        "`sfumato train {run} {longer}`",
    ),
    "improving-middle": (
        "Still improving in the middle ({middle:.1%} from step {before:,} to {step:,}), flat at "
        "both ends.",
        "Shapes still get better.",
        "`sfumato train {run} {longer}`",
    ),
    "flat": (
        "Flat at every noise level: from step {before:,} to {step:,} the held-out loss fell by "
        "{low:.1%} at low and {high:.1%} at high noise.",
        "This network has learned what it can at this rate.",
        "A larger network in a new run, if the samples are not good enough",
    ),
    "rising": (
        "The held-out loss rises: from step {before:,} to {step:,} by {low:+.1%} at low, "
        "{middle:+.1%} at middle and {high:+.1%} at high noise.",
        "What is learned now does not hold of other images.",
        "`sfumato sample {run} --best` takes the average of before; more images cure",
    ),
    "tint": (
        "tint: the mean of {channel} is off by {shift:+.2f} of [-1, 1] (error {error:.2f}).",
        "Colour is learned last, at high noise; guidance and few steps shift it as well.",
        "Train on: `sfumato train {run} {longer}`, or `sfumato sample {run} --guidance 1`. "
        + _GROUP,
    ),
    "pale": (
        "pale: {channel} has {spread:.0%} of the real images' spread.",
        "Too few steps of sampling, or an average of what was not decided yet.",
        "`sfumato sample {run} --steps 50`. " + _GROUP,
    ),
    "loud": (
        "harsh: {channel} has {spread:.0%} of the real images' spread.",
        "Strong guidance does that, and noise that is left.",
        "`sfumato sample {run} --guidance 1`. " + _GROUP,
    ),
    "grainy": (
        "Samples have {gap:.0f} dB more power at the finest scale than real images: grain.",
        "Noise is left: not yet trained, or the last steps of sampling are missing.",
        "Train on: `sfumato train {run} {longer}`; `sfumato spectra {run}` shows the scales.",
    ),
    "one-image": (
        "All samples look alike: {variety:.0%} of the real images' variety.",
        "The model draws one image whatever the noise: it is broken, or far from trained.",
        "Read what else is found here; `sfumato sample {run} --raw --count 16`",
    ),
    # all
    "refused": (
        "It is refused: {error}",
        "Training would end with the same words.",
        "Mend what they name.",
    ),
    "no-data": (
        "The images can't be read: {error}",
        "Without them only the settings were looked at.",
        "Where they are, in place of FOLDER: `{doctor} --data FOLDER`",
    ),
    "data-gone": (
        "The run's images can't be read: {error}",
        "Its drawings were not compared with them.",
        "Bring them back to that place.",
    ),
}
