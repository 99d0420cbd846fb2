"""The script for a GPU, run tiny on the CPU: every row, resuming, limits, the comparison with peft, the record."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from lora_lab import recorded
from lora_lab.hardware import beside
from tests.bench.gpu import (
    bars,
    base_model,
    build,
    card,
    collect,
    engine,
    journal,
    roofline,
    side_by_side,
    sizes,
    training,
)
from tests.bench.gpu.bench import Bench, Spec, Unfinished

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "bench" / "gpu" / "run.py"
CPU = torch.device("cpu")
GROUPS = ("all-linear/r16", "q_proj,v_proj/r8")
# What the script must do without: it runs where only torch, transformers, peft and accelerate are.
ABSENT = "matplotlib PIL ipywidgets IPython pytest hypothesis nbformat nbclient nbval jupyterlab playwright".split()
BLOCKED = f"""
import importlib.util, sys

absent = lambda name: name.partition(".")[0] in {ABSENT}
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if absent(name) else find(name, *a)  # for those who only ask

class Absent:
    def find_spec(self, name, path=None, target=None):
        if absent(name):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.metadata  # and the course is a checkout, which nobody has installed
version = importlib.metadata.version
importlib.metadata.version = lambda name: version("no-" * (name == "lora-lab") + name)
"""

pytestmark = pytest.mark.usefixtures("one_thread", "frozen")


@pytest.fixture(scope="module")
def frozen():
    """What other tests have left is not looked through at each of the collections that a row asks for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def script(*words: str, before: str = "") -> subprocess.CompletedProcess:
    """The script's process that works, without what it must do without; `before` runs first."""
    words = (str(SCRIPT), *words, "--worker")
    start = f"import runpy\nsys.argv = {list(words)}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"{BLOCKED}\n{before}\n{start}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


def bench(tmp_path: Path, **changed) -> Bench:
    return Bench(CPU, replace(sizes.TINY, **changed), tmp_path)


# --- all of it, as a command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The folder of a whole tiny run."""
    folder = tmp_path_factory.mktemp("tiny")
    done = script("--tiny", "--out", str(folder), "--minutes", "4")
    assert done.returncode == 4, done.stdout[-2000:] + done.stderr[-2000:]  # 4: part D is never done so soon
    return folder


def test_a_tiny_run_has_every_row_with_every_field(tiny):
    rows = journal.newest(journal.read(tiny))
    wanted = [s for part in (side_by_side, bars, roofline, base_model) for s in part.specs(sizes.TINY)]
    assert set(rows) == {s.id for s in wanted} and len(wanted) > 75
    for name, row in rows.items():
        assert row.keys() - {"kind"} == set(recorded.FIELDS), name
        assert row["status"] == ("unfinished" if row["part"] == "D" else "ok"), row
        assert row["card"] == "CPU" and row["at"] and row["more"]["spent"] >= 0
        assert "prediction" not in row["more"], row["more"]
        if row["part"] != "D":
            assert row["seconds"] > 0 and row["mfu"] is None and row["peak_memory"] is None, name
        if row["part"] == "A":
            assert len(row["losses"]) == sizes.TINY.steps and row["tokens_per_second"] > 0
            compared = not any(word in row["what"] for word in ("lengths", side_by_side.BASELINE, "NF4"))
            assert not compared or row["loss_difference"] < 0.02, (name, row["loss_difference"])
    shares = [row["shares"] for row in rows.values() if row["shares"]]
    assert len(shares) == 4 and all(sum(share.values()) == pytest.approx(1) for share in shares)
    assert all(
        {"base matmuls", "adapter matmuls", "attention", "optimizer", "loss"} <= share.keys() for share in shares
    )


def test_run_again_it_does_what_is_left_alone(tiny):
    specs = [s for part in (side_by_side, bars, roofline, base_model) for s in part.specs(sizes.TINY)]
    assert {s.part for s in engine.order(specs, journal.Journal(tiny).done())} == {"D"}


