"""Bad adapter files: each is refused by name and path before the model is touched; nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_lab.adapters import add_adapter, status
from lora_lab.config import LoraConfig
from lora_lab.storage import load_adapter, save_adapter
from tests.lora.tiny import logits, ours, same, snapshot, tiny

QV = LoraConfig(rank=3, alpha=6, target_modules=("q_proj", "v_proj"))
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def saved(tmp_path):
    save_adapter(ours("llama", QV), tmp_path)
    return tmp_path


def change_config(folder, drop=(), **fields) -> None:
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in drop}))


def change_tensors(folder, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({k: t.contiguous() for k, t in change(load_file(path)).items()}, path)


def refused(folder, match: str, error: type[Exception] = ValueError, model=None, name: str = "default") -> None:
    """Loading raises with this message, and the model is as before."""
    model = tiny("llama") if model is None else model
    before = snapshot(model)
    with pytest.raises(error, match=match):
        load_adapter(model, folder, name)
    assert same(before, snapshot(model))


def test_row_M_no_configuration(saved):
    (saved / "adapter_config.json").unlink()
    refused(saved, f"can't find 'adapter_config.json' in {saved}")
    refused(saved / "nowhere", "can't find 'adapter_config.json' in .*nowhere. There is no such folder.$")
    near = saved.with_name(f"{saved.name}s")
    refused(near, f"There is no such folder. Did you mean '{saved.name}'")


def test_row_M_the_adapter_is_one_folder_further_down(tmp_path):
    save_adapter(ours("llama", QV, "style"), tmp_path, "style")
    refused(tmp_path, "There are adapters below it: style")


def test_row_M2_no_weights(saved):
    (saved / "adapter_model.safetensors").unlink()
    refused(saved, "neither adapter_model.safetensors nor adapter_model.bin", FileNotFoundError)


def test_a_pickle_is_not_opened(saved):
    (saved / "adapter_model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(saved / "exploded"),)

    (saved / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(saved, "adapter_model.bin is a pickle, which can run any code.*save it again")
    assert not (saved / "exploded").exists()


@pytest.mark.parametrize("how", ("truncated", "garbage", "empty"))
def test_row_M3_damaged_weights(saved, how):
    path = saved / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-40], "garbage": b"\xff" * 500, "empty": b""}[how])
    size = path.stat().st_size
    refused(saved, f"adapter_model.safetensors is not a whole safetensors file .{size:,} bytes.*cut short")


def test_row_M4_configurations_that_are_none(saved):
    path = saved / "adapter_config.json"
    whole = path.read_text()
    path.write_text(whole[:50])
    refused(saved, f"{path} is not valid JSON")
    path.write_bytes(b"\xff\xfe\x00")
    refused(saved, f"{path} is not valid JSON")
    path.write_text("[1]")
    refused(saved, f"{path} is not an adapter's configuration: it has no 'peft_type'")
    path.write_text(whole)
    change_config(saved, drop=["peft_type"])
    refused(saved, "has no 'peft_type'")
    change_config(saved, peft_type="FOO")
    refused(saved, f"{path} describes a 'FOO' adapter; only 'LORA'")
    change_config(saved, peft_type="LORA", target_modules=None)
    refused(saved, "names no target_modules")
    change_config(saved, target_modules=["q_proj"], r=0)
    refused(saved, f"{path}: rank must be at least 1, got 0")


def test_row_M5_shapes_that_do_not_fit(saved):
    change_config(saved, r=4)
    refused(saved, r"q_proj.lora_A.weight has shape \[3, 32\], expected \[4, 32\]. The file's rank is 3, but .* says 4")
    change_config(saved, r=3)
    change_tensors(saved, lambda t: t | {FIRST: t[FIRST].T})
    refused(saved, r"has shape \[32, 3\], expected \[3, 32\]. It is transposed: A is \[rank, in\]")
    change_tensors(saved, lambda t: t | {FIRST: torch.zeros(3, 20)})
    refused(saved, r"has shape \[3, 20\].*made for a base model of another size")


def test_row_M6_missing_keys(saved):
    change_tensors(saved, lambda t: {k: v for k, v in t.items() if ".1." not in k})
    refused(saved, "lacks 4 of the 8 tensors this model needs, first 'base_model.model.model.layers.1.*strict=False")
    with pytest.warns(UserWarning, match="lacks 4 of the 8 .* starts untrained"):
        model = load_adapter(tiny("llama"), saved, strict=False)
    assert not torch.equal(logits(model), logits(tiny("llama")))


def test_row_M6_keys_with_another_prefix_or_none(saved):
    whole = load_file(saved / "adapter_model.safetensors")
    change_tensors(saved, lambda t: {k.removeprefix("base_model.model."): v for k, v in t.items()})
    first = "model.layers.0.self_attn.q_proj.lora_A.weight"  # in order, not in the file reader's, which changes
    refused(saved, f"lacks 8 of the 8.*it has '{first}' instead.*every key should start with 'base_model.model.'")
    save_file({}, saved / "adapter_model.safetensors")
    refused(saved, "lacks 8 of the 8 tensors")
    save_file(whole, saved / "adapter_model.safetensors")
    load_adapter(tiny("llama"), saved)


def test_row_M6_a_second_adapter_with_missing_keys_leaves_the_first_alone(saved):
    change_tensors(saved, lambda t: {k: v for k, v in t.items() if ".1." not in k})
    model = ours("llama", QV)
    refused(saved, "lacks 4 of the 8", model=model, name="second")
    assert status(model).adapters == ("default",)


def test_row_M7_extra_keys_warn(saved):
    expected = logits(load_adapter(tiny("llama"), saved))
    change_tensors(saved, lambda t: t | {"base_model.model.nowhere.lora_A.weight": torch.zeros(3, 4)})
    with pytest.warns(UserWarning, match="1 tensors not used, first 'base_model.model.nowhere"):
        assert torch.equal(logits(load_adapter(tiny("llama"), saved)), expected)


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_row_M8_tensors_that_are_not_finite(saved, value):
    change_tensors(saved, lambda t: t | {FIRST: torch.full((3, 32), value)})
    refused(saved, f"{FIRST} holds values that are not finite")


def test_row_M8_tensors_of_integers(saved):
    change_tensors(saved, lambda t: t | {FIRST: torch.ones(3, 32, dtype=torch.int8)})
    refused(saved, f"{FIRST} holds torch.int8, not floating-point")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_bias", True),
        ("target_parameters", ["mlp.experts.weight"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("ensure_weight_tying", True),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("alora_invocation_tokens", [5]),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"x": 1}),
        ("velora_config", {"x": 1}),
        ("monteclora_config", {"x": 1}),
        ("corda_config", {"x": 1}),
        ("lora_ga_config", {"x": 1}),
        ("loftq_config", {"loftq_bits": 4}),
        ("megatron_config", {"x": 1}),
    ],
)
def test_a_file_that_asks_for_what_is_not_built_is_refused_by_name(saved, key, value):
    change_config(saved, **{key: value})
    refused(saved, f"adapter_config.json asks for .*{key} = .*which is not built here")


def test_row_V_a_bias_in_b_is_refused_and_saving_warns_of_nothing(saved):
    """peft warns of a wrong shape when it saves one. Here it is not built, so no file has one."""
    change_config(saved, lora_bias=True)
    refused(saved, "asks for a bias in B .lora_bias = True., which is not built here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_adapter(ours("llama", QV), saved)
    load_adapter(tiny("llama"), saved)


@pytest.mark.parametrize("init", ("pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "orthogonal", "mica"))
def test_initial_values_that_change_the_base_are_refused_by_name(saved, init):
    change_config(saved, init_lora_weights=init)
    refused(saved, f"asks for the initial values '{init}'")


def test_unknown_settings_warn(saved):
    change_config(saved, new_setting=3, another=None)
    with pytest.warns(UserWarning, match="unknown settings ignored: new_setting"):
        load_adapter(tiny("llama"), saved)


def test_a_missing_alpha_is_read_as_peft_reads_it_with_a_warning(saved):
    change_config(saved, drop=["lora_alpha"])
    with pytest.warns(UserWarning, match="does not say lora_alpha: read as 8"):
        model = load_adapter(tiny("llama"), saved)
    assert model.model.layers[0].self_attn.q_proj.scaling == {"default": 8 / 3}


def test_a_target_in_a_file_that_this_model_lacks_warns(saved):
    change_config(saved, target_modules=["q_proj", "v_proj", "nope"])
    with pytest.warns(UserWarning, match="no module matches 'nope'"):
        load_adapter(tiny("llama"), saved)


def test_a_rank_that_is_too_wide_in_a_file_warns_and_loads(tmp_path):
    with pytest.warns(UserWarning, match="rank 64 is more than"):
        model = ours("llama", LoraConfig(rank=64, target_modules=("q_proj",)))
    save_adapter(model, tmp_path)
    with pytest.warns(UserWarning, match="rank 64 is more than"):
        assert torch.equal(logits(load_adapter(tiny("llama"), tmp_path)), logits(model))


def test_loading_under_a_taken_or_bad_name(saved):
    model = add_adapter(tiny("llama"), QV)
    refused(saved, "adapter 'default' exists already", model=model)
    refused(saved, "adapter name 'a.b'", name="a.b")
