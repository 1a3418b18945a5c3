"""sfumato evaluate: its numbers are those of training and of the functions that it names."""

import json
import shutil
from dataclasses import replace
from math import exp, log, log1p

import pytest
import torch
from PIL import Image

from sfumato.arguments import UsageError
from sfumato.assembly import splits_of
from sfumato.checkpoint import write_best
from sfumato.classification import LevelScore
from sfumato.codec import Pixels
from sfumato.commands import measures
from sfumato.commands.evaluate import check_flow
from sfumato.console import Reporter
from sfumato.data import fingerprint, load, spread, subset
from sfumato.denoiser import Clipped
from sfumato.discrete import LinearBetas
from sfumato.evaluation import flow_bits, variational_bits
from sfumato.exact import GaussianMixture
from sfumato.folder import read_card, read_metrics, write_card
from sfumato.kinds import loads
from sfumato.latents import AutoencoderCodec
from sfumato.loading import load_run
from sfumato.noising import ScaledInput
from sfumato.objective import Denoising, DiscreteTimes
from sfumato.parameterization import PredictNoise
from sfumato.pictures import read_settings
from sfumato.planning import as_used, load_data
from sfumato.process import Karras, RectifiedFlow
from sfumato.recipes import RECIPES
from sfumato.sampling import SeededNoise
from sfumato.tasks import Parts, task_of
from sfumato.training import TrainState
from tiny import CPU, commands, fake_text, pictures, small, train_in

BETAS = {
    "process": LinearBetas(steps=12),
    "parameterization": PredictNoise(time_scale=12, time_offset=-1),
    "objective": Denoising(DiscreteTimes(steps=12)),
}


def trained(root, name, recipe, **changes):
    config = small(RECIPES[recipe](), previews=1, lr=1e-2)
    data = replace(config.data, source=str(root / "pictures"), labels=True, held_out=20, test=30)
    data = replace(data, **changes.pop("data", {}))
    config = replace(config, name=name, data=data, **changes)
    return train_in(root / "runs" / name, config, images_of(config))