def test_what_is_killed_loses_one_row_and_goes_on(tiny, tmp_path):
    lines = (tiny / journal.FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    part = [line for line in lines if '"B/' in line or '"kind": "run"' in line][:6]
    (tmp_path / journal.FILE).write_text("".join(part)[:-40], encoding="utf-8")  # killed while it wrote
    kept = set(journal.newest(journal.read(tmp_path)))
    specs = [s for s in bars.specs(sizes.TINY) if "/r" in s.id]
    said = []
    assert engine.run(specs, bench(tmp_path), journal.Journal(tmp_path), 4.0, said.append) == 0
    assert set(journal.newest(journal.read(tmp_path))) == {s.id for s in specs}
    made = {text.split(":")[0] for text in said if ": ok" in text}
    assert kept and not kept & made and kept | made == {s.id for s in specs}
    assert '"kind": "row"' not in (tmp_path / journal.FILE).read_text().splitlines()[len(part) - 1]  # cut, and alone


def test_a_cpu_or_a_tiny_run_is_no_record_of_a_gpu(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recorded, "FILE", tmp_path / "gpu.json")
    assert collect.main([tiny]) == 0 and not recorded.FILE.exists()
    assert "not written" in capsys.readouterr().out
    assert collect.main([tiny], tmp_path / "tiny.json") == 0
    with pytest.raises(ValueError, match="tiny.json is of CPU, with tiny sizes"):
        recorded.gpu(tmp_path / "tiny.json")


def test_a_machine_without_a_card_is_told_so_and_shown_the_list(tmp_path):
    before = f"""
import runpy, sys
from lora_lab import experiments, {", ".join("__main__ sweeps short_runs pretrain finetune finetune_command".split())}
assert experiments.provenance("rank", 0, 1.0)["versions"]["lora-lab"]  # part D begins with it
main = runpy.run_path({str(SCRIPT)!r})["main"]
assert main(["--part", "B", "--list"]) == 0
assert main(["--part", "A", "--list", "--only", "7B/all-linear/r16/ours AdamW"]) == 0
"""
    refused = script("--part", "B", "--out", str(tmp_path / "nowhere"), before=before)
    assert f"{len(bars.specs(sizes.REAL))} rows, about " in refused.stdout, refused.stderr
    assert "\n3 rows, about " in refused.stdout  # one and what it is compared with, before and after
    if not torch.cuda.is_available():
        assert refused.returncode == 2 and "sees no CUDA GPU; --tiny tries" in refused.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_process_that_is_lost_is_followed_by_another(monkeypatch):
    from tests.bench.gpu import run as command

    called, answers = [], [engine.LOST, -9, command.LEFT]
    monkeypatch.setattr(command.subprocess, "call", lambda words: called.append(words) or answers[len(called) - 1])
    assert command.supervised(["--part", "A"], 8.0 + (time.monotonic() - command.START) / 60) == command.LEFT
    assert [words[2:4] for words in called] == [["--part", "A"]] * 3 and called[0][-1] == "--worker"
    assert 7.9 < float(called[0][-2]) <= 8
    called, answers = [], [1, 0]
    assert command.supervised([], 99.0) == 1 and len(called) == 1  # an import that fails fails again
    called, answers = [], [engine.LOST, 0]
    assert command.supervised([], 1.0 + (time.monotonic() - command.START) / 60) == engine.LOST  # no time for another


# --- the comparison with peft -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beside_peft(tmp_path_factory):
    """Measures a way in float32, where ours and peft's must come to the same, beside peft's baseline."""
    b = bench(tmp_path_factory.mktemp("beside"), compute="float32", steps=6)
    ways = {way.what: way for way in side_by_side.WAYS}

    def measure(what: str) -> dict:
        row = side_by_side.measure(b, b.sizes.models[1], build.Adapter("all-linear", 16), ways[what], "group")
        return row | {"status": "ok"}

    b.lately[f"group/{side_by_side.BASELINE}"] = measure(side_by_side.BASELINE)
    return b, measure


@pytest.mark.parametrize(
    "what",
    ["ours plain", "ours fused layer", "ours fused layer + chunked logits", "ours checkpointing", "peft checkpointing"],
)
def test_ours_and_peft_learn_the_same(beside_peft, what):
    row = beside_peft[1](what)
    assert row["loss_difference"] < 1e-5 and row["losses"][-1] != row["losses"][0]
    assert row["ratio"] > 0 and row["more"]["first_step"] > 0


def test_the_comparison_sees_a_difference(beside_peft):
    b, measure = beside_peft
    with torch.no_grad():
        b.network(b.sizes.models[1]).model.layers[0].mlp.down_proj.weight.mul_(1.01)
    try:
        assert measure("ours plain")["loss_difference"] > 1e-5
    finally:
        b.drop()


def test_both_sides_begin_with_the_same_numbers_and_leave_the_model_plain(tmp_path):
    b = bench(tmp_path)
    network, adapter = b.network("Llama-2-7B"), build.Adapter("q_proj,v_proj", 8)
    plain = {name: p.clone() for name, p in network.named_parameters()}
    begun = []
    for side in ("ours", "peft"):
        with build.adapted(network, adapter, side):
            begun.append({path: [m.clone() for m in pair] for path, pair in build.matrices(network).items()})
    assert begun[0].keys() == begun[1].keys() and len(begun[0]) == 4
    for path, pair in begun[0].items():
        assert all(torch.equal(mine, its) for mine, its in zip(pair, begun[1][path], strict=True))
        assert pair[0].abs().max() > 0 and not pair[1].any()
    assert {name for name, _ in network.named_parameters()} == set(plain)
    assert all(torch.equal(p, plain[name]) and not p.requires_grad for name, p in network.named_parameters())


def test_a_model_that_was_trained_before_is_trained_under_autocast_again(tmp_path):
    b, adapter, peft = bench(tmp_path), build.Adapter("q_proj", 4), side_by_side.WAYS[0]
    ways = (side_by_side.PLAIN, side_by_side.PLAIN, peft, peft)  # accelerate marks what it has prepared, and only once
    losses = [side_by_side.measure(b, "Llama-2-7B", adapter, way)["losses"] for way in ways]
    assert losses[0] == losses[1] and losses[2] == losses[3]
    assert not {"forward", "_is_accelerate_prepared"} & vars(b.network("Llama-2-7B")).keys()


# What torch 2.11's allocator for CUDA handed out at most, in GB, every kernel replaced by one that does nothing.
ALLOCATED = (
    ("peft default", "all-linear", 16, 42.30),
    ("ours fused layer", "all-linear", 1, 37.55),
    ("ours fused layer", "all-linear", 256, 45.71),
    ("ours fused layer + chunked logits", "all-linear", 16, 36.77),
    ("ours bf16 adapters", "all-linear", 16, 37.69),
    ("ours fused layer + chunked logits + bf16 adapters", "all-linear", 16, 36.64),
    ("ours checkpointing", "all-linear", 16, 16.74),
    ("full, float32 weights under autocast", None, 0, 108.22),
    ("full, all of it bfloat16", None, 0, 54.41),
)


@pytest.mark.parametrize(("what", "targets", "rank", "allocated"), ALLOCATED)
def test_memory_of_the_real_rows_is_predicted_well_within_the_bar(what, targets, rank, allocated):
    real = Bench(CPU, sizes.REAL, Path())
    if targets is None:
        predicted = real.predicted("Llama-2-7B", bars.FULL[what][0], None, checkpointing=True)
    else:
        way = {way.what: way for way in side_by_side.WAYS}[what]
        predicted = side_by_side.predicted(real, "Llama-2-7B", build.Adapter(targets, rank), way)
    assert predicted / 1e9 == pytest.approx(allocated, rel=0.015)


def test_what_cudnn_plans_anew_for_each_length_is_not_what_is_measured(tmp_path, monkeypatch):
    times = [[9.0] * 6, [1.0] * 6]  # with plans to make, and without
    monkeypatch.setattr(roofline, "continued", lambda *a: times.pop(0))
    row = roofline.decode(bench(tmp_path), "Llama-2-7B", 3, "base alone")
    assert row["seconds"] == 1.0 and row["tokens_per_second"] == 3 and not times
    full = [{"input_ids": torch.arange(2048)}] * 40
    lengths = [len(row["input_ids"]) for row in build.of_many_lengths(full, packed=False)[0]]
    assert 5 < len(set(lengths)) <= 8 and set(lengths[:10]) != {2048}


def test_figures_follow_from_what_was_measured(tmp_path, monkeypatch):
    b = bench(tmp_path)
    monkeypatch.setattr(card, "peak_flops", lambda name: 1e9)
    monkeypatch.setattr(card, "peak_memory", lambda device: 12345)
    rows = []
    for seconds in (0.5, 2.0):
        monkeypatch.setattr(training, "train", lambda *a, s=seconds, **k: training.Trained([3.0], [s, s, s]))
        rows.append(side_by_side.measure(b, "Llama-2-7B", build.Adapter("all-linear", 16), side_by_side.PLAIN))
    fast, slow = rows
    assert (fast["seconds"], slow["seconds"], fast["peak_memory"]) == (0.5, 2.0, 12345)
    assert fast["tokens_per_second"] == 4 * slow["tokens_per_second"] == 2 * 24 / 0.5
    assert fast["mfu"] == pytest.approx(4 * slow["mfu"]) == pytest.approx(fast["flops"] / 0.5 / 1e9)


def test_the_cards_that_are_known():
    assert card.peak_flops("NVIDIA H100 80GB HBM3") == card.peak_flops("NVIDIA H200") == 989.5e12
    assert card.peak_flops("NVIDIA A100-SXM4-80GB") == card.peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert card.peak_flops("NVIDIA L40S") == 362e12 and card.peak_flops("NVIDIA L4") == 121e12
    assert card.peak_flops("CPU") is card.peak_flops("NVIDIA H100 PCIe") is None


# --- rows that fail, and time -----------------------------------------------------------------------------------------


def spec(name: str, make, about: float = 1.0, **more) -> Spec:
    return Spec(name, about, make, **more)


def fails_with(error: Exception):
    def make(b):
        raise error

    return make


def run(tmp_path, specs, minutes=1.0, pace=1.0) -> tuple[int, dict[str, dict]]:
    log = journal.Journal(tmp_path)
    left = engine.run(specs, bench(tmp_path, pace=pace), log, minutes, say=lambda text: None)
    return left, journal.newest(journal.read(tmp_path))


def test_what_does_not_fit_is_a_row(tmp_path, monkeypatch):
    def exhausted(model, *a, **k):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(training, "train", exhausted)
    specs = [s for s in bars.specs(sizes.TINY) if "checkpointing" in s.id or "full" in s.id]
    left, rows = run(tmp_path, specs, pace=0)
    assert left == 0 and len(rows) == 4
    assert {row["status"] for row in rows.values()} == {"did not fit"}
    assert all("Tried to allocate" in row["reason"] for row in rows.values())
    assert journal.Journal(tmp_path).done() == set(rows)  # an answer, which is not asked for again
    monkeypatch.undo()
    (tmp_path / journal.FILE).unlink()
    assert {row["status"] for row in run(tmp_path, specs, pace=0)[1].values()} == {"ok"}


def test_a_row_that_fails_is_tried_once_more_and_is_no_crash(tmp_path):
    calls = []
    specs = [spec("X/bad", fails_with(RuntimeError("no kernel"))), spec("X/good", lambda b: calls.append(1) or {})]
    for tries in (1, 2, 3):
        _, rows = run(tmp_path, specs)
        assert rows["X/bad"]["status"] == "failed" and "RuntimeError: no kernel" in rows["X/bad"]["reason"]
        starts = [line for line in journal.read(tmp_path) if line["kind"] == "start" and line["id"] == "X/bad"]
        assert len(starts) == min(tries, 2)
    assert calls == [1]


def test_a_row_that_takes_the_process_with_it_is_left_alone_at_last(tmp_path):
    log = journal.Journal(tmp_path)
    for tries in (1, 2):
        assert ("X/hangs" in journal.Journal(tmp_path).done()) is False
        log.add("start", id="X/hangs")
        assert journal.lost(journal.read(tmp_path)) == {"X/hangs": tries}
    assert "X/hangs" in journal.Journal(tmp_path).done()


def test_what_is_unfinished_is_tried_as_often_as_it_takes(tmp_path):
    for _ in range(4):
        left, rows = run(tmp_path, [spec("X/long", fails_with(Unfinished("3 of 9 are done")))])
        assert left == 1 and (rows["X/long"]["status"], rows["X/long"]["reason"]) == ("unfinished", "3 of 9 are done")


def test_a_row_that_would_take_too_long_is_not_begun(tmp_path):
    specs = [spec("X/long", lambda b: {}, about=61), spec("X/short", lambda b: {}, about=50)]
    left, rows = run(tmp_path, specs)
    assert left == 1 and set(rows) == {"X/short"}


def test_training_ends_where_its_time_is_over_and_is_no_result(tmp_path):
    b = bench(tmp_path)
    b.until = time.monotonic() - 1
    with pytest.raises(Unfinished, match="1 of 4 steps were done"):
        side_by_side.measure(b, "Llama-2-7B", build.Adapter("q_proj", 4), side_by_side.PLAIN)


def test_a_row_that_hangs_ends_the_process_long_before_the_limit(tmp_path):
    before = "import pathlib; sys.path[:0] = ['tests/bench', '.']\nfrom gpu import engine, bars, bench\nimport time\n"
    before += "engine.HANGS = 1\nbars.specs = lambda s: [bench.Spec('B/hangs', 0, lambda b: time.sleep(300))]"
    done = script("--tiny", "--part", "B", "--out", str(tmp_path), "--minutes", "60", before=before)
    assert done.returncode == engine.LOST and "B/hangs went on for too long" in done.stdout, done.stderr
    assert [line["kind"] for line in journal.read(tmp_path)] == ["run", "start", "late"]


class Left(Exception):
    """The process would have ended here."""


def leave():
    raise Left


def test_a_device_that_answers_no_more_ends_the_process(tmp_path, monkeypatch):
    def wait(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(card, "wait", wait)
    monkeypatch.setattr(engine, "_leave", leave)
    specs = [spec("X/good", lambda b: {}), spec("X/bad", fails_with(RuntimeError("illegal"))), spec("X/next", None)]
    with pytest.raises(Left):
        run(tmp_path, specs)
    assert {name: row["status"] for name, row in journal.newest(journal.read(tmp_path)).items()} == {
        "X/good": "ok", "X/bad": "failed"
    }  # fmt: skip


def test_memory_that_an_earlier_row_holds_is_found_before_it_is_measured(tmp_path, monkeypatch):
    b = bench(tmp_path)
    b.network("Llama-2-7B")
    monkeypatch.setattr(card, "held", lambda device: 7 * 10**9)
    with pytest.raises(RuntimeError, match=r"7.0 GB of earlier rows are still in memory"):
        b.network("Llama-2-7B")
    monkeypatch.setattr(engine, "_leave", leave)
    with pytest.raises(Left):
        run(tmp_path, [spec("X/row", lambda b: b.network("Llama-2-7B"))])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1154'),
    ],
)
def test_the_ways_to_say_that_memory_ran_out(error):
    assert card.did_not_fit(error) and not card.did_not_fit(RuntimeError("CUDA error: no kernel image"))


