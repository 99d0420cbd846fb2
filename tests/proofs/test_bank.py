"""The question bank: every entry complete, every proof run, every number in an answer the one that its proof gives."""

from __future__ import annotations

import collections
import functools
import inspect
import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_lab import proofs
from lora_lab.lessons import LESSONS

ASSETS = Path(proofs.__file__).parents[1] / "assets"
LEVELS = ("screen", "onsite", "expert")
TOPICS = (  # in teaching order
    "basics initialisation theory counting memory speed scaling rank targets training variants quantisation merging "
    "serving evaluation practice"
).split()
TEXTS = ("id", "level", "topic", "lesson", "question", "answer", "wrong", "why", "source", "proof")
FIELDS = {*TEXTS, "numbers", "fixed", "change", "rubric"}
BANK = tomllib.loads((ASSETS / "interview.toml").read_text(encoding="utf-8"))["question"]
each_question = pytest.mark.parametrize("question", BANK, ids=[str(q.get("id", i)) for i, q in enumerate(BANK)])


# How a number is read from text.

SCALES = {"%": 0.01, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SCALES |= {"million": 1e6, "billion": 1e9, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12}
PLAIN = "bytes byte bits bit times ms milliseconds s seconds nats FLOPs FLOP".split()
UNITS = "|".join(map(re.escape, sorted((*SCALES, *PLAIN), key=len, reverse=True)))
# "8x" is eight times; "8 x 4096" is a product. "Llama-2-7B" and "bf16" hold no number.
NUMBER = re.compile(
    r"(?<![\w.,-])(?P<number>[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-−]?\d+)?)"
    rf"(?:(?P<times>[x×])(?!\w|\s*[\d(])|\s?(?P<unit>{UNITS})(?!\w))?(?![\w]|[.,]\d)"
)


@dataclass(frozen=True)
class Number:
    """A number in a text: its value in plain units, half of its last digit, and where it stands."""

    text: str
    value: float
    slack: float
    counts: bool  # three or more significant digits, or a unit: it needs a proof or a reason
    start: int
    end: int

    def is_(self, value: object) -> bool:
        """Whether `value`, rounded to the digits that are written, is this number."""
        if isinstance(value, (bool, str)):
            return False
        return abs(value - self.value) <= self.slack * (1 + 1e-9) + 1e-12 * abs(self.value)


def numbers_in(text: str) -> list[Number]:
    found = []
    for match in NUMBER.finditer(text):
        written = match["number"].replace(",", "").replace("−", "-")
        mantissa, _, exponent = written.partition("e")
        scale = SCALES.get(match["unit"] or "", 1) * 10.0 ** int(exponent or 0)
        decimals = len(mantissa.partition(".")[2])
        digits = mantissa.lstrip("-").replace(".", "").lstrip("0")
        significant = len(digits if decimals else digits.rstrip("0"))
        counts = bool(significant >= 3 or match["unit"] or match["times"])
        scaled = match["unit"] in SCALES  # "13.5 GB" goes with its unit, "2 times" and "2" are one number
        place = (match.start("number"), match.end() if scaled else match.end("number"))
        found.append(Number(match[0], float(mantissa) * scale, scale * 0.5 * 10.0**-decimals, counts, *place))
    return found


def places(piece: str, text: str) -> list[tuple[int, int]]:
    """Where `piece` stands in `text` as a whole number or phrase: "65" is not in "65,536", nor "9 %" in "0.39 %"."""
    whole = rf"(?<![\w.,]){re.escape(piece)}(?!\w|[.,]\d)"
    return [match.span() for match in re.finditer(whole, text)]


def test_numbers_are_read_as_people_write_them():
    read = {n.text: (n.value, n.counts) for n in numbers_in("0.39 % of 65,536, 13.5 GB; 8x, 12 times, 5 of 2048.")}
    assert read == {
        "0.39 %": (pytest.approx(0.0039), True),
        "65,536": (65536, True),
        "13.5 GB": (13.5e9, True),
        "8x": (8, True),
        "12 times": (12, True),
        "5": (5, False),
        "2048": (2048, True),
    }
    assert [n.text for n in numbers_in("Llama-2-7B in bf16: 8 x (4096 + 1), GPT-3, 1/256.")] == [
        "8",
        "4096",
        "1",
        "1",
        "256",
    ]
    [share] = numbers_in("0.39 %")
    assert share.is_(0.00390625) and share.is_(0.0039) and not share.is_(0.0040) and not share.is_(0.39)
    [size] = numbers_in("13.5 GB")
    assert size.is_(13_476_831_232) and not size.is_(13_576_831_232) and not size.is_("13.5") and not size.is_(True)
    [count] = numbers_in("65,536")
    assert count.is_(65536) and not count.is_(65537)
    assert places("65", "65,536 and 65") == [(11, 13)] and places("0.39 %", "is 0.39 %.") == [(3, 9)]


# Running the proofs: each once at its defaults, and once for each change.


@functools.cache
def ran(name: str, inputs: tuple = ()) -> tuple[proofs.Result, float]:
    """A proof's result and the processor time it took, which other work on the machine does not change much."""
    import torch  # its import is nobody's proof

    assert torch.get_num_threads() == 1
    before = time.process_time()
    result = proofs.run(name, **dict(inputs))
    return result, time.process_time() - before


def changed(question: dict) -> list[proofs.Result]:
    return [ran(question["proof"], tuple(sorted(inputs.items())))[0] for inputs in question["change"]]


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """See `one_thread`."""


# Entries


@each_question
def test_entry_is_complete(question):
    assert set(question) <= FIELDS, f"unknown: {sorted(set(question) - FIELDS)}"
    for field in TEXTS:
        assert isinstance(question.get(field), str) and question[field].strip(), f"{field} is missing or empty"
    assert question["level"] in LEVELS and question["topic"] in TOPICS
    assert question["lesson"] in {number for number, *_ in LESSONS}
    assert question["question"].endswith("?") or question["question"].endswith(".")
    assert 2 <= len(sentences(question["answer"])) <= 4, sentences(question["answer"])
    assert 1 <= len(sentences(question["why"])) <= 3, sentences(question["why"])
    rubric = question.get("rubric")
    assert len(rubric) == 3 and len(set(rubric)) == 3 and all(isinstance(r, str) and r.strip() for r in rubric)
    assert question["proof"] in proofs.names()
    assert question.get("change"), "at least one changed input"


def sentences(text: str) -> list[str]:
    """Cut after a full stop, question or exclamation mark that a space and a capital, digit or quote follow."""
    return re.split(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(]?[A-Z0-9])", text.strip())


def test_sentences_are_counted():
    assert len(sentences("No. W is [8, 4096], 0.39 % of it. See e.g. the paper.")) == 3


def test_ids_and_questions_are_unique():
    for field in ("id", "question", "answer"):
        twice = [text for text, n in collections.Counter(q[field] for q in BANK).items() if n > 1]
        assert not twice, f"{field} used twice: {twice}"


def test_topics_come_in_teaching_order():
    topics = [question["topic"] for question in BANK]
    assert topics == sorted(topics, key=TOPICS.index) and set(topics) == set(TOPICS)


def test_there_are_enough_at_every_level():
    levels = collections.Counter(question["level"] for question in BANK)
    assert len(BANK) >= 85 and all(levels[level] >= 22 for level in LEVELS), levels


# Proofs


@each_question
def test_proof_holds(question):
    result, seconds = ran(question["proof"])
    assert result and all(type(value) in (int, float, str, bool) for value in result.values()), result
    assert any(value is True for value in result.values()), "a proof states something"
    false = [key for key, value in result.items() if value is False]
    assert not false, f"not so: {false} in {result}"
    assert seconds < 5, f"{seconds:.1f} s"


def test_every_proof_explains_itself():
    for name in proofs.names():
        function = proofs.find(name)
        assert inspect.getdoc(function), f"{name} has no docstring"
        for parameter in inspect.signature(function).parameters.values():
            assert parameter.default is not parameter.empty, f"{name}: {parameter.name} has no default"
            assert parameter.annotation is not parameter.empty, f"{name}: {parameter.name} has no type"


def test_proofs_take_a_second_and_a_half_on_average():
    """Far above what they take, about 0.1 s: a slow machine must not fail it."""
    seconds = [ran(name)[1] for name in {question["proof"] for question in BANK}]
    assert sum(seconds) / len(seconds) <= 1.5, f"mean {sum(seconds) / len(seconds):.2f} s, max {max(seconds):.2f} s"


# Numbers


@each_question
def test_numbers_are_the_proofs(question):
    result, text = ran(question["proof"])[0], f"{question['answer']}\n{question['why']}"
    for written, key in question.get("numbers", {}).items():
        assert places(written, text), f"{written!r} is in neither answer nor why"
        assert key in result, f"{question['proof']} returns no {key!r}: {sorted(result)}"
        [number] = numbers_in(written)
        assert number.is_(result[key]), f"the text says {written}, the proof {key} = {result[key]}"


@each_question
def test_every_number_has_a_proof_or_a_reason(question):
    known = [*question.get("numbers", {}), *question.get("fixed", {})]
    assert all(isinstance(reason, str) and reason for reason in question.get("fixed", {}).values())
    for field in ("answer", "why"):
        text = question[field]
        spans = [span for piece in known for span in places(piece, text)]
        for number in numbers_in(text):
            covered = any(start <= number.start and number.end <= end for start, end in spans)
            assert covered or not number.counts, f"{number.text!r} in {field} has neither proof nor reason"
    text = f"{question['answer']}\n{question['why']}"
    unused = [piece for piece in question.get("fixed", {}) if not places(piece, text)]
    assert not unused, f"in `fixed`, but not in the text: {unused}"


@each_question
def test_a_rubric_says_no_other_number(question):
    """What a full answer has is what the answer says, or what the proof gives, perhaps rounded further."""
    result, text = ran(question["proof"])[0], f"{question['answer']}\n{question['why']}\n{question['question']}"
    widths = (4, 8, 16, 32)  # bits of number formats
    said = [*result.values(), *widths, *(number.value for number in numbers_in(text))]
    for item in question["rubric"]:
        for number in numbers_in(item):
            assert not number.counts or any(map(number.is_, said)), f"{number.text!r} in {item!r} is from elsewhere"


@each_question
def test_numbers_move_with_the_inputs(question):
    at_defaults, results = ran(question["proof"])[0], changed(question)
    for inputs, result in zip(question["change"], results, strict=True):
        assert result != at_defaults, f"{inputs} changes nothing"
    for written, key in question.get("numbers", {}).items():
        [number] = numbers_in(written)
        assert not all(number.is_(result[key]) for result in results), f"{key} stays {written} under every change"
