"""The base model as it is shipped: bf16 weights, tokenizer, and a card that says what it was trained on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

from lora_lab.corpus import read_corpus
from lora_lab.pretrain import BOOK_GROUPS, STORY_SHARE, TOKENS_PER_STEP, base_config
from lora_lab.scoring import nats_per_character

LICENCES = {
    "tinystories.txt": ("a subset of TinyStories (Eldan and Li 2023)", "CDLA-Sharing-1.0"),
    "childrens_classics": ("children's classics, from mlschmitt/classic-books-markdown", "public domain"),
    "doyle": ("stories and novels by Arthur Conan Doyle, from the same collection", "public domain"),
    "english_novels": (
        "English novels to 1929, from computationalstylistics/100_english_novels",
        "public domain in the United States",
    ),
}
OPENINGS = ("Once upon a time, there was a little", "The old man looked at the sea and", '"Where are you going?" asked')


def export(text: Path, run: Path, out: Path) -> dict:
    """Write the newest checkpoint in `run` as a Hugging Face folder with its card; returns the card's numbers.

    Scores are of the exported bf16 weights, computed in float32. Each file is replaced whole, the weights last.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    out.mkdir(parents=True, exist_ok=True)
    config = base_config()
    config.dtype = torch.bfloat16
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(out)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=1).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(run / name, out / name)
    weights = {n: p.to(torch.bfloat16).contiguous() for n, p in state["model"].items() if n != "lm_head.weight"}
    save_file(weights, out / "model.tmp", metadata={"format": "pt"})
    os.replace(out / "model.tmp", out / "model.safetensors")

    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    corpus = read_corpus(text)
    log = json.loads(state["log"])
    numbers = {
        "parameters": sum(p.numel() for p in LlamaForCausalLM(config).parameters()),
        "tokens_seen": state["step"] * TOKENS_PER_STEP,
        "hours": round(state["seconds"] / 3600, 2),
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), bf16 autocast",
        "torch": torch.__version__,
        "stories_nats_per_character": round(nats_per_character(model, tokenizer, corpus.held_out_stories), 4),
        "peter_pan_nats_per_character": round(nats_per_character(model, tokenizer, corpus.held_out_windows), 4),
        "curve": [row for row in log if "stories" in row],
        "sources": corpus.hashes,
        "weights_sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }
    (out / "training.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (out / "README.md").write_text(card(numbers, text, samples(model, tokenizer)))
    return numbers


def samples(model, tokenizer) -> list[tuple[str, str]]:
    """Greedy, then sampled (temperature 0.8, seed 0), for each opening: (how, text)."""
    import torch

    out = []
    for opening in OPENINGS:
        ids = tokenizer(opening, return_tensors="pt")
        for how, options in (("greedy", {"do_sample": False}), ("sampled", {"do_sample": True, "temperature": 0.8})):
            torch.manual_seed(0)
            tokens = model.generate(**ids, max_new_tokens=70, **options)
            out.append((how, tokenizer.decode(tokens[0], skip_special_tokens=True)))
    return out


def card(numbers: dict, text: Path, written: list[tuple[str, str]]) -> str:
    """The card as Markdown, from the numbers alone."""
    rows = []
    shares = {"tinystories.txt": STORY_SHARE} | {g: (1 - STORY_SHARE) * w for g, w in BOOK_GROUPS.items()}
    for source, (what, licence) in LICENCES.items():
        files = [name for name in numbers["sources"] if name.startswith(source)]
        size = sum((text / name).stat().st_size for name in files) / 1e6
        rows.append(f"| {source} | {what} | {licence} | {len(files)} | {size:.1f} MB | {shares[source]:.0%} |")
    curve = "\n".join(
        f"| {r['tokens'] / 1e6:.1f} M | {r['loss']:.3f} | {r['stories']:.3f} | {r['peter_pan']:.3f} |"
        for r in numbers["curve"]
    )
    texts = "\n".join(f"- {how}: {t!r}" for how, t in written)
    return f"""---
license: apache-2.0
language: en
library_name: transformers
---
# The base model of LoRA Lab

A Llama of {numbers["parameters"]:,} parameters: 6 layers of 256, 8 heads over 4 key-value heads, 4,096 tokens
(byte-level BPE: any text decodes back to itself), context 512, bf16. It writes simple stories in English and is small
enough to fine-tune on two CPU cores in about a minute. It knows nothing about the world and must not be asked.

Held out, in nats per character (lower is better): **{numbers["stories_nats_per_character"]:.3f}** on 100 stories
(first 250 characters each), **{numbers["peter_pan_nats_per_character"]:.3f}** on *Peter Pan* (characters 20,000 to
84,000 in windows of 800; the whole book was left out of training).

## Training
`python -m lora_lab pretrain`: {numbers["tokens_seen"] / 1e6:.1f} M tokens in {numbers["hours"]} hours on
{numbers["machine"]}, torch {numbers["torch"]}; Muon on the matrices, AdamW on the rest, flat rate then a linear fall.

| source | what | licence | files | size | share of rows |
|---|---|---|---|---|---|
{chr(10).join(rows)}

SHA-256 of every file is in `training.json`. Stories whose index is a multiple of 89 were not trained on.

| tokens | training loss (nats per token) | held-out stories | Peter Pan |
|---|---|---|---|
{curve}

## What it writes
{texts}
"""
