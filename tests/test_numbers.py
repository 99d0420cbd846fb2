"""No number in the prose without its origin: the Markdown of every notebook and of README.

A number counts if it has three or more digits (from the first that is not 0), or a unit: % TB GB MB kB GiB MiB KiB
bytes, bits, ns µs ms s seconds minutes hours, x (or ×) behind it, times, nats, FLOP(s) and their multiples, percent,
points, million (M), billion. Numbers written as words ("a third") are not read.

It may stand there if it is
1.  in the ledger: among the `numbers` of a claim of that lesson or of the card, or `fixed` there (README: any claim's);
2.  in a printed output of that notebook (streams, text/plain, text/html, text/markdown), equal when rounded to the
    digits written: thousands separators, "%" as 100 times a share, and bytes behind their units are read. The text of a
    figure counts only where it was computed: not a number that stands in the cell's source;
3.  a number of the code that the reader has before him (no strings, no comments; bounds in an assert are numbers that
    are checked): of the two code cells above and the two below, or, with three digits and no unit, of any cell;
4.  the result of arithmetic that stands before it in the same sentence ("128 × 64 = 8,192"), which is worked out;
5.  in `numbers_allowed.toml` for that file, with the reason: quoted from a paper with its source, an input, an option
    of a guess ... A reason "proof: NAME.KEY" is checked. An entry that nothing needs fails, too.

A number of two digits may be explained by a printed one that means something else; one of three or more rarely is.

Left out before that, by rule: fenced code and code spans; the targets of links, addresses, HTML attributes and
comments; arXiv ids and issue numbers (`repository#12`); years; versions (1.2.3, and behind Python, torch, peft,
transformers, ipywidgets, JupyterLab); names (a word with letters before its number: GPT-2, Llama-3.1-8B, SmolLM2-135M;
sizes such as 7B); cross-references (lesson, section, sections, table, tables, appendix, exercise, bug, figure, row,
equation, page, footnote, part, step); the number of a heading or of a list's line; lists of a matrix's sides such as
[4096, 8]; the widths of types (4, 8, 16, 32 and 64 bits); the minutes of a lesson's first cell and of an exercise's
heading; the ids in <small>.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import pytest

from lora_lab import ledger, proofs

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALLOWED = Path(__file__).parent / "numbers_allowed.toml"
README = "README"

FAMILIES = {
    "bytes": {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "KB": 1e3, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
    | {"bytes": 1, "byte": 1},
    "time": {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "seconds": 1, "second": 1, "minutes": 60, "minute": 60}
    | {"hours": 3600, "hour": 3600},
    "count": {"million": 1e6, "M": 1e6, "billion": 1e9},
    "work": {f"{letter}FLOP{s}": n for letter, n in {"": 1, "G": 1e9, "T": 1e12}.items() for s in ("", "s")},
    "share": {"%": 1e-2, "percent": 1e-2},
    "bits": {"bits": 1, "bit": 1},
    "nats": {"nats": 1, "nat": 1},
    "times": {"times": 1, "x": 1, "×": 1},
    "points": {"points": 1},
}
FAMILY = {unit: family for family, units in FAMILIES.items() for unit in units}
SCALE = {unit: size for units in FAMILIES.values() for unit, size in units.items()} | {"": 1.0}
UNIT = "|".join(sorted(map(re.escape, FAMILY), key=len, reverse=True))
NUMBER = re.compile(
    r"(?<![\w.,])(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
    rf"(?:(?:\s|-|&nbsp;)?(?P<unit>{UNIT})(?![\w]))?(?![\w])"
)
A_PRODUCT = re.compile(r"\s+[x×]|[x×](?:\s*[\d(√]|[a-zA-Z])")  # "8 × rank", "8×8": no unit, as in "3× as much"

REFERENCES = "lessons? sections? tables? appendix exercises? bugs? figures? rows? equations? pages? footnote part step"
LEFT_OUT = [
    re.compile(pattern, re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^```.*?^```",
        r"`[^`]*`",
        r"<!--.*?-->",
        r"<small>.*?</small>",
        r"<[^<>]*>",
        r"\]\([^)]*\)",
        r"https?://\S+",
        r"arXiv\s+[\d.]+",
        r"[\w./-]*#\d+",
        r"(?<![\d,.$])(?:19|20)\d\d(?!\d|[.,]\d|\s?%)",
        r"\b\d+\.\d+\.\d+\b",
        r"\b(?:Python|torch|peft|transformers|ipywidgets|JupyterLab)\s+[\d.]+\d(?:\s+(?:to|and)\s+[\d.]+\d)?",
        r"\b[A-Za-z]\w*(?:[-.][\w.]+)*-[\w.]*\d[\w.]*(?:-[\w.]+)*",
        r"\b[A-Za-z_]+\d[\w.]*",
        r"\b\d+(?:\.\d+)?B\b",
        rf"\b(?i:{REFERENCES.replace(' ', '|')})\s+\d[\d.]*(?:(?:,| to| and| or)\s+\d[\d.]*)*",
        r"^#+ \d+\.? ",
        r"^\s*\d+\. ",
        r"\[[\w ×√/*]+(?:,\s*[\w ×√/*]+)+\]",
        r"[●○]+, \d+ minutes",
        r"\b(?:4|8|16|32|64)[- ]bits?\b",
    )
]


@dataclass(frozen=True)
class Number:
    """A number as it stands in a text, and the power of ten of its last digit's place."""

    written: str
    value: float
    last: float
    unit: str = ""
    at: int = 0

    @property
    def counts(self) -> bool:
        digits = re.sub(r"e.*|[,.]", "", self.written.split()[0].removesuffix(self.unit)).lstrip("0")
        return bool(self.unit) or len(digits) >= 3

    def within(self, value: float, scale: float = 1.0) -> bool:
        return abs(self.value * scale - value) <= self.last * scale / 2 * (1 + 1e-9)

    def follows(self, result: float | None) -> bool:
        """Whether it is what the arithmetic before it gives."""
        return result is not None and (self.within(result) or self.within(result, SCALE[self.unit]))

    def agrees(self, other: Number) -> bool:
        """Whether `other`, printed, rounds to this one.

        Where only one of them has a unit, the other may be in that unit (a table's head says it) or in its base (bytes,
        seconds); a share is printed as one, or with "%"; a million is never a bare 1.
        """
        mine, its = FAMILY.get(self.unit), FAMILY.get(other.unit)
        if mine and its or its == "share":
            return mine == its and self.rounds(other, SCALE[other.unit], SCALE[self.unit])
        if mine == "share":
            return other.value <= 1 and self.rounds(other, 1.0, SCALE[self.unit])
        bare = mine != "count" and self.rounds(other)
        return bare or self.rounds(other, SCALE[other.unit], SCALE[self.unit])

    def rounds(self, other: Number, its: float = 1.0, mine: float = 1.0) -> bool:
        """Whether the two are one number, this one with no more digits; each is multiplied by its unit."""
        fine = other.last * its <= self.last * mine * (1 + 1e-9)
        return fine and self.within(other.value * its, mine)


