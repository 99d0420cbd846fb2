"""Checks of lesson 07, fine-tuning a real model. None of them trains anything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lora_lab.attempt import Attempt, NotYet, close, expect, short
from lora_lab.exercises import exercise

IGNORE = -100


@exercise(
    "07",
    "the same loss in other units",
    difficulty=1,
    importance=2,
    minutes=4,
    hints=(
        "How many nats has the whole text? Spread those over its characters, and only then change the unit.",
        "nats_per_token × tokens / characters is nats per character; a bit is ln 2 = 0.693 nats, so divide by that.",
    ),
    expect=(
        "multiplied by ln 2: a bit is smaller than a nat, so there are more of them",
        "characters over tokens, upside down",
        "the perplexity, e to the loss, which is another thing",
    ),
)
def bits_per_character(attempt: Attempt) -> str:
    """The loss in bits per character, from nats per token, and the text's number of tokens and of characters."""
    ln2 = math.log(2)
    for loss, tokens, characters in ((3.5, 40, 150), (1.2, 9, 61), (math.log(2), 10, 10)):
        call = f"bits_per_character({short(loss)}, {tokens}, {characters})"
        got = attempt.number(attempt(loss, tokens, characters), call)
        per_character = loss * tokens / characters
        attempt.agree(
            got,
            per_character / ln2,
            {
                "that is nats per character. A bit is ln 2 nats: divide by math.log(2).": per_character,
                "multiplied by ln 2 instead of divided: a bit is smaller than a nat, so there are more of them.": (
                    per_character * ln2
                ),
                "upside down: the nats of all tokens are spread over the characters, so tokens stand above.": (
                    loss * characters / tokens / ln2
                ),
                "that is bits per token: spread them over the characters.": loss / ln2,
                "that is the loss as it was, in nats per token.": loss,
                "two things: multiplied by ln 2 instead of divided, and not spread over the characters.": loss * ln2,
                "those are the nats of the whole text: divide by its characters, and change the unit.": loss * tokens,
                "upside down, and still in nats: the nats of all tokens are spread over the characters.": (
                    loss * characters / tokens
                ),
                "a bit is ln 2 nats, not 2 nats: divide by math.log(2).": per_character / 2,
                "those are the bits of the whole text: divide by its characters.": loss * tokens / ln2,
                "that is one token's bits over all characters: the text has `tokens` of them.": loss / characters / ln2,
                "that is in decimal digits: log(10) where log(2) belongs.": per_character / math.log(10),
                "that is the perplexity, e to the loss: here only the unit changes.": math.exp(loss),
                "that is the perplexity per character: here only the unit changes.": math.exp(per_character),
                "log2 of the loss is not its bits: the loss is a logarithm already. Divide by ln 2.": (
                    math.log2(loss) * tokens / characters
                ),
                "log2 of the nats is not their bits: a loss is a logarithm already. Divide by ln 2.": (
                    math.log2(per_character)
                ),
            },
            case=f"{short(loss)} nats per token, {tokens} tokens and {characters} characters",
        )
    return "So models with different tokenizers can be compared: the characters are the same for both."


