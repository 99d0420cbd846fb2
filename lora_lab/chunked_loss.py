"""A language model's training loss without its logits: [rows, length, vocabulary] in float32 is never there at once.

The gradient of the loss with respect to the logits is known as soon as they are, softmax minus one-hot. So a chunk of
tokens goes through the output head, gives its loss and the gradient of its hidden states at once, and is forgotten;
the backward pass begins with the gradients kept. The same idea as Liger's fused linear cross-entropy (Hsu et al. 2024,
section 3.2), in plain torch, and through the model's own forward, so that whatever a family does to its logits
(Gemma's soft cap, Granite's and Cohere's scale) is done here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lora_lab.task_files import IGNORE

MARK = "_loss_chunk"  # on a model whose loss is computed in chunks


@contextmanager
def installed(model: nn.Module, chunk: int | None) -> Iterator[nn.Module]:
    """Within it, `model(..., labels=...)` gives its loss alone, from `chunk` tokens' logits at a time.

    Loss and gradients are those of transformers' own up to rounding, `num_items_in_batch` and `shift_labels` included;
    calls without labels (generation, scores) are as before, and afterwards the model is plain again. None changes
    nothing. A trained output head (in full, or by an adapter) gets its gradient too.

    Raises ValueError, and changes nothing, for a chunk below 1 and for a model of another build; `problem` tells more.
    """
    if chunk is None:
        yield model
        return
    check_chunk(chunk)
    if is_installed(model):
        raise ValueError(f"the loss of this {type(model).__name__} is computed in chunks already")
    if found := _unsuited(model):
        raise ValueError(f"{found}: its loss cannot be computed in chunks")
    before = model.__dict__.get("forward")
    model.forward = MethodType(_in_chunks(model, model.forward, chunk), model)
    model.__dict__[MARK] = chunk
    try:
        yield model
    finally:
        del model.__dict__[MARK]
        model.__dict__.pop("forward", None)  # whatever accelerate has made of it meanwhile
        if before is not None:
            model.forward = before


def is_installed(model: nn.Module) -> bool:
    """Whether `model` is within `installed`."""
    return MARK in model.__dict__


def check_chunk(chunk: Any) -> None:
    """Raises ValueError for anything but a whole number of tokens of at least 1."""
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"loss_chunk must be a whole number of tokens of at least 1, such as 1024, got {chunk!r}")


def problem(model: nn.Module) -> str | None:
    """Why the loss of this model cannot be had in chunks, as a sentence; None where it can.

    Tried on a few tokens: a model that adds another loss, or computes its logits in some other way, is found out.
    """
    name = type(model).__name__
    if found := _unsuited(model):
        return found
    tokens = torch.arange(2, 10, device=model.device)[None] % model.config.get_text_config().vocab_size
    inputs = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    was_training = model.training
    try:
        with torch.no_grad(), installed(model.eval(), 3):
            ours = model(**inputs).loss
    except (AttributeError, TypeError, RuntimeError, IndexError) as error:
        return f"the logits of a {name} do not come from its decoder and output head alone ({error})"
    else:
        with torch.no_grad():
            whole = model(**inputs).loss
    finally:
        model.train(was_training)
    near = 100 * torch.finfo(model.dtype).eps * float(whole.abs().clamp_min(1))
    if not float((whole - ours).abs()) <= near:
        return f"the loss of a {name} is more than the cross-entropy of its logits"
    return None


def _unsuited(model: nn.Module) -> str | None:
    name, decoder = type(model).__name__, getattr(model, getattr(model, "base_model_prefix", ""), None)
    head = model.get_output_embeddings() if decoder is not None else None
    if head is None or decoder is model:
        return f"a {name} has no decoder with an output head"
    known = {id(p) for part in (decoder, head) for p in part.parameters()}
    outside = next((n for n, p in model.named_parameters() if p.requires_grad and id(p) not in known), None)
    return outside and f"{outside} trains outside the decoder and the output head of a {name}"


def _in_chunks(model: nn.Module, plain: Callable, chunk: int) -> Callable:
    """The forward to put on `model`; `plain` is the one it has."""

    def forward(self, *args, **kwargs):
        from transformers.modeling_outputs import CausalLMOutputWithPast

        if kwargs.get("labels") is None:
            return plain(*args, **kwargs)
        labels, count = kwargs.pop("labels"), kwargs.pop("num_items_in_batch", None)
        shifted, ignore = kwargs.pop("shift_labels", None), kwargs.pop("ignore_index", IGNORE)
        for name in ("logits_to_keep", "return_dict"):
            kwargs.pop(name, None)
        if shifted is None:  # tokens before n predict n
            shifted = nn.functional.pad(labels, (0, 1), value=ignore)[..., 1:]
        hidden = getattr(self, self.base_model_prefix)(*args, **kwargs)[0]
        shifted = shifted.to(hidden.device).flatten()
        shifted = shifted.masked_fill(shifted == ignore, IGNORE)
        trained = [p for p in self.get_output_embeddings().parameters() if p.requires_grad]
        loss = _Loss.apply(hidden, shifted, count, chunk, lambda rows: _logits(self, plain, rows), *trained)
        return CausalLMOutputWithPast(loss=loss)

    # Trainer looks for `num_items_in_batch`'s way in; not __wrapped__, through which accelerate would undo this.
    forward.__signature__ = inspect.signature(type(model).forward)
    return forward


def _logits(model: nn.Module, plain: Callable, rows: Tensor) -> Tensor:
    """Hidden states [n, width] to logits [n, vocabulary], by the model's own forward with the decoder left out."""
    name = model.base_model_prefix
    # An attribute of the object hides the submodule of that name, which stays where it is.
    model.__dict__[name] = lambda *_, inputs_embeds=None, **__: _Decoded(inputs_embeds)
    try:
        return plain(inputs_embeds=rows[None], use_cache=False).logits.flatten(0, 1)
    finally:
        del model.__dict__[name]


