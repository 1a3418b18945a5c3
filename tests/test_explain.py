"""sfumato explain: what it prints is what the process says, and its columns are one another."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch

import tiny
from sfumato.arguments import Explain
from sfumato.assembly import settle
from sfumato.commands.explain import (
    PROCESSES,
    Subject,
    digits,
    explanation,
    run_explain,
    term,
)
from sfumato.commands.explain_words import CHINESE, ENGLISH
from sfumato.discrete import CosineBetas, LinearBetas
from sfumato.exact import GaussianMixture
from sfumato.explaining import (
    VIEWS,
    conversions,
    noisier_share,
    notations_of,
    numbers_of,
    rows_of,
    share_of_signal,
    time_of,
)
from sfumato.folder import DataCard, write_card
from sfumato.kinds import dumps, override
from sfumato.objective import LogNormalTimes, UniformTimes
from sfumato.parameterization import EDMPreconditioning, PredictNoise, PredictVelocity
from sfumato.parsing import parse
from sfumato.process import Karras, RectifiedFlow
from sfumato.recipes import RECIPES

QUIET = [name for name in PROCESSES if name != "ScaledLinearBetas"]  # that one warns when made
ALL = [PROCESSES[name]() for name in QUIET]
RATIOS = (0.02, 0.7, 1.0, 20.0)
SD = 0.6


def points():
    return [pytest.param(p, r, id=f"{type(p).__name__}-{r}") for p in ALL for r in RATIOS]


def double(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "english", "chinese"),
    [
        (0.5, "here the image is stronger", "此刻图像更强"),
        (1.0, "here both are alike", "此刻两者相当"),
        (2.0, "here the noise is stronger", "此刻噪声更强"),
    ],
)
@pytest.mark.parametrize("process", ALL, ids=QUIET)
def test_which_outweighs_the_other_is_a_sentence(process, ratio, english, chinese):
    numbers = explanation(Subject("", process), time_of(process, ratio=ratio), ENGLISH)
    assert numbers["sentences"]["log_snr"].endswith(english)
    numbers = explanation(Subject("", process), time_of(process, ratio=ratio), CHINESE)
    assert numbers["sentences"]["log_snr"].endswith(chinese)


# ---- numbers


@pytest.mark.parametrize(("process", "ratio"), points())
def test_numbers_are_the_processs_own(process, ratio):
    t = time_of(process, ratio=ratio)
    found = numbers_of(process, t)
    at = double(t)
    rates = process.rates(at)
    assert found["alpha"] == process.alpha(at).item()
    assert found["sigma"] == process.sigma(at).item()
    assert found["log_snr"] == process.log_snr(at).item()
    assert (found["alpha_rate"], found["sigma_rate"]) == tuple(rate.item() for rate in rates)
    assert found["ratio"] == pytest.approx(ratio, rel=1e-9)
    assert found["snr"] == pytest.approx(ratio**-2, rel=1e-9)


@pytest.mark.parametrize(("process", "ratio"), points())
def test_f_and_g_make_the_forward_process(process, ratio):
    """d alpha = f alpha dt and d sigma^2 = (2 f sigma^2 + g^2) dt, by small differences."""
    middle = math.floor(1000 * time_of(process, ratio=ratio) / process.t_max) + 0.5
    t, h = middle / 1000 * process.t_max, 1e-7 * process.t_max  # within a step of a table
    found = numbers_of(process, t)
    before, after = double(t - h), double(t + h)
    signal = (process.alpha(after) - process.alpha(before)).item() / (2 * h)
    noise = (process.sigma(after) ** 2 - process.sigma(before) ** 2).item() / (2 * h)
    f, g_squared = found["f"], found["g_squared"]
    assert f * found["alpha"] == pytest.approx(signal, rel=1e-4, abs=1e-4)
    assert 2 * f * found["sigma"] ** 2 + g_squared == pytest.approx(noise, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("step", [1, 2, 500, 1000])
def test_a_step_is_its_row_of_the_table(step):
    process = CosineBetas(1000)
    betas = process.betas()
    bars = torch.cumprod(1 - betas, 0)
    found = numbers_of(process, time_of(process, step=step))
    before = 1.0 if step == 1 else bars[step - 2].item()
    assert found["step"] == pytest.approx(step)
    assert found["alpha_bar"] == pytest.approx(bars[step - 1].item(), rel=1e-9)
    assert found["beta"] == betas[step - 1].item()
    tilde = (1 - before) / (1 - bars[step - 1].item()) * found["beta"]
    assert found["beta_tilde"] == pytest.approx(tilde, rel=1e-9)


def test_the_share_of_signal_is_that_of_a_gaussians_variance():
    """For normal data it is the slope of E[x0 | x_t] on x_t, times alpha."""
    process, t = LinearBetas(1000), 0.3
    data = GaussianMixture(process, torch.zeros(1, 1, dtype=torch.float64), SD)
    slope = data(double([[1.0]]), double(t)).x0.item()
    share = share_of_signal(process, t, SD)
    assert share == pytest.approx(slope * process.alpha(double(t)).item(), rel=1e-12)


def test_the_share_of_noisier_images_is_that_of_the_times():
    assert noisier_share(RectifiedFlow(), 0.25, UniformTimes()) == pytest.approx(0.75, abs=1e-4)
    at_the_mean = noisier_share(Karras(), math.exp(-1.2), LogNormalTimes(-1.2, 1.2))
    assert at_the_mean == pytest.approx(0.5, abs=1e-4)


# ---- which time


def test_the_point_may_be_named_in_three_ways():
    process = LinearBetas(1000)
    assert time_of(process, step=250) == time_of(process, time=0.25) == 0.25
    assert process.ratio(double(time_of(process))).item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("process", "asked", "message"),
    [
        (LinearBetas(1000), {"time": 0.5, "step": 3}, "give one"),
        (LinearBetas(1000), {"step": 0}, "from 1 to 1000"),
        (LinearBetas(1000), {"step": 1.5}, "whole"),
        (Karras(), {"step": 3}, "no table of steps"),
        (RectifiedFlow(), {"time": 0.0}, "above 0"),
        (RectifiedFlow(), {"time": 1.1}, "at most 1"),
        (Karras(), {"ratio": 81}, "at most 80"),
        (RectifiedFlow(), {"ratio": math.inf}, "finite"),
    ],
)
def test_points_that_are_none_are_refused(process, asked, message):
    with pytest.raises(ValueError, match=message):
        time_of(process, **asked)


# ---- one thing


@pytest.mark.parametrize(("process", "ratio"), points())
def test_every_view_gives_every_other(process, ratio):
    """a x_t + b given, against the views of an exact denoiser's prediction."""
    t = double(time_of(process, ratio=ratio))
    data = GaussianMixture(process, double([[1.0, -1.0], [0.5, 2.0]]), 0.3)
    p = data(double([[0.4, 1.3], [-2.0, 0.1]]), t)
    found = conversions(process, t.item())
    assert len(found) == len(VIEWS) ** 2
    for (given, wanted), (a, b) in found.items():
        made = a * p.x_t + b * getattr(p, given)
        torch.testing.assert_close(made, getattr(p, wanted), rtol=1e-7, atol=1e-7)


