"""A task within so many tokens: nothing changes where all fits; what is left out or cut is counted and said."""

import warnings

import pytest

from lora_lab import packing
from lora_lab.task_files import Conversation
from lora_lab.tasks import Example, Task, encode, encode_task, load_task

WORDS = "the old cat sat by the fire and the dog lay down"


def task_of(examples, validation=None):
    examples, validation = tuple(examples), tuple(validation or examples[:2])
    return Task("mine.jsonl", "", examples, validation, validation, tuple(e.prompt or "Once" for e in examples[:3]))


@pytest.mark.parametrize("name", ["pirate", "query"])
@pytest.mark.parametrize("cut_into_windows", [False, True])
def test_the_courses_own_tasks_come_out_as_before(tokenizer, name, cut_into_windows):
    task = load_task(name)
    encoded = encode_task(task, tokenizer, 256, cut_into_windows)
    assert encoded.task == task and encoded.notes == ()
    assert encoded.train == [encode(e, tokenizer, 256) for e in task.train]
    assert encoded.validation == [encode(e, tokenizer, 256) for e in task.validation]


def test_what_is_cut_off_is_counted(tokenizer):
    task = load_task("pirate")
    encoded = encode_task(task, tokenizer, 64)
    whole = [len(encode(e, tokenizer, 10_000)["labels"]) for e in task.train]
    cut, lost = sum(n > 64 for n in whole), sum(max(0, n - 64) for n in whole)
    assert encoded.train == [encode(e, tokenizer, 64) for e in task.train] and lost > 1000
    assert encoded.notes == (
        f"{cut} of 240 examples are longer than 64 tokens: {lost:,} of {sum(whole):,} tokens "
        f"({lost / sum(whole):.1%}) are cut off",
    )


@pytest.mark.parametrize("length", [2, 3, 17, 64])
def test_windows_learn_every_token_once_in_its_order(tokenizer, length):
    row = encode(Example("", WORDS * 5), tokenizer, 10_000)
    rows = packing.windows(row, length)
    assert [label for cut in rows for label in cut["labels"] if label != -100] == row["labels"][1:]
    assert all(2 <= len(cut["input_ids"]) <= length and cut["labels"][0] == -100 for cut in rows)
    assert all(a["input_ids"][-1] == b["input_ids"][0] for a, b in zip(rows, rows[1:], strict=False))
    assert packing.windows(row, len(row["labels"])) == [row]


def test_long_texts_become_windows_where_asked(tokenizer):
    task = load_task("pirate")
    encoded = encode_task(task, tokenizer, 64, cut_into_windows=True)
    whole = [encode(e, tokenizer, 10_000) for e in task.train]
    learned = sum(label != -100 for row in whole for label in row["labels"])
    assert sum(label != -100 for row in encoded.train for label in row["labels"]) == learned
    long = sum(len(row["labels"]) > 64 for row in whole)
    windows = len(encoded.train) - 240 + long
    assert encoded.notes == (f"{long} texts longer than 64 tokens are cut into {windows} windows",)
    assert encoded.validation == [encode(e, tokenizer, 64) for e in task.validation]  # scored as it always is


def test_prompts_that_leave_no_room_are_left_out_with_a_warning(tokenizer):
    short = [Example(f"{i}: {WORDS}", f" number {i}") for i in range(12)]
    long = [Example(f"A long one, {i}: " + WORDS * 9, " x") for i in range(3)]
    task = task_of([*long, *short], validation=[*short[:2], long[0]])
    with pytest.warns(UserWarning) as said:
        encoded = encode_task(task, tokenizer, 40)
    tokens = len(encode(long[0], tokenizer, 10_000)["labels"]) - 2
    assert [str(w.message) for w in said] == [
        f"3 of 15 examples to learn from have prompts that leave no room to learn within max_length 40; the first is "
        f"'A long one, 0: the old cat sat by the...' with {tokens} tokens: they are left out",
        f"1 of 3 examples to validate on have prompts that leave no room to learn within max_length 40; the first is "
        f"'A long one, 0: the old cat sat by the...' with {tokens} tokens: they are left out",
    ]
    assert all(w.filename.endswith("tasks.py") for w in said)  # the command shows only warnings of this package
    assert encoded.task.train == tuple(short) and encoded.task.validation == encoded.task.test == tuple(short[:2])
    assert encoded.train == [encode(e, tokenizer, 40) for e in short]
    assert all(len(p) < 100 for p in encoded.task.prompts)


def test_too_few_left(tokenizer):
    long = [Example(f"{i} " + WORDS * 9, " x") for i in range(30)]
    short = [Example(f"{i}", " x") for i in range(9)]
    with pytest.raises(
        ValueError, match="30 of 39 examples to learn from .*9 are left, expected at least 10: make max"
    ):
        encode_task(task_of([*long, *short]), tokenizer, 40)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="1 of 1 examples to validate on .* 0 are left"):
        warnings.simplefilter("error")
        encode_task(task_of(short * 2, validation=long[:1]), tokenizer, 40)


def test_few_examples_that_all_fit_are_no_error(tokenizer):
    encoded = encode_task(task_of([Example("", WORDS)] * 3), tokenizer, 40)
    assert len(encoded.train) == 3 and encoded.notes == ()


def test_samples_are_asked_with_prompts_that_leave_room(tokenizer):
    short = [Example(f"{i}", " x") for i in range(12)]
    long = [Example(f"{i} " + WORDS * 2, " x") for i in range(3)]
    encoded = encode_task(task_of([*long, *short], validation=long), tokenizer, 40)
    assert encoded.task.prompts == ("0", "1", "2")


def test_the_plan_says_how_conversations_are_written(tokenizer):
    talks = [Example(Conversation((("user", f"{i}?"),)), f"It is {i}.") for i in range(12)]
    encoded = encode_task(task_of(talks), tokenizer, 128)
    assert len(encoded.notes) == 1 and "no chat template, so they are written plainly" in encoded.notes[0]
