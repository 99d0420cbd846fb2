"""The export command and its function: what is written, what is refused, what rounding costs; what vLLM refuses."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_lab import __main__ as command_line
from lora_lab import export, models
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.merging import merge
from lora_lab.record import record_of
from lora_lab.storage import save_adapter
from tests.families.small import logits, small, tokens, two_steps


def trained(family: str = "llama", dtype: torch.dtype = torch.float32, **more):
    model = small(family).to(dtype)
    torch.manual_seed(0)
    add_adapter(model, LoraConfig(**{"rank": 4, "target_modules": ("q_proj", "v_proj")} | more))
    two_steps(model, family)
    return model


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter of the embedded base model, as if it had been trained."""
    folder = tmp_path_factory.mktemp("adapter") / "of_base"
    torch.manual_seed(0)
    model = add_adapter(models.load_model("base", "cpu"), LoraConfig(target_modules=("q_proj", "v_proj")))
    for layer in record_of(model).layers.values():
        torch.nn.init.normal_(layer.matrices("default")[1], std=0.3)
    save_adapter(model, folder, base_model_name="base")
    return folder


def run(*words: str | Path) -> int:
    return command_line.main([str(word) for word in words])


def test_the_command_writes_a_model_that_transformers_loads(adapter, tmp_path, capsys):
    out = tmp_path / "deeper" / "merged"
    assert run("export", "--adapter", adapter, "--out", out) == 0
    said = capsys.readouterr().out
    assert str(out) in said and "11.8 MB in bfloat16; rounding cost" in said and said.count("\n") == 1
    assert {f.name for f in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    adapted, tokenizer = models.load("base", "cpu", adapter)
    read = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = tokenizer("Once upon a time there was a", return_tensors="pt").input_ids
    torch.testing.assert_close(logits(read, ids), logits(adapted, ids), atol=0.1, rtol=0)
    assert (logits(read, ids) - logits(models.load_model("base", "cpu"), ids)).abs().max() > 1
    assert AutoTokenizer.from_pretrained(out)("Once upon").input_ids == tokenizer("Once upon").input_ids
    assert models.load(out, "cpu")[0].config.model_type == "llama"  # and so does this package


def test_the_command_in_float32_rounds_nothing(adapter, tmp_path, capsys):
    assert run("export", "--adapter", adapter, "--out", tmp_path / "f32", "--dtype", "float32") == 0
    assert "in float32; nothing was rounded" in capsys.readouterr().out
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "f32").eval()
    adapted, tokenizer = models.load("base", "cpu", adapter)
    assert read.dtype == torch.float32
    torch.testing.assert_close(logits(read, tokens()), logits(adapted, tokens()), atol=1e-4, rtol=0)