def test_pure_noise_says_nothing_of_the_image():
    found = conversions(RectifiedFlow(), 1.0)
    assert found["eps", "x0"] is None
    assert found["score", "velocity"] is None
    assert found["v", "x0"] == (0, -1)


# ---- three notations


def value_of(equation, names):
    """A printed equation's right side as a number: "(1 - t) v" is (1 - t) * v."""
    text = equation.rpartition(" = ")[2].replace("F(c_in x; c_noise)", "F").replace("^", "**")
    text = text.replace("beta(t)", "beta")
    text = re.sub(r"(?<=[\w)])\s+(?=[\w(])", " * ", text)
    return eval(text, {"sqrt": math.sqrt}, names)  # ours


@pytest.mark.parametrize(("process", "ratio"), points())
def test_the_printed_equations_of_all_three_are_one_image(process, ratio):
    """Their x is x_t scaled; their x0, score, step and weight are ours, converted."""
    t = time_of(process, ratio=ratio)
    n = numbers_of(process, t)
    x0, eps = 0.8, -1.7
    x_t = n["alpha"] * x0 + n["sigma"] * eps
    for notation in notations_of(process, t, SD):
        later = notation_at(notation.name, process, ratio / 3)
        names = {**notation.numbers, "x0": x0, "eps": eps, "sd": SD, "v": eps - x0}
        names |= {"alpha_bar_s": later.numbers.get("alpha_bar"), "s": later.numbers.get("t")}
        names["sigma_s"] = later.numbers.get("sigma")
        equations = notation.equations
        x = names["x"] = value_of(equations["x"], names)
        assert x == pytest.approx(notation.scale * x_t, rel=1e-9)
        if notation.name == "EDM":
            names["F"] = value_of(equations["network"], names)
            names["D"] = value_of(equations["x0"], names)
        assert value_of(equations["x0"], names) == pytest.approx(x0, rel=1e-7)
        score = -eps / n["sigma"]
        assert value_of(equations["score"], names) == pytest.approx(score / notation.scale)
        assert value_of(equations["weight"], names) == pytest.approx(notation.weight)
        stepped = value_of(equations["step to s"], names)
        s = time_of(process, ratio=ratio / 3)
        x_s = numbers_of(process, s)["alpha"] * x0 + numbers_of(process, s)["sigma"] * eps
        assert stepped == pytest.approx(later.scale * x_s, rel=1e-6, abs=1e-6)


