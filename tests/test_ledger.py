"""The claims ledger: every sentence has a check that holds, every line of "In five lines" is in it, to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from lora_lab import ledger, proofs

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
CLAIMS = {claim.id: claim for claim in ledger.claims()}
BEGIN, END = "<!-- ledger: card -->", "<!-- end of ledger -->"

_results: dict[str, proofs.Result] = {}


def result(proof: str) -> proofs.Result:
    """What the proof gives, computed once for all claims that name it."""
    if proof not in _results:
        _results[proof] = proofs.run(proof)
    return _results[proof]


def five_lines(path: Path) -> list[tuple[str, str]]:
    """(id, sentence) of each line of "In five lines"; an id that is not there is ""."""
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    section = next(cell.source for cell in cells if cell.source.startswith("## In five lines"))
    lines = []
    for line in re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]:
        sentence, _, name = " ".join(line.split()).partition(" <small>")
        lines.append((name.removesuffix("</small>"), sentence))
    return lines


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_what_is_claimed_holds(claim):
    results = {proof: result(proof) for proof in claim.checks}
    statements = [value for found in results.values() for value in found.values() if isinstance(value, bool)]
    assert statements, "no check of this claim states anything"
    assert ledger.disagreements(claim, results) == []


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_is_well_formed(claim):
    assert claim.verdict in ledger.VERDICTS and claim.checks
    assert claim.put_right or claim.verdict not in ledger.NEEDS_PUTTING_RIGHT, "say what holds instead"
    assert re.fullmatch(r"C\d+" if claim.lesson == "card" else rf"L{claim.lesson}\.\d", claim.id)
    text = f"{claim.sentence} {claim.put_right}"
    assert [number for number in (*claim.numbers, *claim.fixed) if number not in text] == []
    assert all(claim.fixed.values()), "say why a fixed number is given"


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_the_five_lines_are_the_ledgers(lesson):
    """Each line has an id and says what the ledger says under it; and the ledger has no line that the lesson lacks."""
    lines = five_lines(NOTEBOOKS[lesson])
    assert len(lines) == 5
    assert [name for name, _ in lines] == [f"L{lesson}.{n}" for n in range(1, 6)]
    assert dict(lines) == {claim.id: claim.sentence for claim in CLAIMS.values() if claim.lesson == lesson}


def test_every_claim_belongs_to_a_lesson_or_to_the_card():
    assert {claim.lesson for claim in CLAIMS.values()} <= {"card", *NOTEBOOKS}
    card = [claim.id for claim in ledger.claims("card")]
    assert card == [f"C{n}" for n in range(1, len(card) + 1)] and len(card) >= 17


def test_readme_shows_the_cards_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == ledger.card_in_short()


# --- the ledger itself ------------------------------------------------------------------------------------------------


def test_numbers_agree_at_the_digits_written():
    share = 65_536 / 16_777_216  # 0.390625 %
    assert all(ledger.agrees(written, share) for written in ("0.39 %", "0.4 %", "0.390625 %", "0.00391"))
    assert not any(ledger.agrees(written, share) for written in ("0.38 %", "0.3 %", "0.390 %", "0.39", "39 %"))
    assert ledger.agrees("13.5 GB", 13_476_831_232) and ledger.agrees("13.5 GB", 13.476831232)
    assert not ledger.agrees("13.4 GB", 13_476_831_232)
    assert ledger.agrees("4,194,304", 4_194_304) and not ledger.agrees("4,194,303", 4_194_304)
    assert ledger.agrees("4.19 million", 4_194_304) and ledger.agrees("1e-4", 0.0001) and ledger.agrees("-0.5", -0.52)
    with pytest.raises(ValueError, match="does not begin with a number"):
        ledger.agrees("about 7", 7)


def test_check_prints_what_its_proofs_gave(capsys):
    assert ledger.check("C4") == {"scaling_factor": proofs.run("scaling_factor")}
    printed = capsys.readouterr().out
    assert printed.startswith("C4 (exact): Alpha 16 at rank 8") and "rslora = 5.65685" in printed


def test_check_says_what_does_not_hold(monkeypatch):
    wrong = ledger.Claim(
        "C4", "card", "Factor 3.", "exact", ("scaling_factor",), numbers={"3": "scaling_factor.factor"}
    )
    monkeypatch.setattr(ledger, "find", lambda name: wrong)
    with pytest.raises(AssertionError, match=r"C4 does not hold: '3' is written, scaling_factor.factor is 2.0"):
        ledger.check("C4")
    monkeypatch.setattr(proofs, "run", lambda name: {"factor": 3.0, "it holds": False})
    with pytest.raises(AssertionError, match="C4 does not hold: scaling_factor: it holds is False"):
        ledger.check("C4")


def test_the_table_can_be_narrowed():
    assert ledger.table().count("\n") == len(CLAIMS) + 1
    assert all("misleading" in row for row in ledger.table("card", "misleading").splitlines()[2:])
    assert "L04.1" in ledger.table("04") and "L05.1" not in ledger.table("04")
    with pytest.raises(ValueError, match="no claims under 'wrong'; there are: approximate, depends"):
        ledger.table(verdict="wrong")
    with pytest.raises(ValueError, match="no claim 'C99'; ids are C1 to C20 for the card"):
        ledger.find("C99")
