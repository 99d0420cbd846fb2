"""What each kind of whiteboard drill asks: fresh sizes, the answer, the usual mistakes, and the way to it.

A kind is a function of `pick`, which takes one of a list's options. It returns what `drills.Drill` holds besides its
kind and seed. `drills.make` draws again where two mistakes would give the same number, so a kind need not care.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lora_lab import shapes
from lora_lab.counting import Matrix, break_even_rank, lora, lora_parameters, share_of_base
from lora_lab.flops import step
from lora_lab.memory import NF4_BITS, WAYS

Pick = Callable[[Sequence[Any]], Any]
Drawn = dict[str, Any]

WIDTHS = (512, 768, 896, 1024, 1280, 1536, 2048, 2304, 2560, 3072, 3584, 4096, 5120, 6144, 8192)
RANKS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
LARGE = ("Llama-2-7B", "Llama-2-13B", "Llama-3.1-8B", "Mistral-7B-v0.1", "Qwen2.5-7B", "Qwen3-8B")
SMALL = tuple("Llama-3.2-1B Llama-3.2-3B Qwen2.5-0.5B SmolLM2-135M SmolLM2-360M SmolLM2-1.7B TinyLlama-1.1B".split())
MODELS = LARGE + SMALL  # all with seven linear layers in a block, and with heads x head size = width
MILLION, BILLION = 10**6, 10**9

# name of a mistake -> what to look at again
HINTS = {
    "one factor only": "An adapter is two matrices: A is [rank, in] and B is [out, rank].",
    "rank times in times out": "A and B stand in a row, not in a product: rank x (in + out).",
    "the whole matrix": "W itself does not train; A and B do.",
    "the same factor twice": "W is not square: A is as wide as what comes in, B as tall as what goes out.",
    "forgot grouped-query heads": "Keys and values have fewer heads than queries, so their matrices have fewer rows.",
    "one layer only": "Every layer has its own adapter: multiply by the layers.",
    "one of the two projections": "Both q and v are adapted.",
    "v as q, q as v": "It is v that is small: q has all the heads.",
    "attention only": "All-linear takes the MLP's three matrices in as well.",
    "forgot the gate": "The MLP has three matrices: gate, up and down.",
    "embeddings too": "All-linear means the linear layers of the blocks: no embedding, no output head.",
    "a fraction, not percent": "You have the right share; in percent it is 100 times that.",
    "share of the adapted matrices": "The share is asked of the whole model, not of the matrices that have an adapter.",
    "optimizer states for the frozen base": "What does not train has no gradient and no optimizer state.",
    "adapter only": "The frozen base must lie in memory too.",
    "forgot the optimizer": "Adam keeps two running means in float32 for each number that trains: 8 bytes.",
    "base in 32 bits": "The frozen base is in bfloat16: 2 bytes a number.",
    "what it needs, not what is left": "Asked is what is left: the card's memory less what the states need.",
    "divided by the rank": "The layer divides by the rank already, so alpha is the factor times it.",
    "the other rule": "LoRA divides alpha by the rank, rsLoRA by its square root.",
    "alpha = 2 x rank": "Twice the rank gives a factor of 2, whatever you wanted.",
    "alpha times rank": "The factor is alpha divided by the rank (or its root), not multiplied.",
    "upside down": "Alpha goes on top.",
    "no division": "Alpha alone is not the factor: divide by the rank, or by its root under rsLoRA.",
    "half the smaller width": "That holds for a square matrix only: solve rank x (in + out) = in x out.",
    "the smaller width": "That is the largest rank the matrix can have; the adapter outgrew it before.",
    "rounded up": "One rank more is already too many: round down.",
    "MiB for MB": "A MB is 10^6 bytes; 2^20 are a MiB.",
    "GiB for GB": "A GB is 10^9 bytes; 2^30 are a GiB.",
    "numbers, not bytes": "Each number takes 4 bytes in float32, 2 in bfloat16.",
    "the other number format": "float32 takes 4 bytes a number, bfloat16 takes 2.",
    "bits for bytes": "8 bits are a byte.",
    "four bits exactly": "Each block of 64 numbers also stores its scale.",
    "the other kind of scales": "A plain scale is 32 bits for 64 numbers; quantised once more, 8, and 32 for 256 x 64.",
    "sixteen bits": "Quantised numbers take about 4 bits, not 16.",
    "share of the parameters": "Most of the work is the frozen matrices': they are multiplied forwards and backwards.",
    "no backward pass through frozen weights": "The gradient must pass through every frozen matrix on its way down.",
    "adapter's own work forgotten": "A and B are multiplied three times each as well.",
    "nothing saved": "The gradient of the frozen weights themselves, a third of the work, is not computed.",
}


def drawn(text: str, answer: float, unit: str, mistakes: dict[str, float], solution: str, relative: float = 0) -> Drawn:
    """A drill's fields; `relative` is the tolerance as a share of the answer."""
    return {
        "text": text,
        "answer": answer,
        "unit": unit,
        "tolerance": relative * abs(answer),
        "mistakes": mistakes,
        "solution": solution,
    }


