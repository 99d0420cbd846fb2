"""The query task: its grammar, its size, its split, and that copying a neighbour does not solve it."""

import difflib
import itertools
import random
import re

import numpy as np
import pytest

from lora_lab import query_language
from lora_lab.query_language import TABLES, VALUES, count_queries, draw_query, fields_of, make_items
from lora_lab.tasks import encode, load_task


@pytest.fixture(scope="module")
def task():
    return load_task("query")


def question(example):
    return re.fullmatch(r"Question: (.*)\nQuery:", example.prompt)[1]


def in_grammar(text):
    """Parse by the module's EBNF, written a second time as a regular expression per table."""
    for table, numbers in TABLES.items():
        field = "|".join(fields_of(table))
        number = "|".join(numbers)
        word = "|".join(f"{f} is (?:not )?(?:{'|'.join(v)})" for f, v in VALUES.items())
        comparison = rf"(?:{word}|(?:{number}) (?:over|under) [1-9])"
        where = rf"(?P<where> where {comparison}(?P<second> (?:and|or) {comparison})?)?"
        rows = rf"select (?:{field})(?:, (?:{field}))? from {table}{where}"
        rows += rf"(?P<order> order by (?:{field}) (?:asc|desc))?(?P<limit> limit [2-9])?"
        totals = rf"select (?:count|(?:sum|max|min) (?:{number})) from {table}{where}"
        totals += rf"(?P<group> group by (?:{'|'.join(VALUES)}))?"
        for pattern in (rows, totals):
            if match := re.fullmatch(pattern, text):
                return {k for k, v in match.groupdict().items() if v}
    return None


def test_sizes_and_form(task):
    assert (len(task.train), len(task.validation), len(task.test)) == (6000, 200, 500)
    for e in (*task.train, *task.validation, *task.test):
        assert question(e) and e.completion.startswith(" select ")
    assert task.prompts == tuple(e.prompt for e in task.test[:3])


def test_no_test_question_and_no_test_answer_is_in_training(task):
    assert not {e.prompt for e in task.test} & {e.prompt for e in task.train}
    answers = [e.completion for e in (*task.train, *task.validation, *task.test)]
    assert len(set(answers)) == len(answers)


def test_every_answer_is_in_the_grammar_and_the_clauses_combine(task):
    seen = [in_grammar(e.completion[1:]) for e in (*task.train, *task.test)]
    assert None not in seen and set() not in seen
    assert {"where", "second", "order", "limit"} in seen and {"where", "second", "group"} in seen
    assert {kind for kinds in seen for kind in kinds} == {"where", "second", "group", "order", "limit"}
    for no in ("select from cats", "select name from ships", "select name from cats limit 0", "select count from cats"):
        assert not in_grammar(no)


def test_every_clause_is_asked_for_in_the_question(task):
    for e in task.test:
        asked, answer = question(e).lower(), e.completion
        for name in re.findall(r"[a-zA-Z]+|[0-9]", answer):
            if any(name in fields_of(t) for t in TABLES) or name in TABLES or name.isdigit() or name[0].isupper():
                assert name.lower() in re.findall(r"[a-z]+|[0-9]", asked), (asked, answer)


def test_at_least_100_000_distinct_items():
    assert count_queries() >= 100_000
    rng = random.Random(0)
    queries = {str(draw_query(rng)) for _ in range(130_000)}
    assert len(queries) >= 100_000  # drawn as the task draws them, not only on paper


def test_count_queries_equals_a_full_enumeration(monkeypatch):
    monkeypatch.setattr(query_language, "TABLES", {"cats": ("age",), "dogs": ()})
    monkeypatch.setattr(query_language, "VALUES", {"color": ("red", "blue"), "home": ("farm",)})
    written = set()
    for table, numbers in query_language.TABLES.items():
        fields = ["name", "color", "home", *numbers]
        single = [
            (f, f"{f} {is_} {v}")
            for f, vs in query_language.VALUES.items()
            for is_, v in itertools.product(("is", "is not"), vs)
        ]
        single += [(f, f"{f} {o} {d}") for f in numbers for o in ("over", "under") for d in range(1, 10)]
        where = ["", *(f" where {c}" for _, c in single)]
        where += [
            f" where {a} {j} {b}"
            for (f, a), (g, b) in itertools.permutations(single, 2)
            if f != g
            for j in ("and", "or")
        ]
        what = [*fields, *(", ".join(p) for p in itertools.permutations(fields, 2))]
        order = ["", *(f" order by {f} {d}" for f in fields for d in ("asc", "desc"))]
        limit = ["", *(f" limit {d}" for d in range(2, 10))]
        written |= {
            f"{f} from {table}{''.join(x)}" for f in what for x in itertools.product(where, order, limit) if any(x)
        }
        totals = ["count", *(f"{a} {n}" for a in ("sum", "max", "min") for n in numbers)]
        group = ["", " group by color", " group by home"]
        written |= {f"{a} from {table}{''.join(x)}" for a in totals for x in itertools.product(where, group) if any(x)}
    assert count_queries() == len(written)


def test_answers_have_at_least_eight_tokens(task, tokenizer):
    rows = [encode(e, tokenizer, 1000) for e in (*task.train, *task.validation, *task.test)]
    answers = [sum(label != -100 for label in row["labels"]) - 1 for row in rows]  # less the end token
    assert min(answers) >= 8
    assert max(len(row["input_ids"]) for row in rows) <= 96


def test_copying_the_nearest_training_answer_scores_at_most_five_percent(task):
    """Nearest by shared words (Dice of the two sets), and of the best 30 the nearest by word order (difflib)."""
    vocabulary = {}
    split = [re.findall(r"\w+", question(e)) for e in (*task.train, *task.test)]
    bags = np.zeros((len(split), 400), dtype=np.float32)
    for row, text in enumerate(split):
        for word in text:
            bags[row, vocabulary.setdefault(word, len(vocabulary))] = 1
    train, test = bags[: len(task.train)], bags[len(task.train) :]
    dice = 2 * (test @ train.T) / (test.sum(1)[:, None] + train.sum(1)[None])
    by_words = by_order = 0
    for row, e in enumerate(task.test):
        best = np.argsort(-dice[row])[:30]
        by_words += task.train[best[0]].completion == e.completion
        matcher = difflib.SequenceMatcher(b=split[len(task.train) + row], autojunk=False)
        ratios = []
        for i in best:
            matcher.set_seq1(split[i])
            ratios.append(matcher.ratio())
        by_order += task.train[best[int(np.argmax(ratios))]].completion == e.completion
    assert 0.7 < dice.max(1).mean() <= 1  # the neighbours are near: the measure is not beaten by searching badly
    assert by_words / len(task.test) <= 0.05 and by_order / len(task.test) <= 0.05


def test_items_depend_on_the_seed_alone():
    assert make_items(50, seed=1) == make_items(50, seed=1)
    assert make_items(50, seed=1) == make_items(80, seed=1)[:50]
    assert not {q for q, _ in make_items(50, seed=1)} & {q for q, _ in make_items(50, seed=2)}


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"count is {count}; expected 1 to"):
        make_items(count)
