"""`python -m lora_lab count`: its line of JSON, its table, and one sentence for each mistake."""

from __future__ import annotations

import json

import pytest

from lora_lab import counting, models, shapes
from lora_lab.__main__ import main

FIELDS = ["total", "lora", "share_of_base", "share_of_total", "breakeven_rank", "adapter_bytes"]


@pytest.fixture
def count(capsys):
    def run(*words):
        status = main(["count", *map(str, words)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_json_of_a_known_model(count):
    status, out, _ = count("--model", "Llama-2-7B", "--rank", 8, "--targets", "q_proj,v_proj", "--json")
    assert status == 0 and out.count("\n") == 1
    found = json.loads(out)
    assert list(found) == FIELDS
    assert (found["total"], found["lora"], found["breakeven_rank"]) == (6_738_415_616, 4_194_304, 2048)
    assert found["share_of_base"] == 4_194_304 / 6_738_415_616
    assert found["share_of_total"] == 4_194_304 / 6_742_609_920
    assert found["adapter_bytes"] == counting.adapter_bytes(shapes.known("Llama-2-7B"), 8, ["q_proj", "v_proj"])


def test_json_of_a_matrix_and_of_several(count):
    one = json.loads(count("--shape", "4096x4096", "--json")[1])
    assert (one["total"], one["lora"], one["share_of_base"], one["breakeven_rank"]) == (4096**2, 65_536, 1 / 256, 2048)
    two = json.loads(count("--shape", "4096x4096,1024x4096", "--json")[1])
    assert (two["total"], two["lora"]) == (4096 * 5120, 8 * (8192 + 5120))


def test_json_of_a_config_file(count):
    found = json.loads(count("--config", models.BASE / "config.json", "--targets", "all-linear", "--json")[1])
    assert (found["total"], found["lora"]) == (5_770_496, 233_472)


def test_the_table_says_what_the_json_says_and_the_memory(count):
    status, out, _ = count("--model", "llama-2-7b", "--targets", "q_proj,v_proj", "--rows", 4, "--checkpointing")
    assert status == 0
    for part in (
        "q_proj [4096, 4096] x 32",
        "6,738,415,616",
        "4,194,304",
        "0.06224% of the base, 0.06221%",
        "16,794,200 bytes",
    ):
        assert part in out
    for part in ("4 x 512 tokens", "LoRA 55.61 (67.1%)", "weights", "logits", "full", "qlora"):
        assert part in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "Llama2-7B"], "no model 'Llama2-7B' in the table. Did you mean Llama-2-7B?"),
        (
            ["--model", "GPT-2", "--targets", "q_proj"],
            "no matrix is called 'q_proj'. Names in this model: c_attn, c_proj",
        ),
        (["--model", "GPT-2", "--rank", "0"], "rank must be at least 1, got 0"),
        (["--model", "GPT-2", "--length", "0"], "--length must be at least 1, got 0"),
        (["--shape", "4096"], "--shape is OUTxIN such as 4096x4096, with commas between several, got '4096'"),
        (["--shape", "0x8"], "--shape is OUTxIN such as 4096x4096"),
        (["--shape", "8x8,"], "--shape is OUTxIN such as 4096x4096"),
        (["--config", "nowhere.json"], "there is no file nowhere.json"),
        (["--config", "."], "Is a directory"),
    ],
)
def test_mistakes_get_one_sentence(count, words, message):
    status, out, err = count(*words)
    assert (status, out) == (1, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"not json", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "a config is a JSON object, got list"),
        (b'{"model_type": "bert"}', "model_type 'bert' is not supported. Supported are gpt2, llama, mistral"),
    ],
)
def test_files_that_are_no_config_get_one_sentence(count, tmp_path, text, message):
    file = tmp_path / "config.json"
    file.write_bytes(text)
    status, _, err = count("--config", file)
    assert status == 1 and str(file) in err and message in err and err.count("\n") == 1


def test_one_of_model_config_and_shape_is_asked_for(count):
    with pytest.raises(SystemExit):
        count("--rank", 8)
    with pytest.raises(SystemExit):
        count("--model", "GPT-2", "--shape", "8x8")
