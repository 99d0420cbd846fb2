"""A swapped adapter is the loaded one, under torch.compile too, and what is saved afterwards is what was swapped in."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lora_lab.adapters import add_adapter, delete_adapter, get_config, set_adapter, set_scale, status
from lora_lab.combining import combine
from lora_lab.config import LoraConfig
from lora_lab.hot_swap import hot_swap, prepare_hot_swap
from lora_lab.merging import merge, unmerge
from lora_lab.mixed_batch import mixed_batch
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, read_adapter, save_adapter
from tests.lora.tiny import logits, randomize, same, snapshot, tiny, tokens

ALL = ("q_proj", "v_proj", "down_proj")
COMPILER = "inductor" if any(map(shutil.which, ("g++", "clang++", "cl"))) else "eager"
# Unlike in everything that a file can say: rank, alpha, patterns, rsLoRA, targets.
OTHERS = {
    "same": LoraConfig(4, 8, target_modules=ALL),
    "larger": LoraConfig(8, 4, target_modules=ALL),
    "smaller": LoraConfig(2, 16, target_modules=ALL),
    "patterns": LoraConfig(3, 6, target_modules=ALL, rank_pattern={"q_proj": 7}, alpha_pattern={r"layers\.0\..*": 21}),
    "rslora": LoraConfig(4, 8, target_modules=ALL, use_rslora=True),
    "fewer": LoraConfig(5, 8, target_modules=("v_proj",)),
}


def file_of(config: LoraConfig, folder, family: str = "llama", seed: int = 7):
    """A saved adapter of this configuration."""
    return save_adapter(randomize(add_adapter(tiny(family), config), seed=seed), folder)


def loaded(model: nn.Module, name: str = "default", rank: int = 4, **more) -> nn.Module:
    """The model with an adapter on all of ALL, to be swapped out."""
    return randomize(add_adapter(model, LoraConfig(rank, 8, target_modules=ALL, **more), name), name)


@pytest.mark.parametrize("other", OTHERS)
def test_row_N_a_swapped_adapter_is_the_loaded_one(other, tmp_path):
    folder = file_of(OTHERS[other], tmp_path / "other")
    model = loaded(tiny("llama"))
    prepare_hot_swap(model, 8)
    before = {path: parameter for path, parameter in model.named_parameters()}
    shapes = {path: parameter.shape for path, parameter in before.items()}
    hot_swap(model, folder)
    wanted = logits(load_adapter(tiny("llama"), folder))
    assert torch.allclose(logits(model), wanted, atol=2e-6 * wanted.abs().max().item())
    after = dict(model.named_parameters())
    assert all(after[path] is before[path] and after[path].shape == shapes[path] for path in before)


@pytest.mark.parametrize("other", OTHERS)
def test_row_N2_a_swapped_adapter_is_saved_as_itself(other, tmp_path):
    folder = file_of(OTHERS[other], tmp_path / "other")
    model = loaded(tiny("llama"))
    prepare_hot_swap(model, 8)
    hot_swap(model, folder)
    again = save_adapter(model, tmp_path / "again")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    assert get_config(model) == get_config(load_adapter(tiny("llama"), folder))


def test_one_after_the_other_leaves_no_trace(tmp_path):
    model = loaded(tiny("llama"))
    prepare_hot_swap(model, 8)
    for seed, other in enumerate([*OTHERS, *reversed(OTHERS)]):
        folder = file_of(OTHERS[other], tmp_path / f"{seed}", seed=seed)
        hot_swap(model, read_adapter(tiny("llama"), folder))  # from memory
        wanted = logits(load_adapter(tiny("llama"), folder))
        assert torch.allclose(logits(model), wanted, atol=2e-6 * wanted.abs().max().item())


def test_nothing_is_compiled_again(tmp_path):
    """Dynamo is asked how often it compiled; the compiled code gives what a freshly loaded model gives."""
    torch._dynamo.reset()
    model = loaded(tiny("llama"))
    prepare_hot_swap(model, 8)
    counter = CompileCounterWithBackend(COMPILER)
    fast = torch.compile(model.model.layers[0].self_attn.q_proj, backend=counter, fullgraph=True)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        first = fast(x)
    compiled = counter.frame_count
    assert compiled > 0
    seen = [first]
    for seed, other in enumerate(OTHERS):
        folder = file_of(OTHERS[other], tmp_path / other, seed=seed)
        hot_swap(model, folder)
        with torch.no_grad():
            seen.append(fast(x))
            wanted = load_adapter(tiny("llama"), folder).model.layers[0].self_attn.q_proj(x)
        assert torch.allclose(seen[-1], wanted, atol=1e-5), other
    set_scale(model, 0.5)
    with torch.no_grad():
        fast(x)
    assert counter.frame_count == compiled
    assert not any(torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False))


def test_a_whole_compiled_model_and_what_happens_unprepared(tmp_path):
    for prepared in (True, False):
        torch._dynamo.reset()
        model = loaded(tiny("llama"), rank=8)
        if prepared:
            prepare_hot_swap(model, 8)
        counter = CompileCounterWithBackend("eager")
        fast = torch.compile(model, backend=counter)
        logits(fast)
        compiled = counter.frame_count
        folder = file_of(OTHERS["larger"], tmp_path / "larger")
        hot_swap(model, folder)
        wanted = logits(load_adapter(tiny("llama"), folder))
        assert torch.allclose(logits(fast), wanted, atol=2e-6 * wanted.abs().max().item())
        assert (counter.frame_count == compiled) is prepared  # unprepared, the new scaling is a new Python number


def test_prepared_it_computes_trains_merges_and_combines_as_before(tmp_path):
    plain, model = loaded(tiny("llama")), loaded(tiny("llama"))
    trained = [p for p in model.parameters() if p.requires_grad]
    model(tokens(), labels=tokens()).loss.backward()
    prepare_hot_swap(model, 8)  # gradients there were have the old shape, and go
    assert [id(p) for p in model.parameters() if p.requires_grad] == [id(p) for p in trained]
    assert torch.allclose(logits(model), logits(plain), atol=1e-6)
    assert status(model).ranks == status(plain).ranks
    for its in (plain, model):
        set_scale(its, 0.5)
        steps = torch.optim.AdamW([p for p in its.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            its(tokens(), labels=tokens()).loss.backward()
            steps.step()
            steps.zero_grad()
    for layer in record_of(model).layers.values():
        a, b = layer.matrices("default")
        assert (len(a), b.shape[1]) == (8, 8) and not a[4:].any() and not b[:, 4:].any()
    wanted = logits(plain)
    close = {"atol": 1e-5 * wanted.abs().max().item()}
    assert torch.allclose(logits(model), wanted, **close)
    assert torch.allclose(logits(load_adapter(tiny("llama"), save_adapter(model, tmp_path))), wanted, **close)
    merge(model)
    assert torch.allclose(logits(model), wanted, **close)
    unmerge(model)
    with mixed_batch(model, ["default"] * 3):
        assert torch.allclose(logits(model), wanted, **close)
    assert set(combine(model, {"default": 1.0}, "copy").ranks.values()) == {4}
    assert torch.allclose(logits(model), wanted, **close)
    delete_adapter(model, "default")
    assert torch.allclose(logits(model), wanted, **close)


def test_other_adapters_stay_as_they_are(tmp_path):
    model = loaded(loaded(tiny("llama")), "b", rank=2)
    prepare_hot_swap(model, 8)
    its = logits(model)
    set_adapter(model, "default")
    hot_swap(model, file_of(OTHERS["larger"], tmp_path), "default")
    assert record_of(model).active == ["default"]
    set_adapter(model, "b")
    assert torch.equal(logits(model), its)
    assert all(not p.requires_grad for layer in record_of(model).layers.values() for p in layer.matrices("default"))


def test_unprepared_it_works_where_there_is_room(tmp_path):
    model = loaded(tiny("llama"))
    set_scale(model, 3.0)
    folder = file_of(OTHERS["smaller"], tmp_path / "other")
    hot_swap(model, folder)
    wanted = logits(load_adapter(tiny("llama"), folder))
    assert torch.allclose(logits(model), wanted, atol=2e-6 * wanted.abs().max().item())
    again = save_adapter(model, tmp_path / "again")
    assert (again / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()


def test_dropout_stays_that_of_the_adapter_in_place(tmp_path):
    model = loaded(tiny("llama"), dropout=0.5)
    hot_swap(model, file_of(LoraConfig(2, dropout=0.1, target_modules=ALL), tmp_path))
    assert (
        get_config(model).dropout == 0.5 == record_of(model).layers["model.layers.0.mlp.down_proj"].dropout["default"].p
    )


def test_layers_left_out_are_not_saved_not_combined_and_come_back(tmp_path):
    model = loaded(tiny("llama"), rank=8)
    hot_swap(model, file_of(OTHERS["fewer"], tmp_path / "fewer"))
    assert set(combine(model, {"default": 1.0}, "copy").ranks) == {
        f"model.layers.{i}.self_attn.v_proj" for i in range(2)
    }
    set_adapter(model, "default")
    set_scale(model, 2.0)
    saved = load_file(save_adapter(model, tmp_path / "again") / "adapter_model.safetensors")
    assert len(saved) == 4 and all("v_proj" in key for key in saved)
    folder = file_of(OTHERS["larger"], tmp_path / "larger")
    hot_swap(model, folder)
    wanted = logits(load_adapter(tiny("llama"), folder))
    assert torch.allclose(logits(model), wanted, atol=2e-6 * wanted.abs().max().item())


def test_embeddings_convolutions_and_whole_heads(tmp_path):
    def bert(rank: int, seed: int) -> nn.Module:
        config = LoraConfig(rank, target_modules=("query", "word_embeddings"), modules_to_save=("classifier",))
        model = randomize(add_adapter(tiny("bert"), config), seed=seed)
        torch.manual_seed(seed)
        nn.init.normal_(record_of(model).saved["classifier"].copies["default"].weight)
        return model

    def images(rank: int, seed: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
        return randomize(add_adapter(model, LoraConfig(rank, target_modules=r"\d")), seed=seed)

    x = torch.randn(2, 3, 8, 8)
    for build, run in ((bert, logits), (images, lambda m: m(x).detach())):
        model, other = build(2, 1), build(3, 2)
        prepare_hot_swap(model, 4)
        hot_swap(model, save_adapter(other, tmp_path / build.__name__))
        assert torch.allclose(run(model), run(other), atol=1e-5)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def refused(model: nn.Module, source, says: str, name: str = "default", kind: type = ValueError) -> None:
    before, configs = snapshot(model), dict(record_of(model).configs)
    with pytest.raises(kind, match=says):
        hot_swap(model, source, name)
    assert same(before, snapshot(model)) and record_of(model).configs == configs


def test_row_J11_a_merged_adapter(tmp_path):
    model, folder = loaded(tiny("llama")), file_of(OTHERS["same"], tmp_path)
    merge(model)
    refused(model, folder, "'default' is merged: unmerge first")
    with pytest.raises(ValueError, match="'default' is merged"):
        prepare_hot_swap(model, 8)


def test_more_than_there_is_room_for(tmp_path):
    model = loaded(tiny("llama"))
    larger = file_of(OTHERS["larger"], tmp_path / "larger")
    says = r"rank 8 at 'model.layers.0.self_attn.q_proj', but adapter 'default' has room for 4: call prepare_hot_swap"
    refused(model, larger, says)
    prepare_hot_swap(model, 6)
    refused(model, larger, "has room for 6")
    more = file_of(LoraConfig(2, target_modules=(*ALL, "o_proj")), tmp_path / "more")
    refused(model, more, "adapts 2 places that adapter 'default' is not on: 'model.layers.0.self_attn.o_proj', ")
    head = LoraConfig(2, target_modules=ALL, modules_to_save=("lm_head",))
    refused(model, file_of(head, tmp_path / "head"), "1 places that adapter 'default' is not on: 'lm_head.weight'")
    refused(
        loaded(tiny("llama"), modules_to_save=("lm_head",)), file_of(OTHERS["same"], tmp_path / "s"), "no such .*lm_h"
    )


def test_files_that_cannot_be_loaded(tmp_path):
    model = loaded(tiny("llama"))
    folder = file_of(OTHERS["same"], tmp_path)
    weights = folder / "adapter_model.safetensors"
    good = load_file(weights)
    key = next(iter(good))
    for bad, says in (
        ({**good, key: good[key] * float("nan")}, "not finite"),
        ({**good, key: good[key].T.contiguous()}, "It is transposed"),
        ({k: t for k, t in good.items() if k != key}, "lacks 1 of the 12 tensors"),
    ):
        save_file(bad, weights)
        refused(model, folder, says)
    weights.write_bytes(weights.read_bytes()[:500])
    refused(model, folder, "not a whole safetensors file")
    refused(model, tmp_path / "nowhere", "can't find 'adapter_config.json'")
    refused(model, folder, "no adapter 'other'", name="other")


def test_what_was_read_for_another_model(tmp_path):
    other = nn.ModuleDict({"q_proj": nn.Linear(8, 8)})
    read = read_adapter(other, save_adapter(add_adapter(other, LoraConfig(2, target_modules=["q_proj"])), tmp_path))
    model = nn.ModuleDict({"q_proj": nn.Linear(9, 8)})
    refused(add_adapter(model, LoraConfig(2, target_modules=["q_proj"])), read, r"A \[2, 8\] and B \[8, 2\] do not fit")


@pytest.mark.parametrize("more", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=["Dora", "Pissa"])
def test_variants_are_refused_and_left_alone(more, tmp_path):
    model = loaded(tiny("llama"), **more)
    plain = file_of(OTHERS["same"], tmp_path / "plain")
    refused(
        model,
        plain,
        f"adapter 'default' is {next(iter(record_of(model).layers.values())).variants['default']._get_name()}",
    )
    before = logits(model)
    prepare_hot_swap(model, 8)
    assert torch.equal(logits(model), before)
    if "use_dora" in more:
        dora = save_adapter(model, tmp_path / "dora")
        refused(loaded(tiny("llama")), dora, "is Dora: only plain LoRA can be swapped")


def test_biases_are_refused(tmp_path):
    def build(bias: str) -> nn.Module:
        return add_adapter(tiny("bert"), LoraConfig(2, target_modules=("query",), bias=bias))

    plain, biased = save_adapter(build("none"), tmp_path / "plain"), save_adapter(build("all"), tmp_path / "biased")
    refused(build("all"), plain, "adapter 'default' has biases of its own")
    refused(build("none"), biased, "biased.* has biases of its own")


@pytest.mark.parametrize("rank", [0, 3, 2.0, True])
def test_a_rank_that_cannot_be_prepared(rank):
    model = loaded(tiny("llama"))
    before = snapshot(model)
    says = "has rank 4 at .*: prepare for at least that, not 3" if rank == 3 else "whole number from 1 on"
    with pytest.raises(ValueError, match=says):
        prepare_hot_swap(model, rank)
    assert same(before, snapshot(model))


def test_within_a_mixed_batch(tmp_path):
    model, folder = loaded(tiny("llama")), file_of(OTHERS["same"], tmp_path)
    with mixed_batch(model, [None]):
        refused(model, folder, "leave mixed_batch first", kind=RuntimeError)