def test_what_is_compared_waits_for_its_baseline_and_what_went_wrong_for_all_else(tmp_path):
    specs = [
        spec("A/g/peft default", lambda b: {}, group="A/g", again=True, about=50),
        spec("A/g/ours", lambda b: {}, group="A/g", about=1),
        spec("B/bad", None),
        spec("B/good", lambda b: {}),
    ]
    left, rows = run(tmp_path, specs[:2], minutes=0.5)  # no time for the baseline
    assert left == 1 and not rows
    assert [s.id for s in engine.order(specs, set(), {"B/bad"})] == [
        "A/g/peft default", "A/g/ours", "B/good", "B/bad"
    ]  # fmt: skip
    log = journal.Journal(tmp_path)
    log.add("start", id="B/bad")
    assert log.tried() == {"B/bad"} and not log.done()
    left, rows = run(tmp_path, specs[:2], minutes=1)
    assert left == 0 and set(rows) == {"A/g/peft default", "A/g/ours"}


def test_a_baseline_is_measured_again_with_whatever_is_compared_to_it():
    specs = [
        spec("A/base", None, group="g", again=True),
        spec("A/ours", None, group="g"),
        spec("B/first", None),
        spec("A/late", None, group="g", turn=3),
    ]
    ids = lambda done: [s.id for s in engine.order(specs, done)]  # noqa: E731
    assert ids(set()) == ["A/base", "A/ours", "B/first", "A/base", "A/late"]
    assert ids({"A/ours"}) == ["B/first", "A/base", "A/late"]
    assert ids({"A/base", "A/ours", "A/late"}) == ["B/first"]