class _Decoded:
    """What a decoder returns, with nothing in it but the hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index):
        return (self.last_hidden_state,)[index]


class _Loss(torch.autograd.Function):
    """The mean (or the sum over `count`) of -log p of the labelled tokens, and in the same pass its gradients."""

    @staticmethod
    def forward(ctx, hidden: Tensor, labels: Tensor, count, chunk: int, logits_of: Callable, *trained: Tensor):
        flat, scored = hidden.detach().flatten(0, -2), (labels != IGNORE).nonzero().squeeze(1)
        count = len(scored) if count is None else count
        share = 1 / torch.as_tensor(count, dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        back, needed = ctx.needs_input_grad[0], ctx.needs_input_grad[0] or bool(trained)
        gradient = torch.zeros_like(flat) if back else None
        sums = [torch.zeros_like(p) for p in trained]
        for some in scored.split(chunk):
            rows, wanted = flat[some].requires_grad_(back), labels[some, None]
            with torch.set_grad_enabled(needed):
                logits = logits_of(rows)
            p = logits.detach().log_softmax(-1, dtype=torch.float32)
            total -= p.gather(1, wanted).sum()
            if needed:  # of the logits: softmax minus one-hot
                p = p.exp_().scatter_add_(1, wanted, p.new_full((1, 1), -1.0).expand_as(wanted)).mul_(share)
                inputs = [rows, *trained] if back else list(trained)
                found = list(torch.autograd.grad(logits, inputs, p.to(logits.dtype)))
                if back:
                    gradient[some] = found.pop(0)
                for one in sums:
                    one += found.pop(0)  # let go of: a head's is as large as the head
            del logits, p
        ctx.back = back
        ctx.save_for_backward(*([gradient.view_as(hidden)] if back else []), *sums)
        return total * share

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        found = [(g * upstream).to(g.dtype) for g in ctx.saved_tensors]
        gradient = found.pop(0) if ctx.back else None
        return gradient, None, None, None, None, *found
