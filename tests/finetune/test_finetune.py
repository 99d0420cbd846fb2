"""Fine-tuning from end to end on a tiny model: what it returns, what it writes, and that peft reads it."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_lab import models, scoring, tasks
from lora_lab.adapters import adapter_parameters
from lora_lab.finetune import finetune
from lora_lab.result import JSON_FIELDS
from lora_lab.training_setup import DEFAULTS
from tests.finetune.conftest import flags, last_json

KEYS = (
    "trainable total share loss_before loss_after base_loss_before base_loss_after exact_match_before "
    "exact_match_after seconds tokens_per_second peak_memory adapter"
).split()
LAYERS, INS_AND_OUTS = 2, 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64)  # q and o; k and v; the MLP's three
TOKENS = torch.arange(2, 42)[None]


@pytest.fixture(scope="module")
def tuned(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    return finetune(**quick, output=folder, quiet=True), folder


def test_it_learns(tuned):
    result, _ = tuned
    assert result.loss_after < result.loss_before - 0.02
    assert result.trainable == 2 * 2 * (3 * (32 + 32) // 3 * 2 + 2 * (32 + 16) + 3 * (32 + 64))
    assert result.total == result.trainable + sum(
        p.numel() for p in models.load(result.settings["model"])[0].parameters()
    )
    assert result.share == result.trainable / result.total


def test_scores_are_those_of_the_model_on_disk(tuned, tiny, page):
    result, folder = tuned
    task = tasks.load_task(page)
    stories = [tasks.Example("", story) for story in tasks.base_stories()]
    before, after = models.load(tiny), models.load(tiny, adapter=folder)
    assert scoring.loss(*before, task.validation, 32, 4) == pytest.approx(result.loss_before, abs=1e-6)
    assert scoring.loss(*after, task.validation, 32, 4) == pytest.approx(result.loss_after, abs=1e-6)
    assert scoring.loss(*before, stories, 32, 4) == pytest.approx(result.base_loss_before, abs=1e-6)
    assert scoring.loss(*after, stories, 32, 4) == pytest.approx(result.base_loss_after, abs=1e-6)


def test_peft_loads_the_folder_and_computes_the_same(tuned, tiny):
    result, folder = tuned
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), folder).eval()
    with torch.no_grad():
        assert torch.equal(theirs(TOKENS).logits, result.model(TOKENS).logits)


def test_the_folder_holds_the_adapter_and_its_record_and_nothing_else(tuned):
    result, folder = tuned
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    record = json.loads((folder / "training.json").read_text())
    assert {k: record[k] for k in KEYS} == result.as_json()
    assert record["settings"]["lr"] == 1e-2 and record["curve"] == result.curve


def test_curve_starts_at_the_first_step_and_validation_chooses_the_best(tuned):
    result, _ = tuned
    training = [(row["step"], row["loss"]) for row in result.curve if "loss" in row]
    validation = {row["step"]: row["validation_loss"] for row in result.curve if "validation_loss" in row}
    assert [step for step, _ in training] == list(range(1, 13))
    assert list(validation) == [4, 8, 12]
    assert result.best_step == min(validation, key=validation.get)
    assert result.loss_after == pytest.approx(validation[result.best_step], abs=1e-6)


def test_the_best_checkpoint_is_kept_not_the_last(quick):
    """A rate that ruins the model after the first evaluation."""
    result = finetune(**quick | {"lr": 3.0, "evaluate_every": 1, "steps": 10}, quiet=True)
    validation = {row["step"]: row["validation_loss"] for row in result.curve if "validation_loss" in row}
    assert result.best_step != 10 and validation[10] > validation[result.best_step]
    assert result.loss_after == pytest.approx(validation[result.best_step], abs=1e-6)


def test_same_seed_same_result_other_seed_another(tuned, quick):
    result, _ = tuned
    again, other = finetune(**quick, quiet=True), finetune(**quick, seed=1, quiet=True)
    assert again.curve == result.curve
    mine, its = adapter_parameters(result.model), adapter_parameters(again.model)
    assert all(torch.equal(mine[path], its[path]) for path in mine)
    assert other.curve != result.curve
    assert again.adapter is None


def test_two_passes_of_four_are_one_of_eight(quick):
    whole = finetune(**quick | {"batch_size": 8, "steps": 3}, quiet=True)
    halves = finetune(**quick | {"batch_size": 4, "steps": 3}, accumulate=2, quiet=True)
    assert halves.loss_after == pytest.approx(whole.loss_after, abs=1e-4)
    assert halves.memory_predicted["activations"] == whole.memory_predicted["activations"] // 2


def test_checkpointing_changes_memory_not_the_result(tuned, quick):
    saved = finetune(**quick, checkpointing=True, quiet=True)
    assert saved.loss_after == pytest.approx(tuned[0].loss_after, abs=1e-5)
    assert saved.memory_predicted["activations"] < tuned[0].memory_predicted["activations"]


def test_full_trains_every_parameter_and_writes_a_model(quick, tmp_path):
    result = finetune(**quick | {"lr": 1e-3}, method="full", output=tmp_path / "full", quiet=True)
    assert result.share == 1.0 and result.trainable == result.total
    assert result.loss_after < result.loss_before
    model, _ = models.load(tmp_path / "full")
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, result.model(TOKENS).logits)
    assert not (tmp_path / "full" / "checkpoints").exists()


def test_targets_may_be_a_list_or_words_with_commas(quick):
    found = [
        finetune(**quick | {"steps": 1, "evaluate_every": 1}, targets=targets, quiet=True)
        for targets in ("q_proj,v_proj", ["q_proj", "v_proj"], r".*\.(q|v)_proj")
    ]
    assert {r.trainable for r in found} == {LAYERS * 2 * (64 + 48)}


def test_the_command_prints_everything_and_ends_with_one_line_of_json(quick, tmp_path, lab):
    status, out, err = lab("finetune", *flags(quick), "--output", tmp_path / "out", "--json")
    assert status == 0, err
    result = last_json(out)
    assert list(result) == KEYS == JSON_FIELDS
    assert result["exact_match_before"] is None and result["exact_match_after"] is None
    assert result["seconds"] > 0 and result["tokens_per_second"] > 0 and result["peak_memory"] > 0
    assert result["adapter"] == str(tmp_path / "out")
    for words in (
        f"{result['trainable']:,} of {result['total']:,} parameters train ({result['share']:.2%})",
        "memory predicted: ",
        "tokens a second",
        f"validation loss (nats per token)       {result['loss_before']:.3f}   {result['loss_after']:.3f}",
        f"base-domain loss (nats per token)      {result['base_loss_before']:.3f}   {result['base_loss_after']:.3f}",
    ):
        assert words in out
    assert [out.count(words) for words in ("\n> ", "\nbefore: ", "\nafter:  ")] == [3, 3, 3]
    assert "12/12" in err  # the progress bar


def test_quiet_prints_the_json_alone(quick, lab):
    status, out, err = lab("finetune", *flags(quick), "--output", quick["task"].parent / "quiet", "--json", "--quiet")
    assert status == 0 and out.count("\n") == 1 and "step" not in err
    assert list(last_json(out)) == KEYS


def test_style_score_and_exact_match_where_the_task_has_them(quick, lab, tmp_path):
    short = {**quick, "steps": 1, "evaluate_every": 1}
    status, out, _ = lab("finetune", *flags(short | {"task": "pirate"}), "--output", tmp_path / "p")
    assert status == 0 and "style score (held-out text: 13." in out
    short |= {"task": "query", "max_length": 64}
    status, out, _ = lab("finetune", *flags(short), "--output", tmp_path / "q", "--json")
    assert status == 0 and "\nexact match " in out
    assert last_json(out)["exact_match_before"] == last_json(out)["exact_match_after"] == 0.0


def test_a_rank_above_the_matrix_warns_and_goes_on(quick, lab, tmp_path):
    options = quick | {"rank": 40, "steps": 1, "evaluate_every": 1}
    status, out, err = lab("finetune", *flags(options), "--output", tmp_path / "out", "--json")
    assert status == 0 and last_json(out)["trainable"] == LAYERS * 40 * INS_AND_OUTS
    assert "warning: rank 40 is more than" in err


def test_an_unchanged_trainer_writes_no_warning(quick):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(**quick | {"steps": 1, "evaluate_every": 1}, quiet=True)


def test_every_task_has_defaults_for_both_methods():
    assert set(DEFAULTS) == {(t, m) for t in (*tasks.TASKS, "own file") for m in ("lora", "full")}


def test_in_a_notebook_the_bar_is_a_table(quick, monkeypatch, capsys):
    pytest.importorskip("IPython")
    monkeypatch.setattr("lora_lab.trainer.is_in_notebook", lambda: True)
    shown = []
    monkeypatch.setattr("transformers.utils.notebook.disp.display", lambda html, **_: shown.append(html))
    monkeypatch.setattr("transformers.utils.notebook.NotebookTrainingTracker.display", table(shown))
    result = finetune(**quick)
    assert f"{result.curve[-1]['validation_loss']:.6f}" in shown[-1]
    assert "training:" not in capsys.readouterr().err


def table(shown: list):
    """Stands in for the tracker's display, which would need a running notebook: notes the table's numbers instead."""

    def display(self):
        shown.append(" ".join(f"{v:.6f}" if isinstance(v, float) else str(v) for row in self.inner_table for v in row))

    return display