def test_real_rows_have_names_of_their_own_and_fit_into_a_run():
    parts = [side_by_side, bars, roofline, base_model]
    specs = [s for part in parts for s in part.specs(sizes.REAL)]
    assert len({s.id for s in specs}) == len(specs)
    assert all(0 < s.about <= 60 and 0 < s.turn < engine.LAST for s in specs)
    due = {s.id: s for s in engine.order(specs, set()) if s.turn <= 3}.values()  # all that is judged, and part C
    assert sum(s.about for s in due) < 11 * 60
    first = {s.id for s in due if s.turn <= 2}
    for what in ("peft default", "ours fused layer + chunked logits + compile", "peft default, again"):
        assert {f"A/{model}/{group}/{what}" for model in sizes.REAL.models for group in GROUPS} <= first
    assert {s.id for s in bars.specs(sizes.REAL)} <= first
    asked = []
    record = SimpleNamespace(row=asked.append)  # what lesson 12 looks up
    on = beside.of(None)
    assert beside.steps(record, on) and beside.shares(record, on) and beside.peaks(record)
    assert len(asked) > 7 and set(asked) <= {s.id for s in specs}


# --- part D -----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_was_cut_says_how_far_it_came_and_a_whole_one_what_it_took(tmp_path, monkeypatch):
    b = bench(tmp_path)
    row = {"label": "rank 1", "task": "pirate", "lr": 4e-3, "seed": 0, "loss": 1.0, "seconds": 2.0}
    text = json.dumps({"rows": [row]})
    called = []

    def finds(name):
        return lambda command, until, listen=False: called.append(command) or (tmp_path / name).write_text(text)

    monkeypatch.setattr(base_model, "run_until", finds("rank_large.partial"))
    with pytest.raises(Unfinished, match="1 runs of rank are done, 89 or more"):
        base_model.sweep(b, "rank")
    monkeypatch.setattr(base_model, "run_until", finds("rank_large.json"))
    assert base_model.sweep(b, "rank")["more"] == {
        "runs": 1, "run_seconds": 2.0, "workers": 1, "file": "rank_large.json"
    }  # fmt: skip
    assert called[0][1:6] == ["-m", "lora_lab", "sweep", "rank", "--large"]


