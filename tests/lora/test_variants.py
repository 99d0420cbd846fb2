"""DoRA, PiSSA and convolutions: equal to peft where peft is right, and right where it is not."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_lab.adapters import add_adapter, count_parameters, disable_adapters, set_scale
from lora_lab.config import LoraConfig
from lora_lab.layers import LoraConv2d
from lora_lab.merging import merge, unload, unmerge
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.tiny import logits, randomize, same, snapshot, tiny

X = torch.linspace(-2, 2, 4 * 12).view(4, 12).sin()
PICTURE = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8).sin()
KINDS = ("Linear", "Conv1D", "Embedding", "Conv2d")


def layer_of(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A model of one layer of this kind, and an input."""
    torch.manual_seed(1)
    if kind == "Conv2d":
        return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, stride=2)), PICTURE
    if kind == "Embedding":
        return nn.Sequential(nn.Embedding(12, 7)), torch.arange(12).view(3, 4)
    return nn.Sequential(nn.Linear(12, 7) if kind == "Linear" else Conv1D(7, 12)), X


def both(kind: str, **fields) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The same random adapter, ours and peft's."""
    model, x = layer_of(kind)
    theirs = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **fields)
    )
    ours = randomize(add_adapter(model, LoraConfig(rank=3, alpha=5, target_modules=("0",), **fields)))
    its = theirs.base_model.model[0]
    pairs = [its.lora_embedding_A, its.lora_embedding_B] if kind == "Embedding" else [its.lora_A, its.lora_B]
    with torch.no_grad():
        for mine, one in zip(ours[0].matrices("default"), pairs, strict=True):
            (one["default"] if kind == "Embedding" else one["default"].weight).copy_(mine)
        if fields.get("use_dora"):
            magnitude = its.lora_magnitude_vector["default"].weight
            magnitude.mul_(1.5)
            ours[0].variants["default"].magnitude.copy_(magnitude.flatten())
    return ours, theirs, x


@pytest.mark.parametrize("kind", KINDS)
def test_dora_gives_pefts_output_and_gradients(kind):
    ours, theirs, x = both(kind, use_dora=True)
    weights = torch.linspace(-1, 1, ours(x).numel()).view_as(ours(x))
    (ours(x) * weights).sum().backward()
    (theirs(x) * weights).sum().backward()
    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    its = theirs.base_model.model[0]
    pairs = [(ours[0].variants["default"].magnitude, its.lora_magnitude_vector["default"].weight)]
    for mine, container in zip(ours[0].matrices("default"), ("A", "B"), strict=True):
        one = getattr(its, f"lora_embedding_{container}" if kind == "Embedding" else f"lora_{container}")["default"]
        pairs.append((mine, one if kind == "Embedding" else one.weight))
    for mine, one in pairs:
        error = (mine.grad.flatten() - one.grad.flatten()).norm() / one.grad.norm()
        assert error < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_dora_changes_nothing_to_the_bit(kind):
    model, x = layer_of(kind)
    plain = model(x)
    add_adapter(model, LoraConfig(rank=3, target_modules=("0",), use_dora=True))
    assert torch.equal(model(x), plain)


def test_dora_with_dropout_draws_pefts_masks():
    model, x = layer_of("Linear")
    fields = {"use_dora": True, "target_modules": ["0"]}
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.5, **fields))
    ours = randomize(add_adapter(model, LoraConfig(rank=3, alpha=5, dropout=0.5, **fields)))
    its = theirs.base_model.model[0]
    with torch.no_grad():
        for mine, one in zip(ours[0].matrices("default"), (its.lora_A, its.lora_B), strict=True):
            one["default"].weight.copy_(mine)
    outputs = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(4)
        outputs.append(model(x))
    assert torch.allclose(*outputs, atol=1e-5)
    assert not torch.allclose(outputs[0], ours.eval()(x), atol=1e-2)


