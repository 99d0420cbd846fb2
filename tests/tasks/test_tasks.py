"""The tasks that come with the course: what they hold, how they are split, how an example is encoded."""

import re
import subprocess
import sys
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lora_lab import tasks
from lora_lab.tasks import TASKS, Example, base_stories, encode, load_task, pirate_score, prompt_ids


def words(text):
    return text.split()


def shared_five_grams(texts):
    """The most 5-word sequences that any two texts share."""
    owners, shared = defaultdict(set), defaultdict(int)
    for i, text in enumerate(texts):
        w = re.findall(r"[a-z']+", text.lower())
        for gram in zip(w, w[1:], w[2:], w[3:], w[4:], strict=False):
            owners[gram].add(i)
    for who in owners.values():
        for a in who:
            for b in who:
                if a < b:
                    shared[a, b] += 1
    return max(shared.values(), default=0)


@pytest.mark.parametrize("name", TASKS)
def test_no_example_stands_in_two_splits(name):
    task = load_task(name)
    train, validation, test = set(task.train), set(task.validation), set(task.test)
    assert len(train) == len(task.train) and len(validation) == len(task.validation)
    assert not train & validation and not train & test
    assert task.test is task.validation or not validation & test


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_is_and_has_three_different_prompts(name):
    task = load_task(name)
    assert task.name == name and task.summary == TASKS[name]
    assert len(set(task.prompts)) == 3 and all(isinstance(p, str) and p for p in task.prompts)
    assert task.exact_match == (name == "query") and (task.style_score is not None) == (name == "pirate")


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_task(name):
    assert load_task(name, seed=3) == load_task(name, seed=3)


def test_pirate_has_the_passages_the_course_promises():
    task = load_task("pirate")
    passages = [e.completion for e in (*task.train, *task.validation)]
    assert len(passages) == 300 and len(task.validation) == 60
    assert all(e.prompt == "" for e in (*task.train, *task.validation))
    assert sum(len(words(p)) for p in passages) >= 12_000
    assert all(40 <= len(words(p)) <= 80 and "\n" not in p for p in passages)


def test_no_two_pirate_passages_are_near_duplicates():
    task = load_task("pirate")
    passages = [e.completion for e in (*task.train, *task.validation)]
    assert shared_five_grams(passages) <= 3
    assert shared_five_grams([passages[0], passages[0].replace("goat", "sheep")]) > 3  # the measure itself can fail
    firsts = [words(p)[0] for p in passages]
    assert max(firsts.count(f) for f in set(firsts)) <= len(passages) / 8


def test_style_score_tells_the_voice_from_a_plain_story():
    task = load_task("pirate")
    held_out = [task.style_score(e.completion) for e in task.validation]
    plain = [task.style_score(s) for s in base_stories()]
    assert min(held_out) > 3 and sum(held_out) / len(held_out) > 10
    assert max(plain) < 1.5 and sum(plain) / len(plain) < 0.1


def test_style_score_is_markers_per_hundred_words():
    assert pirate_score("Ahoy, the cat") == pytest.approx(100 / 3)
    assert pirate_score("me, him, other, one, man, yes, your, hand, mate") == 0
    assert pirate_score("Shiver me timbers! 'Tis th\u2019 fox a-singin'") == pytest.approx(100 * 4 / 7)
    assert pirate_score(" \n") == 0


def test_base_stories_are_plain_and_whole():
    stories = base_stories()
    assert len(stories) == 48
    assert all(60 <= len(words(s)) <= 110 and s[-1] in '."!?' for s in stories)
    assert shared_five_grams(stories) <= 2


def test_code_is_python_of_this_interpreter_split_by_module():
    task = load_task("code")
    assert len(task.train) >= 1500 and len(task.validation) >= 200
    assert not set(tasks.CODE_TRAIN) & set(tasks.CODE_VALIDATION)
    for e in (*task.train, *task.validation):
        assert 200 <= len(e.completion) <= 450
    import textwrap
    from pathlib import Path

    source = Path(textwrap.__file__).read_text(encoding="utf-8")
    assert sum(e.completion in source for e in task.validation) >= 20
    assert not any(e.completion in source for e in task.train)


