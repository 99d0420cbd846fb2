"""The PEFT adapter format in words: what the two files hold, and which files are refused.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. A tensor's key is `base_model.model.` + the path
in the plain model + a suffix. Source: peft 0.21, `utils/save_and_load.py` and `tuners/lora/config.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_lab.adapters import check_pissa, check_ranks
from lora_lab.config import ALL_LINEAR, LoraConfig, did_you_mean
from lora_lab.layers import LoraConv1D, LoraEmbedding, LoraLayer, layer_class
from lora_lab.matching import find_saved, find_targets, original_modules, shortest_names
from lora_lab.record import Record, scaled_config

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What peft can ask for and this package does not build. Loading such a file as plain LoRA would be silently wrong.
NOT_BUILT = {
    "lora_bias": "a bias in B",
    "target_parameters": "adapters on bare parameters",
    "trainable_token_indices": "trainable tokens",
    "layer_replication": "layer replication",
    "ensure_weight_tying": "tied adapters",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "corda_config": "CorDA",
    "lora_ga_config": "LoRA-GA",
    "loftq_config": "LoftQ",
    "megatron_config": "Megatron",
}
# Initial values that leave the base model alone: once trained, such an adapter is plain LoRA. A PiSSA file of peft's
# means "on what is left of the base": the part taken away is computed again, as peft does.
PLAIN_INITS = (True, False, None, "gaussian", "eva")
# Read from a file by LoraConfig, or saying nothing about the mathematics.
READ = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    **{
        k: k
        for k in (
            "target_modules exclude_modules layers_to_transform layers_pattern rank_pattern alpha_pattern use_rslora "
            "use_dora modules_to_save bias fan_in_fan_out"
        ).split()
    },
}
INFORMATION = set(
    "peft_type task_type base_model_name_or_path revision inference_mode auto_mapping peft_version init_lora_weights "
    "megatron_core qalora_group_size eva_config runtime_config".split()
)


def matrix_keys(path: str, layer: type[LoraLayer]) -> tuple[str, str]:
    """The keys of A and B of the layer at `path`."""
    a, b = ("lora_embedding_A", "lora_embedding_B") if layer is LoraEmbedding else ("lora_A.weight", "lora_B.weight")
    return f"{PREFIX}{path}.{a}", f"{PREFIX}{path}.{b}"


def magnitude_key(path: str) -> str:
    """The key of DoRA's magnitude; peft leaves out `.weight` in files."""
    return f"{PREFIX}{path}.lora_magnitude_vector"


def magnitude_shape(weight: Tensor, layer: type[LoraLayer]) -> tuple[int, ...]:
    """[out] as the file has it: a convolution's is [1, out, 1, 1]."""
    out = weight.shape[0 if layer.stored_as_out_in else 1]
    return (out,) if weight.ndim == 2 else (1, out, *[1] * (weight.ndim - 2))


def bias_key(path: str, adapted) -> str:
    """The key of the bias at `path`; an adapted layer's is inside its wrapper."""
    owner = path.removesuffix(".bias")
    return f"{PREFIX}{owner}.base_layer.bias" if owner in adapted else f"{PREFIX}{path}"


def as_plain(config: LoraConfig) -> LoraConfig:
    """What is saved of a PiSSA adapter: plain LoRA of twice the rank, at the same scaling."""
    if config.init_lora_weights != "pissa":
        return config
    grown = math.sqrt(2) if config.use_rslora else 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there was to say was said when it was made
        return replace(
            config,
            rank=2 * config.rank,
            alpha=grown * config.alpha,
            rank_pattern={k: 2 * v for k, v in config.rank_pattern.items()},
            alpha_pattern={k: grown * v for k, v in config.alpha_pattern.items()},
            init_lora_weights=True,
            patterns_in_order=True,
        )


def config_to_file(model: nn.Module, record: Record, name: str, base_model_name: str | None) -> dict:
    """The content of `adapter_config.json` for adapter `name`."""
    config = as_plain(scaled_config(record, name))
    paths = [p for p, layer in record.layers.items() if layer.has(name)]
    targets = config.target_modules
    if targets == ALL_LINEAR:  # the names themselves, so that the file means the same on every model class
        targets = shortest_names(model, paths)
    by_number = config.layers_to_transform if config.target_modules != ALL_LINEAR else None
    causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    base = base_model_name or getattr(getattr(model, "config", None), "_name_or_path", None) or None
    revision = None
    if base and "@" in base and not Path(base).exists():  # NAME@REVISION, as `models.load` takes it
        base, _, revision = base.partition("@")

    def number(value: float) -> float:
        return int(value) if value == int(value) else value

    def listed(value):
        return list(value) if isinstance(value, tuple) else value

    return {
        "alpha_pattern": {k: number(v) for k, v in config.alpha_pattern.items()},
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": config.bias,
        "exclude_modules": listed(config.exclude_modules),
        "fan_in_fan_out": any(isinstance(record.layers[p], LoraConv1D) for p in paths),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": listed(config.layers_pattern) if by_number else None,
        "layers_to_transform": listed(by_number),
        "lora_alpha": number(config.alpha),
        "lora_bias": False,
        "lora_dropout": config.dropout,
        "modules_to_save": listed(config.modules_to_save) or None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": dict(config.rank_pattern),
        "revision": revision,
        "target_modules": listed(targets),
        "target_parameters": None,
        "task_type": "CAUSAL_LM" if causal else None,
        "trainable_token_indices": None,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    }