def count(pick: Pick) -> Drawn:
    out, into, rank = pick(WIDTHS), pick(WIDTHS), pick(RANKS)
    return drawn(
        f"A linear layer turns {into} numbers into {out}: its weight is [{out}, {into}]. "
        f"How many parameters does LoRA of rank {rank} train for it?",
        lora_parameters(out, into, rank),
        "parameters",
        {
            "one factor only": rank * into,
            "rank times in times out": rank * out * into,
            "the whole matrix": out * into,
            "the same factor twice": 2 * rank * max(out, into),
        },
        f"{rank} x ({into} + {out}) = {lora_parameters(out, into, rank):,}.",
    )


def _grouped(pick: Pick) -> tuple[int, int, int, int, int, int]:
    """Hidden width, layers, heads, kv heads, size of a head, rank."""
    heads, groups, size = pick((16, 24, 32, 40, 64)), pick((2, 4, 8)), pick((64, 128))
    return heads * size, pick((16, 24, 28, 32, 40, 48, 80)), heads, heads // groups, size, pick(RANKS)


def gqa(pick: Pick) -> Drawn:
    hidden, layers, heads, kv, size, rank = _grouped(pick)
    q, v = Matrix("q", hidden, hidden, layers), Matrix("v", kv * size, hidden, layers)
    answer = lora([q, v], rank)
    return drawn(
        f"A decoder has {layers} layers of width {hidden}, with {heads} query heads of size {size} and {kv} heads each "
        f"for keys and values. How many parameters does LoRA of rank {rank} on `q_proj` and `v_proj` train?",
        answer,
        "parameters",
        {
            "forgot grouped-query heads": lora([q, q], rank),
            "one layer only": answer // layers,
            "one of the two projections": lora([q], rank),
            "v as q, q as v": lora([v, v], rank),
        },
        f"q is [{hidden}, {hidden}]: {rank} x {2 * hidden} = {rank * 2 * hidden:,} a layer. v is [{kv} x {size}, "
        f"{hidden}]: {rank} x ({kv * size} + {hidden}) = {rank * (kv * size + hidden):,}. "
        f"Together, times {layers} layers: {answer:,}.",
    )


def all_linear(pick: Pick) -> Drawn:
    name, rank = pick(MODELS), pick(RANKS)
    shape = shapes.known(name)
    h, m, kv = shape.hidden, shape.intermediate, shape.kv_heads * shape.head_size
    answer, attention = lora(shape, rank), lora(shape, rank, "q_proj,k_proj,v_proj,o_proj")
    ungrouped = shape.layers * rank * (4 * 2 * h + 3 * (h + m))
    groups = (
        "" if kv == h else f", {shape.heads} heads of {shape.head_size} for q and {shape.kv_heads} each for k and v"
    )
    mistakes = {
        "attention only": attention,
        "one layer only": answer // shape.layers,
        "forgot the gate": answer - lora(shape, rank, "gate_proj"),
        "embeddings too": answer + len(shape.embeddings) * lora_parameters(shape.vocabulary, h, rank),
        "one factor only": shape.layers * rank * (6 * h + m),
    }
    if kv != h:
        mistakes["forgot grouped-query heads"] = ungrouped
    return drawn(
        f"{name} has {shape.layers} layers of width {h}, an MLP of width {m} (gate, up, down){groups}. Its vocabulary "
        f"has {shape.vocabulary:,} tokens. How many parameters does LoRA of rank {rank} on all linear layers train?",
        answer,
        "parameters",
        mistakes,
        f"Attention: q and o {rank} x {2 * h}, k and v {rank} x ({h} + {kv}), each twice. MLP: 3 x {rank} x ({h} + "
        f"{m}). Together {answer // shape.layers:,} a layer, times {shape.layers}: {answer:,}.",
    )


def share(pick: Pick) -> Drawn:
    name, rank = pick(MODELS), pick(RANKS)
    shape = shapes.known(name)
    adapter, base = lora(shape, rank, "q_proj,v_proj"), shape.total
    adapted = sum(m.parameters for m in shape.matrices if m.name in ("q_proj", "v_proj"))
    answer = 100 * share_of_base(adapter, base)
    return drawn(
        f"{name} has {base:,} parameters. In each of its {shape.layers} layers `q_proj` is [{shape.hidden}, "
        f"{shape.hidden}] and `v_proj` [{shape.kv_heads * shape.head_size}, {shape.hidden}]. LoRA of rank {rank} on "
        "these two trains what share of the base, in percent (three significant digits)?",
        answer,
        "%",
        {
            "a fraction, not percent": answer / 100,
            "one layer only": answer / shape.layers,
            "one of the two projections": 100 * lora(shape, rank, "q_proj") / base,
            "share of the adapted matrices": 100 * adapter / adapted,
        },
        f"{adapter:,} / {base:,} = {answer:.4g} %.",
        relative=0.005,
    )


