"""Checks of lesson 04, counting."""

from __future__ import annotations

from lora_lab import counting
from lora_lab.attempt import Attempt, close, expect, short
from lora_lab.exercises import exercise


@exercise(
    "04",
    "when is an adapter too large?",
    difficulty=1,
    importance=2,
    minutes=3,
    hints=(
        "Write down both counts: rank × (in + out) for A and B, in × out for W. Where are they equal?",
        "rank = in × out / (in + out), and a rank is a whole number: at most, so round down.",
    ),
    expect=(
        "half the width: true for a square W only",
        "a fraction, or rounded up: at the rank above, A and B are larger than W",
    ),
)
def break_even(attempt: Attempt) -> str:
    """The largest whole rank at which A and B have at most as many numbers as W [out, in]."""
    for o, i in ((1000, 4096), (7, 9), (4096, 4096), (10, 512), (3, 100), (1, 8)):
        got = attempt.number(attempt(o, i), f"break_even({o}, {i})")
        attempt.agree(
            got,
            counting.break_even_rank(o, i),
            {
                "that is exact, but a rank is a whole number: round down, so that A and B are at most as large as W.": (
                    o * i / (o + i)
                ),
                "that is the largest rank B A can have at all, not the one at which it stops being smaller.": min(o, i),
                "rounded up: at that rank A and B together are larger than W. Round down.": -(-o * i // (o + i)),
                "half the width is right for a square W only. Set rank × (in + out) = in × out.": min(o, i) // 2,
                "half the width is right for a square W only; in and out count separately.": (o + i) // 4,
                "at most as many: where the counts are equal, the rank is still allowed.": (o * i - 1) // (o + i),
                "mind the brackets: o * i / o + i divides by the first alone, and adds the second.": 2 * i,
                "mind the brackets: i * o / i + o divides by the first alone, and adds the second.": 2 * o,
                "2,048 is right of the lesson's own W alone. Use the two sizes that are given.": 2048,
                "one too small: does one rank more still fit?": o * i // (o + i) - 1,
                "twice too large: A has rank × in numbers and B another rank × out.": 2 * o * i // (o + i),
            },
            case=f"W [{o}, {i}]",
            tolerance=0,
        )
    return f"For [10, 512] it is 9; rank 32 there costs {32 * 522:,} numbers, W only {10 * 512:,}."


@exercise(
    "04",
    "q and v of any model",
    difficulty=2,
    importance=3,
    minutes=6,
    hints=(
        "Two matrices a layer. W_q is [heads × head_size, hidden]; W_v has kv_heads in the place of heads.",
        "layers * rank * ((hidden + heads * head_size) + (hidden + kv_heads * head_size))",
    ),
    expect=(
        "heads where kv_heads belongs: grouped-query attention forgotten",
        "hidden for heads × head_size: true of Llama, not of Qwen3 or Gemma",
        "in × out instead of in + out; the layers forgotten",
    ),
)
def qv_parameters(attempt: Attempt) -> str:
    """Parameters of LoRA of this rank on q_proj and v_proj of every layer."""
    # The first is made up, so that no two mistakes give the same count; then Qwen3-0.6B, Mistral-7B and Llama-2-7B.
    made_up, qwen = (1000, 28, 20, 3, 96, 6), (1024, 28, 16, 8, 128, 16)
    for case in (made_up, qwen, (4096, 32, 32, 8, 128, 8), (4096, 32, 32, 32, 128, 8)):
        hidden, layers, heads, kv, size, rank = case
        got = attempt.whole(attempt(*case), f"qv_parameters{case}")
        q, v, k = hidden + heads * size, hidden + kv * size, hidden + kv * size
        attempt.agree(
            got,
            layers * rank * (q + v),
            {
                "v has fewer heads than q: W_v is [kv_heads × head_size, hidden].": layers * rank * 2 * q,
                "q has all the heads; only v (and k) share theirs.": layers * rank * 2 * v,
                "W_q is [heads × head_size, hidden], and heads × head_size need not be hidden.": (
                    layers * rank * (2 * hidden + v)
                ),
                "heads × head_size need not be hidden, and v has kv_heads: look at both.": layers * rank * 4 * hidden,
                "the rank is an input, and not always 8.": layers * 8 * (q + v),
                "that is one layer; there are `layers` of them.": rank * (q + v),
                "that multiplies in and out. A has rank × in numbers, B has out × rank: they add up.": (
                    layers * rank * hidden * (q + v - 2 * hidden)
                ),
                "that is W_q and W_v themselves, not the adapters beside them.": layers * hidden * (q + v - 2 * hidden),
                "k is counted too: the adapters are on q and v.": layers * rank * (q + k + v),
                "the outputs only: A reads `hidden` numbers in each matrix, and has rank × hidden.": (
                    layers * rank * (q + v - 2 * hidden)
                ),
                "A reads `hidden` numbers, not heads × head_size: that is what W_q gives out.": (
                    layers * rank * (3 * heads * size + kv * size)
                ),
                "a head has head_size numbers, so W_q gives out heads × head_size of them.": (
                    layers * rank * (2 * hidden + heads + kv)
                ),
                "twice too much: the adapters are on q and v alone, with one A and one B each.": (
                    2 * layers * rank * (q + v)
                ),
                "that is q alone; v has an adapter too.": layers * rank * q,
                "that is v alone; q has an adapter too.": layers * rank * v,
                "the rank comes in once: A has rank rows, B has rank columns.": layers * rank**2 * (q + v),
                "the inputs are counted once. q and v have an A each.": layers * rank * (q + v - hidden),
            },
            case=f"hidden {hidden}, layers {layers}, heads {heads}, kv_heads {kv}, head_size {size}, rank {rank}",
            tolerance=0,
        )
    return f"Qwen2.5-7B, 28 layers, at rank 8: {28 * 8 * (3584 + 28 * 128 + 3584 + 4 * 128):,}"


@exercise(
    "04",
    "the last rank under 1 %",
    difficulty=2,
    importance=2,
    minutes=5,
    hints=(
        "The count is n at rank 1 times the rank. How often does n fit into a hundredth of the base?",
        "n / (base + n) is below 1 % while n is below base / 99. And n at rank 1 is 19,988,480 / 8.",
    ),
    expect=(
        "the same rank twice: the two shares part just here",
        "of 7,000,000,000, the name instead of the count",
        "rounded up: the first rank that is not below 1 %",
    ),
)
def under_one_percent(attempt: Attempt) -> str:
    """The largest rank on all linear layers of Llama-2-7B below 1 % of the base, and of base plus adapter."""
    from lora_lab import shapes

    first, second = attempt.several(attempt.answer, 2, "the answer (of_the_base, of_both)")
    first, second = attempt.whole(first, "of_the_base"), attempt.whole(second, "of_both")
    model = shapes.known("Llama-2-7B")
    base, one = model.total, counting.lora(model, 1, "all-linear")
    of_base, of_both = (base - 1) // (100 * one), (base - 1) // (99 * one)
    qv = counting.lora(model, 1, "q_proj,v_proj")
    name = 7 * 10**9
    expect(
        (first, second) != (of_both, of_base),
        "the other way round: base plus adapter is the larger number to divide by, so there one rank more fits.",
    )
    expect(
        first != of_both or second != of_both,
        f"{of_both} is right of base plus adapter. Of the base alone rank {of_both} is {of_both * one / base:.3%}.",
    )
    expect(
        first != of_base or second != of_base,
        f"{of_base} is right of the base. Of base plus adapter it is {of_base * one / (base + of_base * one):.3%}: "
        "is there room left?",
    )
    expect(
        (first, second) != (of_base + 1, of_both + 1),
        "those are the first ranks that are no longer below 1 %. Asked for are the last that are.",
    )
    mistakes = {
        "that takes 7,000,000,000 for the base. The count is 6,738,415,616.": lambda share: name // (share * one),
        "that is for q and v only; here every linear layer has an adapter.": lambda share: base // (share * qv),
        "that is for 10 %, not for 1 %.": lambda share: base // (share * one // 10),
        "that is for 0.1 %, not for 1 %.": lambda share: base // (share * one * 10),
    }
    for what, got, right, share in (
        ("of the base", first, of_base, 100),
        ("of base plus adapter", second, of_both, 99),
    ):
        known = {sentence: value(share) for sentence, value in mistakes.items()}
        whole = base if share == 100 else base + got * one
        room = "and a larger rank still fits" if got < right else "and that is not below 1 %"
        otherwise = f"at rank {got:,} the adapter is {got * one / whole:.3%} {what}, {room}."
        attempt.agree(got, right, known, tolerance=0, otherwise=otherwise)
    return f"At rank {of_both} 'LoRA trains under 1 %' is true or false, depending on what one divides by."


@exercise(
    "04",
    "check a famous paper",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "First the adapter's numbers: 96 layers, two matrices each, rank 4, 12288 in and 12288 out.",
        "n = 96 * 2 * 4 * (12288 + 12288). Then 175,255.8 million over n, 2 n / 10**6 and 2 n / 2**20.",
    ),
    expect=(
        "the paper's own rounded 10,000 and 35",
        "MB and MiB exchanged",
        "4 bytes a number, out of habit",
        "one matrix a layer, or q and v of in × out",
    ),
)
def famous_paper(attempt: Attempt) -> str:
    """How many times fewer numbers LoRA trains for GPT-3, and its file in MB and in MiB."""
    found = attempt.several(attempt.answer, 3, "the answer (times_fewer, megabytes, mebibytes)")
    names = ("times_fewer", "megabytes", "mebibytes")
    fewer, mb, mib = (attempt.number(one, name) for one, name in zip(found, names, strict=True))
    adapter = 96 * 2 * 4 * (12288 + 12288)
    expect(
        fewer != 10_000,
        f"10,000 is the paper's rounded figure. Divide 175,255.8 million by the adapter's {adapter:,} numbers.",
    )
    whole, room = 175_255.8e6, 2e-3
    attempt.agree(
        fewer,
        whole / adapter,
        {
            "times_fewer is twice too large: in each layer the adapter is on q and on v, and each has an A and a B.": (
                2 * whole / adapter
            ),
            "times_fewer is half of what it should be: is the rank 4, and are there adapters on q and v only?": (
                whole / adapter / 2
            ),
            "times_fewer is the adapter's share in per cent. How many times fewer is one over the share.": (
                100 * adapter / whole
            ),
            "times_fewer is the adapter's share. How many times fewer is one over that.": adapter / whole,
            "times_fewer is for one layer; there are 96.": 96 * whole / adapter,
            "times_fewer is the adapter's count; divide 175,255.8 million by it.": adapter,
            "times_fewer takes 175 billion for the model. The paper's tables have 175,255.8 million.": 175e9 / adapter,
            "times_fewer is a thousandth: 175,255.8 is in millions.": whole / adapter / 1e3,
            "times_fewer is a millionth: 175,255.8 is in millions.": whole / adapter / 1e6,
        },
        tolerance=1e-4,
        otherwise="times_fewer is nearly right, or rounded: divide 175,255.8 million by the adapter's exact count."
        if close(fewer, whole / adapter, 0.05)
        else f"times_fewer is too {'large' if fewer > whole / adapter else 'small'}. Count the adapter: 96 layers, "
        "two matrices each, rank × (in + out).",
    )
    size = 2 * adapter
    expect(
        not (close(mb, size / 2**20, room) and close(mib, size / 10**6, room)),
        "megabytes and mebibytes are exchanged: 1 MiB is the larger unit, so there are fewer of them.",
    )
    for name, got, unit, other in (("megabytes", mb, 10**6, 2**20), ("mebibytes", mib, 2**20, 10**6)):
        attempt.agree(
            got,
            size / unit,
            {
                f"{name} is the number in the other unit: divide by {unit:,}.": size / other,
                f"{name} has 4 bytes a number; this file holds 2.": 2 * size / unit,
                f"{name} has 1 byte a number; this file holds 2.": size / unit / 2,
                f"{name} has a number of bits, not bytes.": 8 * size / unit,
                f"{name} is the count of bytes; divide it by {unit:,}.": size,
                f"{name} is the paper's rounded 35. What do {size:,} bytes give?": 35,
            },
            tolerance=room,
            otherwise=f"{name} is not {short(got)}. How many bytes has the file, at 2 for each number in it? "
            f"Divide them by {unit:,}.",
        )
    return f"{whole / adapter:,.0f} times fewer; {size / 10**6:.1f} MB, or {size / 2**20:.0f} MiB."
