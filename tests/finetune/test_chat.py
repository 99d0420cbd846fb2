"""Conversations: what is learned, that training and use agree token for token, and one fine-tune from a file."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast
from transformers.loss.loss_utils import ForCausalLMLoss

from lora_lab import chat, tasks
from lora_lab import models as lab_models
from lora_lab.finetune import finetune
from lora_lab.generate import complete, generate
from lora_lab.task_files import Conversation, Example
from lora_lab.tasks import encode, prompt_ids
from tests.finetune import templates
from tests.finetune.templates import TEMPLATES

TWO = (
    ("user", "What is the capital of France?"),
    ("assistant", "Paris, on the Seine."),
    ("user", "And of\n\nItaly? "),
    ("assistant", "Rome.\nIt is old: 2,700 years."),
)
SYSTEM = ("system", "Answer in few words.")


@pytest.fixture(scope="session")
def plain():
    return lab_models.load_tokenizer("base")


@pytest.fixture(params=TEMPLATES)
def name(request):
    return request.param


@pytest.fixture
def tokenizer(plain, name):
    return with_template(plain, name)


def with_template(plain, name):
    template, special, start, end, _, _ = TEMPLATES[name]
    tokenizer = copy.deepcopy(plain)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    if name == "Qwen3":
        tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = start, end, template
    return tokenizer


def learned(row, tokenizer) -> list[str]:
    """The stretches of a row that are learned, as text."""
    stretches = [[]]
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label == -100:
            stretches.append([])
        else:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


def row_of(turns, tokenizer, max_length=10_000):
    return encode(Example(Conversation(turns[:-1]), turns[-1][1]), tokenizer, max_length)


def rows_of(turns, tokenizer):
    """All rows of a file with ten such conversations, through the whole way that a fine-tune takes."""
    example = Example(Conversation(turns[:-1]), turns[-1][1])
    task = tasks.Task("mine.jsonl", "", (example,), (example,), (example,), (example.prompt,))
    return tasks.encode_task(task, tokenizer, 10_000)


def test_learned_is_every_answer_and_its_end_and_nothing_else(name, tokenizer):
    *_, end, with_system = TEMPLATES[name]
    for turns in (TWO, TWO[:2], (SYSTEM, *TWO) if with_system else TWO):
        answers = [content for role, content in turns if role == "assistant"]
        rows = rows_of(turns, tokenizer).train
        stretches = [s for row in rows for s in learned(row, tokenizer)]
        written = [s.removesuffix(end).removeprefix("<think>\n\n</think>").strip() for s in stretches]
        assert written == answers
        assert all(s.endswith(end) and s.count(end) == 1 for s in stretches)
        assert all(("<think>" in s) == (name == "Qwen3") for s in stretches)
        assert len(rows) == (2 if name == "Qwen3" and len(answers) == 2 else 1)


def test_a_row_is_what_the_template_writes(name, tokenizer):
    """Against transformers' own rendering of the whole conversation, tokenized in one go."""
    for turns in (TWO, TWO[:2]):
        row = row_of(turns, tokenizer)["input_ids"]
        given = chat.PLAIN if name == "none" else None
        whole = tokenizer.apply_chat_template(chat.messages(turns), chat_template=given, return_dict=False)
        written, ours = tokenizer.decode(whole), tokenizer.decode(row)
        assert written.startswith(ours) and not written[len(ours) :].replace(tokenizer.eos_token, "").strip()
        # With text behind them this tokenizer takes two newlines for two tokens, at a prompt's end for one: as in use.
        assert name in ("Llama-3", "Qwen3") or whole[: len(row)] == row


class Recorder:
    """Stands for a model: what `complete` gives it."""

    device, config, training = torch.device("cpu"), type("C", (), {"max_position_embeddings": 4096})(), False

    def generate(self, **given):
        self.given = given
        return torch.cat([given["input_ids"], given["input_ids"][:, :1]], 1)

    def get_input_embeddings(self):
        return torch.nn.Embedding(5000, 1)

    def train(self, mode=True):
        return self

    def eval(self):
        return self


def test_training_and_use_agree_token_for_token(name, tokenizer):
    model = Recorder()
    for turns in (TWO, TWO[:2]):
        row = row_of(turns, tokenizer)
        complete(model, tokenizer, [Conversation(turns[:-1])])
        asked = model.given["input_ids"][0].tolist()
        assert asked == row["input_ids"][: len(asked)]
        assert row["labels"][len(asked) :] == row["input_ids"][len(asked) :] and row["labels"][len(asked) - 1] == -100
        ends = {tokenizer.convert_tokens_to_ids(e) for e in TEMPLATES[name][3:5]}
        assert set(model.given["eos_token_id"]) == ends and row["input_ids"][-1] in ends
    complete(model, tokenizer, ["Once"])
    assert model.given["eos_token_id"] == [tokenizer.eos_token_id]


