"""What the doctor says in English: code: (what was seen, why it matters, what to do).

`...` is what can be typed. {train}, {run}, {data}, {doctor}, {load} and {saved} are what was looked
at: see naming.py. All other braces are the finding's facts.
"""

from .english_runs import ENGLISH_RUNS


def _saved(how: str, load: str = "{load}") -> str:
    """The command that saves the array x as `how`, and what to do then."""
    python = f"import numpy as np; x = {load}; np.save('{{saved}}', {how})"
    return f'`python3 -c "{python}"`, then `sfumato train {{saved}}`'


_BYTES = "(x.clip(0, 1) * 255).round().astype(np.uint8)"
_ORIGINAL = _saved(_BYTES, load="np.load('FILE')")

ENGLISH: dict[str, tuple[str, str, str]] = {
    # images
    "no-images": (
        "{name} holds no images: {shapes}.",
        "Images are arrays (N, H, W) or with 1, 3 or 4 channels, or files in a folder.",
        "Look at what is there: `sfumato info {data}`",
    ),
    "not-numbers": (
        "{name} is an array of {dtype}.",
        "Pixels are numbers from 0 to 255.",
        f"Save it as uint8: {_saved('x.astype(np.uint8)')}",
    ),
    "not-finite": (
        "{share:.2%} of {name} are not numbers (NaN or infinite).",
        "One of them makes every weight NaN in a single step.",
        f"Leave those images out: {_saved('x[np.isfinite(x).reshape(len(x), -1).all(1)]')}",
    ),
    "channels": (
        "{name} has the shape {shape}, which does not tell the channels.",
        "Images are (N, H, W), or have 1, 3 or 4 channels either second or last.",
        f"If the first three of the last axis are red, green and blue: {_saved('x[..., :3]')}",
    ),
    "range-bytes": (
        "The brightest value of {name} is {high:g}, in bytes.",
        "Bytes go to 255: images in [0, 1] were cut to whole numbers, or masks not multiplied. The "
        "network would see black.",
        f"From the original floats, here FILE: {_ORIGINAL}",
    ),
    "range-01": (
        "{name} is {dtype} from {low:.3g} to {high:.3g}: images in [0, 1].",
        "Diffusion wants a mean of about 0. Of images in [0, 1] the noise at the end is centred "
        "wrong, and samples come out grey and pale.",
        f"Save bytes; the range [-1, 1] is made here: {_saved(_BYTES)}",
    ),
    "range-11": (
        "{name} is {dtype} from {low:.3g} to {high:.3g}: images already in [-1, 1].",
        "They would be scaled a second time, to [-3, 1].",
        f"Save bytes: {_saved('((x + 1) * 127.5).round().astype(np.uint8)')}",
    ),
    "range-31": (
        "{name} is {dtype} from {low:.3g} to {high:.3g}: scaled to [-1, 1] twice.",
        "2 (2 x - 1) - 1 of pixels in [0, 1] lies in [-3, 1]; clipped to [-1, 1] half of all tones "
        "are lost, and samples are too dark.",
        f"Undo both: {_saved('((x + 3) * 63.75).round().astype(np.uint8)')}",
    ),
    "range-255": (
        "{name} is {dtype} from {low:.3g} to {high:.3g}, but not bytes.",
        "Only uint8 says without doubt that 255 is white.",
        f"Save bytes: {_saved('x.round().astype(np.uint8)')}",
    ),
    "range-16": (
        "{name} is {dtype} from {low:.3g} to {high:.3g}: 16 bits a pixel.",
        "Images here have 8, and 65535 is white only if you say so.",
        f"Save bytes: {_saved('(x / 257).round().astype(np.uint8)')}",
    ),
    "range-odd": (
        "{name} is {dtype} from {low:.3g} to {high:.3g}: no usual range of images.",
        "Standardised images (minus mean, by deviation) can't be shown without both numbers.",
        "With your numbers for STD and MEAN: "
        f"{_saved('(x * STD + MEAN).clip(0, 255).astype(np.uint8)')}",
    ),
    "grey-as-rgb": (
        "All of {images:,} images in three channels are grey.",
        "The network has to learn that the channels are equal, and what it gets wrong is a tint, "
        "usually green.",
        "`{train} --channels 1`",
    ),
    "blank-images": (
        "{share:.1%} of the images are of a single colour.",
        "They are learned first, and drawn as often.",
        "Remove them, or look for what decoded them so: `sfumato info {data}`",
    ),
    "duplicates": (
        "{share:.1%} of the images looked at are copies of others.",
        "Copies are learned by heart, and where one is held out the held-out loss is too good.",
        "Remove them from {data}, then `{train}`",
    ),
    "shared-pictures": (
        "{share:.1%} of the images looked at are pictures that others have too, under another "
        "caption.",
        "That is right where both names fit, as of flags that two countries share; the model then "
        "draws one for the other. A held-out image that is one of them is not unseen.",
        "Nothing, if both names fit; else mend the captions of {data}.",
    ),
    "few-images": (
        "{images:,} images are few; {enough:,} or more give a model that invents.",
        "With few a network draws the images it was shown.",
        "Add images; else a small network and a short budget: `sfumato train {data} --preset tiny "
        "--time 10m`",
    ),
    "unreadable": (
        "{files:,} files ({share:.1%}) can't be read, the first: {first}.",
        "They are left out; many of them mean a broken download.",
        "Fetch them again; `sfumato info {data}` lists them.",
    ),
    "turned-copies": (
        "{share:.0%} of the images looked at are others, turned by 90 or 180 degrees.",
        "The model draws what it is shown: pictures on their side and on their head. That is right "
        "for the sky and for cells, and wrong for digits and faces.",
        "Remove them, unless images like these have no up and down; then `{train}`",
    ),
    "rare-class": (
        "The class {name} has {least:,} images, the largest {most:,}.",
        "A class that is seldom seen is drawn badly, and looks like its neighbours.",
        "Add images to it, or train without classes: `{train} --no-labels`",
    ),
    "flip-letters": (
        "Half of the images of {name} are mirrored (data.flip).",
        "Mirrored digits and letters are no digits: the model learns to draw them.",
        "`{train} data.flip=false`",
    ),
    "no-held-out": (
        "No image is held out of training: {held_out} were asked for, of {images:,}.",
        "Without them nobody can see whether the model learns or memorises.",
        "`{train} data.held_out=500`, or more images (a tenth of them is held out at most).",
    ),
    "batch-over-images": (
        "A batch of {batch:,} is more than all of {images:,} images.",
        "Each step then shows some image twice, and costs more than it teaches.",
        "`{train} --batch {images}`",
    ),
    "sigma-data": (
        "sigma_data is {stated:g}, and the images' deviation is {measured:.3g}.",
        "EDM's preconditioning makes inputs and targets of unit size only where they agree.",
        "`{train} parameterization.sigma_data=0` (it is then measured)",
    ),
    "latents-unscaled": (
        "Latent channel {channel} has the deviation {std:.3g}; 1 is wanted.",
        "The noise levels are made for data of unit size: larger latents are never hidden by the "
        "noise, smaller ones at once.",
        "`{train} 'codec.means=[]' 'codec.stds=[]'` (they are then measured on the images)",
    ),
    # the process
    "signal-left": (
        "At the last step {share:.1%} of the image's amplitude is left: {process}.",
        "Sampling starts from pure noise, which the network has never seen: brightness and colour "
        "come out wrong. Betas made for T = 1000 do this at T = 300.",
        "`{train} process.rescaled=true`, or `process=CosineBetas`; of Karras `process.t_max=80`",
    ),
    "few-betas": (
        "The process has {steps} steps.",
        "One step back is a Gaussian only where it is small; with few, noise stays in the images.",
        "`{train} process.steps=1000 objective.times.steps=1000`; sampling may still take few",
    ),
    "clock-backwards": (
        "At t = 0 alpha is {alpha:.3g} and sigma {sigma:.3g}, or noise does not grow with t.",
        "Here t = 0 is the clean image (alpha 1, sigma 0) and noise grows to t_max. A flow's time "
        "may run the other way.",
        "Turn the process's time round: t -> t_max - t.",
    ),
    "x-clamped": (
        "x_t ends at {largest:.3g} where it should reach {reaches:.3g}: it is clamped.",
        "Noisy images are unbounded. Clamped, they are no longer Gaussian, and the noise that was "
        "added can't be found from them.",
        "Leave the clamp out. Only an estimate of x0 may be clipped: "
        "`{train} sampling.clipped=true`",
    ),
    "diffuse-off": (
        "Half-way diffuse makes {image:.3g} x0 + {noise:.3g} eps, and the process says "
        "{alpha:.3g} x0 + {sigma:.3g} eps; they differ by up to {error:.3g}.",
        "Training and sampling then mean different noise levels. Often alpha_bar, alpha or a root "
        "stands where another of them should, or one eps is added again at every step.",
        "alpha is sqrt(alpha_bar) and sigma sqrt(1 - alpha_bar); leave diffuse to Process.",
    ),
    "rates-off": (
        "The process's rates are off from the slopes of alpha and sigma by {error:.0%}.",
        "Heun, Euler and every ODE solver follow the rates, and end elsewhere.",
        "Derive them again: rates(t) = (d alpha / dt, d sigma / dt).",
    ),
    "zero-snr": (
        "{way} is not defined at the end of {process}, where no signal is left.",
        "There noise says nothing of the image, and x0 = (x_t - sigma eps) / alpha divides by 0.",
        "`{train} parameterization=PredictV`",
    ),
    "level-table": (
        "The network's time table has {rows} rows and is asked for {low:.4g} to {high:.4g}.",
        "Rows that are not there end the run, or on a GPU give an error that names no cause.",
        "`{train} network.steps=1000 parameterization.time_scale=1000 "
        "parameterization.time_offset=-1`",
    ),
    "level-raw": (
        "{network} is told noise levels from {low:.4g} to {high:.4g}; it wants about 0 to 1.",
        "Raw step numbers are hundreds of times as large as the pixels beside them.",
        "`{train} network.noise_scale=0.001` for levels of 0 to 1000",
    ),
    "level-log": (
        "{network} takes the logarithm of noise levels that reach from {low:.4g} to {high:.4g}.",
        "It is none of 0 or less: the loss is NaN. fourier=True wants the noise's sigma itself.",
        "`{train} network.fourier=false`",
    ),
    "level-untold": (
        "{network} gives the same answer whatever noise level it is told.",
        "It has to guess from the image how noisy it is, and takes small noise for detail, or "
        "detail for noise.",
        "Embed the level and add it in every block: network(x_t, level, cond)",
    ),
    "level-narrow": (
        "The network's sinusoids see noise levels from {low:.3g} to {high:.3g}.",
        "All of them look alike: the network can't tell how noisy its input is. EDM's c_noise "
        "needs a noise_scale of about 250.",
        "`{train} network.noise_scale={wanted:.0f}`",
    ),
    "level-wide": (
        "The network's sinusoids see noise levels from {low:.3g} to {high:.3g}.",
        "Neighbouring levels then look unrelated, and nothing is learned from one for the next.",
        "`{train} network.noise_scale={wanted:.2g}`",
    ),
    "steps-differ": (
        "The process has {process} steps, and training draws among {objective}.",
        "The steps that are trained are not those that are sampled.",
        "`{train} objective.times.steps={process}` (of a bound: `objective.steps={process}`)",
    ),
    "untrained-high": (
        "Training reaches sigma / alpha = {highest:.3g}; {needed:g} or more is needed.",
        "Sampling starts in noise that the network has never seen, and draws nothing.",
        "`{train} objective.times.mean=-1.2 objective.times.std=1.2` (LogNormalTimes)",
    ),
    "untrained-low": (
        "Training begins at sigma / alpha = {lowest:.3g}.",
        "The last steps of sampling, which make the fine detail, are never trained: grain stays.",
        "`{train} objective.times.mean=-1.2 objective.times.std=1.2`, or "
        "`objective.times=DiscreteTimes`",
    ),
    "weight-high": (
        "{weight} gives high noise {share:.2%} of the loss, for {steps:.0%} of the steps.",
        "Layout and colour are decided there; untrained, they come out as blotches. min-SNR suits "
        "predicted noise: of predicted data it falls with the SNR to nothing.",
        "`{train} objective.weight=EDMWeight objective.weight.most=100`",
    ),
    "weight-low": (
        "{weight} gives low noise {share:.2%} of the loss, for {steps:.0%} of the steps.",
        "Fine detail is decided there; untrained, it stays grainy.",
        "`{train} objective.weight=OutputMSE`",
    ),
    # sampling
    "clipped-latents": (
        "sampling.clipped keeps latents in [-1, 1].",
        "Latents have unit deviation: a third of them lies outside and would be cut off.",
        "`{train} sampling.clipped=false`",
    ),
    "variance-missing": (
        "The sampler asks for a learned variance, and the network learns none.",
        "Sampling stops with an error, after all the training.",
        "`{train} sampling.solver.variance_mix=0.0`, or `learned_variance=true objective=Hybrid`",
    ),
    "variance-untrained": (
        "The network has outputs for the variance, and {objective} trains none.",
        "They stay as they were initialised, and samplers that use them add wrong noise.",
        "`{train} objective=Hybrid`, or `learned_variance=false`",
    ),
    "grid-refused": (
        "No grid of {steps} steps can be made: {error}",
        "A grid picks its times from those of the process that was trained.",
        "`{train} sampling.grid=UniformGrid`, or `--sample-steps` below the process's own",
    ),
    "grid-starts-late": (
        "The first time of sampling, t = {first:.3g}, has {share:.1%} of the image left.",
        "It starts from pure noise all the same: brightness and contrast come out wrong.",
        "`{train} sampling.grid=TrailingGrid`, or more `--sample-steps`, or no "
        "`sampling.grid.sigma_max`",
    ),
    "grid-ends-early": (
        "The last of {steps} steps starts at sigma / alpha = {last:.3g} and goes to 0 at once.",
        "All detail is then the average of what it could be: a blur. Uniform steps of Karras' "
        "clock spend themselves on noise.",
        "`{train} sampling.grid=KarrasGrid`, or more `--sample-steps`",
    ),
    "grid-unfinished": (
        "Sampling ends at sigma / alpha = {end:.3g}, and not at 0.",
        "Sampling stops in the noise, and what it returns looks like an untrained model. Often a "
        "return stands inside the loop.",
        "A grid ends at t = 0: `{train} sampling.grid=UniformGrid`",
    ),
    "solver-noise": (
        "{solver} in {steps} steps leaves noise of {noise:.3f} on an image that is known exactly.",
        "Nothing takes it away again: it stays as grain, and the fewer the steps the more of it. "
        "Often the last step adds noise too.",
        "No noise at the step to t = 0: if s == 0, return the mean",
    ),
    "solver-explodes": (
        "{solver} in {steps} steps draws {times:,.0f} times the spread of a perfect network.",
        "A step multiplies instead of denoising: often it divides by sqrt(alpha_bar_t) where "
        "sqrt(alpha_t) belongs.",
        "Process.posterior(x_t, x0, t, s) has the mean and the variance; or "
        "`{train} --sampler ddpm`",
    ),
    "solver-inconsistent": (
        "{solver} keeps {kept:.1%} of the spread of a perfect network in {steps} steps, and "
        "{more:.1%} in {twice}: more steps do not bring it nearer to 100 %.",
        "A right solver comes nearer. So a coefficient of its step is wrong, or noise that belongs "
        "to the step is left out.",
        "Process.posterior(x_t, x0, t, s) has the mean and the variance; without noise the mean is "
        "DDIM's: `{train} --sampler ddpm`, or `ddim`",
    ),
    "solver-pale": (
        "{solver} in {steps} steps keeps {kept:.0%} of the spread, even of a perfect network.",
        "Below 100 % samples are flat and pale, above it harsh.",
        "More steps: `{train} --sample-steps {more}`; or `--sampler dpm++2m`",
    ),
    "guidance-no-classes": (
        "Guidance {scale:g} is asked of a model without classes or captions.",
        "There is nothing to guide by, and sampling refuses.",
        "`{train} --guidance 1`, or images in a sub-folder a class",
    ),
    "guidance-no-dropout": (
        "Guidance {scale:g}, and label_dropout is 0.",
        "Guidance needs the model without a label, which is trained only where labels are dropped.",
        "`{train} --label-dropout 0.1`",
    ),
    "guidance-strong": (
        "Guidance {scale:g} is strong.",
        "Colours saturate and variety goes.",
        "`{train} --guidance 2`",
    ),
    "dropout-high": (
        "{dropout:.0%} of the labels are dropped.",
        "The model then hardly learns what a label means.",
        "`{train} --label-dropout 0.1`",
    ),
    "ddim-brief": (
        "DDIM with a noise predictor of {steps:,} steps; {enough:,} or more are wanted.",
        "The error of its first guess grows by sigma / alpha, and DDIM carries it to the end, as "
        "white blots. Ancestral sampling forgets it.",
        "`{train} --sampler ddpm --sample-steps 100`, or train longer",
    ),
    # the plan
    "lr-high": (
        "A learning rate of {lr:g} for a network {width} wide.",
        "The rate that a network bears falls with its width; above it the loss jumps and stays.",
        "`{train} --lr {better:.2g}`",
    ),
    "lr-low": (
        "A learning rate of {lr:g}.",
        "That is for fine-tuning; from scratch next to nothing is learned in any usual budget.",
        "`{train} --lr 1e-3`",
    ),
    "noise-stuck": (
        "Squares of {patch} x {patch} pixels are {values} numbers, the first level has {width}.",
        "A network that predicts noise (or v) must let all of it through. What does not fit stays "
        "in the images as grain; the images themselves do fit.",
        "`{train} parameterization=PredictData objective.weight=EDMWeight "
        "objective.weight.most=100`, or a smaller `network.patch`",
    ),
    "budget-long": (
        "At {pace:.2g} steps/s {steps:,} steps take {days:.1f} days.",
        "The budget can't reach its goal while you wait.",
        "`{train} --time 8h`, a smaller recipe (`sfumato recipes`), or a GPU",
    ),
    "budget-long-least": (
        "At {pace:.2g} steps/s, or fewer, {steps:,} steps take {days:.1f} days or more.",
        "The budget can't reach its goal while you wait.",
        "`{train} --time 8h`, a smaller recipe (`sfumato recipes`), or a GPU; `{train} --check` "
        "measures a step",
    ),
    "budget-few-steps": (
        "The budget is {steps:,} steps, at {pace:.2g} steps/s; {enough} or more draw something.",
        "Before that there are blots: the model is not broken, but not yet trained.",
        "A longer `--time`, a smaller `--size`, or of images of your own a smaller `--preset`",
    ),
    "few-steps": (
        "The run took {steps:,} steps, at {pace:.2g} steps/s; {enough} or more draw something.",
        "Before that there are blots: the model is not broken, but not yet trained.",
        "Train on: `sfumato train {run} --steps 1000`; the more steps the better",
    ),
    "by-heart": (
        "{weights:,} weights see {images:,} images {passes:,.0f} times.",
        "They have room for every image, and will draw copies.",
        "A smaller network (of images of your own `--preset tiny`), a shorter `--time`, or more "
        "images",
    ),
    "ema-young": (
        "{share:.0%} of the average is weights of the first {first:,} steps, after {step:,}.",
        "The average is younger than its horizon: its samples look worse than the weights' own.",
        "Train on: `sfumato train {run} {longer}`; meanwhile `sfumato sample {run} --raw`",
    ),
    "ema-wide": (
        "{share:.0%} of the average (ema_length {length:g}) is of the run's first half.",
        "So wide an average lags behind what was learned since.",
        "`{train} --ema 0.1`",
    ),
    **ENGLISH_RUNS,
}
