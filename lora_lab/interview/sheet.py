"""The cheat sheet: one A4 page of LoRA, as HTML that stands alone; every number on it is computed when it is made.

python -m lora_lab cheatsheet --out lora_cheat_sheet.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lora_lab import counting, flops, shapes
from lora_lab.markup import Html, join, prose, tag
from lora_lab.memory import BUCKETS, NF4_BITS, WAYS, memory

FILE = "lora_cheat_sheet.html"
HOW_TO_PRINT = (
    f"To print it on one A4 page: python -m lora_lab cheatsheet --out {FILE}, open the file in a browser, print."
)
TITLE = "LoRA on one page"
MODELS = ("Llama-2-7B", "Llama-3.1-8B", "Mistral-7B-v0.1", "Qwen2.5-7B")
WIDTH, RANK, ALPHA, TALL, LENGTH = 4096, 8, 16, 16, 512  # the card's matrix; the rank on all linear layers; tokens
QV = "q_proj,v_proj"
BILLION, MILLION = 10**9, 10**6

# Dark ink on white whatever the reader's theme is; every pair of colours has a contrast of at least 7. Where a
# notebook's theme colours rows and code by longer selectors than ours, the class is repeated to outweigh them.
CSS = """
@page { size: A4; margin: 9mm }
.lora-sheet { background: #fff; color: #222; font: 9pt/1.36 "DejaVu Sans", Verdana, Arial, sans-serif; padding: 6px }
.lora-sheet .name { font-size: 15pt; margin: 0 0 4px }
.lora-sheet .columns { columns: 2; column-gap: 7mm }
.lora-sheet .part { break-inside: avoid; margin-bottom: 7px }
.lora-sheet .part > :first-child { font-size: 10pt; margin: 0 0 2px; color: #003b63; border-bottom: 1px solid #8a8a8a }
.lora-sheet p, .lora-sheet ul { margin: 2px 0; text-align: left }
.lora-sheet ul { padding-left: 14px }
.lora-sheet table { border-collapse: collapse; margin: 3px 0; font-size: 94%; color: inherit }
.lora-sheet.lora-sheet.lora-sheet tr { background: #fff }
.lora-sheet th, .lora-sheet td { padding: 0 7px 0 0; text-align: right; font-weight: normal; white-space: nowrap }
.lora-sheet th:first-child, .lora-sheet td:first-child { text-align: left }
.lora-sheet th:last-child, .lora-sheet td:last-child { padding-right: 0 }
.lora-sheet thead th { border-bottom: 1px solid #8a8a8a; font-weight: bold }
.lora-sheet thead th { vertical-align: bottom; white-space: normal }
.lora-sheet code { font-family: "DejaVu Sans Mono", Consolas, monospace; font-size: 92% }
.lora-sheet.lora-sheet.lora-sheet code { background: none; color: inherit; padding: 0 }
"""


def page() -> str:
    """The whole page."""
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("title", TITLE), tag("style", Html(CSS + "body { margin: 0 }"))
    )
    body = tag("body", tag("main", sheet(), class_="lora-sheet"))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def in_notebook() -> Html:
    """The same below a notebook's own headings."""
    return join([tag("style", Html(CSS)), tag("div", sheet(level=3), class_="lora-sheet", lang="en")])


def sheet(level: int = 1) -> Html:
    """Title and parts; `level` is the title's heading, the parts' are one below it."""
    parts = [tag("div", tag(f"h{level + 1}", title), *inside(), class_="part") for title, inside in PARTS.items()]
    return join([tag(f"h{level}", TITLE, class_="name"), tag("div", *parts, class_="columns")])


def say(text: str) -> Html:
    return tag("p", prose(text))


def items(*texts: str) -> Html:
    return tag("ul", *(tag("li", prose(text)) for text in texts))


def rows(head: tuple[str, ...], *body: tuple[str, ...]) -> Html:
    """A table whose first column names the row."""
    first = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head)))
    rest = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in body]
    return tag("table", first, tag("tbody", *rest))


def percent(share: float) -> str:
    """A share in percent: two digits after the point above a tenth of a percent, else three significant."""
    return f"{100 * share:.2f} %" if share >= 0.001 else f"{100 * share:.3g} %"


def at_rank(rank: int) -> str:
    """ "r = 8", which no line breaks in two."""
    return f"r\u00a0=\u00a0{rank}"


def gigabytes(size: float) -> str:
    return f"{size / BILLION:.1f} GB"


