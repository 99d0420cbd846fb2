"""What to adapt and how: `LoraConfig`, validated when it is made."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ALL_LINEAR = "all-linear"
BIAS_CHOICES = ("none", "all", "lora_only")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'q_proj'?"` when a choice is near `word`, else an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def first_match(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern that is `path` or a dotted suffix of it. Patterns are regular expressions, as in peft.

    >>> first_match(["v_proj", r"layers\\.0\\..*"], "model.layers.0.self_attn.q_proj")
    'layers\\\\.0\\\\..*'
    """
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", path)), None)


def most_specific_first(patterns: Iterable[str]) -> list[str]:
    """Order overlapping patterns so that "the first match wins" means "the most specific wins".

    A pattern comes after every pattern that it covers (read as a plain path, the other one matches it). Where that
    says nothing, the one with more literal characters comes first; equal ones keep their order.
    """
    waiting, ordered = list(patterns), []

    def covers(general: str, special: str) -> bool:
        return first_match([general], special.removeprefix("^").replace("\\.", ".")) is not None

    def literal(pattern: str) -> int:
        plain = re.sub(r"\\[a-zA-Z]|\[[^]]*\]|\{[^}]*\}", "", pattern.replace("\\.", "."))
        return len(re.sub(r"[.*+?()|$\\]", "", plain))

    while waiting:
        free = [p for p in waiting if not any(covers(p, q) and not covers(q, p) for q in waiting)]
        best = max(free or waiting, key=literal)
        waiting.remove(best)
        ordered.append(best)
    return ordered


