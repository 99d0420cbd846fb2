"""A hub name from the first question to the loaded model, and every way in which that can go wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaForCausalLM

from lora_lab import forecast, models, prediction, training_setup
from lora_lab import hub as ours

WEIGHTS = "model.safetensors"
NAME = "some/model"


def same(model, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def nothing_half(cache) -> bool:
    """Whether the cache holds no piece of a file."""
    return not [p for p in cache.rglob("*") if "incomplete" in p.name]


# --- what goes well ---------------------------------------------------------------------------------------------------


def test_a_hub_model_is_the_folder_it_was_made_from(hub, repo, tiny, capfd):
    model, tokenizer = models.load(NAME)
    mine, its = models.load(tiny)
    assert same(model, mine)
    assert tokenizer("the cat").input_ids == its("the cat").input_ids
    assert sorted(hub.fetched()) == sorted(repo.files), "each file once"
    sizes = sum(map(len, repo.files.values()))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith(NAME)]
    said = (
        rf"{NAME}@aaaaaaa \(licence apache-2.0\): {ours.megabytes(sizes)} in 5 files, .* to fetch, .* free on the disk"
    )
    assert re.fullmatch(said, line)


def test_only_what_is_read_is_fetched(hub, repo):
    beside = "README.md pytorch_model.bin model.fp16.safetensors consolidated.safetensors modeling_own.py tf_model.h5"
    unread = [*beside.split(), "model-00001-of-00002.safetensors", "q4.gguf", "onnx/model.onnx", "original/params.json"]
    repo.files |= dict.fromkeys(unread, b"x")
    models.load(NAME)
    assert not set(unread) & {path.rpartition("aaaa/")[2] for _, path, _ in hub.asked}
    assert len(hub.fetched()) == 5


def test_shards(hub, repo, tiny, tmp_path):
    LlamaForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    shards = {p.name: p.read_bytes() for p in (tmp_path / "shards").iterdir() if "safetensors" in p.name}
    assert len(shards) >= 3
    repo.files = {k: v for k, v in repo.files.items() if k != WEIGHTS} | shards
    model, _ = models.load(NAME)
    assert same(model, models.load_model(tiny))
    hub.asked.clear()
    models.load(NAME)
    assert hub.asked == []
    # one shard goes, as when a download was stopped: only that one is fetched, once the hub can be reached
    lost = max(name for name in shards if "-of-" in name)
    assert ours.whole(NAME)
    ours._remove(next((ours._cache(NAME) / "snapshots").rglob(lost)))
    assert ours.whole(NAME) is None
    models.load(NAME)
    assert hub.fetched() == [lost]


def test_all_requests_are_pinned_to_one_commit(hub, repo):
    repo.revisions["v1"] = "b" * 40
    model, _ = models.load(f"{NAME}@v1")
    assert {path for _, path, _ in hub.asked if "/api/" in path} == {"/api/models/some/model/revision/v1?blobs=true"}
    assert {path.split("/")[4] for _, path, _ in hub.asked if "/resolve/" in path} == {"b" * 40}
    hub.asked.clear()
    models.load(NAME, revision="v1")
    assert hub.asked == []
    models.load(NAME)  # main is another commit with the same files, which are not fetched twice
    assert not hub.fetched()


def test_a_branch_that_moves_between_two_calls_is_not_mixed(hub, repo, tiny, tmp_path):
    models.prepare(NAME)
    assert hub.fetched() == ["config.json"]
    config = json.loads(repo.files["config.json"]) | {"intermediate_size": 48}
    wider = LlamaForCausalLM(LlamaForCausalLM.config_class(**config))
    wider.save_pretrained(tmp_path / "new")
    repo.revisions["main"] = "c" * 40
    repo.other_files["c" * 40] = repo.files | {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    assert same(models.load_model(NAME).to(torch.bfloat16), wider.to(torch.bfloat16))


def test_a_token_goes_to_the_hub_and_not_to_its_storage(hub, repo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    models.load(NAME)
    assert hub.tokens and not [path for path in hub.tokens if path.startswith("/lfs/")]


# --- connections that break -------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch):
    """The library writes 10 MB at a time, and loses what it had not written yet."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**14)


def test_a_cut_is_taken_up_where_it_was(hub, repo, tiny, small_chunks):
    half, size = 8 * 2**14, len(repo.files[WEIGHTS])
    assert 0.2 < half / size < 0.8
    repo.cut[WEIGHTS] = [half]
    assert same(models.load_model(NAME), models.load_model(tiny))
    assert [r for method, path, r in hub.asked if path.startswith("/lfs/")] == ["", f"bytes={half}-"]
    assert hub.sent[WEIGHTS] == size, "each byte travelled once"


