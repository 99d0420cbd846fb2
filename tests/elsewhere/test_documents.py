"""The pages for people: their links lead somewhere, the files they name are there, their commands are understood."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

import course
import setup_here
from lora_lab import doctor, experiments
from lora_lab.__main__ import COMMANDS
from lora_lab.proofs import lessons_06_07
from tests.bench import finetunes

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.md"))}
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:lora_lab|tests|notebooks|figures|slurm|assets|\.ci|\.binder|\.github)/[\w./*-]+)`")
COMMAND = re.compile(r"(?<![\w./])(?:python3?|py) (?:-m lora_lab|-m tests|\w+\.py)\b[^`#|\n]*")


def anchors(text: str) -> set[str]:
    """GitHub's: lower case, words with hyphens between them, no other signs."""
    heads = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(text: str, folder: Path = ROOT) -> list[str]:
    """Links to a file or heading that is not there.

    >>> broken("[a](README.md) [b](NOWHERE.md) [c](README.md#the-course) [d](README.md#nothing) [e](https://x.y)")
    ['NOWHERE.md', 'README.md#nothing']
    """
    found = []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        there = folder / name if name else None
        if there and not there.exists():
            found.append(link)
        elif anchor and anchor not in anchors(there.read_text(encoding="utf-8") if there else text):
            found.append(link)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    assert broken(PAGES[name]) == []
    for path in NAMED.findall(PAGES[name]):
        if "NN" not in path:
            assert any(list((ROOT / part).glob(path.rstrip("/"))) for part in ("", "lora_lab")), path


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line that starts one of our programs, those in a sentence too."""
    joined = {name: re.sub(r"\\\n\s+", "", text) for name, text in PAGES.items()}
    found = [(name, line) for name, text in joined.items() for line in COMMAND.findall(re.sub(r"\[[^]]*\]", "", text))]
    return sorted({(name, line.strip()) for name, line in found})


def understood(line: str) -> bool:
    """Whether the program would start with these words. Raises SystemExit where a parser refuses them."""
    words = shlex.split(line)
    if words[1] == "course.py":
        return course.parse(words[2:]) is not None
    if words[1] == "setup_here.py":
        return set(words[2:]) <= set(re.findall(r"--\w+", setup_here.__doc__))
    if words[2] == "lora_lab":
        if len(words) == 3 or words[3].isupper():
            return True
        if len(words) == 4:  # named in a sentence, without its words
            return words[3] in COMMANDS
        parser = ArgumentParser()
        importlib.import_module(COMMANDS[words[3]][0]).arguments(parser)
        return parser.parse_args(words[4:]) is not None
    parts = words[2].split(".")
    there = [ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__main__.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in there if path.exists())
    return bool(source) and all(f'"{word}"' in source for word in words[3:] if word.startswith("--"))


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_s_words_are_ones_that_its_program_takes(page, line):
    assert understood(line)


def test_enough_commands_are_found_and_a_wrong_one_is_seen():
    assert len(commands()) >= 30
    for wrong in ("python -m lora_lab count --ranks 8", "python -m lora_lab cuont", "python setup_here.py --all"):
        with pytest.raises((SystemExit, KeyError, AssertionError)):
            assert understood(wrong)
    for wrong in ("python -m tests.bench --recrd", "python -m tests.benches"):
        assert not understood(wrong)


def test_an_image_gets_the_memory_that_the_doctor_wants():
    given = re.findall(r"--memory (\d+)g|mem_limit = \"(\d+)G\"", PAGES["ELSEWHERE.md"])
    given += re.findall(r"give each\s+student (\d+)( GB)", PAGES["INSTRUCTORS.md"])
    assert len(given) == 4
    assert all(float(one.strip() or other) > doctor.ENOUGH_MEMORY_GB for one, other in given)


@pytest.mark.parametrize("name", ["ELSEWHERE.md", "README.md"])
def test_code_on_the_pages_is_python(name):
    for block in re.findall(r"^```python\n(.*?)^```", PAGES[name], re.MULTILINE | re.DOTALL):
        compile(block, name, "exec")


# --- README's map -----------------------------------------------------------------------------------------------------


PACKAGES = list((ROOT / "lora_lab").glob("*/__init__.py"))


def rows() -> list[set[str]]:
    """The modules of each line of the map, "figures_..." as every one of that kind."""
    block = PAGES["README.md"].partition("## The package")[2].partition("Each is one file")[0]
    names = {path.stem for path in (ROOT / "lora_lab").glob("*.py")} | {p.parent.name for p in PACKAGES}
    found = []
    for line in re.findall(r"^    (\S.*)$", block, re.MULTILINE):
        left, right = re.split(r"\s{2,}", line, maxsplit=1)
        told = {word for word in re.findall(r"\w+", right) if word in names and "_" in word}
        row = {word for word in left.split(", ") if word in names} | told
        kinds = [word[:-3] for word in left.split(", ") if word.endswith("...")]
        found.append(
            row | {name for kind in kinds for name in names if name.startswith(kind) and "command" not in name}
        )
    return found


def test_the_map_is_in_order():
    """At the top of its file, a module of the map imports only from lines above it, from its own, or from none."""
    at = {name: i for i, row in reversed(list(enumerate(rows()))) for name in row}
    assert len(at) > 70
    wrong = []
    for name, place in at.items():
        path = ROOT / "lora_lab" / f"{name}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []:
            if isinstance(node, ast.ImportFrom) and node.module == "lora_lab":
                wrong += [f"{name} imports {a.name}" for a in node.names if at.get(a.name, -1) > place]
    assert wrong == []


# --- README's table ---------------------------------------------------------------------------------------------------


def test_the_fine_tunes_of_the_table_are_the_recorded_ones():
    record = json.loads(finetunes.RECORDED.read_text(encoding="utf-8"))
    rows = {(row["task"], row["method"]): row for row in record["rows"]}
    assert list(rows) == finetunes.RUNS and record["versions"].keys() == {"python", "torch", "transformers"}
    pirate, full, query = rows["pirate", "lora"], rows["pirate", "full"], rows["query", "lora"]
    gain = [row["loss_before"] - row["loss_after"] for row in (pirate, full)]
    time = "{seconds:.0f} s of one core, scored before and after; ".format
    loss = f"validation loss {pirate['loss_before']:.2f} to {pirate['loss_after']:.2f} nats per token"
    exact = f"exact match {query['exact_match_before']:.0%} to {query['exact_match_after']:.0%}".replace("%", " %")
    table = PAGES["README.md"].partition("## Measured")[2].partition("## ")[0]
    for line in (
        f"| `pirate` by LoRA of rank 8, {pirate['steps']} steps | {time(**pirate)}{loss} |",
        f"| `query` by LoRA of rank 8, {query['steps']} steps | {time(**query)}{exact} of 500 questions |",
        f"(each method at its own learning rate) | {100 * gain[0] / gain[1]:.0f} % |",
        f"| memory of the `pirate` run, predicted / measured | {pirate['memory_predicted'] / 1e6:.0f} MB / "
        f"{pirate['memory'] / 1e6:.0f} MB |",
    ):
        assert line in table


def test_the_share_over_fifty_steps_is_the_recorded_one():
    record, share = experiments.recorded("rank"), lessons_06_07.l07_most_of_the_gain()["share_of_the_gain"]
    assert record["settings"]["pirate"]["steps"] == 50
    assert f"the same over 50 steps, five seeds | {100 * share:.0f} % |" in PAGES["README.md"]