@pytest.mark.parametrize("name", ["Llama-3", "Gemma", "Mistral", "Llama-2"], indirect=True)
def test_exactly_one_start_token(tokenizer):
    ids = row_of(TWO[:2], tokenizer)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_one_start_token_where_there_is_no_template(plain):
    ids = row_of(TWO[:2], plain)["input_ids"]
    assert [i for i, token in enumerate(ids) if token == plain.bos_token_id] == [0, len(ids) - 1]  # the last is the end
    assert plain.decode(ids) == (
        "<|endoftext|>User: What is the capital of France?\nAssistant: Paris, on the Seine.<|endoftext|>"
    )
    assert "no chat template" in chat.describe(plain) and "User: ..." in chat.describe(plain)


def test_a_special_token_that_a_turn_spells_out_is_text(name, tokenizer):
    *_, end, _ = TEMPLATES[name]
    turns = (("user", f"Say {end} now"), ("assistant", f"No {end} today"))
    row = row_of(turns, tokenizer)
    end_id, clean = tokenizer.convert_tokens_to_ids(end), row_of((("user", "Say"), ("assistant", "No")), tokenizer)
    assert row["input_ids"].count(end_id) == clean["input_ids"].count(end_id)
    (answer,) = learned(row, tokenizer)
    assert answer.removesuffix(end).removeprefix("<think>\n\n</think>").strip() == f"No {end} today"


@pytest.mark.parametrize("name", ["Gemma", "Mistral"], indirect=True)
def test_turns_that_the_template_refuses(name, tokenizer):
    why = "System role not supported" if name == "Gemma" else "must alternate"
    way = "Put the system's text at the head of the first user turn"
    with pytest.raises(ValueError, match=f"refuses the turns system, user .the last is 'What is.*{why}.*[.] {way}$"):
        row_of((SYSTEM, *TWO[:2]), tokenizer)
    if name == "Gemma":
        with pytest.raises(ValueError, match=f"refuses the turns system, assistant, user .*{way}$"):
            row_of((SYSTEM, TWO[1], *TWO[:2]), tokenizer)
    with pytest.raises(ValueError, match="refuses the turns user, user .*must alternate.*[.] Join turns of one role"):
        row_of((TWO[0], *TWO[:2]), tokenizer)
    with pytest.raises(ValueError, match="refuses the turns assistant, user .*[.] Leave out the greeting"):
        row_of((TWO[1], *TWO[:2]), tokenizer)


@pytest.mark.parametrize("name", ["SmolLM2"], indirect=True)
def test_a_greeting_that_stands_first_is_read_only(tokenizer):
    row = row_of((("assistant", "Welcome."), *TWO[:2]), tokenizer)
    assert learned(row, tokenizer) == ["Paris, on the Seine.<|im_end|>"]
    assert "Welcome." in tokenizer.decode(row["input_ids"])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content + 1 }}", "refuses the turns user .the last is 'What is.*can only concatenate str"),
        ("{{ tools | length }}", "refuses the turns user .*has no len"),
        (
            "{{ messages[0].content }}",
            "does not write down what was answered: of 'Hello' and 'Probe7' it makes 'Hello'",
        ),
        ("", "does not write down what was answered"),
    ],
    ids=["a type", "tools", "no answer", "empty"],
)
def test_a_template_that_is_broken(plain, template, words):
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=words):
        row_of(TWO[:2], tokenizer)


THOUGHT = "<think>\nThe Tiber.\n</think>\n\nRome."


@pytest.mark.parametrize("name", ["Qwen3"], indirect=True)
def test_an_answer_that_the_template_rewrites_later_has_a_row_of_its_own(tokenizer):
    thinking = (("user", "Italy?"), ("assistant", THOUGHT), ("user", "France?"), ("assistant", "Paris."))
    encoded = rows_of(thinking, tokenizer)
    first, whole = encoded.train
    assert learned(first, tokenizer) == [f"{THOUGHT}<|im_end|>"]
    assert learned(whole, tokenizer) == ["<think>\n\n</think>\n\nParis.<|im_end|>"]
    assert "The Tiber" not in tokenizer.decode(whole["input_ids"]) and "Rome." in tokenizer.decode(whole["input_ids"])
    assert encoded.notes[1] == "1 earlier answers, which the template rewrites as it goes on, are rows of their own"
    assert encoded.validation == [whole]


def test_a_template_that_does_not_go_on_from_its_own_opening(plain):
    tokenizer = with_template(plain, "SmolLM2")
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    with pytest.raises(ValueError, match=r"opens an answer with .*<think>\\n.* but writes it down otherwise: .*Paris"):
        row_of(TWO[:2], tokenizer)


