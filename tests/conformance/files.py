"""Properties of saved adapters: the same after a round trip, in the other implementation, and under any name."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.conformance.cells import EVERYTHING, holds
from tests.conformance.implementations import OURS, PEFT
from tests.conformance.models import gap
from tests.conformance.one_adapter import CHANGED, EXACT, THEIRS, rounded
from tests.conformance.several_adapters import FLOAT, trainable, two


def loaded_again(impl, case, reader=None) -> float:
    model = impl.trained(case.model(), case.config())
    expected = impl(model, case.x)
    assert gap(expected, impl(case.model(), case.x)) > CHANGED
    with tempfile.TemporaryDirectory() as folder:
        impl.save(model, folder)
        torch.manual_seed(99)
        again = (reader or impl).load(case.model(), folder)
    return gap(impl(again, case.x), expected)


@holds("3", "saved and loaded on a fresh base it computes the same, whatever the seed", EXACT, theirs=1e-5,
       kinds=EVERYTHING, variants=("plain", "rsLoRA", "DoRA"))  # fmt: skip
def a_round_trip_changes_nothing(impl, case):
    return loaded_again(impl, case)


# It is saved as a difference, or by changing the base again.
@holds("3", "the same for PiSSA, but for rounding", rounded(1e-6), theirs=THEIRS, kinds=("Linear", "Conv1D"),
       variants=("PiSSA",))  # fmt: skip
def a_round_trip_of_pissa(impl, case):
    return loaded_again(impl, case)


@holds("10", "saved under any name, the file has the same keys and loads under another name", EXACT, theirs=1e-5,
       dtypes=FLOAT)  # fmt: skip
def names_do_not_reach_the_file(impl, case):
    keys, worst = set(), 0.0
    for name in ("default", "first", "lora_A"):
        model = impl.trained(case.model(), case.config(), name)
        with tempfile.TemporaryDirectory() as folder:
            place = impl.save(model, folder, name)
            keys.add(tuple(sorted(load_file(place / "adapter_model.safetensors"))))
            again = impl.load(case.model(), place, "other")
        worst = max(worst, gap(impl(again, case.x), impl(model, case.x)))
    assert len(keys) == 1
    return worst if case.variant != "PiSSA" else max(0.0, worst - 1e-6)


@holds("12", "a loaded adapter is frozen, or trainable if it was asked for", EXACT, dtypes=FLOAT)
def loaded_frozen_or_trainable(impl, case):
    with tempfile.TemporaryDirectory() as folder:
        impl.save(impl.trained(case.model(), case.config()), folder)
        for asked in (False, True):
            assert trainable(impl, impl.load(case.model(), folder, trainable=asked)) == {"default": asked}
    return 0.0


@holds("17", "PiSSA converted to plain LoRA computes the same on the untouched base, with twice the rank",
       rounded(1e-5), theirs=1e-3, kinds=("Linear", "Conv1D"),
       variants=("PiSSA",))  # fmt: skip
def pissa_converts_to_plain_lora(impl, case):
    with tempfile.TemporaryDirectory() as start, tempfile.TemporaryDirectory() as folder:
        model = impl.add(case.model(), case.config())
        if impl is PEFT:  # as its guide says: keep the start, marked as plain
            model.peft_config["default"].init_lora_weights = True
            impl.save(model, start)
            model.peft_config["default"].init_lora_weights = "pissa"
        impl.fill(model)
        expected = impl(model, case.x)
        impl.save(model, folder, initial=start)
        again = impl.load(case.model(), folder)
        with impl.disabled(again):
            assert gap(impl(again, case.x), impl(case.model(), case.x)) <= 1e-6
    assert impl.rank(again) == {"first": 6, "second": 6}
    return gap(impl(again, case.x), expected)


@holds("19", "a DoRA file holds one magnitude for each layer, under the format's key", EXACT, dtypes=FLOAT,
       variants=("DoRA",))  # fmt: skip
def dora_files_have_the_usual_keys(impl, case):
    with tempfile.TemporaryDirectory() as folder:
        place = impl.save(impl.trained(case.model(), case.config()), folder)
        tensors = load_file(place / "adapter_model.safetensors")
    magnitudes = {n: t for n, t in tensors.items() if n.endswith(".lora_magnitude_vector")}
    assert sorted(magnitudes) == [f"base_model.model.{p}.lora_magnitude_vector" for p in ("first", "second")]
    assert len(tensors) == 6
    return 0.0


@holds("24", "the other implementation reads the file and computes the same", rounded(1e-6), kinds=EVERYTHING)
def the_other_reads_the_file(impl, case):
    return loaded_again(impl, case, PEFT if impl is OURS else OURS)


@holds("3", "of two adapters on a model each is saved and loaded as itself", EXACT, theirs=1e-5, dtypes=FLOAT,
       variants=("plain", "rsLoRA", "DoRA"))  # fmt: skip
def two_adapters_are_saved_apart(impl, case):
    model, worst = two(impl, case), 0.0
    with tempfile.TemporaryDirectory() as folder:
        places = {name: impl.save(model, Path(folder), name) for name in ("a", "b")}
        loaded = impl.load(case.model(), places["a"], "b")  # the names changed over
        loaded = impl.load(loaded, places["b"], "a")
    for one, other in (("a", "b"), ("b", "a")):
        impl.choose(model, one)
        impl.choose(loaded, other)
        worst = max(worst, gap(impl(loaded, case.x), impl(model, case.x)))
    return worst
