"""Which modules of a model a configuration means. The rules are peft's; what matches nothing is an error here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from lora_lab.config import ALL_LINEAR, LoraConfig, did_you_mean, first_match
from lora_lab.layers import LoraLayer, SavedModule, is_conv1d, is_linear, layer_class

SUPPORTED = "torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv2d and transformers' Conv1D"
# {class of the parent: its layers whose weight it reads without calling them}, in training at least.
READ_BY = {
    "MambaMixer": ("dt_proj",),
    "FalconMambaMixer": ("dt_proj",),
    "JambaMambaMixer": ("dt_proj",),
    "LongcatFlashTopkRouter": ("classifier",),
    "Gemma3nTextAltUp": ("correction_coefs",),
}
# The same where kernels for state-space models are installed and train on a GPU; elsewhere the layers are called.
_MAMBA2 = "Mamba2Mixer BambaMixer FalconH1Mixer GraniteMoeHybridMambaLayer NemotronHMamba2Mixer Zamba2MambaMixer"
READ_BY_KERNELS = {
    "MambaMixer": ("x_proj", "out_proj"),
    "FalconMambaMixer": ("x_proj", "out_proj"),
    **dict.fromkeys(_MAMBA2.split(), ("out_proj",)),
}
# What peft 0.21 takes for the names of experts, as transformers 4 had them, in models built like these.
PEFTS_EXPERTS = {"qwen2_moe": "gate gate_proj up_proj down_proj".split(), "mixtral": "gate w1 w2 w3".split()}
MUCH = 0.1  # of a model's numbers: what "all-linear" leaves out is told from here on


def original_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) as before any adapter: wrapped layers are listed as their base, adapters not at all."""
    inside = ()  # prefixes of wrappers met so far
    for path, module in model.named_modules():
        if inside and path.startswith(inside):
            continue
        if isinstance(module, (LoraLayer, SavedModule)):
            inside += (f"{path}.",)
            module = module.base if isinstance(module, LoraLayer) else module.original
            yield path, module
            if not isinstance(module, (nn.Linear, nn.Embedding)):
                yield from ((f"{path}.{p}", m) for p, m in module.named_modules() if p)
        else:
            yield path, module


def is_target(config: LoraConfig, path: str) -> bool:
    """Whether the module at `path` is to be adapted, for a list or a regex. As peft's `check_target_module_exists`."""
    if _excluded(config, path):
        return False
    targets = config.target_modules
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    if path in targets:  # a full path is meant whatever its layer number
        return True
    return _has_suffix(path, targets) and _in_chosen_layer(config, path)


def _excluded(config: LoraConfig, path: str) -> bool:
    exclude = config.exclude_modules
    if exclude and (re.fullmatch(exclude, path) if isinstance(exclude, str) else _has_suffix(path, exclude)):
        return True
    return any(re.match(rf"(^|.*\.){m}($|\..*)", path) for m in config.modules_to_save)


def _has_suffix(path: str, names: tuple[str, ...]) -> bool:
    return path in names or path.endswith(tuple(f".{name}" for name in names))


def _in_chosen_layer(config: LoraConfig, path: str) -> bool:
    if not config.layers_to_transform:
        return True
    # Lazy: the first number is the layer, a later one may be an expert inside it.
    patterns = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in config.layers_pattern or ()] or [r".*?\.[^.]*\.(\d+)\."]
    # The number is the last group: the pattern may have groups of its own, and an alternative without the number.
    numbers = [m.groups()[-1] for m in (re.match(p, path) for p in patterns) if m]
    return bool(numbers and numbers[0]) and int(numbers[0]) in config.layers_to_transform