def fit(pick: Pick) -> Drawn:
    name, card, rank = pick(LARGE), pick((16, 24, 32, 40, 48, 80)), pick((8, 16, 32, 48, 64, 128, 256))
    shape = shapes.known(name)
    adapter, base = lora(shape, rank), shape.total
    way = WAYS["lora"]
    trained = way.weights + way.gradients + way.optimizer
    states = (way.frozen * base + trained * adapter) / BILLION
    return drawn(
        f"A card has {card} GB (here 10^9 bytes each). The base, {name} with {base / BILLION:.3f} billion parameters, "
        f"is frozen in bfloat16; an adapter with {adapter / MILLION:.1f} million trains in float32 with Adam. How many "
        "GB are left for activations once weights, gradients and optimizer states are in? (To a tenth of a GB; "
        "negative if it does not fit.)",
        card - states,
        "GB",
        {
            "what it needs, not what is left": states,
            "optimizer states for the frozen base": card - (trained * (base + adapter)) / BILLION,
            "adapter only": card - trained * adapter / BILLION,
            "forgot the optimizer": card - (way.frozen * base + (way.weights + way.gradients) * adapter) / BILLION,
            "base in 32 bits": card - (4 * base + trained * adapter) / BILLION,
            "GiB for GB": card - states * BILLION / 2**30,
        },
        f"Base: {way.frozen} bytes x {base:,}. Adapter: 4 for the weight, 4 for its gradient, 8 for Adam's two means: "
        f"{trained:.0f} bytes x {adapter:,}. Together {states:.2f} GB; {card} - {states:.2f} = {card - states:.2f} GB.",
    ) | {"tolerance": 0.06}


def alpha(pick: Pick) -> Drawn:
    rooted, factor = pick((False, True)), pick((0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10))
    rank = pick((4, 16, 36, 64, 100, 144, 256) if rooted else RANKS)
    root = rank**0.5
    answer, other = (factor * root, factor * rank) if rooted else (factor * rank, factor * root)
    rule = "rsLoRA (`use_rslora`)" if rooted else "plain LoRA"
    return drawn(
        f"You want the update multiplied by {factor:g} at rank {rank}, with {rule}. Which alpha do you set?",
        answer,
        "",
        {
            "the other rule": other,
            "divided by the rank": factor / (root if rooted else rank),
            "alpha = 2 x rank": 2 * rank,
            "no division": factor,
        },
        f"factor x {'root of ' if rooted else ''}rank = {factor:g} x {root if rooted else rank:g} = {answer:g}.",
        relative=0.001,
    )


def scaling(pick: Pick) -> Drawn:
    rooted, rank, given = pick((False, True)), pick((4, 8, 16, 32, 64, 128, 256)), pick((1, 8, 12, 16, 24, 32, 64, 128))
    below, other = (rank**0.5, rank) if rooted else (rank, rank**0.5)
    rule = "rsLoRA (`use_rslora`)" if rooted else "plain LoRA"
    return drawn(
        f"Alpha {given}, rank {rank}, {rule}: by what factor is B A x multiplied (three significant digits)?",
        given / below,
        "",
        {
            "the other rule": given / other,
            "alpha times rank": given * below,
            "upside down": below / given,
            "no division": given,
        },
        f"{given} / {'root of ' if rooted else ''}{rank} = {given / below:.4g}.",
        relative=0.005,
    )


def break_even(pick: Pick) -> Drawn:
    out, into = pick(WIDTHS), pick(WIDTHS)
    answer = break_even_rank(out, into)
    return drawn(
        f"A weight is [{out}, {into}]. What is the largest rank at which A and B together are no larger than it?",
        answer,
        "",
        {
            "half the smaller width": min(out, into) // 2,
            "the smaller width": min(out, into),
            "rounded up": answer + 1,
        },
        f"rank x ({out} + {into}) <= {out} x {into}, so rank <= {out * into / (out + into):.2f}: {answer}.",
    )


