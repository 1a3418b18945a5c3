"""The benchmarks: their arithmetic, their page, and that peers and we are given the same work."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import page, profiling, rounds, scale, startup
from bench.cases import Case, cases
from bench.ours import Ours, ours
from bench.peers import Peer
from bench.plain_dit import PlainDiT
from bench.results import Part, Row, from_json, put, read, to_json
from bench.sampling import in_short
from bench.targets import START_BARS
from sfumato.native import SOURCES
from sfumato.networks import DiTConfig, UNet2DConfig

MACHINE = {
    "cpu": "a processor",
    "threads": 2,
    "cores": 2,
    "cpu_capability": "AVX512",
    "torch": "2.13.0",
    "commit": "0123456789ab",
    "date": "2026-01-02T03:04:05+00:00",
    "load_before": [0.1, 0.2, 0.3],
    "load_after": [1.9, 1.0, 0.5],
    "others_share": 0.003,
}
SLOW = Row("peer, as documented", (2.0, 8.0, 3.0), 16, "images", 3e9, {"peak_mb": 1500})
FAST = Row("ours", (1.0, 2.0, 3.0), 16, "images", 3e9, {"peak_mb": 900, "precision": "bf16: here"})


def part(case: str, *rows: Row, more: dict | None = None, **settings: object) -> Part:
    return Part(case, f"python -m bench x --only {case}", MACHINE, settings, rows, more or {})


WALK = {"grid": "KarrasGrid(sigma_min=0.15, sigma_max=None, rho=inf)"}


def apart(distance: float, more: float) -> dict:
    return {"distance": distance, "error": 0.1, "more": more, "more_error": 0.04}


def ceiling(case: str, times: float = 1.0) -> Part:
    rates = {("fp32", "forward"): 2, ("fp32", "backward"): 1, ("bf16", "forward"): 4}
    rates |= {("bf16", "backward"): 2}
    rows = (
        Row(
            f"{f}, 64 wide, batch 16, {d}",
            (1.0,),
            1,
            "calls",
            times * r * 1e9,
            {"format": f, "direction": d},
        )
        for (f, d), r in rates.items()
    )
    return part(case, *rows)


def all_parts() -> dict[str, list[Part]]:
    """Made-up results of every benchmark."""
    words = {"words": "a network, batch 16", "peer": "diffusers", "batch": 16}
    spent = {"ms": dict.fromkeys([k for k, _ in profiling.KINDS] + ["other"], 3.0)}
    losses = {name: [1.0, 0.5, 0.25] for name in ("ours", "ours, fp32", "another")}
    loss = {
        "losses": losses,
        "reasons": {"ours": "bf16"},
        "from_fp32": 0.01,
        "seed_from_seed": -0.02,
    }
    paper = {"paper": {"words": "a U-Net", "parameters": 10**7, "flops_per_image": 3e10}}
    axis = [Row(str(v), (v / 8, v / 4), 8, "images", 1.0, {"value": v}) for v in (16, 32)]
    fits = {"exponent": 1.0, "exponent_of_last_two": 1.0}
    waits = {"waiting_share": 0.011, "slower_than_ready": 0.02, "reading_seconds": 2.0, "images": 9}
    samplers = [
        Row(name, (slow, slow + 1), 1000, "images", 0.0, {"kind": kind, "nfe": calls, **far})
        for name, kind, calls, slow, far in (
            ("Heun, 35 calls", "reference", 35, 8.0, {"distance": 2.0, "error": 0.1}),
            ("tuned (a)", "tuned", 6, 2.0, {"distance": 2.2, "error": 0.1}),
            ("ddim", "fixed", 6, 2.0, {"distance": 9.0, "error": 0.3}),
            ("lms", "fixed", 6, 2.0, {"distance": 3.0, "error": 0.2}),
        )
    ]
    few = [
        Row(f"{name}, {calls}", (1.0,), 1000, "images", 0.0, {"calls": calls, **facts})
        for calls in (4, 8)
        for name, facts in (
            ("tuned", {"kind": "tuned", "grid": "its own", "off": 0.05, **apart(1.5, 0.0)}),
            ("far", {"kind": "fixed", **WALK, "off": 0.04, **apart(9.0, 7.5)}),
            *(
                (f"near{i}", {"kind": "fixed", **WALK, "off": 0.1, **apart(2.0, 0.5)})
                for i in range(4)
            ),
        )
    ]
    teacher = {"teacher": 1.4, "teacher_error": 0.1, "floor": None}
    drawn = {"images": 1000, "run": "x", "step": 9, "precision": "bf16", "reference": "test images"}
    short = {**in_short(samplers), "floor": 0.4}
    drawn |= {"guidance": 1.5, "guidance_from": 0.3, "guidance_to": None, "measure": "Frechet"}
    return {
        "ceiling": [ceiling("matmul", 10.0), ceiling("conv3x3")],
        "training": [
            part("unet2d-16", SLOW, FAST, more={"tried_images_per_s": {"fp32": 8}}, **words)
        ],
        "loss": [part("unet2d-16", more=loss, data="digits", steps=3, **words)],
        "profile": [part("unet2d-16", replace(SLOW, facts=spent), **words)],
        "input": [
            part("folder", FAST, more=waits, steps_a_round=4, **words),
            part("cold", FAST, more={"lines": 2, "first_lines": ["reading images: 5"]}, **words),
        ],
        "sampling": [
            part("sampling", *samplers, more=short, **drawn),
            part("calls", *few, more=teacher, **drawn),
        ],
        "startup": [
            part("startup", *(replace(FAST, name=name) for name in START_BARS), more=IMPORTS)
        ],
        "scale": [
            part("resolution", *axis, more=fits, axis="side", precision="bf16"),
            part("processes", SLOW, FAST, more=paper, batch=64),
        ],
        "quality": qualities(),
        "ablations": [
            part("times", FAST),
            part("fashion", replace(FAST, facts=ABLATED), more=FLOOR, seeds=(0, 1), images=2000),
        ],
    }


IMPORTS = {"imports": {"torch": 1.2, "numpy": 0.1}}
FLOOR = {"floor": 0.15, "floor_error": 0.01}
JUDGED = {
    "words": "ours",
    "title": "ours",
    "distance": 1.5,
    "error": 0.04,
    "steps": 4000,
    "images_seen": 64000,
}
JUDGED |= {"guidance": 1.5, "sampler": "a solver, 12 steps", "calls": 24, "s_for_1000": 9.0}
JUDGED |= {"wall_s": 900, "precision": "bf16"}
ABLATED = {"words": "as it is", "steps": 900}
ABLATED["distances"] = [
    {"average": [5.0, 0.1], "raw": [9.0, 0.1]},
    {"average": [6.0, 0.1], "raw": [8.0, 0.1]},
]


def qualities() -> list[Part]:
    row = replace(FAST, facts=JUDGED)
    told = {"seconds": 600, "images": 5000, "test_images": 5000}
    return [
        part("times", FAST),
        part("drawing", replace(FAST, name="ours: drawing")),
        *(part(case, row, more=FLOOR, **told) for case in ("fashion-10", "distill", "digits")),
    ]


def test_results_are_read_back_as_they_were():
    parts = {"a": part("a", SLOW, FAST, more={"x": [1, 2]}, rounds=3)}
    assert from_json(to_json("training", parts)) == parts


def test_a_part_that_is_measured_again_takes_the_place_of_the_old_one(tmp_path):
    for case, row in (("a", SLOW), ("b", SLOW), ("a", FAST)):
        put("training", part(case, row), tmp_path)
    assert {case: p.rows for case, p in read("training", tmp_path).items()} == {
        "a": (FAST,),
        "b": (SLOW,),
    }


def test_a_file_of_another_schema_is_refused():
    with pytest.raises(ValueError, match="schema 7; 1 is read here"):
        from_json('{"schema": 7, "parts": {}}')


def test_contestants_take_turns_and_each_turn_is_timed(monkeypatch):
    called, now = [], [0.0]

    def act(name: str, seconds: float):
        def step() -> None:
            called.append(name)
            now[0] += seconds

        return step

    monkeypatch.setattr(rounds, "gc", SimpleNamespace(collect=act("-", 7.0)))  # is not timed
    runners = [rounds.Runner("a", act("a", 1.0)), rounds.Runner("b", act("b", 3.0))]
    found = rounds.in_turn(runners, 2, warm=1, repeats=2, clock=lambda: now[0])
    assert "".join(called) == "ab" + "-aa-bb" * 2
    assert found == {"a": (2.0, 2.0), "b": (6.0, 6.0)}
    called.clear()  # what prepares a turn and the step after it are not timed either
    runners[0] = replace(runners[0], prepare=act("prepare ", 50.0))
    found = rounds.in_turn(runners, 2, warm=0, clock=lambda: now[0])
    assert "".join(called) == "-prepare aa-b" * 2
    assert found == {"a": (1.0, 1.0), "b": (3.0, 3.0)}


def test_a_steps_seconds_are_the_median_between_rows_after_the_third(tmp_path):
    times = [9.0, 30.0, 31.0, 33.0, 36.0, 40.0]  # apart by 21, 1, 2, 3 and 4
    rows = [{"kind": "train", "seconds": at} for at in times]
    rows.insert(4, {"kind": "held_out", "seconds": 34.0})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert scale.seconds_a_step(tmp_path) == 3.0


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    assert FAST.speedup_over(SLOW) == 2.0  # of 2, 4 and 1; the medians' ratio would be 1.5
    assert (FAST.median, FAST.quartiles) == (2.0, (1.5, 2.5))
    assert (FAST.rate, FAST.flops_rate) == (8.0, 1.5e9)
    assert replace(FAST, amount=32).speedup_over(SLOW) == 4.0
    with pytest.raises(ValueError, match="3 rounds against 1"):
        FAST.speedup_over(replace(SLOW, seconds=(1.0,)))


def test_the_page_says_what_the_files_say(tmp_path):
    for bench, parts in all_parts().items():
        for one in parts:
            put(bench, one, tmp_path)
    text = page.write(tmp_path, tmp_path / "docs").read_text("utf-8")
    assert set(page.TITLES) == set(all_parts())
    for words in (
        "| ours | **1.50** ± 0.08 | 2.000 | 4,000 | 64,000 | a solver, 12 steps, guidance 1.5 "
        "| 24 | 125.0 | 15 |",
        "| floor: 5,000 training images | 0.15 ± 0.02 |",
        "10 minutes more: 4,000 steps of 2.000 s.",
        "| ours | 24 | **1.50** ± 0.08 |",
        "| ours | **1.50** ± 0.08 | 5,000 | 4,000 | a solver, 12 steps, guidance 1.5 |",
        "The minutes are those of",
        "| ours: drawing | 2.000 [1.500, 2.500] | 8.0 |",
        "| as it is | 2.000 | 900 | 5.00 | 6.00 | **5.50** |",
        "weights of the last step |  |  | 9.00 | 8.00 | **8.50** |",
    ):
        assert words in text
    assert "| ours (bf16) | 8.00 | 2.00 | 2.000 [1.500, 2.500] | 62% of bf16 | 900 |" in text
    assert (
        "| peer, as documented | 5.33 | 1.00 | 3.000 [2.500, 5.500] | 83% of fp32 | 1,500 |" in text
    )
    assert "**1.10%** of the time" in text
    assert "steps take 2.0% longer" in text
    assert "| **tuned (a)** | 6 | 2.50 [2.25, 2.75] | 2.20 ± 0.20 | 1.10 |" in text
    assert "**1.10** times the distance of 35 calls (wanted: 1.15) and 3.5 times as fast" in text
    assert "lms, is at 1.50 times." in text
    assert "| **tuned** | 4 | 1.50 ± 0.20 |  | 0.0500 | its own |" in text
    assert "| near0 | 8 | 2.00 ± 0.20 | +0.50 ± 0.08 | 0.1000 | karras:0.15,,inf |" in text
    assert (
        "| far | 4 | 9.00 ± 0.20 | +7.50 ± 0.08 | 0.0400 | karras:0.15,,inf |" in text
    )  # it is least off
    assert "near3" not in text
    assert "distance is 1.40 ± 0.20. Off:" in text
    every = [one for parts in all_parts().values() for one in parts]
    assert [one.command for one in every if f"\n{one.command}\n" not in text] == []
    pictures = re.findall(r"\]\((pictures/[^)]+)\)", text)
    assert len(pictures) == len(page.plots.PLOTS.keys() & all_parts().keys())
    assert all((tmp_path / "docs" / path).stat().st_size > 5000 for path in pictures)


def test_every_contender_is_in_the_plot():
    rows = [replace(FAST, name=n, facts={**JUDGED, "title": n}) for n in "abcde"]
    parts = {
        case: part(case, *rows, more=FLOOR, seconds=seconds)
        for case, seconds in (("fashion-10", 600), ("fashion-30", 1800))
    }
    (axis,) = page.plots.qualities(parts).axes
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown == [f"{n}, {minutes} min" for minutes in (10, 30) for n in "abcde"]


def test_every_seed_of_every_change_is_a_point_beside_the_recipes_mean():
    other = {"words": "AdamW", "steps": 9, "distances": [{"average": [7.0, 0.1]}] * 2}
    rows = [replace(FAST, name=f["words"], facts=f) for f in (ABLATED, other)]
    parts = {"fashion": part("fashion", *rows, more=FLOOR, seeds=(0, 1), images=2000)}
    (axis,) = page.plots.ablations(parts).axes
    points, mean, others = (line.get_xdata() for line in axis.get_lines())
    assert (list(points), set(mean), list(others)) == ([5.0, 6.0], {5.5}, [7.0, 7.0])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["as it is", "AdamW"]
    assert page.plots.ablations({"times": parts["fashion"]}).axes  # before anything was trained


def test_a_machine_that_was_not_quiet_is_named(tmp_path):
    loud = replace(ceiling("matmul"), machine={**MACHINE, "warning": "others were busy"})
    put("ceiling", loud, tmp_path)
    text = page.page({"ceiling": read("ceiling", tmp_path)})
    assert "| 0.3% | **no** |" in text


def test_the_other_machine_stands_by_itself(tmp_path):
    """Its shares are of its own ceiling, and without bf16 none is shown."""
    whole = ceiling("conv3x3", 2.0)
    exact = replace(whole, rows=tuple(r for r in whole.rows if r.facts["format"] == "fp32"))
    row = replace(FAST, facts={"precision": "fp32: here"})
    told = {"words": "a net", "peer": "a peer", "batch": 16}
    one = replace(part("unet2d-16", SLOW, row, **told), machine={**MACHINE, "cpu": "a laptop"})
    for where in (tmp_path, tmp_path / page.OTHER):
        put("ceiling", exact if where.name == page.OTHER else ceiling("conv3x3"), where)
        put("training", one, where)
    text = page.write(tmp_path, tmp_path / "docs").read_text("utf-8")
    first, second = text.split(f"## {page.OTHER_TITLE}")
    assert "125% of fp32" in first  # 1.5e9 of 3 / (1 / 2e9 + 2 / 1e9) FLOP/s
    assert "62% of fp32" in second
    assert "training, bf16" in first
    assert "bf16 forward" not in second
    assert "| avx2 training unet2d-16 | 2026-01-02 03:04 | 0123456789ab | a laptop" in second


def test_training_is_a_third_forward_and_two_thirds_backward():
    assert page.of_training(ceiling("matmul"), "fp32") == pytest.approx(3e9 / (1 / 2 + 2 / 1))


def test_exponents_and_paper_clusters():
    assert scale.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    cluster = scale.Cluster(8, rate=1e12, bandwidth=1e9, latency=0.0, hidden=0.5)
    assert cluster.exchange(10**6) == pytest.approx(2 * 7 / 8 * 4e6 / 1e9)  # 7 ms
    assert cluster.efficiency(1e9, 4, 10**6) == pytest.approx(4 / (4 + 7 - 2))
    assert cluster.efficiency(1e9, 14, 10**6) == 1.0
    assert cluster.least_batch(1e9, 10**6) == 14
    assert cluster.least_batch(1.1e9, 10**6) == 13  # 12.7: a part of an image is an image
    far = replace(cluster, latency=1e-3)  # 14 hops of a millisecond
    assert far.parts(10**6) == pytest.approx((7e-3, 14e-3))
    assert far.exchange(10**6) == pytest.approx(21e-3)
    assert far.efficiency(1e9, 4, 10**6) == pytest.approx(4 / (4 + 21 - 2))
    told = page.arithmetic(cluster, 10**6, 1e9, batch=4)  # 4 ms of work, 7 of exchange, 2 hidden
    assert "exchange = 7.00 ms of bytes + 0.00 ms of hops, of which 2.00 ms can hide" in told
    assert "step = 9.00 ms, 3,556 images/s" in told
    assert "of it its bytes: it is hidden only from a global batch of 112 on" in page.binding(
        cluster, 10**6, 1e9
    )
    assert "its hops" in page.binding(replace(cluster, latency=1e-3), 10**6, 1e9)


def test_ours_is_told_beside_the_peer_at_its_best_as_well():
    best = replace(SLOW, name="peer, at its best", seconds=(1.5, 3.0, 2.0))
    told = page.one_network(part("unet2d-16", SLOW, best, FAST, words="", peer="x", batch=16), {})
    assert "| times the first | times its best |" in told
    assert "| ours (bf16) | 8.00 | 2.00 | 1.50 |" in told  # rounds of 2, 4 and 1; 1.5, 1.5, 0.67


def test_the_work_behind_an_operation():
    kinds = {
        "aten::mkldnn_convolution": "convolution",
        "aten::convolution_backward": "convolution",
        "aten::addmm": "matrix product",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "matrix product",
        "aten::native_group_norm_backward": "norms and activations",
        "aten::copy_": "copies, casts, layouts",
        "aten::_fused_adamw_": "optimizer and average",
        "aten::add_": "sums and products",
        "something new": "other",
    }
    assert {name: profiling.kind_of(name) for name in kinds} == kinds


def test_every_operation_of_our_own_is_of_a_kind():
    folder = SOURCES.parent / "networks"
    texts = "".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    own = re.findall(r"class (\w+)\(torch.autograd.Function", texts)
    assert len(own) >= 8
    assert [name for name in own if profiling.kind_of(f"{name}Backward") == "other"] == []


def test_reports_of_others_are_read():
    verbose = [
        "onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2\n",
        "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,16x16,0.25\n",
        "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,16x16,0.5\n",
    ]
    assert profiling.sums_of(verbose) == {"reorder": 0.75}
    report = "import time: self [us] | cumulative | imported package\n"
    report += "import time:       200 |        300 |     torch.nn\nother words\n"
    report += "import time:       100 |        400 |   torch\nimport time:        50 |  50 | re\n"
    assert startup.by_package(report, 1) == {"torch": 0.0003}


def test_the_plain_dit_computes_what_ours_does():
    config = DiTConfig(in_channels=4, patch=2, depth=2, width=32, heads=2, classes=3)
    torch.manual_seed(0)
    network, plain = config.build().double(), PlainDiT(config, 8).double()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.2)
    plain.load_state_dict(network.state_dict())
    x, labels = torch.randn(3, 4, 8, 8).double(), torch.tensor([0, 3, 2])
    times = torch.tensor([0.0, 417.0, 999.0]).double()  # in float32 their sines differ by 1e-4
    own, theirs = network(x, times, labels), plain(x, times, labels)
    assert own.std() > 0.1
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-6 * own.abs().max().item())


def test_ours_and_diffusers_take_the_same_training_step(monkeypatch):
    network = UNet2DConfig(block_out_channels=(32, 32), attention_down=(False, True))
    network = replace(network, attention_up=(True, False), layers_per_block=1)
    case = Case("tiny", "tiny", "diffusers", network, 3, (3, 16, 16))
    own, peer = ours(network, 3, case.shape, "fp32"), Peer(case)
    own.state.model.network.load_state_dict(peer.made.network.state_dict())
    batch = own.batch_at(0)
    run = own.task.run
    times = run.objective.times(run.process, batch["u"])
    monkeypatch.setattr(torch, "randn", lambda *_: batch["eps"])
    monkeypatch.setattr(torch, "randint", lambda *_: (1000 * times - 1).round().long())
    theirs = peer.made.loss(batch["images"].float() / 127.5 - 1)
    loss = own.task.loss(own.state.model, batch).mean()
    theirs.backward()
    loss.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=0)
    gradients = {n: p.grad for n, p in own.state.model.network.named_parameters()}
    for name, parameter in peer.made.network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_step_of_ours_trains():
    case = cases(quick=True)["dit-64"]
    step = ours(case.network, 2, case.shape, "fp32")
    before = [p.clone() for p in step.state.model.parameters()]
    assert step() > 0
    assert isinstance(step, Ours)
    assert step.state.step == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, step.state.model.parameters()))


def test_quick_looks_never_reach_the_results(capsys, monkeypatch):
    from bench.__main__ import main

    before = {path: path.read_bytes() for path in Path(page.RESULTS).glob("*.json")}
    monkeypatch.setattr("sys.argv", ["bench", "ceiling", "--quick"])
    assert main() == 2
    assert "--quick measures nothing worth keeping" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path(page.RESULTS).glob("*.json")} == before