def images_of(run):
    """As `sfumato train` takes them: captions only where they are read."""
    return as_used(run, load_data(run.data))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One run of each kind, on the same pictures, none with test images but "betas"."""
    folder = tmp_path_factory.mktemp("evaluate")
    pictures(folder / "pictures", n=240)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "true")
        patch.setenv("SFUMATO_HOME", str(folder / "home"))
        fake_text(patch)
        no_test = {"data": {"test": 0}}
        trained(folder, "betas", "digits_ddpm", **BETAS)
        trained(folder, "karras", "digits_unlabelled", data={"test": 0, "labels": False})
        trained(folder, "text", "emoji_text", **no_test)
        autoencoder = trained(folder, "autoencoder", "autoencoder_f4", **no_test)
        codec = AutoencoderCodec(weights=str(autoencoder))
        trained(folder, "latents", "latent_unet", codec=codec, **no_test)
        trained(folder, "classifier", "noisy_classifier", **no_test)
    return folder


@pytest.fixture
def sfumato(root, monkeypatch, capsys):
    return commands(monkeypatch, root, capsys)


@pytest.fixture
def evaluate(sfumato, root, monkeypatch):
    """What `sfumato evaluate RUN ...` wrote to its file, and where."""

    def call(name, *words):
        before = set((root / "runs" / name).glob("evaluation*"))
        sfumato("evaluate", name, "--device", "cpu", *words)
        (out,) = set((root / "runs" / name).glob("evaluation*")) - before
        assert (out / "evaluation.png").is_file()
        return json.loads((out / "evaluation.json").read_text())

    return call


def last_row(root, name, kind):
    return [row for row in read_metrics(root / "runs" / name) if row["kind"] == kind][-1]


def close(value):
    return pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", ["betas", "karras", "text", "classifier"])
def test_the_loss_is_that_of_trainings_last_look(evaluate, root, name):
    found = evaluate(name, "--steps", "2")["loss"]
    row = last_row(root, name, "held_out")
    assert found["mean"] == close(row["ema"])
    assert [level["mean"] for level in found["levels"]] == close(row["ema_by_level"])
    assert [level["log_snr"] for level in found["levels"]] == close(row["level_log_snr"])
    assert sum(level["images"] for level in found["levels"]) == 20


def test_latents_have_a_loss_and_no_bits(evaluate, sfumato, root):
    found = evaluate("latents")
    assert found["loss"]["mean"] == pytest.approx(
        last_row(root, "latents", "held_out")["ema"], 1e-2
    )
    assert "variational_bits" not in found
    assert "for models of pixels only" in sfumato("evaluate", "latents")


def own(root, name):
    """(the run loaded, its own images in parts)."""
    loaded = load_run(str(root / "runs" / name), CPU)
    return loaded, splits_of(loaded.run.data, images_of(loaded.run))


@pytest.mark.parametrize(
    ("words", "steps", "count"),
    [((), 12, 20), (("--limit", "7"), 12, 7), (("--split", "test", "--steps", "5"), 5, 30)],
)
def test_the_bits_are_the_bound_of_the_clipped_average_by_class(
    evaluate, root, words, steps, count
):
    found = evaluate("betas", *words)
    loaded, splits = own(root, "betas")
    whole = splits.test if "test" in words else splits.held_out
    data = subset(whole, spread(len(whole), count, whole.labels))
    wanted = variational_bits(Clipped(loaded.denoiser), data.images, steps, data.labels)
    bits = found["variational_bits"]
    for part in ("total", "prior", "divergences", "decoder"):
        wanted_part = getattr(wanted, part)
        assert (bits[part]["mean"], bits[part]["error"]) == close(
            (wanted_part.mean, wanted_part.error)
        )
    assert bits["terms"] == close(wanted.terms)
    assert (bits["images"], bits["steps"], found["count"]) == (count, steps, count)
    assert found["fingerprint"] == fingerprint(data)
    assert f"{steps} equal steps" in bits["recipe"]
    assert f"seeds 0 to {count - 1}" in bits["recipe"]
    assert "average weights of step 5" in bits["recipe"]


def test_the_chain_is_told_in_the_terms_of_the_runs_own_process():
    """Its levels are those of the bound, and KL divergences on its own clock the bound's terms."""
    steps, x0 = 7, torch.full((1, 1, 2, 2), 0.4).double()
    images = Pixels().decode(x0.float()).expand(2, -1, -1, -1)
    x0 = Pixels().encode(images).double()
    own = GaussianMixture(Karras(), torch.zeros(1, 1, 2, 2).double(), 0.5)
    told = measures.chain_told(own, steps)
    bits = variational_bits(own, images, steps)
    ratios = [exp(-log_snr / 2) for log_snr in bits.log_snr]
    assert told.startswith("7 steps on Karras(t_max=80.0), from x = N(0, 1 + 80^2)")
    assert f"= 80 to {ratios[0]:.3g} and 0;" in told
    logs = torch.tensor([0.0, *(log1p(ratio**2) for ratio in ratios)])
    assert logs.diff().diff().diff().abs().max() < 1e-4
    noise = SeededNoise([0, 1])
    for step in range(steps, 1, -1):
        t, s = (torch.full((2,), ratios[at]).double() for at in (step - 1, step - 2))
        x_t = x0 + t[:, None, None, None] * noise(x0)
        truth = Karras().posterior(x_t, x0, t, s)
        mean = Karras().posterior(x_t, own(x_t, t).x0, t, s).mean
        kl = ((truth.mean - mean) ** 2 / (2 * truth.variance)).mean() / log(2)
        assert bits.terms[step - 1] == pytest.approx(kl.item(), rel=1e-3)
    wide = 1 + 80.0**2  # KL(N(x0, 80^2) || N(0, wide)), in bits
    prior = (log(wide / 80**2) + (80**2 + x0.square().mean().item()) / wide - 1) / 2 / log(2)
    assert bits.prior.mean == pytest.approx(prior, rel=1e-2)
    assert measures.chain_told(GaussianMixture(RectifiedFlow(), x0, 0.5), 9) == (
        "9 equal steps on RectifiedFlow()"
    )