def test_cut_every_time(hub, repo, cache, small_chunks):
    repo.cut_always.add(WEIGHTS)
    with pytest.raises(ConnectionError, match="'some/model': the connection broke off before all of model.safetensors"):
        models.load(NAME)
    assert len([1 for _, path, _ in hub.asked if path.startswith("/lfs/")]) == 6
    assert not list(cache.rglob(WEIGHTS)) and nothing_half(cache)
    repo.cut_always.clear()
    hub.asked.clear()
    models.load(NAME)
    assert hub.fetched() == [WEIGHTS], "what had arrived whole was kept"


def test_a_hub_that_does_not_answer(hub, repo, monkeypatch):
    monkeypatch.setattr(ours, "TIMEOUT", 0.1)
    repo.slow["api"] = 20
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="no model 'some/model' on this machine, and the hub cannot be reached"):
        models.load(NAME)
    assert time.monotonic() - began < 15


def test_a_file_that_stops_arriving(hub, repo, monkeypatch, cache):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    repo.slow[WEIGHTS] = 20
    with pytest.raises(ConnectionError, match="broke off before all of model.safetensors"):
        models.load(NAME)
    assert nothing_half(cache)


@pytest.mark.parametrize(
    ("status", "words"),
    [(500, "500 .the fault is there"), (503, "503 .the fault is there"), (429, "429 .too many requests")],
)
def test_a_hub_that_answers_with_an_error(hub, repo, status, words):
    repo.status = [(status, "")]
    with pytest.raises(ConnectionError, match=f"the hub answers {words}.: try again in a few minutes"):
        models.load(NAME)
    models.load(NAME)


def test_a_hub_that_fails_while_files_are_fetched(hub, repo):
    listed = ours.look(NAME)
    repo.status = [(500, "")] * 2  # waited for, as the library does
    ours.fetch(listed)
    assert repo.status == [] and ours.whole(NAME)


# --- files that are not what they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json"])
def test_a_wrong_hash(hub, repo, cache, tiny, file):
    right = repo.files[file]
    repo.wrong[file] = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(ValueError, match=f"'some/model'.*{file} is not what the hub says .*thrown away"):
        models.load(NAME)
    assert not list(cache.rglob(file)) and right not in [p.read_bytes() for p in (cache / "blobs").iterdir()]
    repo.wrong.clear()
    assert same(models.load(NAME)[0], models.load_model(tiny))


def test_a_wrong_size(hub, repo, cache):
    repo.wrong[WEIGHTS] = repo.files[WEIGHTS][:-100]
    with pytest.raises(ValueError, match="'some/model' cannot be fetched: .*should be of size"):
        models.load(NAME)
    assert not list(cache.rglob(WEIGHTS)) and nothing_half(cache)


def test_a_file_that_is_listed_and_not_there(hub, repo):
    repo.absent.add(WEIGHTS)
    with pytest.raises(ValueError, match="'some/model': the hub lists model.safetensors, but does not have it"):
        models.load(NAME)


def test_a_shard_that_the_index_names_and_the_hub_lacks(hub, repo):
    shard = "model-00001-of-00002.safetensors"
    named = {"weight_map": {"a": shard, "b": shard.replace("00001", "00002")}}
    repo.files |= {shard: repo.files.pop(WEIGHTS), f"{WEIGHTS}.index.json": json.dumps(named).encode()}
    with pytest.raises(ValueError, match="not whole at the hub: its index names model-00002-of-00002.safetensors"):
        models.load(NAME)
    assert shard not in hub.fetched()


def test_a_file_damaged_in_the_cache_is_fetched_again(hub, repo, tiny, cache):
    models.load(NAME)
    weights = next(cache.rglob(WEIGHTS)).resolve()
    for damage in (b"", b"\0" * weights.stat().st_size):  # of another size, and of the right one
        weights.write_bytes(damage)
        hub.asked.clear()
        with pytest.raises(ValueError, match="not what the hub says") if damage else ours.contextlib.nullcontext():
            models.load(NAME)
        assert same(models.load(NAME)[0], models.load_model(tiny))
        assert hub.fetched() == [WEIGHTS]


# --- models that may not be had ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_licence_to_be_accepted(hub, repo, lab, status):
    repo.gated, repo.refused = "manual", status
    status, out, err = lab("generate", "--model", NAME, "Once")
    assert (status, out) == (1, "")
    assert err == (
        "error: model 'some/model' asks for its licence to be accepted: do so at the hub, then run 'hf auth login'\n"
    )
    status, out, err = lab("look", NAME)
    assert status == 0 and "licence is to be accepted" in out and "not predicted: model 'some/model' asks" in out


