"""What is typed: near names, other programs' flags, budgets, seeds; and no torch for any of it."""

import subprocess
import sys
from math import inf

import pytest

from sfumato.arguments import Sample, Train, UsageError, numbers, seconds
from sfumato.parsing import parse, rewrite
from sfumato.typed import guidance_flags, guidance_words
from sfumato.vocabulary import PEERS


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("3m", 180), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800)],
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "3x", "m3", "-5s"])
def test_wrong_times_are_refused(text):
    with pytest.raises(UsageError, match="write 90s, 20m"):
        seconds(text)


def test_seeds():
    assert numbers("0-3,7,9-9") == [0, 1, 2, 3, 7, 9]
    for wrong in ("", "a", "5-2", "1,,2", "-1"):
        with pytest.raises(UsageError, match="no list of seeds"):
            numbers(wrong)


def test_key_value_and_dotted_settings_are_flags():
    words = rewrite(["train", "digits", "lr=1e-3", "network.dropout=0.1", "micro_batch=8"])
    assert words == [
        *("train", "digits", "--lr", "1e-3", "--micro-batch", "8"),
        *("--set", "network.dropout=0.1"),
    ]
    args = parse(["train", "digits", "lr=1e-3", "network.dropout=0.1", "train.betas=[0.9, 0.95]"])
    assert isinstance(args, Train)
    assert args.lr == 1e-3
    assert args.settings == ("network.dropout=0.1", "train.betas=[0.9, 0.95]")


def test_fields_that_are_no_flags_are_settings_too():
    args = parse(["train", "digits", "process=CosineBetas", "learned_variance=true", "seed=3"])
    assert args.settings == ("process=CosineBetas", "learned_variance=true")
    assert args.seed == 3


def test_all_of_another_programs_flags_are_told_at_once():
    with pytest.raises(UsageError, match=r"--learning_rate is.*--lr\. --num_epochs is.*--epochs"):
        rewrite(["train", "x", "--learning_rate", "1", "--num_epochs", "3"])


def test_both_spellings_of_a_flag():
    assert parse(["train", "x", "--micro_batch", "8"]) == parse(
        ["train", "x", "--micro-batch", "8"]
    )


@pytest.mark.parametrize(
    "flag", ["--learning_rate", "--num-epochs", "--output_dir=x", "--cfg-scale"]
)
def test_other_programs_flags_are_answered_with_ours(flag):
    with pytest.raises(
        UsageError, match=f"{flag.partition('=')[0]} is another program's; here it is"
    ):
        rewrite(["train", "x", flag, "1"])


def test_a_word_that_is_no_choice_is_answered_with_those_there_are():
    with pytest.raises(
        UsageError, match=r"--sampler heunn: did you mean heun\? There is heun, dpm"
    ):
        parse(["sample", "x", "--sampler", "heunn"])
    with pytest.raises(UsageError, match=r"--sampler xyz: there is heun, .*, churn\.$"):
        parse(["sample", "x", "--sampler=xyz"])
    assert parse(["sample", "x", "--sampler", "ddim"]).sampler == "ddim"


@pytest.mark.parametrize(
    ("guidance", "words", "flags"),
    [
        ((1.5, 0.0, inf), "guidance 1.5", "--guidance 1.5"),
        ((2, 0.3, inf), "guidance 2 from 0.3", "--guidance 2 --guidance-from 0.3"),
        ((2, 0, 4), "guidance 2 to 4", "--guidance 2 --guidance-to 4"),
        ((2, 1, 4), "guidance 2 from 1 to 4", "--guidance 2 --guidance-from 1 --guidance-to 4"),
    ],
)
def test_guidance_is_said_and_typed_with_its_interval(guidance, words, flags):
    assert guidance_words(*guidance) == words
    assert guidance_flags(*guidance) == flags
    args = parse(["sample", "x", *flags.split()])
    assert (args.guidance, args.guidance_from or 0.0, args.guidance_to or inf) == guidance


def test_no_flag_of_ours_is_called_a_peers():
    ours = {name.replace("_", "-") for cls in (Train, Sample) for name in cls.__dataclass_fields__}
    assert not {"lr", "batch", "steps", "time", "guidance"} & PEERS.keys()
    for flag in sorted(ours & PEERS.keys()):  # one command's flag may be the other's mistake
        assert flag in ("steps",), flag


@pytest.mark.parametrize("typed", ["trian", "smaple", "inf"])
def test_a_mistyped_command_is_answered_with_the_nearest(typed):
    with pytest.raises(UsageError, match=r"did you mean `sfumato (train|sample|info)`"):
        rewrite([typed])


def test_a_mistyped_flag_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(["train", "digits", "--bach", "8"])
    assert exit_.value.code == 2
    assert "--batch" in capsys.readouterr().err


MEASURE = """
import resource, sys
sys.argv = ["sfumato", *{words!r}]
from sfumato.__main__ import main
code = 0
try:
    main()
except SystemExit as e:
    code = 2 if isinstance(e.code, str) else e.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
print("RESULT", "torch" in sys.modules, "numpy" in sys.modules, code, used.ru_utime + used.ru_stime)
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["trian"], ["train", "x", "--bach", "3"], ["--version"]],
)
def test_help_and_typos_never_import_torch(words):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(words=words)], capture_output=True, text=True
    )
    result = done.stdout.strip().splitlines()[-1].split()
    assert result[:3] == ["RESULT", "False", "False"], done.stdout + done.stderr
    assert result[3] == ("0" if words[-1].startswith(("--help", "--version")) else "2")
    assert float(result[4]) < 2.0  # seconds of CPU: a guard against a heavy import, not a timing


COLLECTED = """
import gc
from sfumato.__main__ import RUNNERS, runner
looks = lambda: sum(one["collections"] for one in gc.get_stats())
before = looks()
runner("Info")
print(looks() - before, gc.isenabled(), gc.get_freeze_count() > 10_000)
RUNNERS["Bad"] = "nothing", "run"
try:
    runner("Bad")
except ModuleNotFoundError:
    print(gc.isenabled())
"""


def test_nobody_looks_for_garbage_while_a_command_loads():
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "True", "True", "True"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "x", "--steps", "abc"], "--steps abc: a whole number, as 1000, is wanted"),
        (["train", "x", "--steps=1e5"], "--steps 1e5: a whole number"),
        (["train", "x", "steps=1.5"], "--steps 1.5: a whole number"),
        (["train", "x", "--micro_batch", "few"], "--micro_batch few: a whole number"),
        (["train", "x", "--lr", "fast"], "--lr fast: a number, as 0.5, is wanted"),
        (["sample", "x", "--columns", "two"], "--columns two: a whole number"),
    ],
)
def test_a_word_where_a_number_is_wanted_is_answered_in_a_sentence(words, message):
    with pytest.raises(UsageError, match=message):
        parse(words)


def test_numbers_and_words_where_they_belong_are_taken():
    args = parse(
        ["train", "abc", "--steps", "-1", "--lr=1e-3", "--name", "12", "--flip", "--epochs=2"]
    )
    assert (args.source, args.steps, args.lr, args.name) == ("abc", -1, 1e-3, "12")
    assert (args.flip, args.epochs) == (True, 2.0)