def test_rounding_is_said_as_a_share_of_the_update(tmp_path):
    model = trained()
    plain = small("llama").state_dict()
    export.export(trained(), tmp_path / "float32")
    report = export.export(model, tmp_path / "bfloat16", dtype="bfloat16")
    exact, rounded = (load_file(tmp_path / kind / "model.safetensors") for kind in ("float32", "bfloat16"))
    adapted = [k for k in exact if k.endswith(("q_proj.weight", "v_proj.weight"))]

    def norm(differences) -> float:
        return sum(float(d.square().sum()) for d in differences) ** 0.5

    noise = norm(rounded[k].float() - exact[k] for k in adapted)
    assert report.rounding == pytest.approx(noise / norm(exact[k] - plain[k] for k in adapted), rel=1e-4)
    assert 0.001 < report.rounding < 1 and f"{report.rounding:.2%} of the update" in str(report)
    assert all(t.dtype == torch.bfloat16 for t in rounded.values())
    assert json.loads((tmp_path / "bfloat16/config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_a_base_in_bfloat16_is_summed_in_float32_and_rounded_once(adapter, tmp_path):
    """The same bits whether the model is held in the type of its file or in float32, and the same cost is said."""
    narrow = export.export_named("base", adapter, tmp_path / "narrow")
    wide = models.load("base", "cpu", adapter)[0]
    assert next(wide.parameters()).dtype == torch.float32
    reports = [narrow, export.export(wide, tmp_path / "wide", dtype="bfloat16")]
    assert reports[0].rounding == pytest.approx(reports[1].rounding, rel=1e-6) and reports[0].rounding > 0.001
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("narrow", "wide"))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_rounding_is_told_of_a_model_that_was_merged_before(tmp_path):
    reports = []
    for name, early in (("late", False), ("early", True)):
        model = trained(dtype=torch.bfloat16)
        if early:
            merge(model)
        reports.append(export.export(model, tmp_path / name))
        assert reports[-1].dtype == "bfloat16"
    assert reports[0].rounding == pytest.approx(reports[1].rounding, rel=1e-6) and reports[0].rounding > 0.001


def test_generation_config_and_chat_template_go_along(tmp_path):
    model, tokenizer = trained(), models.load_tokenizer("base")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model.generation_config.max_new_tokens = 7
    export.export(model, tmp_path / "out", tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template
    assert type(model).from_pretrained(tmp_path / "out").generation_config.max_new_tokens == 7


def test_several_active_adapters_and_a_scale_are_what_is_merged(tmp_path):
    from lora_lab.adapters import set_adapter, set_scale

    model = trained()
    add_adapter(model, LoraConfig(rank=2, target_modules=("up_proj",), init_lora_weights=False), "second")
    set_adapter(model, ["default", "second"])
    set_scale(model, 0.5, "default")
    before = logits(model)
    export.export(model, tmp_path / "out")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(read), before, atol=1e-4, rtol=0)


def test_nothing_is_overwritten(adapter, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for name, why in (("full", "is not empty: nothing is overwritten"), ("file", "is a file or a link")):
        assert run("export", "--adapter", adapter, "--out", tmp_path / name) == 1
        assert why in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "thesis.txt"]
    (tmp_path / "empty").mkdir()
    export.export(trained(), tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_what_is_wrong_is_said_before_anything_is_loaded(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="dtype 'int8': one of float32, bfloat16, float16"):
        export.export_named("base", adapter, tmp_path / "out", "int8")
    with pytest.raises(ValueError, match="is not empty"):
        export.export_named("base", adapter, adapter)
    with pytest.raises(ValueError, match="no model 'no/such/model'"):
        export.export_named("no/such/model", adapter, tmp_path / "out")


def test_an_adapter_that_names_another_base_is_merged_with_a_warning(adapter, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export.export_named("base", adapter, tmp_path / "its own")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    other = shutil.copytree(adapter, tmp_path / "other")
    config["base_model_name_or_path"] = "someone/another"
    (other / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.warns(UserWarning, match="names someone/another as its base, and is merged into base here"):
        export.export_named("base", other, tmp_path / "out")


def test_a_full_disk_is_noticed_before_the_merge(tmp_path, monkeypatch):
    model = trained()
    before = logits(model)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(OSError, match="0 MB are needed for the model, 0 MB are free") as error:
        export.export(model, tmp_path / "out")
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [] and torch.equal(logits(model), before)
    assert "_lora_lab" in model.__dict__


def test_a_write_that_fails_halfway_leaves_nothing(tmp_path, monkeypatch):
    model = trained()

    def fails(self, folder):
        Path(folder, "tokenizer.json").write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    tokenizer = models.load_tokenizer("base")
    monkeypatch.setattr(type(tokenizer), "save_pretrained", fails)
    with pytest.raises(OSError, match="No space left"):
        export.export(model, tmp_path / "out", tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_not_exported(tmp_path):
    model = trained()
    next(iter(record_of(model).layers.values())).matrices("default")[0].data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        export.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="has no adapter"):
        export.export(small("llama"), tmp_path / "out")


# --- what vLLM refuses ------------------------------------------------------------------------------------------------


def changed(folder: Path, tensors=None, **settings) -> Path:
    """The adapter in `folder` with other settings, and with its tensors put through `tensors`."""
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | settings
    path.write_text(json.dumps(content), encoding="utf-8")
    if tensors is not None:
        file = folder / "adapter_model.safetensors"
        save_file(tensors(load_file(file)), file)
    return folder


@pytest.fixture
def served(tmp_path) -> Path:
    return save_adapter(trained(), tmp_path / "served", base_model_name="some/model")


def renamed(old: str, new: str):
    return lambda tensors: {k.replace(old, new): t for k, t in tensors.items()}


def test_an_adapter_of_ours_is_served(served):
    assert export.vllm_problems(served) == []
    assert export.vllm_problems(served, max_lora_rank=4) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"r": 64}, "rank is 64, and the server takes 16 .* --max-lora-rank 64"),
        ({"r": 100}, "start it with --max-lora-rank 128"),
        ({"r": 1000}, "no server takes more than 512"),
        ({"rank_pattern": {"q_proj": 32}}, "rank is 32, and the server takes 16"),
        ({"rank_pattern": {"q_proj": 8}}, "for single layers .* most versions ignore them"),
        ({"alpha_pattern": {"q_proj": 8}}, "for single layers .* most versions ignore them"),
        ({"modules_to_save": ["lm_head"]}, "whole modules .lm_head, .* merge it and serve the merged folder"),
        ({"modules_to_save": ["score"]}, "whole modules .score, .* only new versions take the head"),
        ({"bias": "all"}, "trains biases .bias = 'all'"),
        ({"use_dora": True}, "It uses DoRA"),
        ({"lora_bias": True}, "It uses a bias in B"),
        ({"init_lora_weights": "pissa"}, "initial values .'pissa'. are taken out of the base weights"),
        ({"base_model_name_or_path": None}, "does not say which model it belongs to"),
        ({"target_modules": None}, "lacks target_modules"),
        ({"peft_type": "IA3"}, "describes 'IA3': only LORA is served"),
        (
            {"tensors": renamed("lora_A.weight", "lora_A.default.weight")},
            "have a name that is refused, first .*default",
        ),
        ({"tensors": renamed("base_model.model.", "")}, "do not begin with base_model.model."),
        ({"tensors": renamed("self_attn.q_proj", "embed_tokens")}, "adapts embed_tokens: .*embedding_modules"),
        ({"tensors": lambda t: dict(list(t.items())[1:])}, "has only one of A and B"),
        ({"tensors": lambda t: {k: x[..., None, None].contiguous() for k, x in t.items()}}, "has 4 dimensions"),
        ({"tensors": lambda t: {k: torch.cat([x, x]) if "A" in k else x for k, x in t.items()}}, "the tensors have 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_each_problem_is_a_sentence(served, change, says):
    import re

    found = export.vllm_problems(changed(served, **change))
    assert any(re.search(says, sentence) for sentence in found), found
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in found)


def test_what_is_missing_or_damaged_is_said_and_nothing_raised(served, tmp_path):
    assert "not in" in export.vllm_problems(tmp_path / "nowhere")[0]
    assert "One level down there is: served. Give the server that folder." in export.vllm_problems(tmp_path)[0]
    (served / "adapter_model.safetensors").write_bytes(b"half of it")
    assert ["not a whole safetensors file" in said for said in export.vllm_problems(served)] == [True]
    (served / "adapter_model.safetensors").rename(served / "adapter_model.bin")
    assert "There is a pickle" in export.vllm_problems(served)[0]
    (served / "adapter_config.json").write_text("{", encoding="utf-8")
    assert "is not JSON" in export.vllm_problems(served)[0]
    (served / "adapter_config.json").write_text("[1]", encoding="utf-8")
    assert "describes 'list'" in export.vllm_problems(served)[0]


def test_adapters_of_ours_that_are_more_than_plain_lora_are_found_out(tmp_path):
    for name, more, says in (
        ("dora", {"use_dora": True}, ["DoRA", "lora_magnitude_vector"]),
        ("head", {"modules_to_save": ("lm_head",)}, ["whole modules", "lm_head.weight"]),
        ("wide", {"rank": 40}, ["rank is 40"]),
        ("pissa", {"init_lora_weights": "pissa"}, []),  # saved as the plain LoRA that it is
    ):
        found = export.vllm_problems(save_adapter(trained(**more), tmp_path / name, base_model_name="m"))
        assert len(found) == len(says) and all(word in said for word, said in zip(says, found, strict=True)), found