def test_a_name_that_the_hub_does_not_know(hub, repo):
    models.load(NAME)
    with pytest.raises(ValueError, match="no model 'some/modle'.*hub does not know it. Did you mean 'some/model'"):
        models.load("some/modle")


def test_a_revision_that_the_hub_does_not_know(hub, repo):
    with pytest.raises(ValueError, match="'some/model@v9': the hub knows the model, but no such revision of it"):
        models.load(f"{NAME}@v9")


def test_a_token_that_is_not_taken(hub, repo):
    repo.status = [(401, "Invalid credentials in Authorization header")]
    with pytest.raises(ValueError, match="does not take the token of this machine: run 'hf auth login'"):
        models.load(NAME)


def test_pickles_alone(hub, repo):
    repo.files["pytorch_model.bin"] = repo.files.pop(WEIGHTS)
    with pytest.raises(ValueError, match="'some/model' has no model.safetensors. Weights in a pickle"):
        models.load(NAME)
    assert hub.fetched() == []
    # with the small files here, transformers would ask the hub to convert the pickle
    repo.files[WEIGHTS] = b"x"
    ours.fetch(ours.look(NAME), "tokenizer")
    del repo.files[WEIGHTS]
    hub.asked.clear()
    with pytest.raises(ValueError, match="Weights in a pickle"):
        models.load(NAME)
    assert {path for _, path, _ in hub.asked} == {"/api/models/some/model?blobs=true"}


def test_code_of_its_own(hub, repo):
    config = json.loads(repo.files["config.json"]) | {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    repo.files |= {"config.json": json.dumps(config).encode(), "own.py": b"raise SystemExit"}
    for _ in range(2):
        with pytest.raises(ValueError, match="'some/model' brings code of its own, which is never run here"):
            models.load(NAME)
    assert hub.fetched() == ["config.json"]


def test_a_tokenizer_that_brings_code_is_refused_before_the_weights(hub, repo):
    said = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    repo.files |= {"tokenizer_config.json": json.dumps(said).encode(), "own.py": b"raise SystemExit"}
    with pytest.raises(ValueError, match="'some/model' brings code of its own"):
        models.load(NAME)
    assert WEIGHTS not in hub.fetched() and "own.py" not in hub.fetched()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "some/model is an adapter, not a model"),
        ({"README.md": b"x"}, "'some/model' has no config.json"),
    ],
)
def test_what_is_no_model(hub, repo, files, words):
    repo.files = files
    with pytest.raises(ValueError, match=words):
        models.load(NAME)
    assert hub.fetched() == []


# --- without a network ------------------------------------------------------------------------------------------------


def test_a_warm_cache_needs_no_network(hub, repo, tiny, lab):
    models.load(NAME)
    hub.stop()
    hub.asked.clear()
    assert same(models.load(NAME)[0], models.load_model(tiny))
    status, _, err = lab("generate", "--model", NAME, "--max-new-tokens", 2, "the cat")
    assert (status, err) == (0, "")
    assert hub.asked == []
    assert ours.look(NAME).missing == 0


def test_a_cold_cache_without_a_network_says_so_at_once(hub, repo):
    hub.stop()
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="no model 'some/model' on this machine, and the hub cannot be reached"):
        models.load(NAME)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("what", ["config", "tokenizer"])
def test_half_a_cache_without_a_network(hub, repo, what):
    ours.fetch(ours.look(NAME), what)
    hub.stop()
    with pytest.raises(ConnectionError, match="'some/model' on this machine in full, and the hub cannot be") as said:
        models.load(NAME)
    assert "mean 'some/model'" not in str(said.value)