def test_code_chunks_have_the_stated_number_of_tokens(tokenizer):
    task = load_task("code")
    lengths = sorted(len(encode(e, tokenizer, 10_000)["input_ids"]) for e in task.train)
    assert 128 <= lengths[len(lengths) // 2] <= 256


def test_code_skips_modules_that_this_python_lacks(monkeypatch):
    full = load_task("code")
    monkeypatch.setattr(tasks, "CODE_TRAIN", ["module_of_the_future", *tasks.CODE_TRAIN])
    assert load_task("code").train == full.train


def test_code_that_stands_in_training_is_not_validated_on(monkeypatch):
    full = load_task("code")
    monkeypatch.setattr(tasks, "CODE_VALIDATION", [*tasks.CODE_VALIDATION, "argparse"])
    assert load_task("code").validation == full.validation


def test_code_ignores_a_module_of_the_same_name_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "textwrap.py").write_text("MINE = 1\n" * 200)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "MINE = 1" not in tasks._library_source("textwrap")


def test_code_reads_a_zipped_library(tmp_path, monkeypatch):
    import shutil
    import zipfile

    archive = tmp_path / "python3.zip"
    with zipfile.ZipFile(archive, "w") as z:
        z.write(shutil.__file__, "shutil.py")
    real = tasks._library_source("shutil")
    monkeypatch.setattr(tasks.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "gone")})
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert tasks._library_source("shutil") == real


def test_code_without_a_library_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "gone")})
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match="standard library was not found.*expected at least 550.*'pirate' or 'query'"):
        load_task("code")


def test_cut_lines_keeps_whole_lines_within_bounds():
    text = "a = 1\n" * 30 + "x" * 200 + "\n" + "b = 2\n" * 3
    chunks = tasks.cut_lines(text, 30, 60)
    assert chunks == ["\n".join(["a = 1"] * 10)] * 3
    assert tasks.cut_lines("", 1, 10) == []


@pytest.mark.parametrize(
    ("name", "near"), [("pirates", "'pirate'"), ("Code", "'code'"), ("qurey", "'query'"), ("PIRATE", "'pirate'")]
)
def test_unknown_task_name_lists_the_tasks_and_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"no task is called '{name}'; expected one of pirate, code, query.*{near}"):
        load_task(name)


def test_unknown_task_name_with_nothing_near():
    with pytest.raises(
        ValueError, match=r"expected one of pirate, code, query, or the name of a .txt, .jsonl or .json file\.$"
    ):
        load_task("zzz")
    with pytest.raises(ValueError, match="no task is called ''"):
        load_task("")


# encode

anything = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=anything, completion=anything.filter(bool))
@example(prompt="", completion="Once")
@example(prompt="Question: <|endoftext|>\nQuery:", completion=" <|endoftext|> select")
def test_labels_mask_exactly_the_prompt(tokenizer, prompt, completion):
    row = encode(Example(prompt, completion), tokenizer, 10_000)
    input_ids, labels = row["input_ids"], row["labels"]
    start = labels.index(next(x for x in labels if x != -100))
    assert input_ids[:start] == prompt_ids(prompt, tokenizer) and labels[:start] == [-100] * start
    assert labels[start:] == input_ids[start:] and -100 not in labels[start:]
    assert input_ids[0] == tokenizer.bos_token_id and input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(input_ids[1:start]) == prompt
    assert tokenizer.decode(labels[start:-1]) == completion


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=anything, completion=anything.filter(bool), max_length=st.integers(-1, 60))
def test_cutting_keeps_the_beginning_or_refuses(tokenizer, prompt, completion, max_length):
    whole = encode(Example(prompt, completion), tokenizer, 10_000)
    first = len(prompt_ids(prompt, tokenizer))
    if max_length <= first:
        with pytest.raises(ValueError, match=f"max_length {max_length} leaves no room"):
            encode(Example(prompt, completion), tokenizer, max_length)
    else:
        row = encode(Example(prompt, completion), tokenizer, max_length)
        assert row == {key: ids[:max_length] for key, ids in whole.items()}


def test_encode_without_start_or_end_token():
    class Letters:
        bos_token_id = eos_token_id = None

        def __call__(self, text, **options):
            return {"input_ids": [ord(c) for c in text]}

    assert encode(Example("a", "bc"), Letters(), 8) == {"input_ids": [97, 98, 99], "labels": [-100, 98, 99]}


def test_tasks_load_without_torch():
    code = "import sys, lora_lab.tasks; assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
