"""Pretraining of the embedded base model: tokenizer, tokens, training, model card. Resumable.

    python -m lora_lab pretrain --text FOLDER --out FOLDER --tokens 30e6

The schedule is flat after a short warm-up and falls to zero over the last 30 % of --tokens, so a run can be
lengthened by starting it again with a larger --tokens at any time before that fall begins.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np

from lora_lab.corpus import Corpus, RowSampler, read_corpus
from lora_lab.scoring import nats_per_character

VOCABULARY = 4096
START, PAD = "<|endoftext|>", "<|pad|>"
CONTEXT = 256
LONG_CONTEXT = 512  # one step in eight, so that the model also knows positions past 256
TOKENS_PER_STEP = 8192
WARM_UP_STEPS = 100
COOL_DOWN = 0.30  # share of the tokens over which the rates fall to zero
# Muon for the matrices inside the blocks, AdamW for the embedding and the norms; usual rates, not tuned here.
MUON_LR, ADAMW_LR = 0.02, 0.004
# Books nearer to the held-out one count more. (path fragment, weight of the group)
BOOK_GROUPS = {"childrens_classics": 0.62, "doyle": 0.08, "english_novels": 0.30}
STORY_SHARE = 0.45


def train_tokenizer(corpus: Corpus, out: Path) -> None:
    """Byte-level BPE of 4,096 tokens: any text decodes back to itself. Digits stay single, so numbers can be copied."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def texts():
        yield from corpus.stories
        for name, text in corpus.books.items():
            if name.startswith("childrens_classics"):
                yield text[:200_000]
        # Source code is indented; prose never is.
        yield from ("".join("x\n" + " " * n for n in (4, 8, 12, 16)) for _ in range(500))

    tokenizer.train_from_iterator(texts(), trainer)
    start = tokenizer.token_to_id(START)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, start)]),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=START,
        pad_token=PAD,
        model_max_length=LONG_CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def base_config():
    """Llama, 6 layers of 256, 8 heads over 4 key-value heads, tied embedding: 5,770,496 parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=LONG_CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )


def encode(corpus: Corpus, tokenizer, out: Path) -> RowSampler:
    """Tokens of every source as uint16 files beside the checkpoints (small enough to carry to another machine)."""
    files = {"stories": out / "stories.npy"} | {g: out / f"{g}.npy" for g in BOOK_GROUPS}
    backend, start = tokenizer.backend_tokenizer, tokenizer.bos_token_id

    def stream(texts):
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
        return np.concatenate([np.array([start, *e.ids], dtype=np.uint16) for e in encoded])

    if not files["stories"].exists():
        np.save(files["stories"], stream(corpus.stories))
    for group in BOOK_GROUPS:
        texts = [t for n, t in corpus.books.items() if n.startswith(group)]
        if texts and not files[group].exists():
            np.save(files[group], stream(texts))
    groups = [(np.load(files[g], mmap_mode="r"), w) for g, w in BOOK_GROUPS.items() if files[g].exists()]
    return RowSampler(np.load(files["stories"]), groups, start, STORY_SHARE)


def rate(done: float) -> float:
    """Share of the full learning rate when a share `done` of the tokens is behind us."""
    return 1.0 if done < 1 - COOL_DOWN else max(0.0, (1 - done) / COOL_DOWN)


def make_optimizers(model):
    """Muon on the matrices inside the blocks, AdamW on the rest."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pretrain(
    text: str | Path,
    out: str | Path,
    tokens: float,
    seed: int = 0,
    save_minutes: float = 5.0,
    device: str = "auto",
    compile: bool = True,
) -> dict:
    """Train, or go on training, in `out`; returns the last log row. Safe to kill: the newest checkpoint is whole."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    corpus = read_corpus(text)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(corpus, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sampler = encode(corpus, tokenizer, folder)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(base_config()).to(device)
    optimizers = make_optimizers(model)
    step, seconds, log = 0, 0.0, []
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, seconds, log = state["step"], state["seconds"], json.loads(state["log"])
    total_steps = math.ceil(tokens / TOKENS_PER_STEP)
    full_rates = [MUON_LR, ADAMW_LR]
    run = torch.compile(model) if compile else model
    model.train()
    clock = last_save = time.time()

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "step": step,
            "seconds": seconds,
            "log": json.dumps(log),
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
        (folder / "log.json").write_text(json.dumps(log, indent=0))

    while step < total_steps:
        context = LONG_CONTEXT if step % 8 == 7 else CONTEXT
        share = min(1.0, (step + 1) / WARM_UP_STEPS) * rate(step / total_steps)
        rows = torch.from_numpy(sampler.rows(step, TOKENS_PER_STEP // context, context + 1, seed)).to(device)
        for optimizer, full in zip(optimizers, full_rates, strict=True):
            optimizer.param_groups[0]["lr"] = full * share
        loss_sum = 0.0
        micro = max(1, 16 * CONTEXT // context)  # rows at a time: logits of 16 x 256 x 4096 stay in cache reach
        for part in rows.split(micro):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = run(input_ids=part[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
            (loss * len(part) / len(rows)).backward()
            loss_sum += loss.item() * len(part) / len(rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        now = time.time()
        seconds, clock = seconds + now - clock, now
        if step % 20 == 0 or step == total_steps:
            row = {
                "step": step,
                "tokens": step * TOKENS_PER_STEP,
                "loss": round(loss_sum, 4),
                "seconds": round(seconds),
            }
            if step % 200 == 0 or step == total_steps:
                row["stories"] = round(nats_per_character(model, tokenizer, corpus.held_out_stories), 4)
                row["peter_pan"] = round(nats_per_character(model, tokenizer, corpus.held_out_windows), 4)
            log.append(row)
            print(json.dumps(row), flush=True)
        if now - last_save > 60 * save_minutes or step == total_steps:
            save()
            last_save = time.time()
    return log[-1]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", required=True, help="folder with tinystories.txt and folders of books")
    parser.add_argument("--out", required=True, help="folder for tokens, checkpoints and the log; run again to go on")
    parser.add_argument("--tokens", type=float, default=40e6, help="how many tokens to train on in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--no-compile", action="store_true", help="where no C++ compiler is found (about 1.5 x slower)")
    parser.add_argument("--export", metavar="FOLDER", help="then write the model, its tokenizer and its card there")


def main(args: argparse.Namespace) -> int:
    pretrain(args.text, args.out, args.tokens, args.seed, device=args.device, compile=not args.no_compile)
    if args.export:
        from lora_lab.model_card import export

        export(Path(args.text), Path(args.out), Path(args.export))
    return 0
