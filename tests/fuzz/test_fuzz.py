"""Five hundred damaged adapters: refused by an error of ours, or loaded as an independent reading of them says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lora_lab import storage
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.storage import load_adapter
from tests.fuzz.adapters import CONFIG, WEIGHTS, copy_of_plain, folders
from tests.fuzz.mutations import KINDS
from tests.fuzz.run import LOADED, REFUSED, WRONG, check, make, try_file

pytestmark = pytest.mark.usefixtures("one_thread")


def test_500_damaged_adapters():
    outcomes = [try_file(1, number) for number in range(500)]
    wrong = [f"python -m tests.fuzz --seed 1 --only {o.number}: {o.why}" for o in outcomes if o.result == WRONG]
    assert wrong == []
    counts = Counter(o.result for o in outcomes)
    assert counts[LOADED] > 50 and counts[REFUSED] > 250, "the mutations are too weak or too strong to tell anything"
    assert {o.kind for o in outcomes} == set(KINDS)


def test_the_same_seed_makes_the_same_files():
    assert [make(3, n) for n in range(62)] == [make(3, n) for n in range(62)]
    assert make(3, 0) != make(4, 0)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


@pytest.mark.filterwarnings("ignore:.*base_layer.bias")  # peft writes the head's bias beside its weight
@pytest.mark.parametrize("name", folders())
def test_whole_adapters_load_as_their_files_say(name, tmp_path):
    model = load_adapter(copy_of_plain(), write(tmp_path, folders()[name]))
    check(model, tmp_path, strict=True, told="not used" if name == "written by peft" else "")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda layer: layer.scaling.update(default=2.5), "off by"),
        (lambda layer: layer.base.weight.data.add_(1e-3), "is not the base's"),
        (lambda layer: layer.A["default"].weight.data[0, 0].add_(1e-2), "off by"),
    ],
)
def test_the_oracle_sees_a_wrong_load(harm, words, tmp_path):
    model = load_adapter(copy_of_plain(), write(tmp_path, folders()["plain"]))
    harm(model.layers[0].attn.q_proj)
    with pytest.raises(AssertionError, match=words):
        check(model, tmp_path, strict=True, told="")


def test_the_oracle_sees_a_layer_too_many(tmp_path):
    write(tmp_path, folders()["plain"])
    model = add_adapter(copy_of_plain(), LoraConfig(rank=3, alpha=6, target_modules=("q_proj", "v_proj", "conv")))
    with pytest.raises(AssertionError, match="adapted .*conv"):
        check(model, tmp_path, strict=True, told="")


@pytest.mark.parametrize("weak", ["_check_tensors", "config_from_file"])
def test_a_loader_that_checks_less_is_caught(weak, monkeypatch):
    """Without one of its checks the loader lets something wrong through, and the fuzzer says so."""
    if weak == "_check_tensors":
        monkeypatch.setattr(storage, weak, lambda *_: None)
    else:
        original = storage.config_from_file
        keep = {"peft_type", "target_modules", "r", "lora_alpha"}  # the rest of the file is not looked at
        monkeypatch.setattr(storage, weak, lambda c, w: original({k: v for k, v in c.items() if k in keep}, w))
    assert any(try_file(1, number).result == WRONG for number in range(200))


def test_a_model_that_is_changed_by_a_refused_load_is_caught(monkeypatch):
    original = storage.read_both

    def careless(folder):
        models[-1].layers[0].attn.q_proj.weight.data.zero_()
        return original(folder)

    models = []
    monkeypatch.setattr("tests.fuzz.run.copy_of_plain", lambda: models.append(copy_of_plain()) or models[-1])
    monkeypatch.setattr(storage, "read_both", careless)
    number = next(n for n in range(200) if list(KINDS)[n % len(KINDS)] == "files: a pickle")
    outcome = try_file(1, number)
    assert outcome.result == WRONG and "the model was changed" in outcome.why


def test_files_are_those_of_peft():
    assert set(folders()["written by peft"]) == {CONFIG, WEIGHTS}