def test_row_R_dora_on_a_row_of_zeros():
    """peft divides 0 by 0 there; Llama-3.1's o_proj has 511 such rows."""
    model, x = layer_of("Linear")
    with torch.no_grad():
        model[0].weight[2] = 0
    plain = model(x)
    add_adapter(model, LoraConfig(rank=3, target_modules=("0",), use_dora=True))
    assert torch.equal(model(x), plain)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
        optimizer.step()
    assert torch.isfinite(model(x)).all() and not torch.equal(model(x), plain)
    theirs = peft.get_peft_model(layer_of("Linear")[0], peft.LoraConfig(target_modules=["0"], use_dora=True))
    with torch.no_grad():
        theirs.base_model.model[0].base_layer.weight[2] = 0
        theirs.base_model.model[0].lora_magnitude_vector["default"].weight[2] = 0
    assert theirs(x).isnan().any()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(kind, fields) for kind in KINDS for fields in ({}, {"use_dora": True})]
    + [(kind, {"init_lora_weights": "pissa"}) for kind in ("Linear", "Conv1D")],
)
def test_variants_merge_unmerge_and_disable(kind, fields):
    model, x = layer_of(kind)
    plain = model(x)
    weight = model[0].weight.clone()
    randomize(add_adapter(model, LoraConfig(rank=3, alpha=5, target_modules=("0",), **fields)))
    changed = model(x)
    assert not torch.allclose(changed, plain, atol=1e-2)
    with disable_adapters(model):
        assert torch.equal(model(x), plain)
    merge(model)
    assert torch.allclose(model(x), changed, atol=1e-5)
    with disable_adapters(model):
        assert torch.equal(model(x), plain)
    unmerge(model)
    assert torch.equal(model(x), changed) and torch.equal(model[0].base.weight, weight)
    merge(model, keep_backup=False)
    assert torch.allclose(model(x), changed, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dora", (False, True))
def test_files_go_both_ways(kind, dora, tmp_path):
    ours, theirs, x = both(kind, use_dora=dora)
    save_adapter(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_adapter(layer_of(kind)[0], tmp_path / "theirs")
    assert torch.equal(again(x), ours(x))
    its = peft.PeftModel.from_pretrained(layer_of(kind)[0], tmp_path / "ours")
    assert torch.equal(its(x), theirs(x))


@pytest.mark.parametrize("padding_mode", ("zeros", "circular", "reflect", "replicate"))
@pytest.mark.parametrize("dilation", (1, 2))
def test_row_Q_a_convolutions_dilation_and_padding_mode_are_the_adapters_too(dilation, padding_mode):
    torch.manual_seed(0)
    base = nn.Conv2d(3, 5, (3, 2), padding=(2, 1), dilation=dilation, stride=(1, 2), padding_mode=padding_mode)
    model = randomize(add_adapter(nn.Sequential(base), LoraConfig(rank=2, target_modules=("0",))))
    unmerged = model(PICTURE)
    assert isinstance(model[0], LoraConv2d) and count_parameters(model).adapter == 2 * (3 * 3 * 2 + 5)
    kernel = base.weight + torch.einsum("or,rihw->oihw", *(m.squeeze() for m in model[0].matrices("default")[::-1])) * 8
    with torch.no_grad():
        base.weight.copy_(kernel)
    with disable_adapters(model):
        assert torch.allclose(model(PICTURE), unmerged, atol=1e-5)


def test_a_grouped_convolution_is_refused():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    before = snapshot(model)
    with pytest.raises(ValueError, match="'0' is a Conv2d of 2 groups"):
        add_adapter(model, LoraConfig(rank=2, target_modules=("0",)))
    assert same(before, snapshot(model))


@pytest.mark.parametrize("kind", ("Linear", "Conv1D"))
def test_pissa_starts_as_the_base_and_trains_as_pefts(kind):
    model, x = layer_of(kind)
    plain = model(x)
    fields = {"target_modules": ["0"], "init_lora_weights": "pissa"}
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=3, lora_alpha=5, **fields))
    add_adapter(model, LoraConfig(rank=3, alpha=5, **fields))
    assert torch.equal(model(x), plain)
    its = theirs.base_model.model[0]
    for mine, one in zip(model[0].matrices("default"), (its.lora_A, its.lora_B), strict=True):
        assert torch.equal(mine, one["default"].weight)
    for each in (model, theirs):
        optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(model(x), theirs(x), atol=1e-5) and not torch.allclose(model(x), plain, atol=1e-3)


