"""The loader: what it gives, and what it says when there is nothing to give."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from lora_lab import models
from lora_lab.adapters import adapter_parameters, add_adapter
from lora_lab.config import LoraConfig
from lora_lab.storage import save_adapter


def test_base_is_float32_on_a_cpu_though_its_file_is_bfloat16():
    from safetensors import safe_open

    with safe_open(models.BASE / "model.safetensors", "pt") as file:
        assert file.get_tensor("model.norm.weight").dtype == torch.bfloat16
    model, tokenizer = models.load("base", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == 5_770_496
    assert not model.training
    assert tokenizer("hello").input_ids[0] == tokenizer.bos_token_id


def test_weights_are_bfloat16_on_a_gpu_and_float32_elsewhere():
    assert models.weight_type(torch.device("cuda")) == torch.bfloat16
    assert models.weight_type(torch.device("cpu")) == models.weight_type(torch.device("mps")) == torch.float32


def test_an_adapter_comes_with_the_model(tiny, tmp_path):
    model, tokenizer = models.load(tiny)
    tokens = torch.arange(2, 12)[None]
    plain = model(tokens).logits
    add_adapter(model, LoraConfig(rank=2, init_lora_weights=False))
    save_adapter(model, tmp_path / "adapter")
    adapted, _ = models.load(tiny, adapter=tmp_path / "adapter")
    assert torch.equal(adapted(tokens).logits, model.eval()(tokens).logits)
    assert not torch.equal(adapted(tokens).logits, plain)
    assert not any(p.requires_grad for p in adapter_parameters(adapted).values())


def test_padding_token_where_the_tokenizer_has_none(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "no-pad")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = models.load_tokenizer(folder)
    assert tokenizer.pad_token == "<|endoftext|>"


def test_code_that_comes_with_a_model_is_never_run(tiny, tmp_path):
    folder, mark = shutil.copytree(tiny, tmp_path / "foreign"), tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ValueError, match="foreign"):
        models.load(folder)
    assert not mark.exists()


def refuse(monkeypatch, error):
    """Make the hub answer with `error`, as it would."""

    def model_info(self, *_, **__):
        raise error

    monkeypatch.setattr(HfApi, "model_info", model_info)


def test_unknown_hub_name_says_what_is_near(monkeypatch):
    request = httpx.Request("GET", "https://hub")
    refuse(monkeypatch, RepositoryNotFoundError("404", response=httpx.Response(404, request=request)))
    with pytest.raises(ValueError, match="no model 'bases'.*hub does not know it.*Did you mean 'base'"):
        models.load("bases")


def test_no_network_is_said_in_one_sentence(monkeypatch):
    refuse(monkeypatch, httpx.ConnectError("Name or service not known"))
    with pytest.raises(ConnectionError, match="'some/model'.*hub cannot be reached.*'base' needs no network"):
        models.load("some/model")


def test_a_hub_model_that_was_fetched_before_needs_no_network(monkeypatch, tiny, tmp_path):
    import huggingface_hub.constants as hub

    snapshot = tmp_path / "models--some--model" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny, snapshot)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    refuse(monkeypatch, AssertionError("the network was asked"))
    model, _ = models.load("some/model")
    assert model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (lambda f: (f / "tiny").mkdir(), "tiny", "without config.json"),
        (lambda f: (f / "tiny").write_text("x"), "tiny", "is a file; a model is a folder"),
        (lambda f: None, "deep/er/tinny", "no such folder"),
        (lambda f: ((f / "t").mkdir(), (f / "t/adapter_config.json").write_text("{}")), "t", "adapter, not a model"),
        (lambda f: ((f / "t").mkdir(), (f / "t/config.json").write_text("{}")), "t", "'t' cannot be loaded"),
    ],
)
def test_folders_that_hold_no_model(make, name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    with pytest.raises(ValueError, match=words):
        models.load(name)


def test_a_mistyped_folder_finds_its_neighbour(tiny):
    with pytest.raises(ValueError, match=f"Did you mean '{tiny}'"):
        models.load(tiny.parent / "tinny")


def test_damaged_weights_name_the_model(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="damaged.* cannot be loaded"):
        models.load(folder)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=device):
        models.pick_device(device)