def test_bits_given_captions_are_those_of_their_tokens(evaluate, root, monkeypatch):
    fake_text(monkeypatch)
    given, original = [], measures.variational_bits

    def recording(denoiser, images, steps, cond, *rest):
        given.append(cond)
        return original(denoiser, images, steps, cond, *rest)

    monkeypatch.setattr(measures, "variational_bits", recording)
    evaluate("text", "--steps", "2")
    loaded, splits = own(root, "text")
    wanted = loaded.conditions.asked(None, splits.held_out.captions)
    assert len(set(splits.held_out.captions)) > 2
    assert all(torch.equal(given[0][name], wanted[name]) for name in ("tokens", "mask"))


def test_no_flow_of_discrete_steps_under_weaker_data_either():
    run = replace(RECIPES["digits_ddpm"](), process=ScaledInput(LinearBetas(steps=9)))
    with pytest.raises(UsageError, match="at its 9 steps only"):
        check_flow(run)


def test_flow_bits_are_those_of_the_unclipped_denoiser(evaluate, root, monkeypatch):
    monkeypatch.setattr(measures, "FLOW_STEPS", 3)
    found = evaluate("karras", "--flow", "--limit", "4", "--steps", "2")["flow_bits"]
    loaded, splits = own(root, "karras")
    images = subset(splits.held_out, spread(20, 4)).images
    wanted = flow_bits(loaded.denoiser, images, 3)
    assert (found["total"]["mean"], found["total"]["error"]) == close(
        (wanted.total.mean, wanted.total.error)
    )
    assert "3 Heun steps" in found["recipe"]


def test_an_autoencoders_numbers_are_those_of_its_training(evaluate, root):
    found, row = evaluate("autoencoder"), last_row(root, "autoencoder", "codec")
    assert found["psnr_db"]["mean"] == close(row["psnr_db"])
    assert found["kl_nats_an_image"]["mean"] == close(row["kl_nats_an_image"])
    assert found["loss"]["mean"] == close(last_row(root, "autoencoder", "held_out")["ema"])
    assert found["psnr_db"]["worst"] < found["psnr_db"]["mean"]
    error = found["psnr_db"]["sd"] / 20**0.5
    assert found["psnr_db"]["error"] == close(error)
    channels = loads((root / "runs/autoencoder/run.json").read_text()).network.latent_channels
    assert len(found["latents"]["means"]) == len(found["latents"]["stds"]) == channels


def test_a_classifiers_numbers_are_those_of_its_training(evaluate, root):
    found, row = evaluate("classifier"), last_row(root, "classifier", "accuracy")
    levels = found["by_ratio"]["levels"]
    assert [level["accuracy"] for level in levels] == [level["accuracy"] for level in row["levels"]]
    assert [level["cross_entropy"] for level in levels] == close(
        [level["nats"] for level in row["levels"]]
    )
    assert row["of"] == "20 held-out images"
    near = (20 * levels[0]["accuracy"] + 2) / 24  # two more of either kind
    assert levels[0]["accuracy_error"] == close((near * (1 - near) / 24) ** 0.5)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_all_right_or_all_wrong_is_not_without_a_doubt(accuracy):
    """Two more of either kind: 2 of 24."""
    score = LevelScore(1.0, accuracy, 0.1, 20)
    assert measures.accuracy_error(score) == close((2 / 24 * 22 / 24 / 24) ** 0.5)


