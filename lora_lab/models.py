"""One loader for three kinds of name: the embedded base model, a folder, a model of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_lab import hub

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

BASE = Path(__file__).parent / "assets" / "base"
NOT_CAUSAL = re.compile(r"For(MaskedLM|PreTraining|\w*Classification|QuestionAnswering|MultipleChoice)$")
BRINGS_CODE = "brings code of its own, which is never run here"


def load(
    name: str | Path = "base",
    device: str = "auto",
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, in eval mode, on `device`.

    `name` is "base" (the model that comes with this package), a folder in the Hugging Face format, or a hub name such
    as "HuggingFaceTB/SmolLM2-135M". A hub model that was fetched before loads without a network. Weights are float32
    on a CPU and bfloat16 on a GPU, or `dtype`. `adapter` is a folder in the PEFT format, loaded frozen as "default".
    `revision` pins a hub model to a commit, tag or branch; "NAME@REVISION" as the name says the same.
    Code that comes with a model is never run, and weights are read from safetensors only, never from a pickle.

    Raises ValueError for a name, revision or device that is not there, with the nearest ones, and for a model that
    needs its own code or a pickle, or that is no causal language model; and as `hub.fetch` does for one to be fetched.
    """
    configuration(name, revision)  # what cannot be loaded is refused before its weights are fetched
    tokenizer = load_tokenizer(name, revision)
    model = load_model(name, device, revision, dtype)
    if adapter is not None:
        from lora_lab.storage import load_adapter

        load_adapter(model, adapter)
    return model, tokenizer


def load_model(
    name: str | Path = "base",
    device: str = "auto",
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    distributed_config=None,
) -> PreTrainedModel:
    """The model alone, as `load` gives it. Raises as `load` does.

    distributed_config: transformers' own, which shards the weights over the processes while they are read.
    """
    place = pick_device(device)
    config, model_class = configuration(name, revision)
    options = {"config": config, "dtype": dtype or weight_type(place), "use_safetensors": True}
    if distributed_config is not None:
        options["distributed_config"] = distributed_config
    model = _local_first(_quietly(model_class.from_pretrained), name, revision, what="weights", **options)
    if model._hf_peft_config_loaded:  # transformers does so where peft is installed, unasked
        raise ValueError(f"model {str(name)!r} holds an adapter beside its weights: keep the two in folders apart")
    # Sharded weights are where they belong, and must not be moved.
    return (model if distributed_config is not None else model.to(place)).eval()


