"""Whatever is shown as HTML is escaped: names, what a model wrote, what a task says, wherever HTML is built."""

from __future__ import annotations

import ast
import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lora_lab import (
    exercises,
    experiments,
    explore_dial,
    explore_live_dial,
    explorer,
    explorers,
    figures,
    live,
    models,
    quizzes,
    tasks,
)
from lora_lab.explore_live_dial import Written
from tests.test_explore_results import BEFORE, RANKS, RATES, RATIOS, TARGETS

HOSTILE = "<script>alert(1)</script> ye & \"quoted\" 'text' </td><img src=x onerror=alert(2)> $x$ &lt;b&gt;"
PACKAGE = Path(figures.__file__).parent
OURS = set("table caption tr th td b i u p div mark".split())


class Reading(HTMLParser):
    """What a browser would make of a text: its tags with their attributes, and the words in it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.words = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append((tag, {name for name, _ in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data


def shown(text: str, *said: str) -> None:
    """Only the tags that the package writes itself are in `text`, and each of `said` is read in it as it is."""
    read = Reading(text)
    assert {tag for tag, _ in read.tags} <= OURS
    assert set().union(*(names for _, names in read.tags)) <= {"style", "scope"}
    for words in said:
        assert words in read.words


def test_the_reading_sees_what_is_not_escaped():
    with pytest.raises(AssertionError):
        shown(f"<b>{HOSTILE}</b>")


def test_tables(monkeypatch):
    rows = [{HOSTILE: HOSTILE, "n": 3}]
    shown(figures.table(rows, caption=HOSTILE), HOSTILE)
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: displayed.append(data))
    figures.show_table(rows, caption=HOSTILE)
    shown(displayed[0]["text/html"], HOSTILE)
    assert HOSTILE in displayed[0]["text/plain"]


def hostile_explorer(words: str) -> explorer.Explorer:
    figure, _ = figures.new_figure(3, 2)
    controls = {"x": explorer.menu(words, [(words, 1), ("other", 2)], 1)}
    return explorer.Explorer(figure, controls, lambda x: (words, figures.table([{words: words}])), words)


def test_an_explorers_finding_and_labels():
    one = hostile_explorer(HOSTILE)
    shown(one.finding.value, HOSTILE)
    shown(one.detail.value, HOSTILE)
    labels = [w for w in (one.controls["x"], one.reset_button)]
    assert not any(getattr(label, "description_allow_html", False) for label in labels)


def test_the_alpha_dials_recorded_texts(monkeypatch, tmp_path):
    rows = [
        {"scale": i / 4, "pirate_loss": 4, "story_loss": 2, "marker_words": 1.0, "texts": [HOSTILE]} for i in range(5)
    ]
    header = {field: HOSTILE for field in experiments.HEADER}
    experiments.write(header | {"prompts": [HOSTILE], "rows": rows}, tmp_path / "dial.json")
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    dial = explorers.alpha_dial()
    shown(dial.detail.value, HOSTILE)
    shown(dial.finding.value)
    assert ("mark", set()) in Reading(dial.detail.value).tags  # "ye" is still marked


def test_words_that_are_marked_are_escaped_too(monkeypatch):
    monkeypatch.setattr(tasks, "pirate_score", lambda word: 1.0)
    shown(explore_dial.mark_pirate(HOSTILE), HOSTILE)


def test_the_live_dials_prompt_and_tokens():
    said = [Written(HOSTILE, 0.5, 0.5, "x"), Written(HOSTILE, 0.5, 0.5, HOSTILE)]
    shown(explore_live_dial.as_html(HOSTILE, said), HOSTILE, HOSTILE + HOSTILE)
    shown(explore_live_dial.as_html(HOSTILE, []), HOSTILE)
    finding = explore_live_dial.told({HOSTILE: 1.0}, said)  # an adapter's name; `Explorer` escapes the finding
    assert HOSTILE in finding
    shown(hostile_explorer(finding).finding.value, HOSTILE)


def test_the_results_recorded_texts(monkeypatch, tmp_path):
    rows = [
        {"task": "pirate", "targets": place, "rank": rank, "alpha": ratio * rank, "lr": lr, "seed": seed}
        | {"trainable": 1000, "loss": 3.0 + seed, "base_loss": 3.0, "text": HOSTILE}
        for place in TARGETS
        for rank in RANKS
        for ratio in RATIOS
        for lr in RATES
        for seed in range(3)
    ]
    header = {field: HOSTILE for field in experiments.HEADER}
    experiments.write(header | {"before": {"pirate": BEFORE}, "rows": rows}, tmp_path / "grid.json")
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    results = explorers.results()
    shown(results.detail.value, HOSTILE)
    shown(results.finding.value)


def test_the_choosers_model_and_task(tmp_path):
    """A folder and a file of any name are put in front of the lists."""
    folder = tmp_path / HOSTILE.replace("/", "|")
    folder.mkdir()
    shutil.copy(models.BASE / "config.json", folder)
    task = tmp_path / (HOSTILE.replace("/", "|") + ".txt")
    task.write_text("\n\n".join(f"{HOSTILE} {i} and some more words to read." for i in range(100)))
    chooser = live.chooser({"model": str(folder), "task": str(task), "rank": 8, "alpha": 16})
    shown(chooser.finding.value)
    shown(chooser.detail.value)
    assert chooser.controls["model"].options[0] in (str(folder), (str(folder), str(folder)))


def test_quizzes_and_the_table_of_exercises(monkeypatch):
    option = quizzes.Option(HOSTILE, HOSTILE, right=True)
    question = quizzes.Question("04-1", HOSTILE, (option, quizzes.Option("other", "no")))
    allowed = OURS | {"ol", "li", "details", "summary", "code"}
    for text in (quizzes.folded(question), quizzes.asked(question).children[0].value):
        read = Reading(text)
        assert {tag for tag, _ in read.tags} <= allowed and HOSTILE in read.words
    for task in exercises.every().values():  # titles are Markdown of our own
        assert not re.search(r"[<|]", task.title)


# Interpolations into HTML that need no escape, by file: numbers, our own constants, and HTML that is tested above.
SAFE = {
    "explore_calculator": {"plan.length", "longest"},
    "explore_dial": {"mark_pirate(row['texts'][prompt])", "twin", "plain"},
    "explore_live_dial": {"''.join(parts)", "plain"},
    "explore_results": {"mark_pirate(row['text'])", "size", "text", "twin(cells, chosen)"},
    "explorer": {"CLOSE", "detail"},
    "figures": {"style"},
}
TAG = re.compile(r"</?[a-z]+[0-9]?(\s+[a-z]+=|>)")


def interpolations() -> list[tuple[str, str]]:
    """(module, expression) of everything that an f-string with a tag in it puts into its text."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = "".join(v.value for v in node.values if isinstance(v, ast.Constant))
                values = [ast.unparse(v.value) for v in node.values if isinstance(v, ast.FormattedValue)]
                found += [(path.stem, value) for value in values if TAG.search(text)]
    return found


def test_every_place_that_builds_html_escapes_or_is_known_here():
    found = interpolations()
    assert ("figures", "html.escape(caption)") in found  # that the search finds what it is for
    unknown = [
        place for place in found if not place[1].startswith("html.escape(") and place[1] not in SAFE.get(place[0], ())
    ]
    assert unknown == [], "escape it with html.escape, or say in SAFE why it needs none"
    assert {(m, v) for m, values in SAFE.items() for v in values} <= set(found), "SAFE names what is no longer there"


def test_who_shows_html_in_widgets():
    """The explorers, whose texts are tested above, and rooms whose HTML is made of tags by `markup`."""
    users = {
        p.stem for p in PACKAGE.rglob("*.py") if re.search(r"\bHTML(Math)?\(|Markdown\(|allow_html", p.read_text())
    }
    assert users == {"explorer", "panel", "practice"}


def test_escaping_is_not_done_twice():
    assert html.escape("&amp;") == "&amp;amp;"
    assert Reading(figures.table([{"a": "&amp;"}])).words.count("&amp;") == 1
