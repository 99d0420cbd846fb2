"""Properties of configurations: which modules are meant, which rank each gets, how A and B start.

What is expected is not written down: peft's own matcher is asked (`check_target_module_exists`, `get_pattern_key`).
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_lab.config import LoraConfig
from tests.conformance.cells import holds
from tests.conformance.models import KINDS
from tests.conformance.one_adapter import EXACT, raises
from tests.lora.distributions import kolmogorov_smirnov, normal, uniform
from tests.lora.tiny import to_peft

KEYS = (
    "foo",
    "foo.bar",
    "foo.bar.baz",
    "q_proj",
    "my_q_proj",
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.11.self_attn.v_proj",
    "layers.1.q_proj",
    "transformer.h.1.attn.c_attn",
    "transformer.h.1.attn.attention.q_proj.foo",
    "model.layers.1.mlp.experts.0.up_proj",
    "model.layers.0.mlp.experts.1.up_proj",
    "foo.whatever.1.bar",
    "foo.whatever.1.x.2.bar",
    "foo.bar.1.baz",
    "model.layers.0.experts.layers.1.q_proj",
    "blocks.1.foo.bar",
    "encoder.layers.1.q_proj",
    "decoder.blocks.1.q_proj",
    "classifier",
    "classifier.dense",
    "head.classifier.dense.q_proj",
)
TARGETS = (
    ("q_proj",),
    ("q_proj", "v_proj"),
    ("foo",),
    ("bar", "baz"),
    ("foo.bar",),
    ("proj",),
    ("self_attn.q_proj", "up_proj"),
    ("model.layers.1.self_attn.q_proj",),
    ("dense", "classifier"),
    ("1",),
    "q_proj",
    r".*q_proj",
    r".*\.(q|v)_proj",
    r"model\.layers\.[01]\..*proj",
    r"foo.*",
    r"(?!model).*proj",
)
LAYERS = (
    (None, None),
    ((1,), None),
    ((0, 11), None),
    ((1,), ("layers",)),
    ((1,), ("h",)),
    ((1,), ("blocks", "whatever")),
    ((0,), ("experts",)),
    ((), None),
)
EXCLUDED = (None, ("q_proj",), ("bar", "self_attn.v_proj"), r".*layers\.0.*")
SAVED = ((), ("classifier",))
PATTERNS = (
    ("q_proj",),
    ("q_proj", r"layers\.0\.self_attn\.q_proj"),
    (r"layers\.0\.self_attn\.q_proj", "q_proj"),
    (r"^q_proj",),
    (r"^model.layers.1.*",),
    (r".*\.layers\..*", "v_proj"),
    ("proj",),
    (r"layers\.\d+\.self_attn", "self_attn.q_proj"),
    ("foo", "bar", "baz"),
    (r"(q|v)_proj", "q_proj"),
)


def rows() -> Iterator[LoraConfig]:
    """The truth table: every combination that a configuration allows."""
    for targets, (layers, pattern), exclude, saved in itertools.product(TARGETS, LAYERS, EXCLUDED, SAVED):
        if isinstance(targets, str) and (layers is not None or pattern is not None):
            continue
        yield LoraConfig(
            rank=1,
            target_modules=targets,
            layers_to_transform=layers,
            layers_pattern=pattern,
            exclude_modules=exclude,
            modules_to_save=saved,
        )


def its_answer(config: LoraConfig, key: str) -> bool:
    """What peft's own matcher says of a key."""
    found = check_target_module_exists(to_peft(config), key)
    return bool(found) and not isinstance(found, _ExcludedModule)


def tree() -> nn.Module:
    """A model with a module at every key: a Linear where no other key goes on, else a plain container."""
    root = nn.Module()
    for key in sorted(KEYS):
        at = root
        *parents, last = key.split(".")
        for part in parents:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.add_module(last, nn.Module() if any(k.startswith(f"{key}.") for k in KEYS) else nn.Linear(2, 2))
    return root


def once(**more):
    """For properties of configurations: they have no kind, dtype or variant."""
    return {"kinds": ("Linear",), "dtypes": ("float32",), "variants": ("plain",)} | more


@holds("14", "the modules adapted are those that peft's matcher names", EXACT, **once())
def targets_match_as_in_peft(impl, case):
    model = tree()
    paths = {p: m for p, m in model.named_modules() if p}
    meant = refused = 0
    for config in rows():
        if config.modules_to_save and impl.name == "peft":
            continue  # peft then saves them whole as well, which is not what is asked here
        expected = {p for p in paths if its_answer(config, p)}
        if all(isinstance(paths[p], nn.Linear) for p in expected) and expected:
            found = impl.meant(copy.deepcopy(model), config)
            assert found == expected, (config, found ^ expected)
            meant += 1
        else:  # none, or one that is no linear layer
            assert raises(lambda config=config: impl.meant(copy.deepcopy(model), config)), config
            refused += 1
    assert meant > 50 and refused > 50, (meant, refused)
    return 0.0


@holds("15", "overlapping rank patterns resolve as peft's do: the first match wins, ^ is the start", EXACT, **once())
def patterns_resolve_as_in_peft(impl, case):
    model = tree()
    leaves = {p for p, m in model.named_modules() if isinstance(m, nn.Linear)}
    every = "|".join(map(re.escape, sorted(leaves)))
    for patterns in PATTERNS:
        ranks = {pattern: i + 2 for i, pattern in enumerate(patterns)}
        config = LoraConfig(rank=1, target_modules=every, rank_pattern=ranks, patterns_in_order=True)
        found = impl.rank(impl.add(copy.deepcopy(model), config))
        assert found == {p: ranks.get(get_pattern_key(patterns, p), 1) for p in leaves}, patterns
    return 0.0


def wide(kind: str) -> nn.Module:
    return nn.ModuleDict(
        {
            "layer": {
                "Linear": lambda: nn.Linear(500, 300),
                "Conv1D": lambda: Conv1D(300, 500),
                "Embedding": lambda: nn.Embedding(400, 350),
                "Conv2d": lambda: nn.Conv2d(50, 200, 3),
            }[kind]()
        }
    )


@holds("16", "A starts Kaiming uniform and B zero; an embedding's A zero and B normal", EXACT, **once(kinds=KINDS))
def initial_values_have_their_distributions(impl, case):
    torch.manual_seed(3)
    model = impl.add(wide(case.kind), LoraConfig(rank=100, target_modules=("layer",)))
    a, b = (p.detach() for p in impl.parameters(model).values())
    if case.kind == "Embedding":
        assert kolmogorov_smirnov(b, normal) > 0.05 > 1e-6 > kolmogorov_smirnov(b, uniform(b.abs().max().item()))
        return a.abs().max().item()
    bound = 1 / math.sqrt(a[0].numel())  # Kaiming uniform with a = sqrt 5: sqrt(6 / ((1 + 5) * in))
    assert kolmogorov_smirnov(a, uniform(bound)) > 0.05 > 1e-6 > kolmogorov_smirnov(a / a.std(), normal)
    return b.abs().max().item()
