"""What makes a fine-tune faster or smaller changes nothing else: the same losses with each option on and off, the same
result after a break, one sentence for what cannot be."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lora_lab import families, models, packing, training_setup
from lora_lab import finetune as finetune_module
from lora_lab.finetune import finetune
from lora_lab.layers import LoraLinear
from lora_lab.merging import merge
from lora_lab.quantise import NF4Linear
from lora_lab.trainer import LabTrainer
from tests.finetune.conftest import flags, last_json

TOKENS = torch.arange(2, 42)[None]
# Each changes how the same numbers are computed, not which.
SAME = {"loss_chunk": 40, "checkpointing": True, "fused": True}
OTHER = {"packing": True, "quantise": "nf4"}


@pytest.fixture(scope="module", autouse=True)
def short_samples():
    """What is written before and after is of no interest here, and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module, "SAMPLE_TOKENS", 3)
        yield


@pytest.fixture(scope="module")
def five(quick) -> dict:
    """Five steps, with a checkpoint after the third, as the whole loss at once gives them."""
    return quick | {"steps": 5, "evaluate_every": 3, "loss_chunk": 0, "dropout": 0.0, "quiet": True}


@pytest.fixture(scope="module")
def plain(five):
    return finetune(**five)


@pytest.fixture(scope="module")
def with_option(five):
    """The same run with one option, made once."""
    made = {}

    def run(name: str):
        if name not in made:
            made[name] = finetune(**five | {name: (SAME | OTHER)[name]})
        return made[name]

    return run


def losses(result) -> list[float]:
    return [value for row in result.curve for name, value in row.items() if name != "step"]


@pytest.mark.parametrize("name", SAME)
def test_the_same_losses_with_it_and_without(name, with_option, plain):
    found = with_option(name)
    assert len(losses(found)) == 7
    assert losses(found) == pytest.approx(losses(plain), abs=1e-5)
    assert (found.loss_before, found.loss_after) == pytest.approx((plain.loss_before, plain.loss_after), abs=1e-5)
    assert found.settings[name] == SAME[name] and plain.settings[name] in (False, None)


@pytest.mark.parametrize("options", [SAME, OTHER], ids=lambda options: " ".join(options))
def test_stopped_and_resumed_is_as_if_unbroken(options, five, tmp_path, monkeypatch):
    options = five | options
    unbroken = finetune(**options)
    original, calls = LabTrainer.training_step, []

    def stop(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(LabTrainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt, match="goes on from step 3"):
        finetune(**options, output=tmp_path / "out")
    monkeypatch.undo()
    resumed = finetune(**options, output=tmp_path / "out", resume=True)
    assert losses(resumed) == losses(unbroken) and resumed.loss_after == unbroken.loss_after
    assert all(".lora_" in key for key in load_file(tmp_path / "out" / "adapter_model.safetensors"))
    # What was loaded again on the way is as fast as what was there.
    assert {m.fused for m in resumed.model.modules() if isinstance(m, LoraLinear)} == {options.get("fused", False)}


def test_resuming_without_the_option_is_refused(five, tmp_path, monkeypatch):
    monkeypatch.setattr(LabTrainer, "restore_best", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune(**five, packing=True, output=tmp_path / "out")
    with pytest.raises(ValueError, match="was started with packing True, not False"):
        finetune(**five, output=tmp_path / "out", resume=True)


def test_a_chunk_says_so_and_is_predicted_to_take_less(with_option, plain):
    found = with_option("loss_chunk")
    assert found.memory_predicted["logits"] < plain.memory_predicted["logits"] / 4
    assert "forward" not in vars(found.model)


def test_a_packed_run_learns_from_packed_rows(five, monkeypatch):
    rows, collate = [], packing.collate
    monkeypatch.setattr(packing, "collate", lambda batch, *more: rows.extend(batch) or collate(batch, *more))
    found = finetune(**five | {"max_length": 200}, packing=True)
    assert 5 < len(rows) <= 5 * five["batch_size"]
    assert any(row["position_ids"].count(0) > 1 for row in rows)
    assert found.loss_after < found.loss_before


def test_on_four_bits_what_is_frozen_is_small_and_what_trains_is_the_same(with_option, plain, tiny):
    found = with_option("quantise")
    linears = [m.base for m in found.model.modules() if isinstance(m, LoraLinear)]
    assert len(linears) == 14 and all(isinstance(base, NF4Linear) for base in linears)
    assert (found.trainable, found.total, found.share) == (plain.trainable, plain.total, plain.share)
    assert found.settings["quantised_by"] == "lora_lab"
    assert found.loss_before == pytest.approx(plain.loss_before, abs=0.05)
    assert found.loss_before != plain.loss_before and found.loss_after < found.loss_before
    frozen = sum(b.nbytes for b in found.model.buffers() if b.dtype in (torch.uint8, torch.int8))
    assert 4 * frozen < sum(m.out_features * m.in_features for m in linears) * 4 / 1.5
    weights = [t for t in (*found.model.parameters(), *found.model.buffers()) if t.numel() > 64]
    assert found.memory_predicted["weights"] == pytest.approx(sum(t.nbytes for t in weights), rel=0.02)
    with pytest.raises(ValueError, match="dequantise_linears"):
        merge(found.model)


def test_an_adapter_from_four_bits_goes_onto_the_plain_model(five, tiny, tmp_path):
    finetune(**five, quantise="nf4", output=tmp_path / "out")
    model, _ = models.load(tiny, adapter=tmp_path / "out")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), tmp_path / "out"
    ).eval()
    with torch.no_grad():
        assert torch.equal(theirs(TOKENS).logits, model(TOKENS).logits)