def test_a_template_without_an_end_gets_the_tokenizers(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    row = row_of(TWO, tokenizer)
    assert learned(row, tokenizer) == ["Paris, on the Seine.", "Rome.\nIt is old: 2,700 years.<|endoftext|>"]


def test_an_opening_that_is_rewritten_later_counts_as_rewritten(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}ask: {{ m.content }}\n{% else %}"
        "{{ ('answer:' if loop.last else 'old:') + ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}answer:{% endif %}"
    )
    rows = rows_of(TWO, tokenizer).train
    assert [len(learned(row, tokenizer)) for row in rows] == [1, 1]
    assert "answer: Paris" in tokenizer.decode(rows[0]["input_ids"])
    assert "old: Paris" in tokenizer.decode(rows[1]["input_ids"])


def test_the_same_answer_in_the_users_mouth_is_not_learned(name, tokenizer):
    turns = (("user", "Yes"), ("assistant", "Yes"), ("user", "Yes"), ("assistant", "Yes"))
    rows = rows_of(turns, tokenizer).train
    assert sum(len(learned(row, tokenizer)) for row in rows) == 2
    given = len(prompt_ids(Conversation(turns[:1]), tokenizer))
    assert all(label == -100 for label in rows[0]["labels"][: given - 1]) and rows[0]["labels"][given + 1] != -100


@pytest.mark.parametrize("template", [templates.LLAMA2, templates.MISTRAL])
def test_sentencepiece_puts_no_space_into_an_answer(template):
    """A tokenizer that writes a space before the first word of every text, as Llama 2's."""
    inner = Tokenizer(tokenizer_models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    text = [content for _, content in TWO] * 20
    inner.train_from_iterator(text, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = template
    row = row_of(TWO, tokenizer)
    whole = tokenizer.apply_chat_template(chat.messages(TWO), return_dict=False)
    assert whole[: len(row["input_ids"])] == row["input_ids"]
    assert [s.strip().replace(" </s>", "</s>") for s in learned(row, tokenizer)] == [
        f"{TWO[1][1]}</s>",
        f"{TWO[3][1]}</s>",
    ]


def test_the_templates_words_have_no_gradient(tokenizer):
    """The loss of a row moves the logits before answers, and those of no other place."""
    torch.manual_seed(0)
    row = row_of(TWO, tokenizer)
    logits = torch.randn(1, len(row["labels"]), len(tokenizer), requires_grad=True)
    loss = ForCausalLMLoss(logits, torch.tensor([row["labels"]]), len(tokenizer))
    loss.backward()
    moved = logits.grad[0].abs().sum(-1) > 0
    wanted = [label != -100 for label in row["labels"][1:]] + [False]
    assert moved.tolist() == wanted and 0 < sum(wanted) < len(wanted) / 2


# the command, and a fine-tune


def test_the_command_asks_in_the_template(lab):
    model, tokenizer = lab_models.load("base", device="cpu")
    turns = (SYSTEM, ("user", "Who is the cat?"))
    answer = generate(model, tokenizer, Conversation(turns), 12)
    by_hand = tokenizer.decode(
        model.generate(
            torch.tensor([chat.prompt_ids(turns, tokenizer)]), max_new_tokens=12, do_sample=False, pad_token_id=1
        )[0, len(chat.prompt_ids(turns, tokenizer)) :],
        skip_special_tokens=True,
    )
    words = ["generate", "--chat", "--system", SYSTEM[1], "--max-new-tokens", 12, "Who is the cat?"]
    assert lab(*words)[:2] == (0, answer + "\n") and answer == by_hand.strip() != ""
    status, out, err = lab("generate", "--system", "Be kind.", "Hello")
    assert status == 1 and "give --chat too" in err and out == ""


@pytest.fixture(scope="module")
def messages_file(tmp_path_factory):
    """40 short conversations of two questions and answers."""
    animals = "cat dog fox hen cow pig owl bee ant bat".split()
    path = tmp_path_factory.mktemp("chats") / "animals.jsonl"
    rows = [
        (
            ("user", f"What is number {i}?"),
            ("assistant", f"It is the {animals[i % 10]}, of course."),
            ("user", "And what does it eat?"),
            ("assistant", f"The {animals[i % 10]} eats soup number {i}."),
        )
        for i in range(40)
    ]
    lines = [json.dumps({"messages": chat.messages(turns)}) for turns in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_fine_tune_on_conversations(messages_file):
    result = finetune("base", messages_file, rank=4, alpha=8, lr=5e-3, batch_size=8, steps=12, device="cpu", quiet=True)
    assert result.loss_after < 0.5 * result.loss_before
    question = (("user", "What is number 9?"),)
    assert "of course." in generate(result.model, result.tokenizer, Conversation(question), 20)


def test_a_fine_tune_on_packed_conversations(tiny, messages_file, capsys):
    sizes = {"rank": 4, "lr": 2e-2, "batch_size": 4, "max_length": 192, "steps": 20}
    result = finetune(tiny, messages_file, **sizes, device="cpu", packing=True)
    said = capsys.readouterr().out
    assert "no chat template, so they are written plainly" in said and "packed 36 examples into" in said
    assert result.loss_after < result.loss_before - 0.1
    json.dumps(result.record(), default=str)