@dataclass(frozen=True)
class LoraConfig:
    r"""What to adapt and how. The update of one layer is :math:`s\,BA` with :math:`s = \alpha / r`.

    rank: inner size r of A [r, in] and B [out, r].
    alpha: the update is multiplied by alpha / rank (alpha / sqrt(rank) with `use_rslora`).
    dropout: share of x's entries dropped before A, in training only; 0 <= dropout < 1.
    target_modules: a list of path suffixes, a regular expression that must match the whole path, or "all-linear"
        (every Linear and Conv1D except the output head). Matching follows peft.
    exclude_modules: suffixes, or one regular expression, never adapted.
    layers_to_transform, layers_pattern: only these layer numbers, counted under a module list of this name.
    rank_pattern, alpha_pattern: {suffix or regular expression: value} for single layers. Of overlapping patterns the
        most specific wins; they are stored most specific first, so that peft, where the first wins, reads the same.
    modules_to_save: modules trained whole beside the adapter and saved with it, such as a new classifier head.
    bias: "none", "all" or "lora_only": which biases are trained as well.
    use_dora: train the length of every output row apart from its direction (DoRA, `variants.Dora`).
    init_lora_weights: True starts as no change (B zero); "pissa" as no change too, at the largest part of the weight
        (PiSSA, `variants.Pissa`); False makes B random, for tests.
    fan_in_fan_out: written to files; what a layer needs is read off its type.
    patterns_in_order: keep the patterns as given, first match wins: how a file from elsewhere is read.

    Raises TypeError or ValueError naming the field. Source: Hu et al. 2021, section 4.1; rsLoRA: Kalajdzievski 2023.
    """

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ALL_LINEAR
    exclude_modules: tuple[str, ...] | str | None = None
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    bias: str = "none"
    init_lora_weights: bool | str = True
    fan_in_fan_out: bool = False
    patterns_in_order: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_rank("rank", self.rank)
        _check_alpha("alpha", self.alpha)
        _check_number("dropout", self.dropout)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        for name in ("use_rslora", "use_dora", "fan_in_fan_out", "patterns_in_order"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.init_lora_weights, bool) and self.init_lora_weights != "pissa":
            raise ValueError(
                f"unknown init_lora_weights {self.init_lora_weights!r}: it is True (B zero, no change at first), "
                "'pissa' (the largest part of the weight), or False (B random, for tests)"
            )
        if self.use_dora and self.init_lora_weights == "pissa":
            raise ValueError("use_dora and init_lora_weights='pissa' do not go together: choose one of them")
        if self.bias not in BIAS_CHOICES:
            raise ValueError(
                f"unknown bias {self.bias!r}: it is one of {', '.join(map(repr, BIAS_CHOICES))}."
                + did_you_mean(str(self.bias), BIAS_CHOICES)
            )
        self._set("target_modules", _names_or_regex("target_modules", self.target_modules))
        if not self.target_modules:
            raise ValueError("target_modules is empty: name at least one module, or use 'all-linear'")
        self._set("exclude_modules", _names_or_regex("exclude_modules", self.exclude_modules) or None)
        self._set("modules_to_save", _names("modules_to_save", self.modules_to_save or ()))
        for name in self.modules_to_save:  # peft reads them as regular expressions
            _check_regex("modules_to_save", name, f"(.*){name}")
        self._check_layers()
        for field_name, check in (("rank_pattern", _check_rank), ("alpha_pattern", _check_alpha)):
            self._set(field_name, self._checked_patterns(field_name, check))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everyone else

    def _check_layers(self) -> None:
        layers, pattern = self.layers_to_transform, self.layers_pattern
        if layers is not None:
            layers = (layers,) if isinstance(layers, int) else layers
            numbers = isinstance(layers, Iterable) and not isinstance(layers, (str, Mapping))
            layers = tuple(layers) if numbers else (layers,)
            if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in layers):
                raise TypeError(f"layers_to_transform must be layer numbers from 0 on, got {self.layers_to_transform}")
        if pattern is not None:
            pattern = (pattern,) if isinstance(pattern, str) else _names("layers_pattern", pattern)
            for name in pattern:
                _check_regex("layers_pattern", name, f"(.*){name}")
        if pattern and layers is None:
            raise ValueError("layers_pattern says where layers are counted: give layers_to_transform as well")
        if isinstance(self.target_modules, str) and self.target_modules.lower() != ALL_LINEAR and layers is not None:
            raise ValueError("layers_to_transform goes with a list of target_modules; a regex can name layers itself")
        self._set("layers_to_transform", layers)
        self._set("layers_pattern", pattern)

    def _checked_patterns(self, field_name: str, check) -> dict:
        patterns = getattr(self, field_name)
        if patterns is None:
            return {}
        if not isinstance(patterns, Mapping):
            raise TypeError(f"{field_name} must map a module pattern to a value, got {patterns!r}")
        for pattern, value in patterns.items():
            _check_regex(field_name, pattern, f"(.*)({pattern})")
            check(f"{field_name}[{pattern!r}]", value)
        order = list(patterns) if self.patterns_in_order else most_specific_first(patterns)
        return {pattern: patterns[pattern] for pattern in order}

    def rank_for(self, path: str) -> int:
        """The rank of the layer at `path`."""
        return self.rank_pattern.get(first_match(self.rank_pattern, path), self.rank)

    def alpha_for(self, path: str) -> float:
        """The alpha of the layer at `path`."""
        return self.alpha_pattern.get(first_match(self.alpha_pattern, path), self.alpha)

    def scaling(self, path: str = "") -> float:
        """alpha / rank for the layer at `path`, alpha / sqrt(rank) with `use_rslora`.

        >>> LoraConfig(rank=8, alpha=16).scaling("model.layers.0.self_attn.q_proj")
        2.0
        """
        rank = self.rank_for(path)
        return self.alpha_for(path) / (math.sqrt(rank) if self.use_rslora else rank)


def _check_rank(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond every float
        finite = False
    if not finite:
        raise ValueError(f"{name} must be finite, got {value}")


def _check_alpha(name: str, value: object) -> None:
    _check_number(name, value)
    if value == 0:
        raise ValueError(f"{name} is 0: the update would always be zero, and nothing could be learned")
    if value < 0:
        warnings.warn(f"{name} is {value}: the update is subtracted instead of added", stacklevel=5)


def _check_regex(name: str, pattern: object, used_as: str | None = None) -> None:
    """Raises for what is no regular expression, alone or in the longer one that it is used in."""
    if not isinstance(pattern, str) or not pattern:
        raise TypeError(f"{name}: a pattern must be a non-empty string, got {pattern!r}")
    try:
        re.compile(pattern)
        re.compile(used_as or pattern)
    except re.error as error:
        raise ValueError(f"{name}: {pattern!r} is not a regular expression: {error}") from None


def _names(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of module names, got {value!r}")
    names = tuple(sorted(value) if isinstance(value, (set, frozenset)) else value)
    if not all(isinstance(n, str) and n for n in names):
        raise TypeError(f"{name} must hold non-empty module names, got {value!r}")
    return tuple(dict.fromkeys(names))


def _names_or_regex(name: str, value: object) -> tuple[str, ...] | str | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value:
            _check_regex(name, value)
        return ALL_LINEAR if value.lower() == ALL_LINEAR else value
    return _names(name, value)
