"""The claims ledger: every sentence of the card and of the lessons' summaries, its verdict, and what proves it.

The claims are in `assets/claims.toml`; the proofs are functions of `lora_lab.proofs`, which compute. Reading the
ledger needs only the standard library, checking a claim whatever its proofs need.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_lab import proofs

FILE = Path(__file__).parent / "assets" / "claims.toml"
VERDICTS = ("exact", "approximate", "depends", "misleading")
NEEDS_PUTTING_RIGHT = ("depends", "misleading")

# What a number is multiplied by when its unit is read: "0.39 %" is 0.0039, "13.5 GB" is 13.5e9 bytes.
UNITS = {"%": 1e-2, "k": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "ms": 1e-3, "µs": 1e-6}
_NUMBER = re.compile(r"([-+]?)(\d[\d,]*)(?:\.(\d+))?(?:[eE]([-+]?\d+))?\s*([^\d\s]*)")


@dataclass(frozen=True)
class Claim:
    """One sentence. numbers: {number as written: "proof.key"}; fixed: {number: why it is given, not computed}."""

    id: str
    lesson: str
    sentence: str
    verdict: str
    checks: tuple[str, ...]
    put_right: str = ""
    numbers: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


@functools.cache
def _all() -> dict[str, Claim]:
    found: dict[str, Claim] = {}
    for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["claim"]:
        claim = Claim(**row | {"checks": tuple(row["checks"])})
        if claim.id in found:
            raise ValueError(f"{FILE.name} has two claims {claim.id!r}")
        found[claim.id] = claim
    return found


def claims(lesson: str | None = None, verdict: str | None = None) -> list[Claim]:
    """The claims in the file's order: of one lesson ("card", "04") and with one verdict, where these are given.

    Raises ValueError for a lesson or a verdict that has none, naming those that have.
    """
    every = list(_all().values())
    for value, known in ((lesson, {c.lesson for c in every}), (verdict, set(VERDICTS))):
        if value is not None and value not in known:
            raise ValueError(f"no claims under {value!r}; there are: {', '.join(sorted(known))}")
    return [c for c in every if lesson in (None, c.lesson) and verdict in (None, c.verdict)]


def find(name: str) -> Claim:
    """The claim with this id, such as "C2" or "L04.1". Raises ValueError for one that is not there."""
    if name not in _all():
        raise ValueError(f"no claim {name!r}; ids are C1 to C{len(claims('card'))} for the card, L04.1 for a lesson's")
    return _all()[name]


def table(lesson: str | None = None, verdict: str | None = None) -> str:
    """The claims as a Markdown table: id, sentence, verdict, what to say instead or besides, proofs."""
    rows = [
        (c.id, c.sentence, c.verdict, c.put_right, ", ".join(f"`{name}`" for name in c.checks))
        for c in claims(lesson, verdict)
    ]
    return _markdown(("", "says", "verdict", "put right", "proof"), rows)


def card_in_short() -> str:
    """The card's claims as README shows them: id, sentence, verdict, what to say instead or besides."""
    rows = [(c.id, c.sentence, c.verdict, c.put_right) for c in claims("card")]
    return _markdown(("", "the card says", "verdict", "what holds"), rows)


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def check(name: str) -> dict[str, proofs.Result]:
    """Run the proofs of claim `name`, print what they gave, and return it: {proof: its result}.

    Raises AssertionError, naming it, for a statement that is false or a number of the sentence that is another one.
    """
    claim = find(name)
    print(f"{claim.id} ({claim.verdict}): {claim.sentence}")
    if claim.put_right:
        print(f"  put right: {claim.put_right}")
    results = {proof: proofs.run(proof) for proof in claim.checks}
    for proof, result in results.items():
        print(f"  {proof}")
        for key, value in result.items():
            print(f"    {key} = {proofs.said(value)}")
    problems = disagreements(claim, results)
    if problems:
        raise AssertionError(f"{claim.id} does not hold: {'; '.join(problems)}")
    return results


def disagreements(claim: Claim, results: Mapping[str, proofs.Result]) -> list[str]:
    """What in `results` ({proof: result}) is at odds with the claim: statements not true, numbers not the computed."""
    found = [
        f"{proof}: {key} is {value}"
        for proof, result in results.items()
        for key, value in result.items()
        if value is False
    ]
    for written, where in claim.numbers.items():
        proof, _, key = where.partition(".")
        if proof not in results or key not in results[proof]:
            found.append(f"{written!r} is to be {where}, which no check of the claim gives")
        elif not agrees(written, results[proof][key]):
            found.append(f"{written!r} is written, {where} is {results[proof][key]}")
    return found


def agrees(written: str, value: float) -> bool:
    """Whether the number `written` in a text is `value`, rounded to the digits written; units are read.

    >>> agrees("0.39 %", 65_536 / 16_777_216), agrees("0.38 %", 65_536 / 16_777_216)
    (True, False)
    >>> agrees("4,194,304", 4_194_304), agrees("13.5 GB", 13_476_831_232)
    (True, True)

    With a unit both readings pass, the scaled one and the bare: a proof may give 13.48 for gigabytes. (A share must be
    a share: "%" is always a hundredth.) Raises ValueError for a text that begins with no number.
    """
    match = _NUMBER.match(written.strip())
    if not match:
        raise ValueError(f"{written!r} does not begin with a number")
    sign, whole, decimals, exponent, unit = match.groups()
    number = float(f"{sign}{whole.replace(',', '')}.{decimals or 0}e{exponent or 0}")
    last = 10.0 ** (int(exponent or 0) - len(decimals or ""))  # what one step of the last digit is worth
    scale = UNITS.get(unit, 1.0)
    readings = {value / scale} | ({float(value)} if unit != "%" else set())
    return any(abs(reading - number) <= last / 2 * (1 + 1e-9) for reading in readings)
