"""Random sequences of calls, failing ones among them: after each, the model is one built fresh from plain tensors.

A longer run: `pytest tests/lora/test_sequences.py --hypothesis-profile=long`.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lora_lab.adapters import add_adapter, delete_adapter, disable_adapters, get_config, set_adapter, set_scale, status
from lora_lab.combining import combine
from lora_lab.config import LoraConfig
from lora_lab.hot_swap import hot_swap
from lora_lab.merging import merge, merge_and_unload, unload, unmerge
from lora_lab.mixed_batch import mixed_batch
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from tests.conformance.models import gap
from tests.lora.reference import IDS, MATRICES, PATHS, Adapter, EveryKind, expected, read, values_of, write_values
from tests.lora.tiny import same, snapshot

NAMES = ("a", "ab", "linear", "A", "B")  # one within another, one that is a layer's, and two a container's
VARIANTS = {"plain": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True},
            "PiSSA": {"init_lora_weights": "pissa"}}  # fmt: skip
# float32 updates over a bfloat16 weight are rounded once where the layers add, and once where they merge.
NEAR = {torch.float32: 2e-6, torch.bfloat16: 1e-1}

new = st.sampled_from((True, True, True, False))  # a name that is free (if one is), or one that is taken
pick = st.sampled_from((0, 1, 2, 3, 0, 1, 2, 3, -1))  # the adapter of this number; -1 is nobody
several = st.lists(pick, min_size=1, max_size=3, unique=True)
factors = st.sampled_from((1.0, 0.5, -2.0, 0.0, float("nan")))
weightings = st.sampled_from((0.5, -1.0, 0.7, 2.0, 0.5, -1.0, 0.7, 0.0, float("inf")))
adapter = st.fixed_dictionaries({
    "paths": st.sampled_from((PATHS, PATHS[:3], PATHS[2:], PATHS[1:], PATHS[3:])),
    "rank": st.integers(1, 3),
    "alpha": st.sampled_from((1, 3)),
    "variant": st.sampled_from(tuple(VARIANTS)),
    "seed": st.integers(0, 9),
})  # fmt: skip


def run(model, ids=IDS):
    with torch.no_grad():
        return model(ids)


class Sequences(RuleBasedStateMachine):
    """`adapters`, `active` and `merges` say what the model should be; every rule changes both, or neither."""

    @initialize(dtype=st.sampled_from(tuple(NEAR)), first=st.lists(adapter, min_size=2, max_size=3))
    def start(self, dtype, first):
        self.quiet = warnings.catch_warnings()
        self.quiet.__enter__()
        warnings.simplefilter("ignore")
        self.room = tempfile.TemporaryDirectory()
        self.folder, self.files = Path(self.room.name), {}
        self.dtype = dtype
        self.model, self.plain = EveryKind(dtype), EveryKind(dtype)
        self.adapters: dict[str, Adapter] = {}
        self.active: list[str] = []
        self.merges: list[dict[str, Adapter]] = []  # one for each call of merge: the adapters as they were then
        for name, how in zip(NAMES, first, strict=False):
            self.add(name, how)

    def teardown(self):
        if not hasattr(self, "model"):
            return
        if self.adapters:
            merged = run(self.model)
            kept = merge_and_unload(copy.deepcopy(self.model))
            assert gap(run(kept), merged) <= NEAR[self.dtype]
            base = unload(self.model).state_dict()
            assert all(torch.equal(t, base[n]) for n, t in self.plain.state_dict().items())
        self.room.cleanup()
        self.quiet.__exit__(None, None, None)

    @property
    def merged(self) -> list[str]:
        return [name for group in self.merges for name in group]

    def named(self, number) -> str:
        there = list(self.adapters)
        return there[number % len(there)] if there and number >= 0 else "nobody"

    def name_for(self, new) -> str:
        return next((n for n in NAMES if (n not in self.adapters) == new), NAMES[0])

    def known(self, wanted) -> bool:
        return bool(wanted) and all(n in self.adapters for n in wanted) and len(set(wanted)) == len(wanted)

    def attempt(self, may: bool, call) -> bool:
        """Run the call. One that may not work must raise and leave everything as it was."""
        if may:
            call()
            return True
        before = snapshot(self.model)
        with pytest.raises((ValueError, RuntimeError)):
            call()
        assert same(before, snapshot(self.model))
        return False

    # --- calls ---

    @rule(new=new, how=adapter)
    def add_one(self, new, how):
        self.add(self.name_for(new), how)

    def add(self, name, how):
        paths, variant = how["paths"], how["variant"]
        config = LoraConfig(how["rank"], how["alpha"], target_modules=tuple(paths), **VARIANTS[variant])
        may = name not in self.adapters and not self.merged
        may = may and (variant != "PiSSA" or set(paths) <= set(MATRICES))
        torch.manual_seed(how["seed"])
        if self.attempt(may, lambda: add_adapter(self.model, config, name)):
            assert gap(run(self.model), run(self.plain)) <= NEAR[self.dtype], "an untrained adapter changes the output"
            self.adapters[name] = Adapter(config, values_of(self.model, name))
            self.active = [name]
            self.move(name, how["seed"])

    @rule(number=pick, seed=st.integers(0, 9))
    def train(self, number, seed):
        """Merged or not: what is merged stays as it was when it was merged."""
        self.move(self.named(number), seed)

    def move(self, name, seed):
        if name in self.adapters:
            generator = torch.Generator().manual_seed(seed)
            values = self.adapters[name].values
            for key in values:
                if not key.endswith("0"):  # a0 and b0 are where PiSSA started
                    drawn = torch.randn(values[key].shape, generator=generator) * 0.3
                    values[key] = 1 + drawn if key.endswith("magnitude") else drawn
            write_values(self.model, name, values)

    @rule(wanted=several)
    def choose(self, wanted):
        wanted = [self.named(n) for n in wanted]
        if self.attempt(self.known(wanted), lambda: set_adapter(self.model, wanted)):
            self.active, self.merges = list(wanted), []

    @rule(wanted=st.none() | st.lists(pick, min_size=1, max_size=1) | several)
    def merge(self, wanted):
        wanted = None if wanted is None else [self.named(n) for n in wanted]
        chosen = self.active if wanted is None else wanted
        if self.attempt(self.known(chosen), lambda: merge(self.model, wanted)):
            fresh = {n: copy.deepcopy(self.adapters[n]) for n in chosen if n not in self.merged}
            self.merges += [fresh] if fresh else []

    @rule()
    def unmerge(self):
        if self.attempt(bool(self.adapters), lambda: unmerge(self.model)):
            self.merges = []

    @rule(number=pick)
    def delete(self, number):
        name = self.named(number)
        if self.attempt(name in self.adapters and not self.merged, lambda: delete_adapter(self.model, name)):
            del self.adapters[name]
            self.active = [n for n in self.active if n != name] or list(self.adapters)[:1]

    @rule(number=st.none() | pick, factor=factors)
    def set_scale(self, number, factor):
        name = None if number is None else self.named(number)
        chosen = self.active if name is None else [name]
        may = self.known(chosen) and factor == factor and not set(chosen) & set(self.merged)
        if self.attempt(may, lambda: set_scale(self.model, factor, name)):
            for n in chosen:
                self.adapters[n].scale = factor

    @rule(number=pick, place=st.sampled_from("12"))
    def save(self, number, place):
        name = self.named(number)
        may = name in self.adapters and self.adapters[name].scale != 0
        if self.attempt(may, lambda: save_adapter(self.model, self.folder / place, name)):
            self.files[place] = (self.folder / place / name, copy.deepcopy(self.adapters[name]))

    @rule(place=st.sampled_from("121212123"), new=new, trainable=st.booleans())
    def load(self, place, new, trainable):
        name = self.name_for(new)
        there = list(self.files) if place < "3" else []
        folder, saved = self.files[there[int(place) % len(there)]] if there else (self.folder / "nothing", None)
        may = saved is not None and name not in self.adapters and not self.merged
        if self.attempt(may, lambda: load_adapter(self.model, folder, name, trainable=trainable)):
            again = read(folder)
            for path in saved.paths:  # the file means what was saved
                weight = self.plain.get_parameter(f"{path}.weight")
                assert gap(again.delta(path, weight), saved.delta(path, weight)) < 1e-5
            assert again.paths == saved.paths
            again.trainable = trainable
            self.adapters[name], self.active = again, [name]

    @precondition(lambda self: self.files)
    @rule(place=st.sampled_from("12"), number=pick)
    def swap(self, place, number):
        there = list(self.files)
        folder, _ = self.files[there[int(place) % len(there)]]
        # Mostly into the adapter that it came from, which has the shapes, if it is there still.
        name = folder.name if number in (0, 1) and folder.name in self.adapters else self.named(number)
        new, old = read(folder), self.adapters.get(name)
        may = old is not None and name not in self.merged and old.is_plain and new.is_plain
        if may and set(new.paths) <= set(old.paths):
            room = [old.rank(p) - new.rank(p) for p in new.paths]
            if new.paths != old.paths or max(room) > 0 and min(room) >= 0:
                return  # it works, but the fresh model would have other shapes and so other last bits
            may = min(room) == 0
        else:
            may = False
        if self.attempt(may, lambda: hot_swap(self.model, folder, name)):
            new.trainable = old.trainable
            self.adapters[name] = new

    @rule(weights=st.dictionaries(pick, weightings, min_size=1, max_size=2), new=new)
    def combine(self, weights, new):
        name = self.name_for(new)
        weights = {self.named(n): w for n, w in weights.items()}
        counted = {n: w for n, w in weights.items() if w}
        may = self.known(list(weights)) and name not in self.adapters and not self.merged and bool(counted)
        may = may and all(abs(w) < 9 and not self.adapters[n].config.use_dora for n, w in counted.items())
        if self.attempt(may, lambda: combine(self.model, weights, name)):
            new = Adapter(get_config(self.model, name), values_of(self.model, name))
            for path in PATHS:
                weight = self.plain.get_parameter(f"{path}.weight")
                parts = [w * self.adapters[n].delta(path, weight) for n, w in counted.items()
                         if path in self.adapters[n].paths]  # fmt: skip
                assert bool(parts) == (path in new.paths)
                assert not parts or gap(new.delta(path, weight), sum(parts)) < 1e-5
            self.adapters[name], self.active = new, [name]

    @rule(rows=st.lists(st.none() | pick, min_size=3, max_size=4))
    def mixed(self, rows):
        rows = [None if n is None else self.named(n) for n in rows]
        may = bool(self.adapters) and not self.merged and len(rows) == len(IDS)
        may = may and all(n is None or n in self.adapters for n in rows)
        found = []

        def call():
            with mixed_batch(self.model, rows):
                found.append(run(self.model))

        before = snapshot(self.model)
        if self.attempt(may, call):
            assert same(before, snapshot(self.model))
            for i, n in enumerate(rows):
                alone = self.weights([{n: self.adapters[n]}] if n else [])
                assert gap(found[0][i], expected(alone)[i]) <= NEAR[self.dtype], n

    @precondition(lambda self: self.adapters)
    @rule()
    def disable(self):
        before = snapshot(self.model)
        with disable_adapters(self.model):
            assert torch.equal(run(self.model), run(self.plain))
            for call in (
                lambda: merge(self.model),
                lambda: set_adapter(self.model, self.active),
                lambda: delete_adapter(self.model, self.active[0]),
                lambda: add_adapter(self.model, LoraConfig(rank=1), "new"),
            ):
                self.attempt(False, call)
        assert same(before, snapshot(self.model))

    @rule(number=pick)
    def merge_a_broken_one(self, number):
        name = self.named(number)
        if name not in self.adapters or name in self.merged:
            return
        values = self.adapters[name].values
        key = next(k for k in values if k.endswith(".B"))
        write_values(self.model, name, values | {key: torch.full_like(values[key], float("nan"))})
        self.attempt(False, lambda: merge(self.model, name))
        self.attempt(False, lambda: save_adapter(self.model, self.folder / "broken", name))
        write_values(self.model, name, values)

    @precondition(lambda self: self.files)
    @rule(place=st.sampled_from("12"), share=st.floats(0, 0.99))
    def load_a_broken_file(self, place, share):
        if place in self.files:
            weights = self.files[place][0] / "adapter_model.safetensors"
            whole = weights.read_bytes()
            weights.write_bytes(whole[: int(share * len(whole))])
            self.attempt(False, lambda: load_adapter(self.model, self.files[place][0], "new"))
            weights.write_bytes(whole)

    # --- what must hold after each ---

    def weights(self, groups) -> dict:
        """The plain weights with the updates of these adapters in them, in float64."""
        found = {n: p.double() for n, p in self.plain.named_parameters()}
        for group in groups:
            for adapter in group.values():
                for path in adapter.paths:
                    weight = self.plain.get_parameter(f"{path}.weight")
                    found[f"{path}.weight"] = found[f"{path}.weight"] + adapter.delta(path, weight)
        return found

    def fresh(self):
        """A model built anew from the reference state."""
        model = EveryKind(self.dtype)
        for name, adapter in self.adapters.items():
            add_adapter(model, adapter.config, name)
            set_scale(model, adapter.scale, name)
        if self.adapters:
            set_adapter(model, self.active)
        for group in self.merges:
            for name, then in group.items():
                write_values(model, name, then.values)
                assert then.scale == self.adapters[name].scale
            merge(model, list(group))
        for name, adapter in self.adapters.items():
            write_values(model, name, adapter.values)
        return model

    @invariant()
    def it_computes_what_a_fresh_model_does(self):
        if not hasattr(self, "model"):
            return
        found = run(self.model)
        assert torch.equal(found, run(self.fresh()))
        groups = self.merges or [{n: self.adapters[n] for n in self.active}]
        assert gap(found, expected(self.weights(groups))) <= NEAR[self.dtype]

    @invariant()
    def it_says_what_it_is(self):
        if not hasattr(self, "model"):
            return
        said = status(self.model)
        assert list(said.adapters) == list(self.adapters) and list(said.active) == self.active
        assert sorted(said.merged) == sorted(self.merged) and said.enabled
        if not self.adapters:
            assert [n for n, _ in self.model.named_modules()] == [n for n, _ in self.plain.named_modules()]
            return
        record = record_of(self.model)
        assert {p: sorted(layer.scaling) for p, layer in record.layers.items()} == {
            p: sorted(n for n, a in self.adapters.items() if p in a.paths)
            for p in record.layers
        }  # fmt: skip
        trained = {id(p) for n in self.active if self.adapters[n].trainable for p in record.parameters[n]}
        assert {id(p) for p in self.model.parameters() if p.requires_grad} == trained
        for path, layer in record.layers.items():
            weight = layer.base.weight if layer.pristine is None else layer.pristine
            assert torch.equal(weight, self.plain.get_parameter(f"{path}.weight"))


LONG = settings.get_current_profile_name() == "long"
Sequences.TestCase.settings = settings() if LONG else settings(max_examples=110, stateful_step_count=25)
TestSequences = Sequences.TestCase