def test_a_command_that_is_out_of_time_ends_with_all_it_started(tmp_path):
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    while not note.exists():  # a slow machine may need more than the first try
        base_model.run_until([sys.executable, "-c", parent], time.monotonic() + 3)
        assert time.monotonic() - start < 50
    assert not psutil.pid_exists(int(note.read_text()))
    with pytest.raises(RuntimeError, match="ended with status 5"):
        base_model.run_until([sys.executable, "-c", "raise SystemExit(5)"], time.monotonic() + 30)
    said = base_model.run_until([sys.executable, "-c", "print('{}')"], time.monotonic() + 30, listen=True)
    assert said.split() == ["{}"]


def test_the_base_model_is_trained_from_an_archive_of_texts(tmp_path, monkeypatch):
    from lora_lab import pretrain

    monkeypatch.setattr(pretrain, "TOKENS_PER_STEP", 1024)
    monkeypatch.setattr(pretrain, "nats_per_character", lambda *a: 2.0)  # tested elsewhere, and slow
    text = tmp_path / "text"
    (text / "childrens_classics").mkdir(parents=True)
    words = [f"Once there was a cat called {a}{b}, who liked {b} {i} fish." for i in range(90) for a, b in ("Ab", "Cd")]
    (text / "tinystories.txt").write_text("\n<|endoftext|>\n".join(words), encoding="utf-8")
    (text / "childrens_classics" / "Alice.md").write_text(" ".join(words), encoding="utf-8")
    (text / "childrens_classics" / "Peter Pan.md").write_text("All children grow up. " * 2000, encoding="utf-8")
    with tarfile.open(tmp_path / "texts.tar.bz2", "w:bz2") as archive:
        archive.add(text, "text")
    b = bench(tmp_path / "out", pretrain_tokens=1024)
    b.text = tmp_path / "texts.tar.bz2"
    row = base_model.pretrained(b)
    assert (
        row["more"]["step"] == 1 and row["more"]["loss"] > 0 and (tmp_path / "out" / "base" / "checkpoint.pt").exists()
    )
    b.text = None
    with pytest.raises(Unfinished, match="--text names them"):
        base_model.pretrained(b)