def test_row_T_pissa_off_is_the_base_to_the_bit():
    model = tiny("llama")
    plain = logits(model)
    config = LoraConfig(rank=2, target_modules=("q_proj", "down_proj"), init_lora_weights="pissa")
    randomize(add_adapter(model, config))
    assert not torch.allclose(logits(model), plain, atol=1e-3)
    with disable_adapters(model):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(unload(model)), plain)


@pytest.mark.parametrize("rslora", (False, True))
def test_pissa_is_saved_as_the_plain_lora_it_is(rslora, tmp_path):
    config = LoraConfig(
        rank=2,
        alpha=3,
        target_modules=("q_proj", "down_proj"),
        init_lora_weights="pissa",
        use_rslora=rslora,
        rank_pattern={"down_proj": 3},
        alpha_pattern={"down_proj": 5},
    )
    model = randomize(add_adapter(tiny("llama"), config), size=0.1)
    set_scale(model, 0.5)
    save_adapter(model, tmp_path)
    loaded = load_adapter(tiny("llama"), tmp_path)
    assert sorted({r for layer in record_of(loaded).layers.values() for r in layer.rank.values()}) == [4, 6]
    assert torch.allclose(logits(loaded), logits(model), atol=1e-5)
    assert torch.allclose(peft.PeftModel.from_pretrained(tiny("llama"), tmp_path)(X.new_ones(1, 3).long()).logits,
                          loaded(X.new_ones(1, 3).long()).logits, atol=1e-6)  # fmt: skip


def test_a_pissa_file_of_pefts_means_what_it_means_there(tmp_path):
    fields = {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}
    theirs = peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=3, **fields)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.3)
    theirs.save_pretrained(tmp_path)
    loaded = load_adapter(tiny("llama"), tmp_path)
    assert torch.allclose(logits(loaded), logits(theirs), atol=1e-5)
    with disable_adapters(loaded):
        assert torch.equal(logits(loaded), logits(tiny("llama")))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"target_modules": ("0",), "rank": 9}, r"PiSSA at '0': rank 9, but \[8, 10\] has 8 at most"),
        ({"target_modules": ("1",)}, "'1' is a Embedding"),
        ({"target_modules": ("2",)}, "'2' is a Conv2d"),
    ],
)
def test_where_pissa_cannot_start(fields, match):
    model = nn.Sequential(nn.Linear(10, 8), nn.Embedding(4, 10), nn.Conv2d(3, 3, 1))
    before = snapshot(model)
    with pytest.raises(ValueError, match=match):
        add_adapter(model, LoraConfig(**{"rank": 2} | fields, init_lora_weights="pissa"))
    assert same(before, snapshot(model))


def test_dora_and_pissa_at_once():
    with pytest.raises(ValueError, match="do not go together"):
        LoraConfig(use_dora=True, init_lora_weights="pissa")


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("fields", ({"use_dora": True}, {"init_lora_weights": "pissa"}))
def test_half_precision_bases_keep_float32_adapters(dtype, fields):
    model, x = layer_of("Linear")
    model, x = model.to(dtype), x.to(dtype)
    plain = model(x)
    add_adapter(model, LoraConfig(rank=3, target_modules=("0",), **fields))
    assert torch.equal(model(x), plain)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    randomize(model)
    assert model(x).dtype == dtype and torch.isfinite(model(x)).all()