def test_a_full_fine_tune_in_chunks(five):
    options = five | {"method": "full", "lr": 1e-3}
    whole, chunked = (finetune(**options | {"loss_chunk": chunk}) for chunk in (0, 25))
    assert losses(chunked) == pytest.approx(losses(whole), abs=1e-5)


def test_the_command_takes_and_says_them_all(quick, lab, tmp_path):
    options = quick | {"steps": 1, "evaluate_every": 1, "loss_chunk": 50, "quantise": "nf4", "targets": "attention"}
    words = [*flags(options), "--packing", "--checkpointing", "--fused", "--output", tmp_path / "out", "--json"]
    status, out, err = lab("finetune", *words)
    assert status == 0, err
    for said in (
        "LoRA of rank 2 and alpha 4 on attention",
        "packed ",
        " examples into ",
        "frozen linear layers in NF4 by lora_lab, logits of 50 tokens at a time, activations computed again, base and "
        "adapter in one operation",
    ):
        assert said in out
    settings = json.loads((tmp_path / "out" / "training.json").read_text())["settings"]
    assert {name: settings[name] for name in ("packing", "loss_chunk", "quantise", "quantised_by", "compile")} == {
        "packing": True,
        "loss_chunk": 50,
        "quantise": "nf4",
        "quantised_by": "lora_lab",
        "compile": False,
    }
    assert last_json(out)["trainable"] == 2 * 2 * (64 + 48)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss_chunk": -1}, "loss_chunk must be a whole number of tokens of at least 1, such as 1024, got -1"),
        ({"loss_chunk": 1.5}, "loss_chunk must be a whole number"),
        ({"quantise": "nf5"}, "quantise must be one of nf4, or left out, got 'nf5'. Did you mean 'nf4'?"),
        ({"quantise": "nf4", "method": "full"}, "quantise freezes .* method 'full' cannot train them"),
        ({"packing": 1}, "packing is True or False, got 1"),
        ({"compile": "yes"}, "compile is True or False, got 'yes'"),
        ({"fused": "no"}, "fused is True, False or None"),
        ({"loss_chunk": -1}, "got -1; 0 is all of them at once"),
        ({"loss_chunk": 8, "fsdp": True}, "loss_chunk and fsdp do not go together"),
        ({"fused": True, "method": "full"}, "fused is the adapter's, and method 'full' has none: leave it out"),
        ({"dropout": 0.1, "method": "full"}, "dropout is the adapter's"),
        ({"targets": "q_proj", "method": "full"}, "targets is the adapter's"),
        ({"fused": True, "dropout": 0.1}, "fused and dropout do not go together"),
        ({"compile": True, "fsdp": True, "model": "no/such"}, "compile and fsdp do not go together"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"seed": 10**14}, "seed must be a whole number from 0 to 4294967295, got 100000000000000"),
        ({"seed": 1.5}, "seed must be a whole number"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence(changes, words, five, tmp_path):
    with pytest.raises(ValueError, match=words):
        finetune(**five | changes, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_linear_layers_is_not_quantised(five, tiny, tmp_path):
    config = GPT2Config(vocab_size=4096, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    models.load_tokenizer(tiny).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="no torch.nn.Linear besides its output head .* GPT-2's layers are Conv1D"):
        finetune(**five | {"model": tmp_path / "gpt2", "quantise": "nf4"})


def test_a_model_that_looks_ahead_or_has_too_few_embeddings_is_not_trained(five, tiny, tmp_path):
    tokenizer = models.load_tokenizer(tiny)
    sizes = {"vocab_size": 4096, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertLMHeadModel(BertConfig(**sizes, intermediate_size=64, max_position_embeddings=64))
    llama = LlamaForCausalLM(LlamaConfig(**sizes | {"vocab_size": 300}, intermediate_size=64))
    for model, words in (
        (bert, "BertLMHeadModel sees the tokens that it is to predict"),
        (llama, "embeddings for 300"),
    ):
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        with pytest.raises(ValueError, match=words):
            finetune(**five | {"model": tmp_path / "model"})


def test_defaults_of_the_embedded_model_and_of_others(tiny, monkeypatch):
    def filled(model, method="lora", **more):
        names = "rank alpha dropout batch_size accumulate steps evaluate_every max_length lr targets seed loss_chunk"
        given = dict.fromkeys([*names.split(), "quantise", "fused"]) | {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.0,
            "seed": 0,
        }
        given |= dict.fromkeys(("checkpointing", "packing", "compile", "fsdp"), False) | more
        settings = training_setup.settings(**given, model=str(model), task="pirate", method=method)
        training_setup.complete(settings, torch.device("cpu"))
        return settings

    base, other, full = filled("base"), filled(tiny), filled(tiny, "full")
    assert (base["lr"], base["max_length"], base["fused"]) == (5e-3, 128, False)
    assert (other["lr"], other["max_length"], full["lr"]) == (2e-4, 256, 2e-5)  # it takes no more than 256
    assert filled(models.BASE)["lr"] == 5e-3
    assert filled(tiny, lr=1e-2, max_length=7)["lr"] == 1e-2
    assert training_setup.arguments(base, tiny, torch.device("cpu")).optim == "adamw_torch"
    model = models.load_model(tiny)
    assert training_setup.loss_chunk(model, base) is None and training_setup.loss_chunk(model, other) == 1024
    assert training_setup.loss_chunk(model, other | {"loss_chunk": 0}) is None
    assert training_setup.loss_chunk(model, other | {"fsdp": True}) is None
    model.loss_function = lambda logits, labels, vocab_size, **_: logits.square().mean()
    assert training_setup.loss_chunk(model, other) is None
    with pytest.raises(ValueError, match="more than the cross-entropy of its logits: leave loss_chunk out"):
        training_setup.loss_chunk(model, other | {"loss_chunk": 8})
    given = other | {"targets": "mlp"}
    training_setup.make_trainable(model, given | {"fused": True})
    adapted = {p.rpartition(".")[2] for p, m in model.named_modules() if isinstance(m, LoraLinear)}
    assert adapted == set(families.targets(models.load_model(tiny), "mlp"))
    assert all(m.fused for m in model.modules() if isinstance(m, LoraLinear))


def test_compiled_blocks_give_the_same_losses_and_the_same_names(five, plain, tmp_path, monkeypatch):
    """Traced and differentiated ahead of time, without the minute that a C++ compiler takes for the last step."""
    monkeypatch.setattr(training_setup, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = finetune(**five, compile=True, checkpointing=True, output=tmp_path / "out")
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["calls_captured"] > 50 * counters["stats"]["unique_graphs"] > 0, "a part of a block"
    assert not counters["graph_break"] and counters["frames"]["ok"] == counters["frames"]["total"]
    assert losses(found) == pytest.approx(losses(plain), abs=1e-5)
    names = [*load_file(tmp_path / "out" / "adapter_model.safetensors"), *(n for n, _ in found.model.named_modules())]
    assert not any("_orig_mod" in name for name in names)
    assert all(module._compiled_call_impl is None for module in found.model.modules())


def test_compile_where_there_is_nothing_to_compile_with_or_to(five, tmp_path, monkeypatch):
    from torch._inductor import config

    before = config.cpp.cxx
    with pytest.raises(ValueError, match="transformers does not say what the blocks of a Linear are"):
        with training_setup.compiled(torch.nn.Linear(2, 2), True):
            pass
    monkeypatch.setenv("CXX", "no-such-compiler")  # what Windows looks at
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: False)
    with (  # monkeypatch would leave the setting deleted, for whatever is compiled later in this process
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ValueError, match="compile needs a C.. compiler on a CPU, such as g.., and none was found"),
    ):
        finetune(**five, compile=True, output=tmp_path / "out")
    assert config.cpp.cxx == before
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="compile needs Triton"):
        training_setup._check_compiler(torch.device("cuda"))