def numbers(text: str) -> Iterator[Number]:
    """Every number in a plain text, with the unit behind it."""
    for match in NUMBER.finditer(text):
        written, unit = match["number"], match["unit"] or ""
        if unit in ("x", "×") and A_PRODUCT.match(text, match.end("number")):
            unit = ""
        mantissa, _, exponent = written.replace(",", "").partition("e")
        last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        yield Number(
            f"{written} {unit}".strip(), float(mantissa) * 10.0 ** int(exponent or 0), last, unit, match.start()
        )


def prose(markdown: str) -> str:
    """The text without what the rules leave out."""
    for pattern in LEFT_OUT:
        markdown = pattern.sub(" \N{NOT SIGN} ", markdown)
    return markdown.replace("\N{NO-BREAK SPACE}", " ").replace("**", "")


def worked_out(text: str, at: int) -> float | None:
    """What the arithmetic between the sentence's beginning and the "=" before place `at` gives; None if none is there.

    Words in it are passed over: "32 layers × 2 × 8 = " is 512.
    """
    sentence = re.split(r"[.:;!?]\s|\n\s*\n|,\s(?!\d)", text[:at])[-1]
    shown = re.fullmatch(r"(.*\d.*[-+×*/−].*\d.*)=\s*", sentence, re.DOTALL)
    if not shown:
        return None
    expression = re.sub(r"(?<=\d),(?=\d{3})", "", shown[1].rpartition("=")[2])
    expression = re.sub(r"[^\d.()+*/-]", " ", expression.replace("×", "*").replace("−", "-"))
    expression = re.split(r"(?<=[\d)])\s+(?=[\d(])", expression)[-1]  # "128 examples bring 128 × 64": the latter
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return float(eval(compile(tree, "prose", "eval"), {"__builtins__": {}}))
    except (SyntaxError, ZeroDivisionError, TypeError):
        return None


def said(markdown: str, first: bool = False) -> list[Number]:
    """The numbers of a Markdown cell that count and are not worked out before the reader's eyes.

    first: a lesson's first cell, whose minutes are left out.
    """
    text = prose(markdown)
    found = [number for number in numbers(text) if number.counts and not number.follows(worked_out(text, number.at))]
    return [n for n in found if not (first and n.unit.startswith("minute"))]