def file(pick: Pick) -> Drawn:
    name, rank, wide = pick(MODELS), pick(RANKS), pick((4, 2))
    shape = shapes.known(name)
    numbers = lora(shape, rank)
    size = numbers * wide
    return drawn(
        f"An adapter of rank {rank} on all linear layers of {name} has {numbers:,} parameters, saved in "
        f"{'float32' if wide == 4 else 'bfloat16'}. How large is the file, in MB (10^6 bytes, three "
        "significant digits)? (The numbers alone: the header is some kilobytes more.)",
        size / MILLION,
        "MB",
        {
            "MiB for MB": size / 2**20,
            "numbers, not bytes": numbers / MILLION,
            "the other number format": numbers * (6 - wide) / MILLION,
            "bits for bytes": 8 * size / MILLION,
        },
        f"{numbers:,} x {wide} bytes = {size / MILLION:.4g} MB.",
        relative=0.005,
    )


def nf4(pick: Pick) -> Drawn:
    tenths, double = pick(range(5, 700, 5)), pick((True, False))
    numbers, plain = tenths * BILLION // 10, 4 + 32 / 64
    bits, other = (NF4_BITS, plain) if double else (plain, NF4_BITS)
    scales = "a scale of 8 bits each, and 32 bits for every 256 scales" if double else "a scale of 32 bits each"
    return drawn(
        f"The linear layers of a model hold {tenths / 10:g} billion numbers, stored as NF4: 4 bits a number, in blocks "
        f"of 64 with {scales}. How many GB (10^9 bytes) do they take (three significant digits)?",
        numbers * bits / 8 / BILLION,
        "GB",
        {
            "four bits exactly": numbers * 4 / 8 / BILLION,
            "the other kind of scales": numbers * other / 8 / BILLION,
            "bits for bytes": numbers * bits / BILLION,
            "GiB for GB": numbers * bits / 8 / 2**30,
            "sixteen bits": 2 * numbers / BILLION,
        },
        f"{'4 + 8/64 + 32/(64 x 256)' if double else '4 + 32/64'} = {bits:.4g} bits a number; {tenths / 10:g} billion "
        f"x {bits:.4g} / 8 = {numbers * bits / 8 / BILLION:.3f} GB.",
        relative=0.005,
    )


def budget(pick: Pick) -> Drawn:
    hidden, layers, _, kv, size, _ = _grouped(pick)
    millions = pick((1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50))
    q, v = Matrix("q", hidden, hidden, layers), Matrix("v", kv * size, hidden, layers)
    each, ungrouped, parameters = lora([q, v], 1), lora([q, q], 1), millions * MILLION
    answer = parameters // each
    return drawn(
        f"Your adapter may have {millions} million parameters. It goes on `q_proj` [{hidden}, {hidden}] and `v_proj` "
        f"[{kv * size}, {hidden}] in each of {layers} layers. What is the largest rank you can afford?",
        answer,
        "",
        {
            "rounded up": answer + 1,
            "forgot grouped-query heads": parameters // ungrouped,
            "one layer only": parameters * layers // each,
            "one of the two projections": parameters // lora([q], 1),
        },
        f"Each rank costs {layers} x ({2 * hidden} + {kv * size + hidden}) = {each:,}; {parameters:,} / {each:,} = "
        f"{parameters / each:.2f}, so {answer}.",
    )


def flops(pick: Pick) -> Drawn:
    out, into, rank = pick(WIDTHS), pick(WIDTHS), pick((64, 128, 256))
    whole, small = out * into, lora_parameters(out, into, rank)
    middle = [Matrix("w", out, into)]
    answer = 100 * step(middle, 1, how="lora", rank=rank) / step(middle, 1)
    return drawn(
        f"A layer [{out}, {into}] in the middle of a network has LoRA of rank {rank}, not merged. Counting matrix "
        "products alone, how much of a full training step's work (forward and backward) does a LoRA step do, in "
        "percent (three significant digits)?",
        answer,
        "%",
        {
            "share of the parameters": 100 * small / whole,
            "no backward pass through frozen weights": 100 * (whole + 3 * small) / (3 * whole),
            "adapter's own work forgotten": 200 / 3,
            "nothing saved": 100.0,
            "a fraction, not percent": answer / 100,
        },
        f"Full: 3 x {whole:,} (forward, gradient of the input, gradient of W). LoRA: 2 x {whole:,} + 3 x {small:,}. "
        f"The ratio is 2/3 + {small:,} / {whole:,} = {answer:.1f} %.",
        relative=0.005,
    )


KINDS: dict[str, tuple[str, Callable[[Pick], Drawn]]] = {
    "count": ("count one matrix", count),
    "gqa": ("count q and v with grouped-query heads", gqa),
    "all_linear": ("count all linear layers of a model", all_linear),
    "share": ("share of the base", share),
    "fit": ("fit this card", fit),
    "alpha": ("pick alpha", alpha),
    "scaling": ("the scaling factor", scaling),
    "break_even": ("break-even rank", break_even),
    "file": ("size of the adapter file", file),
    "nf4": ("bytes of an NF4 base", nf4),
    "budget": ("rank for a budget of parameters", budget),
    "flops": ("share of the work", flops),
}
