"""The learner's own file: what is read, how it is cut, and a clear refusal of what cannot be learned from."""

import json
import re
from pathlib import Path

import pytest

from lora_lab import task_files
from lora_lab.tasks import Example, load_task

STORY = "The fox number {} went over the hill to look for a warm place. It found a barn and slept in the hay."
LONG_ENOUGH = "\n\n".join(STORY.format(i) for i in range(60))


def rows(count, **changes):
    return [json.dumps({"prompt": f"Name {i}?", "completion": f" fox {i}"} | changes) for i in range(count)]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_text_is_cut_at_paragraphs_and_every_tenth_passage_validates(tmp_path):
    task = load_task(write(tmp_path, "mine.txt", LONG_ENOUGH))
    everything = [*task.train, *task.validation]
    assert sorted("\n\n".join(e.completion for e in everything).split("\n\n")) == sorted(LONG_ENOUGH.split("\n\n"))
    assert all(e.prompt == "" and len(e.completion) <= 450 for e in everything)
    assert len(task.validation) == len(everything) // 10 >= 1 and task.test == task.validation
    assert not set(task.train) & set(task.validation)
    assert task.prompts[0] == " ".join(task.validation[0].completion.split()[:6]) and len(task.prompts) == 3
    assert task.name == "mine.txt" and not task.exact_match and task.style_score is None


def test_a_long_paragraph_is_cut_at_sentences_and_nothing_is_lost(tmp_path):
    paragraph = " ".join(STORY.format(i) for i in range(40)) + " " + " ".join(f"word{i}" for i in range(300))
    task = load_task(write(tmp_path, "long.txt", paragraph))
    passages = [e.completion for e in (*task.train, *task.validation)]
    assert max(map(len, passages)) <= 450
    assert sorted(" ".join(passages).split()) == sorted(paragraph.split())
    assert sum(p.endswith(".") for p in passages) >= 8


def test_a_name_as_text_or_as_path_and_windows_newlines_and_mark(tmp_path, monkeypatch):
    text = LONG_ENOUGH.replace(" It found", "\nIt found")  # a paragraph of two lines
    plain = load_task(write(tmp_path, "a.txt", text))
    windows = load_task(write(tmp_path, "b.txt", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()))
    assert plain.train == windows.train
    monkeypatch.chdir(tmp_path)
    assert load_task("a.txt") == load_task(Path("a.txt")) == plain


def test_repeated_passages_are_kept_once(tmp_path):
    task = load_task(write(tmp_path, "a.txt", (LONG_ENOUGH + "\n\n") * 3))
    assert not set(task.train) & set(task.validation)


def test_jsonl_becomes_prompt_and_completion(tmp_path):
    task = load_task(write(tmp_path, "mine.jsonl", "\n".join(rows(25)) + "\n\n"))
    assert task.train[0] == Example("Name 0?", " fox 0")
    assert task.validation == (Example("Name 9?", " fox 9"), Example("Name 19?", " fox 19"))
    assert len(task.train) == 23 and task.prompts == ("Name 9?", "Name 19?", "Name 0?")


def test_jsonl_with_the_least_examples_still_validates(tmp_path):
    task = load_task(write(tmp_path, "mine.jsonl", "\n".join(rows(task_files.LEAST_EXAMPLES))))
    assert len(task.validation) == 1 and len(task.prompts) == 3


def with_line_7(line):
    return "\n".join([*rows(6), line, *rows(20)[6:]])


def talk(*turns, **more):
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]} | more)


def talks(count, *before):
    return [talk(*before, ("user", f"Name {i}?"), ("assistant", f"fox {i}")) for i in range(count)]


TALKS = [
    (
        ("system", "Be kind."),
        ("user", f"Hello \N{GRINNING FACE} {i}"),
        ("assistant", "Yes?"),
        ("user", "Bye."),
        ("assistant", "Bye!"),
    )
    for i in range(12)
]


def among_talks(line):
    return "\n".join([*talks(6), line, *talks(20)[6:]])