def linear_paths(model: nn.Module) -> list[str]:
    """What "all-linear" means: every Linear and Conv1D that is called as one, except transformers' output head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    head = head.base if isinstance(head, LoraLayer) else head.original if isinstance(head, SavedModule) else head
    modules = dict(original_modules(model))
    attention = tuple(f"{p}." for p, m in modules.items() if isinstance(m, nn.MultiheadAttention))
    return [
        path
        for path, module in modules.items()
        if path
        and (is_linear(module) or is_conv1d(module))
        and module is not head
        and not (attention and path.startswith(attention))
        and not any(_read(path, modules, table) for table in (READ_BY, READ_BY_KERNELS))
    ]


def _read(path: str, modules: dict[str, nn.Module], table: dict[str, tuple[str, ...]]) -> bool:
    parent, _, name = path.rpartition(".")
    return name in table.get(type(modules.get(parent)).__name__, ())


def out_of_reach(model: nn.Module) -> str | None:
    """A sentence on weights that no adapter reaches, such as experts held as one parameter; None where they are few."""
    total, found = 0, {}
    for path, module in original_modules(model):
        for name, parameter in module.named_parameters(recurse=False):
            total += parameter.numel()
            if parameter.ndim > 1 and layer_class(module) is None and not isinstance(module, (nn.Conv1d, nn.Conv3d)):
                found[f"{path}.{name}"] = parameter
    share = sum(p.numel() for p in found.values()) / max(total, 1)
    if share < MUCH:
        return None
    first = max(found, key=lambda path: found[path].numel())
    return (
        f"{share:.0%} of this model's numbers are in parameters that belong to no linear layer and cannot be adapted, "
        f"such as {first} {list(found[first].shape)}"
    ).replace("%", " %", 1)


def find_targets(model: nn.Module, config: LoraConfig, strict: bool = True) -> tuple[dict[str, nn.Module], list[str]]:
    """({path: original module} to adapt, complaints about patterns that match nothing but do no harm).

    Raises ValueError where nothing matches, where one of several targets matches nothing (unless not `strict`: then
    a complaint), and where a target is of a kind that cannot be adapted.
    """
    modules = dict(original_modules(model))
    modules.pop("", None)
    targets, complaints = config.target_modules, []
    if targets == ALL_LINEAR:
        found = [p for p in linear_paths(model) if not _excluded(config, p) and _in_chosen_layer(config, p)]
    else:
        found = [p for p in modules if is_target(config, p)]
    if not found:
        raise ValueError(_nothing_matches(modules, config))
    if not isinstance(targets, str):
        missing = [t for t in targets if not any(_has_suffix(p, (t,)) for p in modules)]
        if missing:
            text = f"no module matches {', '.join(map(repr, missing))}. {_what_there_is(modules)}"
            text += "".join(did_you_mean(m, _names(modules)) for m in missing[:1])
            if strict:
                raise ValueError(text)
            complaints.append(text)
    for path in found:
        _check_kind(path, modules)
    if targets == ALL_LINEAR and (text := out_of_reach(model)):
        complaints.append(f"'{ALL_LINEAR}': {text}")
    if kernels := [p for p in found if _read(p, modules, READ_BY_KERNELS)]:
        complaints.append(
            f"'{kernels[0]}': on a GPU with kernels for state-space models training reads its weight and never calls "
            "it: an adapter there would be ignored. 'all-linear' leaves it out."
        )
    if text := _misread_by_peft(model, found):
        complaints.append(text)
    complaints += _idle_patterns(config, modules, found)
    return {path: modules[path] for path in found}, complaints


def find_saved(model: nn.Module, config: LoraConfig, strict: bool = True) -> dict[str, nn.Module]:
    """{path: original module} of `modules_to_save`: every path that ends in one of the names, as in peft.

    Raises ValueError for a name that matches nothing, unless not `strict`.
    """
    modules = {p: m for p, m in original_modules(model) if p}
    found = {p: m for p, m in modules.items() if p.endswith(config.modules_to_save)} if config.modules_to_save else {}
    missing = [name for name in config.modules_to_save if not any(p.endswith(name) for p in found)]
    if missing and strict:
        last = {p.rpartition(".")[2] for p in modules}
        raise ValueError(
            f"modules_to_save: no module ends in {', '.join(map(repr, missing))}. Top modules of this model: "
            f"{', '.join(p for p in modules if '.' not in p)}." + did_you_mean(missing[0], last)
        )
    return {p: m for p, m in found.items() if not any(p.startswith(f"{q}.") for q in found)}


def shortest_names(model: nn.Module, paths: list[str]) -> list[str]:
    """The targets that mean exactly `paths`: last names where those suffice, else the full paths."""
    last = tuple(dict.fromkeys(p.rpartition(".")[2] for p in paths))
    meant = [p for p, _ in original_modules(model) if p and _has_suffix(p, last)]
    return sorted(last) if meant == [p for p, _ in original_modules(model) if p in set(paths)] else sorted(paths)


def _names(modules: dict[str, nn.Module]) -> list[str]:
    """Last names of what can be adapted, in the model's order."""
    return list(dict.fromkeys(p.rpartition(".")[2] for p, m in modules.items() if layer_class(m)))