def config_from_file(content: object, where: Path) -> LoraConfig:
    """The configuration in the parsed `adapter_config.json` at `where`.

    Raises ValueError, naming the file, for one that is not LoRA's or that asks for what is not built. Warns for keys
    it does not know and for a missing lora_alpha or r, which peft reads as 8. Regular expressions in it are run on the
    model's paths as they are: one made to backtrack for ever would do so.
    """
    if not isinstance(content, dict) or "peft_type" not in content:
        raise ValueError(f"{where} is not an adapter's configuration: it has no 'peft_type'")
    if content["peft_type"] != "LORA":
        raise ValueError(f"{where} describes a {content['peft_type']!r} adapter; only 'LORA' can be loaded here")
    for key, what in NOT_BUILT.items():
        if content.get(key):
            raise ValueError(f"{where} asks for {what} ({key} = {content[key]!r}), which is not built here")
    init = content.get("init_lora_weights", True)
    if init not in (*PLAIN_INITS, "pissa"):
        raise ValueError(
            f"{where} asks for the initial values {init!r} (init_lora_weights), which change the base model or are not "
            "built here. Convert it with peft to a plain LoRA adapter first."
        )
    if not content.get("target_modules"):
        raise ValueError(f"{where} names no target_modules")
    unknown = sorted(
        k for k, v in content.items() if v and k not in READ and k not in INFORMATION and k not in NOT_BUILT
    )
    if unknown:
        near = did_you_mean(unknown[0], [*READ, *NOT_BUILT])
        warnings.warn(f"{where}: unknown settings ignored: {', '.join(unknown)}.{near}", stacklevel=3)
    for key in ("r", "lora_alpha"):
        if content.get(key) is None:
            warnings.warn(f"{where} does not say {key}: read as 8, as peft does", stacklevel=3)
    fields = {READ[k]: v for k, v in content.items() if k in READ and v is not None}
    if init == "pissa":
        fields["init_lora_weights"] = init
    try:
        return LoraConfig(**{"rank": 8, "alpha": 8} | fields, patterns_in_order=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def expected_tensors(model: nn.Module, config: LoraConfig) -> dict[str, Tensor]:
    """{key: tensor} of the weights file that goes with `config` on this model, on the meta device: no memory is taken.

    Raises ValueError where nothing matches, where PiSSA cannot start, and for a rank far beyond any use.
    """
    targets, _ = find_targets(model, config, strict=False)
    check_ranks(targets, config)
    if config.init_lora_weights == "pissa":
        check_pissa(targets, config)
    found: dict[str, Tensor] = {}

    def expect(key: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        found[key] = torch.empty(tuple(shape), dtype=dtype, device="meta")

    for path, module in targets.items():
        layer, rank, weight = layer_class(module), config.rank_for(path), module.weight
        first, second, *kernel = weight.shape
        dtype = torch.promote_types(weight.dtype, torch.float32)  # as `LoraLayer.adapter_dtype`
        into, out = (second, first) if layer.stored_as_out_in else (first, second)
        key_a, key_b = matrix_keys(path, layer)
        expect(key_a, (rank, into, *kernel), dtype)
        expect(key_b, (out, rank, *[1] * len(kernel)), dtype)
        if config.use_dora:
            expect(magnitude_key(path), magnitude_shape(weight, layer), dtype)
    saved = find_saved(model, config, strict=False)
    for path, module in saved.items():
        for key, tensor in module.state_dict().items():
            expect(f"{PREFIX}{path}.{key}", tensor.shape, tensor.dtype)
    if config.bias != "none":
        whole = tuple(f"{p}." for p in saved)
        for path, module in original_modules(model):
            chosen = path in targets or (config.bias == "all" and not f"{path}.".startswith(whole))
            bias = module._parameters.get("bias")
            if chosen and bias is not None:
                expect(bias_key(f"{path}.bias", targets), bias.shape, bias.dtype)
    return found