# --- the record -------------------------------------------------------------------------------------------------------


def a_row(part: str, what: str, **fields) -> dict:
    row = dict.fromkeys(recorded.FIELDS) | {"part": part, "what": what, "status": "ok", "card": "NVIDIA H200"}
    row |= {"model": "Llama-2-7B", "targets": "all-linear", "rank": 16, "checkpointing": False, **fields}
    return row | {"id": "/".join(str(row[f]) for f in ("part", "model", "targets", "rank", "what"))}


def good_rows() -> list[dict]:
    """Rows of a made-up card with which every bar of the first model is met."""
    narrow = {"targets": "q_proj,v_proj", "rank": 8}
    rows = []
    for group in ({}, narrow):
        fast = {"tokens_per_second": 1310.0, "mfu": 0.46, "loss_difference": 1e-4}
        rows.append(a_row("A", "peft default", tokens_per_second=1000.0, peak_memory=50 * 10**9, **group))
        rows.append(a_row("A", "ours plain", peak_memory=44 * 10**9, memory_predicted=45 * 10**9, **fast, **group))
    small = narrow | {"checkpointing": True}
    rows.append(a_row("B", "ours checkpointing", peak_memory=23 * 10**9, memory_predicted=23 * 10**9, **small))
    rows.append(a_row("B", "ours NF4 base, checkpointing", peak_memory=11 * 10**9, **small))
    rows.append(a_row("B", "full") | {"id": "B/Llama-2-7B/full", "status": "did not fit", "rank": None})
    for rank in (1, 4, 16, 64, 256):
        rows.append(a_row("B", "ours plain", rank=rank, peak_memory=100, memory_predicted=104))
    return rows


