"""Losses and exact match against the plain way: one text at a time, one token at a time, no padding."""

from __future__ import annotations

import pytest
import torch

from lora_lab import chunked_loss, models, scoring
from lora_lab.generate import complete, generate
from lora_lab.tasks import Example, encode, prompt_ids

EXAMPLES = [
    Example("Question: how many dogs?\nQuery:", " count dogs"),
    Example("", "Once upon a time there was a cat. The cat had a red hat, and a mouse lived in the hat."),
    Example("The", " end"),
    Example("Once upon a time", " there was an old man who had a horse, a cow and nine small hens."),
    Example("One day a little girl went out", " and did not come back until the sun had set"),
]


@pytest.fixture(scope="module")
def base():
    return models.load("base", device="cpu")


def nats_one_by_one(model, tokenizer, examples, max_length) -> tuple[float, int]:
    total, count = 0.0, 0
    for example in examples:
        row = encode(example, tokenizer, max_length)
        with torch.no_grad():
            log_p = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for place, label in enumerate(row["labels"]):
            if label != -100 and place > 0:
                total, count = total - log_p[place - 1, label].item(), count + 1
    return total, count


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("max_length", [128, 17])
def test_loss_is_the_mean_over_all_completion_tokens(base, batch_size, max_length):
    total, count = nats_one_by_one(*base, EXAMPLES, max_length)
    assert scoring.loss(*base, EXAMPLES, max_length, batch_size) == pytest.approx(total / count, abs=1e-5)


def test_a_model_whose_loss_is_in_chunks_scores_the_same_without_all_logits(base, monkeypatch):
    total, count = nats_one_by_one(*base, EXAMPLES, 128)
    largest, logits_of = [], chunked_loss._logits
    monkeypatch.setattr(chunked_loss, "_logits", lambda *a: largest.append(len(a[2])) or logits_of(*a))
    with chunked_loss.installed(base[0], 10):
        assert scoring.loss(*base, EXAMPLES, 128, 2) == pytest.approx(total / count, abs=1e-5)
    assert max(largest) == 10 and sum(largest) == count


def test_nats_per_character_predicts_each_text_from_the_start_token(base):
    model, tokenizer = base
    texts = [e.completion for e in EXAMPLES]
    total = 0.0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    expected = total / sum(map(len, texts))
    for batch_size in (2, 20):
        assert scoring.nats_per_character(model, tokenizer, texts, batch_size) == pytest.approx(expected, abs=1e-5)


def greedy(model, tokenizer, prompt: str, most: int) -> str:
    ids = prompt_ids(prompt, tokenizer)
    start = len(ids)
    while len(ids) < start + most:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_many_prompts_at_once_are_answered_as_one_by_one(base):
    prompts = [e.prompt for e in EXAMPLES]
    expected = [greedy(*base, p, 12) for p in prompts]
    assert len(set(expected)) == len(expected)
    for batch_size in (1, 2, 125):
        assert complete(*base, prompts, 12, batch_size) == expected
    assert generate(*base, prompts[3], 12) == prompts[3] + expected[3]


@pytest.fixture
def ends_at_full_stop():
    """The base model's tokenizer with "." for its end token, so that every answer ends at its first sentence."""
    tokenizer = models.load_tokenizer()
    tokenizer.eos_token = "."
    assert tokenizer("A cat.", add_special_tokens=False).input_ids[-1] == tokenizer.eos_token_id
    return tokenizer


PROMPTS = ["Once upon a time", "She said", "The", "Tim was happy"]


def test_a_row_that_has_ended_does_not_go_on(base, ends_at_full_stop):
    model, tokenizer = base
    long = complete(model, tokenizer, PROMPTS, 40)
    short = complete(model, ends_at_full_stop, PROMPTS, 40)
    assert all("." in text for text in long)
    assert [s.rstrip(".") for s in short] == [text[: text.index(".")] for text in long]


def test_exact_match_is_the_share_written_letter_for_letter(base, ends_at_full_stop):
    answers = [text.strip() for text in complete(base[0], ends_at_full_stop, PROMPTS, 40)]
    right = [Example(prompt, f" {answer}") for prompt, answer in zip(PROMPTS, answers, strict=True)]
    assert scoring.exact_match(base[0], ends_at_full_stop, right) == 1.0
    wrong = [right[0], Example(PROMPTS[1], right[1].completion + " x"), right[2], Example(PROMPTS[3], " no")]
    assert scoring.exact_match(base[0], ends_at_full_stop, wrong) == 0.5


def test_drawn_text_repeats_by_seed_and_leaves_the_random_state_alone(base):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, same, other = (generate(*base, "One day", 20, temperature=0.9, seed=s) for s in (1, 1, 2))
    assert first == same != other
    assert torch.equal(torch.get_rng_state(), state)
    assert generate(*base, "One day", 20) == generate(*base, "One day", 20, seed=9)


def test_scoring_leaves_the_mode_as_it_was(base):
    model, tokenizer = base
    model.train()
    scoring.loss(model, tokenizer, EXAMPLES)
    complete(model, tokenizer, ["The"], 2)
    assert model.training
    model.eval()
    scoring.loss(model, tokenizer, EXAMPLES)
    assert not model.training


def test_what_cannot_be_scored_or_written_is_refused(base):
    with pytest.raises(ValueError, match="exact match of no examples"):
        scoring.exact_match(*base, [])
    with pytest.raises(ValueError, match="nothing to score"):
        scoring.loss(*base, [])
    with pytest.raises(ValueError, match="temperature must be 0"):
        generate(*base, "The", temperature=-1)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        generate(*base, "The", max_new_tokens=0)
    with pytest.raises(ValueError, match="the model takes 512 in all"):
        generate(*base, "The", max_new_tokens=600)