def message(**given):
    return among_talks(json.dumps({"messages": [given, {"role": "assistant", "content": "b"}]}))


def test_conversations_keep_their_turns(tmp_path):
    lines = talks(25, ("system", "Be kind."), ("user", "Hello"), ("assistant", "Hello to you"))
    task = load_task(write(tmp_path, "mine.jsonl", "\n".join([*lines, lines[3]])))
    first = task.train[0]
    assert first.prompt.turns == (
        ("system", "Be kind."),
        ("user", "Hello"),
        ("assistant", "Hello to you"),
        ("user", "Name 0?"),
    )
    assert first.completion == "fox 0" and len(task.train) == 23 and len(task.validation) == 2
    assert task.prompts[0] == task.validation[0].prompt
    assert str(first.prompt) == "System: Be kind.\nUser: Hello\nAssistant: Hello to you\nUser: Name 0?"


ROLES = {"user": "human", "assistant": "gpt", "system": "system"}
PARTS = [[{"role": r, "content": [{"type": "text", "text": c[:2]}, {"type": "text", "text": c[2:]}]} for r, c in turns]
         for turns in TALKS]  # fmt: skip
WAYS = {
    "ShareGPT": [{"id": "x", "conversations": [{"from": ROLES[r], "value": c} for r, c in turns]} for turns in TALKS],
    "ShareGPT in our words": [{"conversations": [{"role": r, "content": c} for r, c in turns]} for turns in TALKS],
    "OpenAI's parts": [{"messages": turns} for turns in PARTS],
    "OpenAI's weights": [
        {"messages": [{"role": r, "content": c, "weight": 1, "name": None} for r, c in turns], "tools": []}
        for turns in TALKS
    ],
}


@pytest.mark.parametrize("rows", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "list.jsonl"])
def test_conversations_of_other_formats_are_read_as_ours(tmp_path, rows, name):
    ours = load_task(write(tmp_path, "ours.jsonl", "\n".join(talk(*turns) for turns in TALKS)))
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n \r\n"
    content = lines if name == "a.jsonl" else json.dumps(rows, indent=2)
    theirs = load_task(write(tmp_path, name, b"\xef\xbb\xbf" + content.encode("utf-8")))
    assert theirs.train == ours.train and theirs.validation == ours.validation and len(theirs.train) == 11


