"""Every causal architecture of transformers, built small with random weights, and LoRA tried on it from end to end.

python -m tests.families.zoo [NAME ...]     # a line each, then the figures; all of them take some minutes

A line says "ok", or what fails by how much, and whether packing is open to the model. "refused" is a sentence of ours.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

from lora_lab import export, families, packing
from lora_lab.adapters import add_adapter
from lora_lab.config import LoraConfig
from lora_lab.merging import merge, unmerge
from lora_lab.record import record_of
from lora_lab.storage import load_adapter, save_adapter
from tests.families.tiny import tiny

IDS = torch.randint(4, 250, (2, 24), generator=torch.Generator().manual_seed(6))


def logits(model, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def near(one: torch.Tensor, other: torch.Tensor, what: str, room: float = 1e-4) -> None:
    """Raises ArithmeticError unless the two agree up to the rounding of float32; a copy's memory may lie otherwise."""
    if not (off := float((one - other).abs().max())) <= room * max(1.0, float(other.abs().max())):
        raise ArithmeticError(f"{what} {off:.2g} off")


def journey(name: str, which: str, folder: Path) -> str:
    """One set of targets from attaching to the plain folder. Returns what is to be told of it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        names = families.targets(tiny(name), which)
        model = add_adapter(tiny(name), LoraConfig(rank=4, target_modules=names))
    plain, layers, notes = logits(tiny(name)), record_of(model).layers, []
    near(logits(model), plain, "untrained", 1e-6)
    own = [p for p in model.parameters() if p.requires_grad]
    frozen = {id(p): p.detach().clone() for p in model.parameters() if not p.requires_grad}
    optimizer, losses = torch.optim.AdamW(own, lr=1e-2), []
    for _ in range(2):
        losses.append(model.train()(input_ids=IDS, labels=IDS).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    if not all(torch.equal(p, frozen[id(p)]) for p in model.parameters() if id(p) in frozen):
        raise ArithmeticError("a frozen weight moved")
    if losses[0] == losses[1]:
        raise ArithmeticError("two steps left the loss as it was")
    if idle := [p for p, layer in layers.items() if not layer.matrices("default")[1].any()]:
        notes.append(f"{len(idle)} of {len(layers)} idle")  # another's parts: of an encoder, or of what sees
    with torch.no_grad():  # now each of them counts, so that one that is merged and never called shows
        for layer in layers.values():
            layer.matrices("default")[1].add_(torch.randn(layer.matrices("default")[1].shape) * 0.1)
    adapted = logits(model)
    save_adapter(model, folder / "adapter", base_model_name=name)
    near(logits(load_adapter(tiny(name), folder / "adapter")), adapted, "loaded", 1e-5)
    try:
        near(logits(peft.PeftModel.from_pretrained(tiny(name), folder / "adapter")), adapted, "in peft", 1e-5)
    except (ArithmeticError, ValueError) as error:
        notes.append("not in peft, as said" if any("peft" in str(w.message) for w in told) else f"peft: {error}"[:60])
    merge(model)
    near(logits(model), adapted, "merged")
    unmerge(model)
    near(logits(model), adapted, "unmerged", 1e-6)
    export.export(model, folder / "plain")
    near(logits(type(model).from_pretrained(folder / "plain")), adapted, "exported folder")
    return f"{which} ok" + f" ({'; '.join(notes)})" * bool(notes)


def report(name: str) -> str:
    """What holds of one architecture, as a line."""
    try:
        model = tiny(name)
        changed = logits(model, torch.cat([IDS[:, :16], IDS[:, 16:].flip(1)], 1))
        near(logits(model)[:, :16], changed[:, :16], "it sees what it is to write,", 1e-4)
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            near(logits(type(model).from_pretrained(folder)), logits(model), "transformers' own folder")
    except Exception as error:
        return f"not built: {type(error).__name__} {error}".replace("\n", " ")[:150]
    said = []
    for which in families.WHICH:
        try:
            with tempfile.TemporaryDirectory() as folder:
                said.append(journey(name, which, Path(folder)))
        except ValueError as error:
            said.append(f"{which} refused" if which != families.ALL_LINEAR else f"{which} refused: {error}"[:150])
        except Exception as error:
            said.append(f"{which} FAILS: {type(error).__name__} {error}".replace("\n", " ")[:150])
    try:
        packing.check(model)
        said.append("packs")
    except ValueError:
        said.append("packing refused")
    except Exception as error:
        said.append(f"packing FAILS: {error}"[:80])
    return ", ".join(said)


def main(names: list[str]) -> int:
    """Each in a process of its own, which may be stopped; returns how many fail."""
    lines = []
    for name in names:
        with multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn").Pool(1, quiet) as pool:
            try:
                line = pool.apply_async(report, (name,)).get(timeout=300)
            except multiprocessing.TimeoutError:
                line = "not built: more than five minutes"
        lines.append(line)
        print(f"{name:26} {line}", flush=True)
    built = [line for line in lines if not line.startswith("not built")]
    good = [line for line in built if "FAILS" not in line and line.startswith(f"{families.ALL_LINEAR} ok")]
    print(f"{len(good)} of {len(built)} built small hold from attaching to the plain folder; {len(names)} in all")
    return sum("FAILS" in line for line in built)


def quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(NAMES)))