def printed(cell) -> Iterator[Number]:
    """The numbers of a code cell's outputs."""
    for output in cell.get("outputs", []):
        data = output.get("data", {"text": output.get("text", "")})
        for kind in ("text", "text/plain", "text/html", "text/markdown"):
            text = re.sub(r"<[^<>]*>", " ", data.get(kind, ""))
            for number in numbers(text):
                if "image/png" not in data or not re.search(rf"(?<![\d.]){number.written.split()[0]}", cell.source):
                    yield number


def coded(cell) -> Iterator[Number]:
    """The numbers in a cell's code, which are exact: no strings, no comments."""
    source = re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER:
            yield from (replace(number, last=0.0) for number in numbers(token.string.replace("_", "")))


def of_the_ledger(lesson: str) -> Iterator[Number]:
    """The numbers of the claims that a lesson may lean on."""
    for claim in ledger.claims():
        own = lesson == README or claim.lesson == lesson
        for written in (*claim.numbers, *(claim.fixed if own else ())):
            if own or claim.lesson == "card":
                yield from numbers(written)


@functools.cache
def allowed() -> dict[str, dict[str, str]]:
    return tomllib.loads(ALLOWED.read_text(encoding="utf-8"))


def unexplained(notebook, name: str) -> list[tuple[str, Number]]:
    """(the cell's id, number) for each number in the prose that neither output, code nor ledger explains."""
    cells = notebook.cells
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    shown = [number for i in code for number in printed(cells[i])] + list(of_the_ledger(name[:2]))
    shown += [number for i in code for number in coded(cells[i]) if number.counts]
    found = []
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            around = [j for j in code if j < i][-2:] + [j for j in code if j > i][:2]
            given = [number for j in around for number in coded(cells[j])]
            for number in said(cell.source, first=i == 0):
                if not any(number.agrees(other) for other in (*shown, *given)):
                    found.append((cell.id, number))
    return found


def complaints(found: Iterable[tuple[str, Number]], reasons: dict[str, str]) -> list[str]:
    """What is neither explained nor allowed, and what is allowed for nothing."""
    found = list(found)
    written = {number.written for _, number in found}
    lost = [f"{place}: {number.written!r} is in no output and in no list" for place, number in found]
    lost = [line for line, (_, number) in zip(lost, found, strict=True) if number.written not in reasons]
    return lost + [f"{entry!r} is allowed, but nothing needs it" for entry in reasons if entry not in written]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_every_number_of_a_lesson_has_its_origin(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert complaints(unexplained(notebook, path.stem), allowed().get(path.stem, {})) == []


def test_every_number_of_readme_has_its_origin():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = list(of_the_ledger(README))
    found = [("README", n) for n in said(text) if not any(n.agrees(other) for other in known)]
    assert complaints(found, allowed()[README]) == []


@pytest.mark.parametrize("name", [README, *(path.stem for path in NOTEBOOKS)])
def test_allowed_numbers_that_name_a_proof_are_what_it_gives(name):
    for written, why in allowed().get(name, {}).items():
        if why.startswith("proof: "):
            proof, _, key = why.removeprefix("proof: ").partition(".")
            assert ledger.agrees(written, proofs.run(proof)[key]), f"{written} is not {why}"


def test_every_allowed_number_has_a_reason_and_a_file():
    assert set(allowed()) <= {README, *(path.stem for path in NOTEBOOKS)}
    assert [(n, why) for entries in allowed().values() for n, why in entries.items() if len(why.split()) < 2] == []


# --- the test, tested -------------------------------------------------------------------------------------------------


def lesson(text: str, code: str = "print(share)", shown: str = "", before: str = ""):
    """A notebook of one code cell, with what it printed, and a text below it."""
    cell = nbformat.v4.new_code_cell(code, outputs=[nbformat.v4.new_output("stream", text=shown)])
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# 98 A test"), cell, nbformat.v4.new_markdown_cell(text)]
    )


def reported(text: str, **how: str) -> list[str]:
    return [number.written for _, number in unexplained(lesson(text, **how), "98_a_test")]


