"""The loader: what it gives, and what it says when there is nothing to give."""

from __future__ import annotations

import json
import re
import shutil

import httpx
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

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
    for name in ("pad_token", "eos_token", "bos_token"):
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder)
    assert models.load_tokenizer(folder).pad_token_id == 0


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


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("BertForMaskedLM", "an encoder, which cannot write text"),
        ("BertForSequenceClassification", "no causal LM"),
        ("LlamaForSequenceClassification", "no causal LM"),
    ],
)
def test_what_is_no_causal_language_model_is_not_made_into_one(made, kind, tmp_path):
    model_class = getattr(transformers, made)
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8}
    config = model_class.config_class(**sizes, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
    model_class(config).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=f"other' is a {made}: {kind}"):
        models.load_model(tmp_path / "other")


def test_weights_in_another_type_where_asked(tiny):
    assert {p.dtype for p in models.load(tiny, "cpu", dtype=torch.bfloat16)[0].parameters()} == {torch.bfloat16}


# --- what a model may not bring ---------------------------------------------------------------------------------------


def with_code(tiny, folder, mark, **fields):
    """A copy of the tiny model that comes with a file own.py, which writes `mark` when it runs."""
    shutil.copytree(tiny, folder)
    classes = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text()) | {"auto_map": classes} | fields
        (folder / file).write_text(json.dumps(content))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    return folder


def nobody_is_asked(monkeypatch):
    """transformers, left alone, asks at the terminal whether to run the code: here that would be a failure."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked to trust code"))


def test_a_model_that_needs_code_of_its_own_is_refused_and_nothing_runs(tiny, tmp_path, monkeypatch):
    nobody_is_asked(monkeypatch)
    folder = with_code(tiny, tmp_path / "foreign", tmp_path / "ran", model_type="own", tokenizer_class="Own")
    for load in (models.load, models.load_model, models.load_tokenizer, models.prepare):
        with pytest.raises(ValueError, match="^model '[^']*foreign' brings code of its own, which is never run here"):
            load(folder)
    assert not (tmp_path / "ran").exists()
    # That such a file does run where it is trusted, so that the mark could have been there.
    from transformers import AutoConfig

    with pytest.raises(AttributeError):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


def test_a_model_of_a_known_kind_is_built_by_transformers_whatever_code_lies_beside_it(tiny, tmp_path, monkeypatch):
    nobody_is_asked(monkeypatch)
    model, _ = models.load(with_code(tiny, tmp_path / "foreign", tmp_path / "ran"))
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert not (tmp_path / "ran").exists()


def test_the_command_says_so_plainly(tiny, tmp_path, lab):
    folder = with_code(tiny, tmp_path / "foreign", tmp_path / "ran", model_type="own")
    status, _, err = lab("generate", "--model", folder, "Once")
    assert status == 1 and err.count("\n") == 1 and "brings code of its own, which is never run here" in err
    assert not (tmp_path / "ran").exists()


def test_no_code_of_ours_trusts_remote_code():
    package = models.BASE.parent.parent
    said = [line for file in package.glob("*.py") for line in file.read_text().splitlines() if "trust_remote" in line]
    assert said and all("trust_remote_code=False" in line for line in said)
    callers = {
        f.stem for f in package.glob("*.py") if re.search(r"from_pretrained|snapshot_download|hf_hub", f.read_text())
    }
    assert callers == {
        "hub",
        "models",
        "pretrain",
        "model_card",
    }  # hub fetches files alone; the last two read their own


def test_compiled_code_of_the_hub_is_not_fetched(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "foreign")
    content = json.loads((folder / "config.json").read_text()) | {"attn_implementation": "some/kernel"}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="brings code of its own.*some/kernel"):
        models.load(folder)


def test_weights_in_a_pickle_are_not_opened(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "pickled")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")  # harmless, and refused all the same
    with pytest.raises(ValueError, match="pickled' has no model.safetensors. Weights in a pickle.*not read here"):
        models.load(folder)


def test_an_adapter_inside_the_model_is_not_slipped_in(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "mixed")
    save_adapter(add_adapter(models.load_model(tiny), LoraConfig(rank=2, init_lora_weights=False)), folder)
    with pytest.raises(ValueError, match="mixed' holds an adapter beside its weights"):
        models.load(folder)


# --- revisions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_revisions(monkeypatch, tiny, tmp_path):
    """some/model as the hub's cache holds it: v1 is the tiny model, main another one; their first weights."""
    import huggingface_hub.constants as hub

    folder = tmp_path / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    first = {}
    for i, ref in enumerate(("v1", "main")):
        commit = str(i + 1) * 40
        shutil.copytree(tiny, folder / "snapshots" / commit)
        (folder / "refs" / ref).write_text(commit)
        weights = folder / "snapshots" / commit / "model.safetensors"
        state = {k: v + i for k, v in load_file(weights).items()}
        save_file(state, weights, metadata={"format": "pt"})
        first[ref] = first[commit] = state["model.norm.weight"][0].item()
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    refuse(monkeypatch, httpx.ConnectError("Name or service not known"))
    return first


def test_a_hub_model_pinned_to_a_revision(two_revisions):
    assert two_revisions["v1"] != two_revisions["main"]
    for revision, value in two_revisions.items():
        for arguments in ({"name": "some/model", "revision": revision}, {"name": f"some/model@{revision}"}):
            model, _ = models.load(**arguments)
            assert model.model.norm.weight[0].item() == value
    assert models.load_model("some/model").model.norm.weight[0].item() == two_revisions["main"]
    with pytest.raises(ConnectionError, match="hub cannot be reached"):
        models.load("some/model", revision="v2")


def test_both_commands_take_a_revision(two_revisions, lab, monkeypatch, tmp_path, page):
    asked = []
    original = models._local_first
    monkeypatch.setattr(models, "_local_first", lambda f, n, r, **o: (asked.append((n, r)), original(f, n, r, **o))[1])
    status, _, err = lab("generate", "--model", "some/model", "--revision", "v1", "--max-new-tokens", 2, "the cat")
    assert status == 0, err
    assert set(asked) == {("some/model", "v1")}
    words = ["--model", "some/model", "--revision", "v1", "--task", page, "--steps", 1, "--rank", 2, "--max-length", 16]
    status, _, err = lab("finetune", *words, "--batch-size", 2, "--output", tmp_path / "run", "--quiet")
    assert status == 0, err
    assert set(asked) == {("some/model", "v1"), ("some/model@v1", None)}
    content = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (content["base_model_name_or_path"], content["revision"]) == ("some/model", "v1")


def test_an_unknown_revision_is_told_from_an_unknown_model(monkeypatch):
    request = httpx.Request("GET", "https://hub")
    refuse(monkeypatch, RevisionNotFoundError("404", response=httpx.Response(404, request=request)))
    with pytest.raises(ValueError, match="'some/model@v9': the hub knows the model, but no such revision"):
        models.load("some/model@v9")


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("base", "v1", "revision 'v1' goes with a hub name: base is a folder"),
        ("base@v1", None, "revision 'v1' goes with a hub name: base is a folder"),
        ("some/model", "../../../etc", "expected a commit, a tag or a branch"),
        ("some/model@", None, "revision '' of some/model: expected a commit"),
        ("some/model@v1", "v2", "names the revision 'v1', and 'v2' was given"),
        ("some/..", "v1", "no model 'some/..': there is no such folder"),
    ],
)
def test_revisions_that_cannot_be(name, revision, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        models.load(name, revision=revision)