def _idea() -> list[Html]:
    return [
        say("`y = W x + (alpha / r) B (A x)`. W [out, in] is frozen; A [r, in] and B [out, r] train."),
        say("The update is B A times alpha / r, of rank r at most: learned as such, not an approximation of another."),
        say("x meets A first. In rows: `y = x W + s (x A) B`, A [in, r], B [r, out]. peft: `lora_A.weight` [r, in]."),
        say("A starts random, B zero: step 0 is the base, step 1 moves B alone. Both zero: nothing ever moves."),
    ]


def _counting() -> list[Html]:
    one, whole = counting.lora_parameters(WIDTH, WIDTH, RANK), WIDTH * WIDTH
    found = []
    for name in MODELS:
        shape = shapes.known(name)
        few, many = counting.lora(shape, RANK, QV), counting.lora(shape, TALL)
        found.append((name, f"{few:,}", percent(few / shape.total), f"{many:,}", percent(many / shape.total)))
    grouped = [shapes.known(name) for name in MODELS if shapes.known(name).kv_heads < shapes.known(name).heads]
    return [
        say(
            f"One matrix: r (in + out). {WIDTH} x {WIDTH}, r = {RANK}: {one:,} of {whole:,}, {percent(one / whole)}. "
            f"As large as W at r = {counting.break_even_rank(WIDTH, WIDTH):,} = in x out / (in + out)."
        ),
        rows(("", f"q, v, {at_rank(RANK)}", "of base", f"all linear, {at_rank(TALL)}", "of base"), *found),
        say(
            f"Traps: {len(grouped)} of these {len(MODELS)} have fewer heads for k and v (GQA); heads x head size may "
            "differ from the width; tied embeddings count once; all-linear leaves out embedding and head; say share of "
            "what."
        ),
    ]


def _scaling() -> list[Html]:
    ranks = (4, 8, 16, 64, 256)
    return [
        rows(
            (f"alpha = {ALPHA}", *(at_rank(rank) for rank in ranks)),
            ("LoRA, alpha / r", *(f"{ALPHA / rank:.3g}" for rank in ranks)),
            ("rsLoRA, alpha / root r", *(f"{ALPHA / rank**0.5:.3g}" for rank in ranks)),
        ),
        items(
            "On a trained adapter alpha is a dial: the update is proportional to it, the loss is not.",
            "In training, alpha x c is B's learning rate x c (Adam) or x c^2 (SGD). Fix alpha, tune the rate.",
            "First steps are alike at every r with alpha / r under Adam, with alpha / root r under SGD.",
            f"alpha = 2 r is a habit: the factor is {2 * RANK / RANK:g} at every r, so the best rate falls as r grows.",
        ),
    ]


def _memory() -> list[Html]:
    shape = shapes.known(MODELS[0])
    states = {}
    for how in ("full", "lora", "qlora"):
        cost = memory(shape, how, rows=1, length=1, rank=TALL)
        states[how] = sum(cost[bucket] for bucket in BUCKETS[:3])
    full, lora = WAYS["full"], WAYS["lora"]
    in_full, trained = (way.weights + way.gradients + way.optimizer for way in (full, lora))
    saved = counting.lora(shape, TALL)
    return [
        rows(
            (f"{MODELS[0]}, all linear, {at_rank(TALL)}", "bytes a parameter", "states"),
            ("in full, mixed precision, Adam", f"{in_full:g}", gigabytes(states["full"])),
            ("LoRA, base in bfloat16", f"{lora.frozen} frozen, {trained:g} trained", gigabytes(states["lora"])),
            (
                "QLoRA, base in NF4",
                f"{NF4_BITS / 8:.3f} in the layers",
                gigabytes(states["qlora"]),
            ),
        ),
        items(
            f"QLoRA outside the layers: {WAYS['qlora'].frozen} bytes frozen; adapter: {trained:g}.",
            "LoRA removes gradients and optimizer states of the base. Weights, activations and logits stay: for those, "
            "checkpointing and shorter rows.",
            f"NF4: 4 + 8/64 + 32/(64 x 256) = {NF4_BITS:.3f} bits; {4 + 32 / 64} without double quantisation. It saves "
            "memory, not time: every use dequantises.",
            f"Adapter file at r = {TALL}: {4 * saved / MILLION:.0f} MB in float32; bfloat16 half.",
        ),
    ]