def test_alpaca_is_a_question_and_an_answer(tmp_path):
    rows = [{"instruction": f"Add {i}.", "input": "1" * (i % 2), "output": str(i), "text": "."} for i in range(12)]
    task = load_task(write(tmp_path, "a.json", json.dumps(rows)))
    assert [e.prompt.turns for e in task.train[:2]] == [(("user", "Add 0."),), (("user", "Add 1.\n\n1"),)]
    assert [e.completion for e in task.train[:2]] == ["0", "1"]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"instruction": "q", "input": "", "output": "a"},
    ],
    ids=["ShareGPT", "ours", "Alpaca"],
)
def test_a_systems_text_beside_the_turns_is_its_turn(tmp_path, row):
    lines = [json.dumps(row | {"system": f"Be {i}.", "tools": "[]"}) for i in range(12)]
    task = load_task(write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert task.train[1].prompt.turns == (("system", "Be 1."), ("user", "q"))


def test_a_book_without_spaces_is_text_cut_at_its_sentences(tmp_path):
    sentences = [chr(0x4E00 + i) + "\u4f60\u597d" * (i % 40) + "\u3002" for i in range(800)]
    task = load_task(write(tmp_path, "a.txt", "".join(sentences)))
    passages = [e.completion for e in (*task.train, *task.validation)]
    assert sum(map(len, passages)) > task_files.MOST_WORD and max(map(len, passages)) <= task_files.PASSAGE
    assert all(p.endswith("\u3002") for p in passages)


def test_text_is_cut_to_the_length_asked_for_but_not_to_fewer_than_ten_passages(tmp_path):
    path = write(tmp_path, "long.txt", "\n\n".join(STORY.format(i) for i in range(2000)))
    usual, long = load_task(path), load_task(path, max_length=1024)
    assert load_task(path, max_length=32) == usual
    sizes = [len(e.completion) for e in long.train]
    assert 3000 < max(sizes) <= 3600 and max(len(e.completion) for e in usual.train) <= 450
    assert len(load_task(path, max_length=10**6).train) >= 9


def test_a_long_line_of_words_is_text(tmp_path):
    task = load_task(write(tmp_path, "one_line.txt", " ".join(STORY.format(i) for i in range(500))))
    assert sum(len(e.completion) for e in (*task.train, *task.validation)) > 40_000


BAD = {
    "empty": ("a.txt", "", "a.txt is empty"),
    "only blanks": ("a.txt", " \n\t\n", "a.txt is empty"),
    "empty jsonl": ("a.jsonl", "", "a.jsonl is empty"),
    "tiny": ("a.txt", "A short text.", "a.txt has 13 characters.*expected at least 2,000"),
    "tiny by repeats": ("a.txt", "The same again.\n\n" * 1000, "characters of different text; expected at least 2,000"),
    "few examples": ("a.jsonl", "\n".join(rows(9)), "a.jsonl has 9 different examples; expected at least 10"),
    "repeated examples": ("a.jsonl", "\n".join(rows(1) * 30), "a.jsonl has 1 different examples"),
    "NUL bytes": ("a.txt", b"text \0 text" * 500, "a.txt has NUL bytes, so it is a binary file"),
    "a picture": ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe" * 100, "a.txt is a binary file"),
    "Latin-1": ("a.txt", ("Un caf\xe9 noir. " * 200).encode("latin-1"), r"not UTF-8 \(byte 0xe9 at 6\).*Windows-1252"),
    "GBK": ("a.txt", ("\u4f60\u597d\u3002" * 900).encode("gbk"), "looks like an older encoding, such as GBK, "),
    "UTF-16": ("a.txt", LONG_ENOUGH.encode("utf-16"), "not UTF-8.*looks like UTF-16"),
    "UTF-16 without mark": ("a.txt", LONG_ENOUGH.encode("utf-16-le"), "looks like UTF-16, not UTF-8"),
    "encoded data": (
        "a.txt",
        "Ok.\n\n" + "b64/" * 5001,
        "line 3 has 20,004 characters without a space",
    ),
    "over-long example": (
        "a.jsonl",
        with_line_7(rows(1, completion="x" * 200_001)[0]),
        "line 7 has 200,008 characters",
    ),
    "not JSON": ("a.jsonl", with_line_7('{"prompt": "a", '), "a.jsonl, line 7 is not JSON"),
    "too long a number": ("a.jsonl", with_line_7('{"prompt": ' + "9" * 5000), "a.jsonl, line 7 is not JSON .Exceeds"),
    "too deep": ("a.jsonl", with_line_7("[" * 200_000), "a.jsonl, line 7 is not JSON"),
    "too deep a list": ("a.json", "[" * 200_000, "a.json begins as a JSON list and is none"),
    "rows under a name": ("a.json", json.dumps({"train": [{}]}), "keys: train.*If 'train' holds the rows, save that"),
    "turns under another name": (
        "a.jsonl",
        with_line_7('{"conversation": [{"from": "human", "value": "a"}]}'),
        "line 7 has no .*If 'conversation' is the conversation, call it 'messages'",
    ),
    "a JSON list": ("a.jsonl", with_line_7('["a", "b"]'), 'line 7 is a JSON list; expected {"prompt"'),
    "missing key": ("a.jsonl", with_line_7('{"prompt": "a"}'), r"line 7 has no 'completion' \(keys: prompt\)"),
    "misspelt key": ("a.jsonl", with_line_7('{"promt": "a", "completion": "b"}'), "Did you mean 'prompt' .* 'promt'"),
    "no keys": ("a.jsonl", with_line_7("{}"), r"line 7 has no 'prompt' \(keys: none\)"),
    "a number": (
        "a.jsonl",
        with_line_7('{"prompt": "a", "completion": 5}'),
        "line 7: 'completion' is 5; expected a text",
    ),
    "empty completion": (
        "a.jsonl",
        with_line_7('{"prompt": "a", "completion": " "}'),
        "line 7 has an empty completion",
    ),
    "unknown role": (
        "a.jsonl",
        message(role="asistant", content="a"),
        "line 7, message 1 has the role 'asistant'; .*'assistant'",
    ),
    "another format's role": ("a.jsonl", message(role="human", content="a"), "the role 'human'; .*Did you mean 'user'"),
    "a strange role": ("a.jsonl", message(role="zzz", content="a"), "'zzz'; expected one of system, user, assistant.$"),
    "another format": (
        "a.jsonl",
        message(**{"from": "human", "value": "a"}),
        "no 'role' .*'role' where it says 'from'",
    ),
    "no content": ("a.jsonl", message(role="user", text="a"), "no 'content' .*'content' where it says 'text'"),
    "content in parts": (
        "a.jsonl",
        message(role="user", content=[{"type": "text", "text": "a"}, {"type": "image_url"}]),
        "message 1: 'content' has a part that is no text .'image_url'.: only text is learned here",
    ),
    "content in a broken part": ("a.jsonl", message(role="user", content=["a"]), "a part that is no text .'a'."),
    "no content at all": ("a.jsonl", message(role="user", content=None), "message 1: 'content' is None; expected a"),
    "a call, nothing said": (
        "a.jsonl",
        message(role="assistant", content=None, function_call={}),
        "message 1 has 'function_call' too; .*only text is learned here. Leave such conversations out",
    ),
    "a tool's turn": ("a.jsonl", message(role="tool", content="a"), "role 'tool'; .*Calls of tools are not learned"),
    "another format's tools": (
        "a.jsonl",
        among_talks('{"tools": "[{}]", "conversations": [{"from": "human", "value": "a"}]}'),
        "line 7 has 'tools', which",
    ),
    "a system that is no text": (
        "a.jsonl",
        among_talks(talk(("user", "a"), ("assistant", "b"), system={"a": 1})),
        "line 7, 'system': 'content' is {'a': 1}; expected a text",
    ),
    "two systems": (
        "a.jsonl",
        among_talks(talk(("system", "a"), ("user", "a"), ("assistant", "b"), system="b")),
        "message 2 is the system's; expected it first",
    ),
    "Alpaca with a list": (
        "a.jsonl",
        with_line_7('{"instruction": "a", "input": ["c"], "output": "b"}'),
        "line 7, message 1: 'content' has a part that is no text .'c'.",
    ),
    "tools": ("a.jsonl", among_talks(talk(("user", "a"), ("assistant", "b"), tools=[{}])), "line 7 has 'tools', which"),
    "an answer not to learn": (
        "a.jsonl",
        message(role="assistant", content="a", weight=0),
        "message 1 has the weight 0, and every answer is learned here: end the conversation before it",
    ),
    "half an emoji": ("a.jsonl", with_line_7(rows(1, prompt="Hi \ud83d")[0]), "line 7 has '.ud83d', half of a char"),
    "half an emoji in a turn": ("a.jsonl", message(role="user", content="Hi \ud83d"), "line 7 has '.ud83d', half of"),
    "turns as a pair": (
        "a.jsonl",
        with_line_7(rows(1, prompt=[{}])[0]),
        "line 7: 'prompt' is .*conversation is written",
    ),
    "another format's keys": (
        "a.jsonl",
        with_line_7('{"question": "a", "answer": "b"}'),
        "line 7 has no 'prompt' .*Did you mean 'prompt' where it says 'question'",
    ),
    "plain text": ("a.jsonl", with_line_7('{"text": "a"}'), "no 'prompt' .*Plain text goes into a .txt file"),
    "Alpaca with a history": (
        "a.jsonl",
        with_line_7('{"instruction": "a", "output": "b", "history": [["c", "d"]]}'),
        "no 'prompt' .*where it says 'instruction'",
    ),
    "a list cut off": ("a.json", '[{"prompt": "a",\n', "a.json begins as a JSON list and is none .* at line 2, char"),
    "a list of texts": ("a.json", '["a"]', "a.json, row 1 is a JSON str; expected"),
    "role a number": ("a.jsonl", message(role=3, content="a"), "message 1: 'role' is 3; expected a text"),
    "a tool call": ("a.jsonl", message(role="user", content="a", tool_calls=[]), "message 1 has 'tool_calls' too"),
    "empty turn": ("a.jsonl", message(role="user", content=" "), "line 7, message 1, the user's, is empty"),
    "empty answer": (
        "a.jsonl",
        among_talks(talk(("user", "a"), ("assistant", ""))),
        "message 2, the assistant's, is empty",
    ),
    "no answer": ("a.jsonl", among_talks(talk(("user", "a"))), "line 7 has no turn of the assistant"),
    "no question": ("a.jsonl", among_talks(talk(("assistant", "a"))), "line 7 has no turn of the user"),
    "ends with a question": (
        "a.jsonl",
        among_talks(talk(("user", "a"), ("assistant", "b"), ("user", "c"))),
        "line 7 ends with a turn of the user; expected the assistant's",
    ),
    "late system": (
        "a.jsonl",
        among_talks(talk(("user", "a"), ("system", "b"), ("assistant", "c"))),
        "line 7, message 2 is the system's; expected it first",
    ),
    "no messages": ("a.jsonl", among_talks('{"messages": []}'), "'messages' is \\[\\]; expected a list of turns"),
    "messages a text": ("a.jsonl", among_talks('{"messages": "hi"}'), "'messages' is 'hi'; expected a list of turns"),
    "a message a text": ("a.jsonl", among_talks('{"messages": ["hi"]}'), "line 7, message 1 is a JSON str; expected"),
    "misspelt messages": ("a.jsonl", among_talks('{"mesages": []}'), "Did you mean 'messages' where it says 'mesages'"),
    "conversations without a turn": ("a.jsonl", '{"conversations": []}', "'messages' is \\[\\]; expected a list of"),
    "conversations a text": ("a.jsonl", '{"conversations": "hi"}', 'no .prompt. .*or {"messages"'),
    "both kinds in a line": ("a.jsonl", among_talks(talk(("user", "a"), prompt="b")), "has 'messages' and 'prompt'"),
    "both kinds in a file": (
        "a.jsonl",
        "\n".join(talks(3) + rows(9)),
        "line 4 is {.prompt.*the one before a conversation",
    ),
    "over-long conversation": (
        "a.jsonl",
        among_talks(talk(("user", "a " * 60_000), ("assistant", "b " * 60_000))),
        "line 7 has 240,000 characters; expected at most 200,000",
    ),
    "json": ("a.json", "[]", "a.json has 0 different examples; expected at least 10"),
    "other suffix": ("a.pdf", b"%PDF", "ends in '.pdf'; expected a .txt, .jsonl or .json file"),
    "no suffix": ("a", "text", "ends in ''; expected a .txt, .jsonl or .json file"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_bad_file_is_refused_with_its_reason(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        load_task(write(tmp_path, name, content))


def test_too_large_a_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt", LONG_ENOUGH)
    monkeypatch.setattr(task_files, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"a.txt has [\d,]+ bytes; expected at most 1,000"):
        load_task(path)


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "my_story.txt", LONG_ENOUGH)
    with pytest.raises(FileNotFoundError, match="there is no file .*my_storry.txt. Did you mean 'my_story.txt'"):
        load_task(tmp_path / "my_storry.txt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_task("no_such_folder/a.txt")


def test_a_folder_is_refused(tmp_path):
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    with pytest.raises(ValueError, match="is a folder; expected a .txt, .jsonl or .json file"):
        load_task(folder)


def test_a_data_set_of_the_hub_is_not_fetched():
    with pytest.raises(ValueError, match="no_robots ends in ''; .*A data set of the hub is not fetched here"):
        load_task("HuggingFaceH4/no_robots")