def load_tokenizer(name: str | Path = "base", revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer alone, as `load` gives it: it always has a padding token. Raises as `load` does."""
    from transformers import AutoTokenizer

    tokenizer = _local_first(AutoTokenizer.from_pretrained, name, revision, what="tokenizer", trust_remote_code=False)
    if tokenizer.pad_token is None:  # GPT-2 and Llama have none; padding is masked, so any token serves
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def prepare(name: str | Path = "base") -> None:
    """Import all the code that `load(name)` needs, so that memory measured after this is the model's own."""
    configuration(name)


def configuration(name: str | Path = "base", revision: str | None = None) -> tuple[PretrainedConfig, type]:
    """The model's configuration and the class that loads it, imported; no weights. Raises as `load` does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _local_first(AutoConfig.from_pretrained, name, revision, what="config", trust_remote_code=False)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(f"model {str(name)!r} is of type {config.model_type!r}, which is not a causal language model")
    # transformers would build a language model from these all the same: one that sees what it is to write, or one whose
    # output head is random.
    if other := next((made for made in config.architectures or () if NOT_CAUSAL.search(made)), None):
        kind = "an encoder, which cannot write text" if other.endswith(("MaskedLM", "PreTraining")) else "no causal LM"
        raise ValueError(
            f"model {str(name)!r} is a {other}: {kind}. lora_lab.adapters takes it as transformers' own class loads it"
        )
    if "/" in str(config._attn_implementation):  # the name of a hub repository with compiled code
        raise ValueError(f"model {str(name)!r} {BRINGS_CODE} (attn_implementation {config._attn_implementation!r})")
    return config, AutoModelForCausalLM._model_mapping[type(config)]


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" is the first CUDA GPU, or else the CPU. Raises ValueError for a device that this machine lacks.

    Apple's "mps" is used only when named: the course's numbers were never checked on it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"no device is called {device!r}; use auto, cpu, cuda or mps") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA GPU; use cpu")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA GPUs")
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no Apple GPU; use cpu")
    return place


def context_length(model: PreTrainedModel) -> int | None:
    """How many tokens the model takes at once, or None where its configuration does not say."""
    return getattr(model.config, "max_position_embeddings", None)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the `with`; the mode from before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def weight_type(place: torch.device) -> torch.dtype:
    """The type in which `load` holds weights on this device: bfloat16 on a CUDA GPU, float32 elsewhere."""
    # transformers 5 would keep the file's bfloat16 on a CPU, where it is slow and where float32 is our reference.
    return torch.bfloat16 if place.type == "cuda" else torch.float32


def _place(name: str | Path, revision: str | None) -> tuple[str, str | None]:
    """What transformers is asked for: a folder's path and None, or a hub name and the revision it is pinned to.

    Raises ValueError where `name` can be neither.
    """
    folder = BASE if str(name) == "base" else Path(name).expanduser()
    plain, at, pinned = str(name).partition("@")
    if at and not folder.exists():
        if revision not in (None, pinned):
            raise ValueError(f"{name} names the revision {pinned!r}, and {revision!r} was given: give one of them")
        return _place(plain, pinned)
    if folder.is_dir():
        if revision:
            raise ValueError(f"revision {revision!r} goes with a hub name: {name} is a folder, which has but one")
        if (folder / "config.json").is_file():
            return str(folder), None
        if (folder / "adapter_config.json").is_file():
            raise ValueError(
                f"{name} is an adapter, not a model: give it with --adapter beside the model it belongs to"
            )
        raise ValueError(f"{name} is a folder without config.json, so it holds no model in the Hugging Face format")
    if folder.is_file():
        raise ValueError(f"{name} is a file; a model is a folder with config.json, a hub name, or base")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", str(name)) or ".." in str(name):
        raise ValueError(f"no model {str(name)!r}: there is no such folder. {hub.near(str(name))}")
    hub.check_revision(str(name), revision)
    return str(name), revision


def _local_first(loader, name: str | Path, revision: str | None, what: str, **options):
    """`loader` on the folder `name`; for a hub name from this machine, or from the hub when it is not here yet.

    what: the part of a hub model that the loader reads, as `hub.fetch` calls it.
    """
    source, revision = _place(name, revision)
    options["local_files_only"] = True
    if not Path(source).is_dir():
        try:
            # Asked for weights that are not here, transformers would have a service convert a pickle at the hub.
            if what != "weights" or hub.whole(source, revision):
                return loader(source, revision=revision, **options)
        except Exception as error:  # not fetched yet, or only in part
            if _out_of_memory(error):
                raise
            if BRINGS_CODE in (why := _why(error, str(name), what)):
                raise ValueError(why) from error
        listed = hub.look(source, revision)
        hub.fetch(listed, what, float32=options.get("dtype") == torch.float32)
        options["revision"] = listed.commit
        if what == "weights":  # the configuration at hand may be of an older commit
            options["config"], _ = configuration(source, listed.commit)
    try:
        return loader(source, **options)
    except Exception as error:  # each library has its own kinds for a damaged file
        if _out_of_memory(error):
            raise
        raise ValueError(_why(error, str(name), what)) from error


def _why(error: Exception, name: str, what: str) -> str:
    """One sentence on why the model `name` cannot be loaded."""
    text = str(error)
    if "custom code" in text:
        return f"model {name!r} {BRINGS_CODE}: choose a model of a kind that transformers knows"
    if "model.safetensors" in text and re.search("no file named|not appear to have a file named", text):
        return f"model {name!r} {hub.NO_SAFETENSORS}"
    if what == "tokenizer":
        return f"model {name!r} has no tokenizer that transformers can load: {_first(error)}"
    return f"model {name!r} cannot be loaded: {_first(error)}"


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _first(error: BaseException) -> str:
    """The first line of what a library says: the rest is advice about its own internals."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _quietly(loader):
    """`loader` without a progress bar for the half second in which weights are read; a download keeps its own."""

    def load(*words, **options):
        from transformers.utils import logging

        was_on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            return loader(*words, **options)
        finally:
            if was_on:
                logging.enable_progress_bar()

    return load
