"""Drills: the answer agrees with a sum done another way, no mistake can be taken for another, and each is named."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from fractions import Fraction

import pytest

from lora_lab import shapes
from lora_lab.interview import drill_kinds, drills

SEEDS = range(150)


def numbers(text: str) -> list[int | float]:
    """Every number in a drill's text, in order; those in a model's name are left out."""
    for name in sorted(shapes.names(), key=len, reverse=True):
        text = text.replace(name, "")
    text = text.replace("10^9", "").replace("10^6", "")
    found = re.findall(r"(?<!\w)\d[\d,]*(?:\.\d+)?", text)
    return [float(n) if "." in n else int(n.rstrip(",").replace(",", "")) for n in found]


def model_in(text: str) -> str:
    return next(name for name in sorted(shapes.names(), key=len, reverse=True) if name in text)


# The answer once more, from the drill's own words alone, by loops, fractions or a config: nothing of counting's.


def count(text):
    into, out, *_, rank = numbers(text)
    return len(range(rank)) * into + sum(out for _ in range(rank))


def gqa(text):
    layers, hidden, heads, size, kv, rank = numbers(text)
    return sum(rank * (hidden + rows * size) for _ in range(layers) for rows in (heads, kv))


def all_linear(text):
    config, rank = shapes.entry(model_in(text))["config"], int(re.search(r"rank (\d+)", text)[1])
    h, m, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = h // heads * config["num_key_value_heads"]
    sides = [(h, h), (h, kv), (h, kv), (h, h), (h, m), (h, m), (m, h)]
    return rank * config["num_hidden_layers"] * sum(map(sum, sides))


def share(text):
    base, layers, q_out, q_in, v_out, v_in, rank = numbers(text)
    return float(Fraction(100 * layers * rank * (q_out + q_in + v_out + v_in), base))


def fit(text):
    card, billions, millions = numbers(text)[:3]
    return card - 2 * billions - 16 * millions / 1000


def alpha(text):
    factor, rank = numbers(text)
    return factor * (math.sqrt(rank) if "rsLoRA" in text else rank)


def scaling(text):
    given, rank = numbers(text)
    return given / (math.sqrt(rank) if "rsLoRA" in text else rank)


def break_even(text):
    out, into = numbers(text)
    return max(rank for rank in range(1, min(out, into) + 1) if rank * (out + into) <= out * into)


def file(text):
    rank, parameters = numbers(text)[:2]
    return parameters * (2 if "bfloat16" in text else 4) / 1e6


def nf4(text):
    billions = numbers(text)[0]
    blocks = billions * 1e9 / 64
    scales = blocks * 8 + blocks / 256 * 32 if "256" in text else blocks * 32
    return (billions * 1e9 * 4 + scales) / 8 / 1e9


def budget(text):
    millions, q_out, q_in, v_out, v_in, layers = numbers(text)
    rank = 0
    while layers * (rank + 1) * (q_out + q_in + v_out + v_in) <= millions * 10**6:
        rank += 1
    return rank


def flops(text):
    out, into, rank = numbers(text)
    full = 3 * 2 * out * into
    forward = 2 * out * into + 2 * rank * (into + out)
    backward = 2 * out * into + 2 * rank * (into + out) + 2 * rank * (into + out)
    return 100 * (forward + backward) / full


# Values of mistakes once more, from a drill's words and its answer.


def config(text):
    return shapes.entry(model_in(text))["config"]


def rank_in(text):
    return int(re.search(r"rank (\d+)", text)[1])


SLIPS = {
    ("count", "one factor only"): lambda text, answer: numbers(text)[0] * numbers(text)[-1],
    ("count", "rank times in times out"): lambda text, answer: math.prod(numbers(text)[i] for i in (0, 1, -1)),
    ("count", "the whole matrix"): lambda text, answer: numbers(text)[0] * numbers(text)[1],
    ("count", "the same factor twice"): lambda text, answer: 2 * max(numbers(text)[:2]) * numbers(text)[-1],
    ("gqa", "one layer only"): lambda text, answer: answer / numbers(text)[0],
    ("gqa", "forgot grouped-query heads"): lambda text, answer: 4 * math.prod(numbers(text)[i] for i in (0, 1, -1)),
    ("all_linear", "embeddings too"): lambda text, answer: (
        answer
        + (1 if config(text).get("tie_word_embeddings") else 2)
        * rank_in(text)
        * (config(text)["vocab_size"] + config(text)["hidden_size"])
    ),
    ("all_linear", "forgot the gate"): lambda text, answer: (
        answer
        - rank_in(text)
        * config(text)["num_hidden_layers"]
        * (config(text)["hidden_size"] + config(text)["intermediate_size"])
    ),
    ("fit", "what it needs, not what is left"): lambda text, answer: numbers(text)[0] - answer,
    ("fit", "adapter only"): lambda text, answer: numbers(text)[0] - 16 * numbers(text)[2] / 1000,
    ("fit", "forgot the optimizer"): lambda text, answer: answer + 8 * numbers(text)[2] / 1000,
    ("fit", "base in 32 bits"): lambda text, answer: answer - 2 * numbers(text)[1],
    ("alpha", "no division"): lambda text, answer: numbers(text)[0],
    ("scaling", "upside down"): lambda text, answer: 1 / answer,
    ("break_even", "the smaller width"): lambda text, answer: min(numbers(text)),
    ("file", "MiB for MB"): lambda text, answer: answer / 1.048576,
    ("file", "bits for bytes"): lambda text, answer: 8 * answer,
    ("nf4", "GiB for GB"): lambda text, answer: answer / 1.073741824,
    ("nf4", "four bits exactly"): lambda text, answer: numbers(text)[0] / 2,
    ("budget", "one layer only"): lambda text, answer: (
        numbers(text)[0] * 10**6 // (sum(numbers(text)[1:3]) + sum(numbers(text)[3:5]))
    ),
    ("flops", "share of the parameters"): lambda text, answer: 100 * count_rank(text) / math.prod(numbers(text)[:2]),
}


def count_rank(text):
    out, into, rank = numbers(text)
    return rank * (out + into)


ORACLES = {
    f.__name__: f for f in (count, gqa, all_linear, share, fit, alpha, scaling, break_even, file, nf4, budget, flops)
}


def test_every_kind_has_an_oracle_and_there_are_at_least_eight():
    assert set(ORACLES) == set(drills.KINDS) and len(drills.KINDS) >= 8


@pytest.mark.parametrize("kind", drills.KINDS)
def test_the_answer_agrees_with_the_sum_done_another_way(kind):
    for seed in SEEDS:
        drill = drills.make(kind, seed)
        other = ORACLES[kind](drill.text)
        if drill.tolerance == 0:
            assert drill.answer == other and isinstance(drill.answer, int), drill
        else:
            assert abs(drill.answer - other) < drill.tolerance / 2, drill
        assert drills.judge(drill, other).passed and drills.judge(drill, str(other)).passed
        assert drills.judge(drill, drill.solution.rstrip(".% GBM").split()[-1]).passed, drill  # it ends in the answer


@pytest.mark.parametrize("kind", drills.KINDS)
def test_every_mistake_is_told_from_the_answer_and_from_the_others_and_is_named(kind):
    for seed in SEEDS:
        drill = drills.make(kind, seed)
        assert len(drill.mistakes) >= 3
        for one, other in itertools.combinations([drill.answer, *drill.mistakes.values()], 2):
            assert abs(one - other) > 2 * drill.tolerance, drill
        for name, value in drill.mistakes.items():
            verdict = drills.judge(drill, value)
            assert not verdict.passed and name in verdict.message and drills.HINTS[name] in verdict.message
            assert verdict.message.startswith("not yet: ")


@pytest.mark.parametrize("kind", drills.KINDS)
def test_a_mistake_written_with_three_digits_is_known_as_well(kind):
    for seed in range(60):
        drill = drills.make(kind, seed)
        for name, value in drill.mistakes.items() if drill.tolerance else ():
            digits = 4 if kind in ("fit", "alpha") else 3  # a difference, and a number that is whole as a rule
            assert name in drills.judge(drill, f"{value:.{digits}g}").message, (drill, name)


@pytest.mark.parametrize(("kind", "name"), SLIPS, ids=map(" ".join, SLIPS))
def test_a_mistakes_value_is_what_that_mistake_gives(kind, name):
    for seed in range(60):
        drill = drills.make(kind, seed)
        wrong = SLIPS[kind, name](drill.text, drill.answer)
        rounded = {"rel": 0, "abs": 0.06} if kind == "fit" else {"rel": 1e-9}  # its text rounds to millions
        assert drill.mistakes[name] == pytest.approx(wrong, **rounded)


@pytest.mark.parametrize("kind", drills.KINDS)
def test_another_seed_gives_other_numbers_and_the_same_seed_the_same(kind):
    texts = {drills.make(kind, seed).text for seed in SEEDS}
    assert len(texts) > 50
    assert drills.make(kind, 7) == drills.make(kind, 7)
    assert drills.make(kind, 7).text == drills.make(kind, "7").text


def test_the_same_numbers_in_every_process():
    """Not by Python's own hash of a text, which differs from process to process."""
    code = "from lora_lab.interview import drills; print([drills.make(k, 'anna').answer for k in drills.KINDS])"
    here = str([drills.make(kind, "anna").answer for kind in drills.KINDS])
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == here