def judged(rows: list[dict]) -> dict[str, bool | None]:
    return {bar["bar"]: bar["met"] for bar in recorded.bars(rows)}


def said(rows) -> str:
    """The full fine-tuning bar, as read."""
    return next(bar["measured"] for bar in recorded.bars(rows) if bar["bar"] == "full")


def test_bars_that_are_met_and_those_nothing_is_known_of():
    met = judged(good_rows())
    assert len(met) == 12
    assert {name for name, answer in met.items() if answer is None} == {
        "speed all-linear Llama-3.1-8B", "speed q,v Llama-3.1-8B", "MFU Llama-3.1-8B"
    }  # fmt: skip
    assert all(answer for name, answer in met.items() if "3.1" not in name)
    assert set(judged([]).values()) == {None}
    rows = [
        *good_rows(),
        a_row("B", "in bfloat16") | {"id": "B/Llama-2-7B/full bfloat16", "peak_memory": 54_410_000_000},
    ]
    assert said(rows) == "full: did not fit; full bfloat16: 54.4 GB"


@pytest.mark.parametrize(
    ("bar", "number", "field", "value"),
    [
        ("speed all-linear Llama-2-7B", 1, "tokens_per_second", 1299.0),
        ("speed all-linear Llama-2-7B", 0, "tokens_per_second", 1010.0),
        ("speed q,v Llama-2-7B", 3, "tokens_per_second", 1099.0),
        ("memory", 1, "memory_predicted", 47 * 10**9),
        ("loss", 1, "loss_difference", 2e-3),
        ("24 GB", 4, "peak_memory", 25 * 10**9),
        ("12 GB", 5, "peak_memory", 13 * 10**9),
        ("ranks", 9, "memory_predicted", 106),
    ],
)
def test_a_bar_follows_the_rows(bar, number, field, value):
    rows = good_rows()
    rows[number][field] = value
    assert judged(rows)[bar] is False