def notation_at(name, process, ratio):
    found = notations_of(process, time_of(process, ratio=ratio), SD)
    return next(notation for notation in found if notation.name == name)


OWN = {
    "DDPM": (LinearBetas(1000), PredictNoise()),
    "EDM": (Karras(), EDMPreconditioning(SD)),
    "flow": (RectifiedFlow(), PredictVelocity()),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_column_is_what_its_own_process_says(name, ratio):
    """From any process, here the cosine one, the column is the row of DDPM's, EDM's or the flow."""
    process, way = OWN[name]
    column = notation_at(name, CosineBetas(1000), ratio)
    t = time_of(process, ratio=ratio)
    own = next(row for row in rows_of(process, t, way, SD) if row.name == type(way).__name__)
    said = {**own.numbers, **numbers_of(process, t)}
    renamed = {"step of 1000": "step", "1 - t": "alpha"}
    renamed |= {"sqrt(alpha_bar)": "alpha", "sqrt(1 - alpha_bar)": "sigma"}
    for key, value in column.numbers.items():
        assert value == pytest.approx(said[renamed.get(key, key)], rel=1e-6), key
    assert column.weight == pytest.approx(said["weight"], rel=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_the_printed_ode_is_the_velocity(name):
    process, _ = OWN[name]
    t = 0.3471 * process.t_max  # within a step of the table
    n, column = numbers_of(process, t), notation_at(name, process, numbers_of(process, t)["ratio"])
    x0, eps = 0.8, -1.7
    x = n["alpha"] * x0 + n["sigma"] * eps
    names = {**column.numbers, "x": x, "D": x0, "v": eps - x0}
    names |= {"score": -eps / n["sigma"], "beta": n["g_squared"]}
    velocity = n["alpha_rate"] * x0 + n["sigma_rate"] * eps
    assert value_of(column.equations["ODE"], names) == pytest.approx(velocity, rel=1e-9)


def test_pure_noise_in_three_notations():
    ddpm, edm, flow = notations_of(RectifiedFlow(), 1.0, SD)
    assert ddpm.numbers["alpha_bar"] == 0
    assert math.isnan(ddpm.numbers["step of 1000"])
    assert (edm.scale, edm.numbers["sigma"], edm.numbers["c_skip"]) == (math.inf, math.inf, 0)
    assert (flow.scale, flow.numbers["t"]) == (1, 1)


# ---- the command


def told(capsys, *words):
    run_explain(parse(["explain", *words, "--json"]))
    return json.loads(capsys.readouterr().out)


def test_json_has_every_number_of_the_process(capsys):
    found = told(capsys, "LinearBetas", "steps=300", "--step", "150")
    expected = numbers_of(LinearBetas(300), 0.5)
    assert {key: found["numbers"][key] for key in expected} == expected
    assert found["process"]["steps"] == 300
    assert found["deviation_is_assumed"]


def test_a_recipes_loss_coefficients_and_shapes(capsys):
    run = RECIPES["digits"]()
    found = told(capsys, "digits", "--ratio", "0.5")
    (own,) = (row for row in found["parameterizations"] if row["own"])
    c = run.parameterization(run.process, double(0.5))
    assert [own["numbers"][key] for key in c._fields] == [value.item() for value in c]
    assert found["numbers"]["weight"] == pytest.approx(c.c_out.item() ** -2)
    assert found["deviation"] == run.parameterization.sigma_data
    shapes = {row["name"]: row["shape"] for row in found["shapes"]}
    assert shapes["images"] == shapes["network"] == ["B", 1, 28, 28]
    assert found["stages"][-1]["block"] == "out"


def test_latents_and_captions_have_their_own_shapes(capsys):
    found = told(capsys, "emoji_text")
    shapes = {row["name"]: row["shape"] for row in found["shapes"]}
    assert shapes["cond"] == ["B", "L", 384]
    latent = {row["name"]: row["shape"] for row in told(capsys, "latent_dit")["shapes"]}
    assert latent["x_t"] == latent["network"] != latent["images"] == latent["decoded"]


def test_t_is_the_time_and_a_misspelt_run_is_named(capsys, tmp_path, monkeypatch):
    assert told(capsys, "Karras", "--t", "3") == told(capsys, "Karras", "--time", "3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "my_fashion").mkdir(parents=True)
    (tmp_path / "runs" / "my_fashion" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="did you mean my_fashion"):
        run_explain(Explain("my_fashoin"))


def test_settings_change_a_recipe(capsys):
    found = told(capsys, "digits", "process=CosineBetas", "--step", "10")
    process = override(RECIPES["digits"](), "process", "CosineBetas").process
    assert found["numbers"]["beta"] == process.betas()[9].item()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_what_is_printed_has_the_numbers_rounded(lang, capsys):
    run_explain(Explain("RectifiedFlow", time=0.3, lang=lang))
    text = capsys.readouterr().out
    found = numbers_of(RectifiedFlow(), 0.3)
    for name in ("alpha", "sigma", "log_snr", "ratio", "f", "g_squared"):
        assert re.search(rf"^ *{name} +{re.escape(digits(found[name]))} ", text, re.M), name
    words = {"en": ENGLISH, "zh": CHINESE}[lang]
    assert words["one thing"] in text


def test_both_languages_have_the_same_words():
    assert ENGLISH.keys() == CHINESE.keys()
    for key, text in ENGLISH.items():
        assert re.findall(r"{\w+", text) == re.findall(r"{\w+", CHINESE[key]), key


@pytest.mark.parametrize("name", ["lucid_small", "noisy_classifier", "improved_ddpm", "SubVP"])
def test_every_kind_of_thing_is_explained(name, capsys):
    run_explain(Explain(name))
    assert "c_skip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("autoencoder_f4", "adds no noise over time"), ("CosinBetas", "did you mean CosineBetas")],
)
def test_things_without_noise_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        run_explain(Explain(name))


def test_terms_are_written_as_people_do():
    assert term((1.0, -1.0), "eps") == "x_t - eps"
    assert term((-0.25, 2.0), "v") == "-0.25 x_t + 2 v"
    assert term((0.0, -1.0), "score") == "-score"
    assert term(None, "eps") == term((math.inf, 1.0), "eps") == "-"


def test_a_run_is_explained_with_the_shapes_of_its_data(tmp_path, capsys, monkeypatch):
    """And it comes before a recipe of its name."""
    data = tiny.images()
    run = settle(replace(tiny.run(), name="digits"), data)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(dumps(run))
    write_card(folder, DataCard("tiny", "a test", "f", 37, 1, (8, 8), data.class_names))
    found = told(capsys, "digits")
    assert found["thing"] == "runs/digits, Run"
    assert found["shapes"][0]["shape"] == ["B", 1, 8, 8]
    assert found["shapes"][4]["meaning"] == "labels, of 3 classes; 3 is none"