def test_frozen_numbers():
    """Written down once: a change of the draw changes every class's papers, and should be seen."""
    assert drills.make("count", 0).answer == 294912
    assert drills.make("gqa", 0).answer == 33030144


def test_every_hint_belongs_to_a_mistake():
    named = {name for kind in drills.KINDS for seed in range(40) for name in drills.make(kind, seed).mistakes}
    assert named == set(drill_kinds.HINTS)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4,194,304", 4194304),
        ("4 194 304 parameters", 4194304),
        ("4_194_304", 4194304),
        ("0.39 %", 0.39),
        ("about 16.8 MB", 16.8),
        ("-3.5", -3.5),
        ("\u22123.5 GB", -3.5),
        ("4.2e6", 4.2e6),
        (".5", 0.5),
        ("8 x 8192", None),
        ("", None),
        ("many", None),
        ("nan", None),
        ("1e999", None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([1], None),
        ("4.19 million", 4_190_000),
        ("2.5 billions", 2_500_000_000),
        ("4.194.304", None),
    ],
)
def test_reading_what_was_typed(text, number):
    assert drills.read_number(text) == number


@pytest.mark.parametrize("kind", drills.KINDS)
@pytest.mark.parametrize("junk", [None, "", "many", [], {}, object(), 0, -1, float("nan"), 1e300, "9" * 5000, b"3"])
def test_junk_is_answered_and_never_raises(kind, junk):
    verdict = drills.judge(drills.make(kind, 1), junk)
    assert not verdict.passed and verdict.message.startswith("not yet: ") and len(verdict.message) < 300


def test_a_rounded_count_is_told_that_the_whole_number_is_asked():
    drill = drills.make("gqa", 3)
    assert drill.answer == 2_867_200
    assert "asked exactly" in drills.judge(drill, "2.87 million").message
    assert drills.judge(drill, "2.8672 million").passed
    share = drills.make("share", 3)
    assert "asked exactly" not in drills.judge(share, share.answer * 1.05).message


def test_check_prints_the_message(capsys):
    drill = drills.make("count", 0)
    assert drill.check(str(drill.answer)).passed
    assert capsys.readouterr().out == "Right: 294,912 parameters.\n"


def test_an_unknown_kind_is_told_the_kinds():
    with pytest.raises(ValueError, match="no drill 'counts'. Kinds are count, "):
        drills.make("counts", 1)