@pytest.mark.parametrize(
    ("shown", "text", "lost"),
    [
        ("0.390625%", "It is 0.39 %, or 0.4 %, or 0.390625 %.", []),
        ("0.390625%", "It is 0.38 %.", ["0.38 %"]),
        ("0.427", "It is 0.4271: more digits than were printed.", ["0.4271"]),
        ("share 0.427", "Nearly 43 % is missing.", []),
        ("share 0.4", "It is 40 %, not 40.0 %.", ["40 %", "40.0 %"]),
        ("share 0.427", "Nearly 42 % is missing.", ["42 %"]),
        ("427 rows", "Nearly 4 % is missing.", ["4 %"]),
        ("13,476,831,232 bytes", "The model takes 13.5 GB.", []),
        ("13,476,831,232 bytes", "The model takes 13.4 GB.", ["13.4 GB"]),
        ("weights 13.48", "The model takes 13.5 GB.", []),
        ("389 MB", "The model takes 389 GB.", ["389 GB"]),
        ("5.9 and 28 ms", "It has 6 million numbers, and takes 28 GB.", ["6 million", "28 GB"]),
        ("loss 3.61", "It ends at 3.6 nats, from 4.74.", ["4.74"]),
        ("65536", "They have 65,536 numbers, not 65,535.", ["65,535"]),
        ("together 28 ms", "It took 28 ms, and 42 ms apart.", ["42 ms"]),
        ("1.52 times", "It took 1.5 times as long, not 2.6 times.", ["2.6 times"]),
        ("nothing", "A tenth, 12 runs, two of 45.", []),
    ],
)
def test_a_number_is_reported_unless_it_was_printed(shown, text, lost):
    assert reported(text, shown=shown) == lost


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("`x = 12345` and [text](page_12345.html), <img width='12345'>", []),
        ("```python\nx = 12345\n```\nand 12346", ["12346"]),
        ("Hu and others, 2021, arXiv 2106.09685, section 4.135", []),
        ("tloen/alpaca-lora#352, lesson 123, tables 123 and 124, exercise 123", []),
        ("Llama-3.1-8B, RoBERTa-125, a 7B, Python 3.11 to 3.144, torch 2.13.0", []),
        ("*difficulty ●○○, importance ●●○, 5 minutes*", []),
        ("In 16 bits, a 4-bit base, 3.127 bits, 5 bits", ["3.127 bits", "5 bits"]),
        ("4 million, 4.2 million, 5 million", ["5 million"]),
        ("It takes 5 minutes.", ["5 minutes"]),
        ("W is [4097, 4098] and has 4099 rows", ["4099"]),
        ("128 examples bring 128 × 64 = 8,192 answers", ["128", "128"]),
        ("Layers of 8 × (64 + 64) = 1,024 numbers, 8 × (64 + 64) = 1,025", ["1,025"]),
        ("3 × 5 of them, 3× as much, and 12 x 20", ["3 ×"]),
        ("40 x rank, 2×rank, 40 × (1 + 1)", []),
        ("In 2019 there were 2,019", ["2,019"]),
    ],
)
def test_what_the_rules_leave_out(text, lost):
    assert reported(text) == lost


def test_code_that_the_reader_sees_explains_a_number():
    assert reported("512 examples, an error of 0.25", code="x = rng.normal(size=(512, 3))\nassert error < 0.25") == []
    assert reported("512 examples", code='x = "512"  # 512') == ["512"]


def test_what_a_figure_is_said_to_show_must_have_been_computed():
    def shown(code):
        picture = {"image/png": "", "text/plain": "It falls to 3.607 at step 45."}
        cell = nbformat.v4.new_code_cell(code, outputs=[nbformat.v4.new_output("display_data", picture)])
        text = nbformat.v4.new_markdown_cell("It falls to 3.61 nats.")
        return [n.written for _, n in unexplained(nbformat.v4.new_notebook(cells=[cell, text]), "98_a_test")]

    assert shown('alt = f"It falls to {low:.3f} at step {step}."') == []
    assert shown('alt = "It falls to 3.607 at step 45."') == ["3.61 nats"]


def test_a_made_up_number_in_a_real_lesson_is_reported():
    notebook = nbformat.read(NOTEBOOKS[0], as_version=nbformat.NO_CONVERT)
    before = unexplained(notebook, NOTEBOOKS[0].stem)
    cell = next(cell for cell in notebook.cells if "Sixteen, not eight" in cell.source)
    cell.source += " It saves 87.3 % of the time, and 16,777,216 numbers stay."
    (found,) = [n for n in unexplained(notebook, NOTEBOOKS[0].stem) if n not in before]
    assert found[1].written == "87.3 %"


def test_the_list_is_neither_too_short_nor_too_long():
    found = unexplained(lesson("It is 12.5 %."), "98_a_test")
    assert [line.partition(": ")[2] for line in complaints(found, {})] == ["'12.5 %' is in no output and in no list"]
    assert complaints(found, {"12.5 %": "quoted: somebody"}) == []
    assert complaints(found, {"12.5 %": "quoted: somebody", "7 %": "an input"}) == [
        "'7 %' is allowed, but nothing needs it"
    ]


def test_the_card_serves_every_lesson_and_a_lesson_itself_alone():
    own = {number.written for number in of_the_ledger("04")}
    assert "4.127 bits" in own and "65,536" in own and "16,777,216" in own
    assert "4.127 bits" not in {number.written for number in of_the_ledger("05")}