def test_offline_mode(hub, repo, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="no model 'some/model' on this machine, and HF_HUB_OFFLINE keeps it"):
        models.load(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    models.load(NAME)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    models.load(NAME)
    assert hub.asked == []


# --- will it fit? -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small(hub, repo, lab, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    status, _, err = lab("generate", "--model", NAME, "Once")
    assert status == 1 and err.startswith("error: the disk is full: ") and err.count("\n") == 1
    assert "of some/model are to be fetched, 0.001 MB are free" in err and "HF_HOME" in err and "--resume" not in err
    assert hub.fetched() == ["config.json"]


def test_a_disk_that_fills_up_meanwhile(hub, repo, lab, monkeypatch, cache):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    status, _, err = lab("generate", "--model", NAME, "Once")
    assert status == 1 and err == (
        "error: the disk is full: [Errno 28] No space left on device. Free some space, or let HF_HOME name a folder on "
        "a larger disk\n"
    )
    assert nothing_half(cache)


def test_weights_larger_than_the_memory_are_said_before_they_are_fetched(hub, repo, capfd):
    repo.parameters = 10**13
    models.load(NAME)
    assert "some/model takes 40,000.0 GB in float32, and" in capfd.readouterr().err
    assert WEIGHTS in hub.fetched()


def test_of_several_processes_one_speaks(hub, repo, capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    models.load(NAME)
    assert NAME not in capfd.readouterr().err


def test_look_downloads_nothing_but_the_configuration(hub, repo, lab):
    repo.parameters = 147_000
    repo.files["README.md"] = b"x"
    status, out, err = lab("look", NAME, "--rank", 4, "--length", 64)
    assert (status, err) == (0, "") and hub.fetched() == ["config.json"]
    sizes = sum(len(content) for name, content in repo.files.items() if name != "README.md")
    for line in (
        f"some/model at main, commit {'a' * 40}",
        "licence     apache-2.0",
        "access      open",
        f"size        {ours.megabytes(sizes)} in 5 files, 147,000 parameters",
        f"to fetch    {ours.megabytes(sizes)}, ",
    ):
        assert line in out
    found = forecast.forecast(ours.look(NAME), rank=4, length=64)
    needed = ours.megabytes(sum(found.needed["lora"].values()))
    assert f"memory      {needed} for LoRA of rank 4 on all linear layers, 1 x 64 tokens: fits" in out
    assert not (ours._cache(NAME) / "refs").exists(), "what is asked of the cache afterwards is as before"
    models.load(NAME)
    assert "to fetch    0 MB, " in lab("look", NAME)[1]


def test_a_forecast_is_for_the_memory_found(monkeypatch):
    base = ours.look("base")
    found = forecast.forecast(base)
    assert found.fits("lora") and found.fits("full")
    less = sum(found.needed["lora"].values()) + 1
    assert less < sum(found.needed["full"].values())
    monkeypatch.setattr(ours, "free_memory", lambda: less)
    assert forecast.forecast(base).fits("lora") and not forecast.forecast(base).fits("full")


def test_a_forecast_is_what_finetune_will_predict(tmp_path):
    """Of a model other than "base", whose logits finetune never holds all at once."""
    assert forecast.LOSS_CHUNK == training_setup.OTHER_CHUNK
    folder = shutil.copytree(models.BASE, tmp_path / "another")
    length, rows = 128, 16  # more tokens than a chunk has
    asked = training_setup.settings(
        **{
            "model": str(folder),
            "task": "pirate",
            "method": "lora",
            "rank": 4,
            "alpha": 8,
            "targets": None,
            "lr": None,
        },
        **{"batch_size": rows, "max_length": length, "steps": 1, "seed": 0, "dropout": 0.0, "accumulate": 1},
        **{"checkpointing": False, "evaluate_every": None, "packing": False, "loss_chunk": None, "quantise": None},
        **{"compile": False, "fused": None, "fsdp": False},
    )
    network = models.load_model(folder, "cpu")
    training_setup.make_trainable(network, asked | {"fused": False})
    asked["loss_chunk"] = training_setup.loss_chunk(network, asked)
    expected = prediction.predicted_memory(network, asked, length)
    assert forecast.forecast(ours.look(str(folder)), rank=4, rows=rows, length=length).needed["lora"] == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../../etc", "no model '../../etc': there is no such folder, and a hub name is OWNER/NAME"),
        ("some/model/more", "a hub name is OWNER/NAME"),
        ("a b", "a hub name is OWNER/NAME"),
        ("some/model@../x", "revision '../x'"),
        ("https://huggingface.co/some/model/tree/main", "OWNER/NAME. Did you mean 'some/model'?"),
        ("https://huggingface.co/some", "OWNER/NAME. Models on this machine: base"),
        (".", "'.' is no model: it has no config.json"),
        ("adapter", "'adapter' is an adapter, not a model"),
    ],
)
def test_names_that_are_none(hub, name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(words)):
        ours.look(name)
    assert hub.asked == []


# --- a process of its own ---------------------------------------------------------------------------------------------


def test_the_command_in_a_process_of_its_own(hub, repo, tmp_path):
    """With nothing patched: HF_ENDPOINT is the server, which is the proxy to all other addresses too."""
    repo.cut[WEIGHTS] = [100_000]
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), hub.address)
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", **proxies}
    own |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "home" / "hub")}
    words = [sys.executable, "-m", "lora_lab", "generate", "--model", NAME, "--max-new-tokens", "2", "the cat"]
    run = subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.startswith("the cat"), run.stderr
    assert "some/model@aaaaaaa (licence apache-2.0): " in run.stderr
    assert {method for method, _, _ in hub.asked} == {"GET", "HEAD"}
    assert hub.fetched().count(WEIGHTS) == 2  # cut, and asked for again