@pytest.mark.parametrize("name", ["karras", "classifier", "autoencoder"])
def test_the_best_average_is_measured_where_it_is_asked_for(evaluate, root, tmp_path, name):
    """The best one here is the network before its first step, whose loss is the first row's."""
    folder = shutil.copytree(root / "runs" / name, root / "runs" / f"{name}-best")
    run = loads((folder / "run.json").read_text())
    data = images_of(run)
    parts = Parts(tmp_path, read_card(folder), data, None, CPU, print)
    state = TrainState.fresh(task_of(run, parts).build(), run.train)
    write_best(folder, state, 0.0)
    found = evaluate(folder.name, "--best", "--steps", "2")
    first, last = (row for row in read_metrics(folder) if row["kind"] == "held_out")
    assert found["loss"]["mean"] == close(first["ema"])
    assert found["loss"]["mean"] != close(last["ema"])
    assert (found["step"], found["weights"]) == (0, "best average")


def test_nothing_is_overwritten_and_the_picture_knows_what_it_is_of(evaluate, root):
    for _ in range(2):
        evaluate("autoencoder", "--limit", "4")
    folders = sorted((root / "runs/autoencoder").glob("evaluation*"))
    assert len(folders) >= 2
    settings = read_settings(folders[-1] / "evaluation.png")
    assert settings["images"].startswith("4 of 20 held-out images of")


def test_other_images_are_measured_as_they_are_said_to_be(evaluate, root):
    other = pictures(root / "other", n=6)
    path = next(other.glob("cat/*.png"))
    Image.new("RGB", (16, 16), (255, 0, 0)).save(path)
    found = evaluate("betas", "--data", "other", "--steps", "2")
    assert found["count"] == 6
    wanted = load(other, size=(16, 16), channels=3)
    assert found["fingerprint"] == fingerprint(replace(wanted, captions=None))
    assert "whether it was trained on some of them is not checked" in found["images"]


def test_what_cant_be_measured_is_refused(sfumato, root):
    for words, message in (
        (("betas", "--flow"), "at its 12 steps only"),
        (("autoencoder", "--flow"), "a AutoencoderRun has no density"),
        (("betas", "--limit", "1"), "--limit 1; at least 2"),
        (("betas", "--steps", "1"), "--steps 1; at least 2"),
        (("karras", "--split", "test"), "kept no test images apart"),
        (("betas", "--data", "pictures"), "is what betas was trained on"),
    ):
        with pytest.raises(SystemExit, match=message):
            sfumato("evaluate", *words)


def test_images_of_other_classes_are_refused(sfumato, root):
    Image.new("RGB", (16, 16)).save(pictures(root / "birds", n=6) / "cat" / "x.png")
    (root / "birds" / "cat").rename(root / "birds" / "bird")
    with pytest.raises(SystemExit, match=r"has the classes \('bird', 'dog'\).*\('cat', 'dog'\)"):
        sfumato("evaluate", "betas", "--data", "birds")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0"}, "are not those that betas was trained on"),
        ({"images": 0, "fingerprint": ""}, "betas was imported without images"),
    ],
)
def test_which_images_were_held_out_must_be_known(sfumato, root, change, message):
    folder = root / "runs" / "betas"
    card = read_card(folder)
    write_card(folder, replace(card, **change))
    try:
        with pytest.raises(SystemExit, match=message):
            sfumato("evaluate", "betas")
    finally:
        write_card(folder, card)


def test_progress_says_how_long_it_will_take(root, monkeypatch):
    from sfumato.arguments import Evaluate
    from sfumato.commands.evaluate import run_evaluate

    clock = iter(range(0, 10_000, 7))
    original, said = measures.reading, []
    monkeypatch.setattr(Reporter, "say", lambda self, text="": said.append(text))
    monkeypatch.setattr(
        measures,
        "reading",
        lambda say, what, every: original(say, what, every, lambda: next(clock)),
    )
    run_evaluate(Evaluate(run=str(root / "runs/betas"), device="cpu", limit=4))
    lines = [line for line in said if line.startswith("network calls of the bound: ")]
    assert lines[0] == "network calls of the bound: 3 of 12, about 1 min 03 s left"
    assert torch.is_grad_enabled()