def _what_there_is(modules: dict[str, nn.Module]) -> str:
    linear = list(dict.fromkeys(p.rpartition(".")[2] for p, m in modules.items() if isinstance(m, nn.Linear)))
    conv = list(dict.fromkeys(p.rpartition(".")[2] for p, m in modules.items() if is_conv1d(m)))
    embedding = list(dict.fromkeys(p.rpartition(".")[2] for p, m in modules.items() if isinstance(m, nn.Embedding)))
    images = list(dict.fromkeys(p.rpartition(".")[2] for p, m in modules.items() if isinstance(m, nn.Conv2d)))
    kinds = (("Linear", linear), ("Conv1D", conv), ("Embedding", embedding), ("Conv2d", images))
    said = [f"{kind} modules in this model end in: {', '.join(names)}." for kind, names in kinds if names]
    return " ".join(said) or f"This model has no module that can be adapted ({SUPPORTED})."


def _nothing_matches(modules: dict[str, nn.Module], config: LoraConfig) -> str:
    targets = config.target_modules
    named = repr(targets) if isinstance(targets, str) else ", ".join(map(repr, targets))
    text = f"no module matches {named}"
    if config.exclude_modules or config.modules_to_save or config.layers_to_transform:
        text += " (after exclude_modules, modules_to_save and layers_to_transform)"
    near = did_you_mean(targets if isinstance(targets, str) else targets[0], _names(modules))
    return f"{text}. {_what_there_is(modules)}{near}"


def _check_kind(path: str, modules: dict[str, nn.Module]) -> None:
    module, parent = modules[path], modules.get(path.rpartition(".")[0])
    if layer_class(module) is None:
        raise ValueError(f"'{path}' is a {type(module).__name__}: only {SUPPORTED} can be adapted")
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        raise ValueError(f"'{path}' is a Conv2d of {module.groups} groups: only a convolution of one can be adapted")
    if isinstance(parent, nn.MultiheadAttention) or _read(path, modules, READ_BY):
        kind = "torch.nn.MultiheadAttention" if isinstance(parent, nn.MultiheadAttention) else type(parent).__name__
        raise ValueError(
            f"'{path}' belongs to a {kind}, which reads the weight and never calls the layer: an "
            "adapter there would be ignored. Adapt other modules, or a model that calls its layers."
        )


def _misread_by_peft(model: nn.Module, found: list[str]) -> str | None:
    """A sentence on layers whose adapters peft would not load, for it thinks that their names mean the experts'."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(kind, str):
        return None
    try:
        from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN as built_like
    except ImportError:
        return None
    names = PEFTS_EXPERTS.get(built_like.get(kind), ())
    mistaken = [p for p in found if p.rpartition(".")[2] in names]
    return mistaken and (
        f"'{mistaken[0]}' and {len(mistaken) - 1} more: peft 0.21 takes such a name in a {kind} model for its experts' "
        "and does not load the adapter there. Here it loads, and merged it serves anywhere."
    )


def _idle_patterns(config: LoraConfig, modules: dict[str, nn.Module], found: list[str]) -> list[str]:
    """Sentences about patterns that match no adapted module: harmless, but surely a slip."""
    said = []
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field):
            if not any(first_match([pattern], p) for p in found):
                near = did_you_mean(pattern, dict.fromkeys(p.rpartition(".")[2] for p in found))
                said.append(f"{field}: {pattern!r} matches no adapted module and changes nothing.{near}")
    exclude = config.exclude_modules
    for name in (exclude,) if isinstance(exclude, str) else exclude or ():
        if not any(re.fullmatch(name, p) if isinstance(exclude, str) else _has_suffix(p, (name,)) for p in modules):
            said.append(f"exclude_modules: {name!r} matches no module.{did_you_mean(name, _names(modules))}")
    return said