@pytest.mark.parametrize("word", ["NF4", "bf16 adapters", "lengths"])
def test_a_bar_on_speed_is_not_met_by_another_base_or_other_rows(word):
    rows = good_rows()
    rows[1]["what"] = f"ours {word}"
    rows[1]["loss_difference"] = 1.0
    met = judged(rows)
    assert met["speed all-linear Llama-2-7B"] is None and met["loss"] is True


def test_a_prediction_that_failed_is_no_crash():
    rows = good_rows()
    rows[-1]["memory_predicted"] = None
    assert judged(rows)["ranks"] is None and judged(rows)["memory"] is True


def test_a_bar_is_not_met_by_what_takes_the_memory_or_was_not_measured():
    rows = good_rows()
    rows[1]["peak_memory"] = 46 * 10**9
    assert judged(rows)["speed all-linear Llama-2-7B"] is False  # no configuration is lean enough
    rows[1]["peak_memory"] = None
    assert judged(rows)["speed all-linear Llama-2-7B"] is None
    for row in rows:
        row["mfu"] = row["mfu"] and 0.44
    assert judged(rows)["MFU Llama-2-7B"] is False
    rows = [row for row in good_rows() if "full" not in row["id"]]
    assert judged(rows)["full"] is None
    rows = [row | {"status": "failed"} for row in good_rows()]
    assert set(judged(rows).values()) == {None}


def a_journal(folder: Path, rows: list[dict], **changed) -> None:
    log = journal.Journal(folder)
    run = engine.provenance(CPU, sizes.REAL, ["--part", "A"])
    log.add("run", **run | {"card": "NVIDIA H200", "cards": 1, "memory": 150 * 10**9} | changed)
    for row in rows:
        log.add("row", **row | {"at": journal.now()})


def test_a_record_of_a_gpu_is_read_back(tmp_path):
    assert recorded.gpu(tmp_path / "gpu.json") is None
    a_journal(tmp_path / "run", good_rows())
    journal.Journal(tmp_path / "run").add("start", id="A/hung")
    assert collect.main([tmp_path / "run"], tmp_path / "gpu.json") == 0
    record = recorded.gpu(tmp_path / "gpu.json")
    assert (record.card, record.memory) == ("NVIDIA H200", 150 * 10**9) and record.versions["torch"]
    assert record.date == time.strftime("%Y-%m-%d") and len(record.bars) == 12
    assert [row["what"] for row in record.part("A")] == ["peft default", "ours plain"] * 2
    assert record.row("A/hung")["status"] == "failed" and record.row("A/none") is None
    assert len(record.part("B")) == 7 and len(record.part("B", everything=True)) == 8


def test_rows_of_two_cards_do_not_mix(tmp_path):
    a_journal(tmp_path / "one", good_rows())
    a_journal(tmp_path / "two", good_rows(), card="NVIDIA H100 80GB HBM3")
    with pytest.raises(ValueError, match="several cards, NVIDIA H100 80GB HBM3, NVIDIA H200"):
        collect.collect([tmp_path / "one", tmp_path / "two"])
    with pytest.raises(ValueError, match="no rows in"):
        collect.collect([tmp_path / "three"])


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[]", "lacks everything"), ('{"card": "X"}', "lacks memory, date, versions")],
)
def test_a_broken_record_is_refused(tmp_path, text, says):
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        recorded.gpu(tmp_path / "gpu.json")


def test_a_record_with_other_fields_is_refused(tmp_path):
    a_journal(tmp_path / "run", good_rows())
    result = collect.collect([tmp_path / "run"])
    del result["rows"][0]["mfu"]
    (tmp_path / "gpu.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="has other fields than id, part"):
        recorded.gpu(tmp_path / "gpu.json")


def test_the_course_reads_what_is_there_or_says_that_nothing_is():
    assert recorded.gpu() is None or (recorded.gpu().card != "CPU" and recorded.gpu().rows)