@exercise(
    "07",
    "how many steps?",
    difficulty=1,
    importance=2,
    minutes=4,
    hints=(
        "How many batches make up one time through all examples? The last may be smaller, and is a step all the same.",
        "Round up for each time through, -(-examples // batch), and only then multiply by the epochs.",
    ),
    expect=(
        "rounded down: what is left over at the end of an epoch is forgotten",
        "rounded up once for the whole run: a batch does not reach from one epoch into the next",
        "// batch + 1, one too many where it comes out even",
    ),
)
def steps_in_a_run(attempt: Attempt) -> str:
    """Steps of a run: one for each batch, the smaller last batch of an epoch included."""
    for examples, batch, epochs in ((59, 8, 6), (240, 16, 6), (5, 16, 2), (64, 1, 1)):
        call = f"steps_in_a_run({examples}, {batch}, {epochs})"
        got = attempt.number(attempt(examples, batch, epochs), call)
        right = -(-examples // batch) * epochs
        attempt.agree(
            got,
            right,
            {
                "rounded down: the examples left over at the end of an epoch are a batch too, and a step.": (
                    examples // batch * epochs
                ),
                "rounded up once, for the whole run. A batch does not reach from one epoch into the next, so each "
                "epoch is rounded up by itself.": -(-examples * epochs // batch),
                "a batch does not reach from one epoch into the next: count one epoch, then multiply.": (
                    examples * epochs // batch
                ),
                "a fraction of a step does not exist: what is left over is a smaller batch, and a whole step.": (
                    examples * epochs / batch
                ),
                "one too many in every epoch: where the examples come out even, nothing is left over.": (
                    (examples // batch + 1) * epochs
                ),
                "that is one time through; the run goes `epochs` times through.": -(-examples // batch),
                "that is one time through, and rounded down: what is left over is a step as well.": examples // batch,
                "that is one time through, and a fraction of a step does not exist.": examples / batch,
                "one step more for the whole run is not enough: something is left over in every epoch.": (
                    examples // batch * epochs + 1
                ),
                "what is left over is one smaller batch, and one step, however many examples it has.": (
                    (examples // batch + examples % batch) * epochs
                ),
                "that counts examples; a step takes a whole batch of them.": examples * epochs,
                "one epoch too many: nothing is trained before the first.": -(-examples // batch) * (epochs + 1),
                "one epoch too few: all of them are trained.": -(-examples // batch) * (epochs - 1),
                "upside down: a batch holds some of the examples, so the examples are divided by it.": (
                    -(-batch // examples) * epochs
                ),
            },
            case=f"{examples} examples, {batch} at a time, {epochs} times through",
            tolerance=0,
        )
    once = -(-240 // 16)
    return f"240 texts, 16 at a time, are {once} steps; so 90 steps go through them {90 // once} times."


@exercise(
    "07",
    "who may see whom?",
    difficulty=2,
    importance=2,
    minutes=5,
    hints=(
        "Two conditions: both tokens are of one example, and the one that is seen comes no later. Write down first of "
        "each token which example it is of.",
        "example = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)). Where example[:, None] equals "
        "example, two tokens are of one example; .tril() of that leaves out what comes later.",
    ),
    expect=(
        "one triangle over the whole row: the second example sees the first",
        "whole blocks: a token sees those after it, and so the one that it is to predict",
        "the triangle's other half: rows and columns exchanged",
        "no diagonal: the first token of an example then sees nothing at all",
    ),
)
def may_see(attempt: Attempt) -> str:
    """The grid of a packed row: True in row i, column j where token i may see token j."""
    for lengths in ([3, 2, 4], [1, 2], [4]):
        tokens = sum(lengths)
        got = attempt.array(attempt(list(lengths)), (tokens, tokens), f"may_see({lengths})")
        expect(set(np.unique(got)) <= {0, 1}, "the grid holds True and False (or 1 and 0), and nothing else.")
        example = np.repeat(np.arange(len(lengths)), lengths)
        same, before = example[:, None] == example, np.tri(tokens, dtype=bool)
        itself, right = np.eye(tokens, dtype=bool), same & before
        rows = "row i is the token that looks, so it may see columns up to i"
        attempt.agree(
            got,
            right,
            {
                "one triangle over the whole row: each example sees the ones before it.": before,
                "whole blocks: a token also sees those after it, and so the one that it is to predict.": same,
                "all see all: neither the order nor the examples are kept.": np.ones_like(same),
                f"the other half of each triangle: {rows}.": right.T,
                f"the other half, and over the whole row: {rows} of its own example.": before.T,
                "a token sees itself too: the diagonal is True.": right & ~itself,
                "one triangle over the whole row, without its diagonal: examples are kept apart, and a token sees "
                "itself.": before & ~itself,
                "blocks without the diagonal: a token sees itself, and none that comes later.": same & ~itself,
                "True and False are exchanged: True is where a token may look.": ~right,
                "True and False are exchanged, and it is one triangle over the whole row.": ~before,
                "only other examples are seen: it is the own one that a token may look at.": ~same,
                "of earlier tokens those of other examples are seen: it is the own one's that should be.": before
                & ~same,
                "each token sees itself alone; it may see those before it in its example too.": itself,
                "of other examples none is seen: yours lets a token see the example before its own too.": (
                    before & (example[:, None] - example <= 1)
                ),
                "an example's first token sees the last one before it: the cut is one place too early.": (
                    right | np.eye(tokens, k=-1, dtype=bool)
                ),
            },
            tolerance=0,
            otherwise=_first_fault(got, right, example),
        )
    return "A wrong grid raises no error: the loss is then one of rows that nobody will ask the model about."


def _first_fault(got: np.ndarray, right: np.ndarray, example: np.ndarray) -> str:
    """The first place in which the grid is wrong, in words."""
    wrong = np.argwhere(got != right)
    if not len(wrong):
        return ""
    i, j = (int(n) for n in wrong[0])
    if not got[i, j]:
        why = "which is itself" if i == j else "which comes before it in the same example"
        return f"token {i} (the first is 0) does not see token {j}, {why}: it may."
    why = "comes later" if j > i else "is of another example"
    return f"token {i} (the first is 0) sees token {j}, which {why}: it may not."


@exercise(
    "07",
    "learn the answer only",
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "The model reads everything, so input_ids holds both. Labels say which of these tokens it is to learn.",
        "labels is as long as input_ids: -100 for every token of the prompt, then the answer's own tokens.",
    ),
    expect=(
        "labels as short as the answer: they no longer stand where their tokens stand",
        "0 for 'not learned', which is a token like any other",
        "labels shifted by one: the model does that itself",
        "the prompt left out of input_ids as well",
    ),
)
def answer_only(attempt: Attempt) -> str:
    """input_ids and labels of one example; a label of -100 is not learned."""
    for prompt, answer in (([1, 17, 23], [8, 17, 2, 5]), ([], [6, 4]), ([7, 3], [9])):
        ids = prompt + answer
        right = [IGNORE] * len(prompt) + answer
        given, labels = attempt.several(attempt(prompt, answer), 2, "input_ids and labels")
        given, labels = _row(attempt, given, "input_ids"), _row(attempt, labels, "labels")
        if close(given, right) and not close(given, ids):
            if close(labels, ids):
                raise NotYet("the two stand in the other order: input_ids first, then labels.")
            raise NotYet("-100 is a label. In input_ids it is no token, and the model is to read the whole prompt.")
        expect(
            not close(given, answer) or close(given, ids),
            "input_ids holds the answer alone: the model must still read the prompt, or it does not know the question.",
        )
        expect(close(given, ids), f"input_ids should be the prompt and then the answer, {ids}, not {given.tolist()}.")
        _judge_labels(attempt, labels, prompt, answer)
    return "The package's own is tasks.encode; where there is no prompt, all is learned, as with the pirate."


def _judge_labels(attempt: Attempt, labels: Any, prompt: list[int], answer: list[int]) -> None:
    """Raise NotYet unless the labels are -100 on the prompt and the tokens on the answer."""
    ids, masked = prompt + answer, [IGNORE] * len(prompt)
    right = masked + answer
    if len(labels) != len(ids):
        where = "a label stands for the token in the same place, so there must be as many"
        raise NotYet(f"for {prompt} and {answer} there are {len(labels)} labels and {len(ids)} input_ids; {where}.")
    mistakes = {
        "the prompt's tokens are labels too, so the model learns to ask: -100 there.": ids,
        "0 is a token like any other, so the model would learn to say it: -100 is what the loss leaves out.": (
            [0] * len(prompt) + answer
        ),
        "-1 is not what torch's loss leaves out: it is -100.": [-1] * len(prompt) + answer,
        "100 is a token like any other: minus 100 is what the loss leaves out.": [100] * len(prompt) + answer,
        "the wrong part is left out: the answer is to be learned, not the prompt.": prompt + [IGNORE] * len(answer),
        "nothing at all is learned: the answer keeps its own tokens as labels.": [IGNORE] * len(ids),
        "labels are tokens, not a mask of ones and zeros: the answer's own, and -100 where the prompt stands.": (
            [0] * len(prompt) + [1] * len(answer)
        ),
        "the answer comes after the prompt, in labels too: a label stands where its token stands.": answer + masked,
        "the labels are shifted by one: a label stands where its token stands, and the model does the shifting.": (
            right[1:] + [IGNORE]
        ),
        "the labels are shifted to the right: a label stands where its token stands.": [IGNORE] + right[:-1],
        "one token too many is left out: the first one of the answer is to be learned too.": (
            masked + [IGNORE] + answer[1:]
        ),
        "one token too few is left out: the last one of the prompt is not to be learned.": (
            masked[1:] + prompt[-1:] + answer if prompt else right
        ),
        "a token of the answer that is in the prompt as well is left out: go by place, not by number.": (
            [IGNORE if token in prompt else token for token in ids]
        ),
        f"labels should be {right}, not {labels.tolist()}.": labels,
    }
    attempt.agree(labels, right, mistakes, tolerance=0)


def _row(attempt: Attempt, value: Any, what: str) -> Any:
    """`value` as a row of numbers, of any length. Raises NotYet for anything else."""
    wanted = f"{what} should be a list of tokens, one number after the other"
    try:
        length = len(value)
    except TypeError:
        raise NotYet(f"{wanted}, not {short(value)}.") from None
    expect(not isinstance(value, str | dict | set), f"{wanted}, not {short(value)}.")
    expect(isinstance(value, list | tuple) or len(getattr(value, "shape", ())) == 1, f"{wanted}, not {short(value)}.")
    if isinstance(value, list | tuple):
        inner = next((entry for entry in value if hasattr(entry, "__len__") or entry is None), 0)
        expect(not hasattr(inner, "__len__"), f"{wanted}; inside yours there is {short(inner)}. Join lists with +.")
        expect(inner is not None, f"{wanted}; None is none. What is not learned has the label -100.")
    return attempt.array(value, (length,), what)
