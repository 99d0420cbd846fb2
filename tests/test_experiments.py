"""Recorded results: complete, finite, written whole or not at all, and read without torch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from lora_lab import experiments, sweeps, teacher_student


def result(**changes) -> dict:
    header = {field: "x" for field in experiments.HEADER}
    return header | {"rows": [{"scale": 0.0, "loss": 3.0}, {"scale": 1.0, "loss": 2.0}]} | changes


def test_a_result_written_is_the_result_read(tmp_path):
    experiments.write(result(), tmp_path / "new" / "dial.json")
    assert experiments.recorded("dial", tmp_path / "new") == result()


@pytest.mark.parametrize("field", [*experiments.HEADER, "rows"])
def test_a_result_without_a_field_is_refused_by_name(field):
    broken = result()
    del broken[field]
    with pytest.raises(ValueError, match=f"lacks {field}"):
        experiments.check(broken)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no rows"),
        ([{"scale": 0.0}, {"loss": 1.0}], "differ in their fields"),
        ([{"loss": math.nan}], "loss is nan"),
        ([{"loss": math.inf}], "loss is inf"),
    ],
)
def test_rows_that_cannot_be_trusted_are_refused(rows, says):
    with pytest.raises(ValueError, match=says):
        experiments.check(result(rows=rows))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "dial.json"
    experiments.write(result(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        experiments.write(result(rows=[{"loss": math.nan}]), path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        experiments.write(result(seed="other"), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_missing_result_says_what_there_is_and_how_to_make_it(tmp_path):
    experiments.write(result(), tmp_path / "rank.json")
    with pytest.raises(FileNotFoundError, match=r"'dail' \(there are: rank\).*lora_lab sweep dail"):
        experiments.recorded("dail", tmp_path)


def test_an_unknown_sweep_is_refused_before_anything_runs(capsys):
    from lora_lab.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(["sweep", "dail"])
    assert stop.value.code == 2 and "dial" in capsys.readouterr().err


def test_a_run_is_recorded_with_all_that_is_needed_to_repeat_it(monkeypatch, tmp_path, capsys):
    from lora_lab.__main__ import main

    def toy(seed: int) -> dict:
        return {"about": "a toy", "settings": {}, "rows": [{"drawn": seed + 0.5}]}

    monkeypatch.setattr(teacher_student, "toy", toy, raising=False)
    monkeypatch.setitem(sweeps.MEASUREMENTS, "toy", "teacher_student")
    assert main(["sweep", "toy", "--seed", "3", "--output", str(tmp_path / "toy.json")]) == 0
    made = experiments.recorded("toy", tmp_path)
    assert (made["sweep"], made["seed"], made["rows"]) == ("toy", 3, [{"drawn": 3.5}])
    assert made["command"] == "python -m lora_lab sweep toy --seed 3"
    assert made["seconds"] >= 0 and made["machine"] and len(made["base_model_sha256"]) == 64
    assert "toy: 1 rows" in capsys.readouterr().out


def test_reading_a_result_needs_no_torch():
    code = "import sys; from lora_lab import experiments; experiments.recorded('dial'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_recorded_dial_is_whole_and_belongs_to_this_base_model():
    import hashlib

    from lora_lab.models import BASE

    dial = experiments.recorded("dial")
    rows = dial["rows"]
    assert [row["scale"] for row in rows] == [i / 4 for i in range(9)]
    assert all(len(row["texts"]) == len(dial["prompts"]) == 3 and all(row["texts"]) for row in rows)
    assert dial["command"] == "python -m lora_lab sweep dial --seed 0" and dial["seconds"] > 0
    assert set(dial["versions"]) == {"python", "torch", "transformers", "lora-lab"}
    assert dial["base_model_sha256"] == hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()


def test_the_dial_at_0_is_the_base_model_and_at_1_the_tuned_one():
    dial = experiments.recorded("dial")
    at = {row["scale"]: row["pirate_loss"] for row in dial["rows"]}
    assert at[0] == pytest.approx(dial["training"]["loss_before"], rel=1e-4)
    assert at[1] == pytest.approx(dial["training"]["loss_after"], rel=1e-4)


def test_the_recorded_dial_does_what_the_lesson_says():
    at = {row["scale"]: row for row in experiments.recorded("dial")["rows"]}
    assert at[1]["pirate_loss"] < min(at[0]["pirate_loss"], at[2]["pirate_loss"])
    assert at[2]["story_loss"] > max(at[0]["story_loss"], at[1]["story_loss"])
    assert at[1]["marker_words"] > 5 * at[0]["marker_words"] + 1


def test_recorded_files_are_the_sweeps_there_are():
    of_tests = {"conformance", "bench", "gpu"}  # which tests/conformance and tests/bench write
    names = {path.stem for path in experiments.FOLDER.glob("*.json")} - of_tests
    large = {f"{name}_large" for name in sweeps.PLANS}  # there once a GPU was to be had
    assert names - large == {*sweeps.PLANS, *sweeps.MEASUREMENTS}
    for name in names:
        result = experiments.recorded(name)  # which checks its header and rows
        plain = name.removesuffix("_large")
        assert result["sweep"] == plain
        assert result["command"] == f"python -m lora_lab sweep {plain} --seed 0{' --large' * (name in large)}"
        assert result["base_model_sha256"] == experiments.recorded("dial")["base_model_sha256"]
        assert (experiments.FOLDER / f"{name}.json").stat().st_size < 400_000, "small files only"