def _numbers() -> list[Html]:
    return [
        items(
            "A count or share: model by name, rank, matrices, and what it is a share of.",
            "A loss or score: each method at its own best rate, how many seeds, and their spread.",
        )
    ]


def _speed() -> list[Html]:
    shape = shapes.known(MODELS[0])
    step = flops.step(shape, LENGTH, how="lora", rank=RANK, targets=QV) / flops.step(shape, LENGTH)
    ahead = flops.forward(shape, LENGTH, rank=RANK) / flops.forward(shape, LENGTH) - 1
    return [
        items(
            f"Work of a training step: {step:.3f} of full ({MODELS[0]}, q and v, {at_rank(RANK)}, {LENGTH} tokens). "
            "The backward pass still goes through every frozen matrix; only their own gradients are saved.",
            f"Not merged, the forward pass has {percent(ahead)} more FLOPs (all linear, {at_rank(RANK)}); small "
            "products cost more time than FLOPs.",
            "Merged: no extra work. But bfloat16 rounds the update, 4 bits can lose most of it, and one W serves "
            "one task. Keep the adapter's file.",
        )
    ]


def _choosing() -> list[Html]:
    return [
        items(
            "Where before how much: all linear layers, the MLP above all, then the rate, then the rank.",
            f"Start at r = {RANK} to {4 * RANK}; sweep the learning rate, often some ten times full fine-tuning's. "
            "Raise r while the training loss still falls with it.",
            "Loses to full fine-tuning on much new data (continued pretraining, a new language) at a low rank.",
            "Less forgetting is usual, not promised: it follows how far you train. Plot both losses.",
        )
    ]


def _sentences() -> list[Html]:
    base = shapes.known(MODELS[0]).total
    most = counting.lora(shapes.known(MODELS[0]), 4 * TALL) / base
    pages = counting.lora_parameters(WIDTH, WIDTH, RANK) // WIDTH
    pairs = (
        ("B A approximates the update.", "It is the update, held to rank r and trained as such."),
        ("A B x.", "B (A x): x meets A first."),
        ("Higher alpha adapts more strongly.", "A dial after training, a learning rate during it."),
        ("r = 64 for hard domains.", "Depends on the data; first all linear layers and a tuned rate."),
        ("Updates are low-rank.", "A low rank can suffice; full updates, where measured, are not low."),
        ("Merging is free.", "No latency, yes; but it rounds, and ends swapping."),
        (f"An {RANK}-page summary.", f"{pages} pages: A has {RANK} and so has B."),
        ("Under 1 %.", f"At common ranks; {at_rank(4 * TALL)} on all linear layers of {MODELS[0]} is {percent(most)}."),
    )
    return [tag("ul", *(tag("li", prose(f"Not: {wrong} "), tag("b", prose(right))) for wrong, right in pairs))]


def _variants() -> list[Html]:
    return [
        items(
            "rsLoRA: alpha / root r. LoRA+: a higher rate for B than for A.",
            "DoRA: LoRA turns W's rows, their lengths train apart. Unmerged it costs more.",
            "PiSSA: A and B start as W's strongest pieces, the rest of W is frozen.",
            "LoRA-FA: A stays as drawn, so less is kept of x. VeRA: A and B are random and shared, vectors train.",
            "QLoRA: plain LoRA over a base in NF4. AdaLoRA: the rank moves to where it counts.",
        )
    ]


def _breaks() -> list[Html]:
    return [
        items(
            "Loss level to the last bit: nothing trains. Compare values before and after a step.",
            "Answers like the base: is B zero? Keys that fit nothing load silently. Is the adapter active?",
            "Output too strong or weak: alpha / r or alpha / root r? Merged twice?",
            "Merged differs from not merged: transpose, tied weights, dropout on, then rounding.",
        )
    ]


PARTS = {
    "The idea": _idea,
    "Counting": _counting,
    "Alpha and the rank": _scaling,
    "Memory": _memory,
    "Say with every number": _numbers,
    "Work, time, merging": _speed,
    "Choosing": _choosing,
    "Sentences that lose marks": _sentences,
    "Variants, in a line each": _variants,
    "When it breaks": _breaks,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default=FILE, metavar="FILE", help=f"where to write it (default: {FILE})")


def main(args: argparse.Namespace) -> int:
    Path(args.out).write_text(page(), encoding="utf-8", newline="\n")
    print(f"{args.out}: open it in a browser and print it, on one A4 page.")
    return 0
