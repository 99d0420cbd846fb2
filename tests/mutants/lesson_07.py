"""Answers to the exercises of lesson 07."""

from __future__ import annotations

import math

import numpy as np
import torch

from tests.mutants import right, wrong

# --- bits_per_character --------------------------------------------------------------------------------------------


@right("bits_per_character")
def by_nats_first(nats_per_token, tokens, characters):
    return nats_per_token * tokens / characters / math.log(2)


@right("bits_per_character")
def by_log2_of_e(nats_per_token, tokens, characters):
    return tokens / characters * nats_per_token * math.log2(math.e)


@right("bits_per_character")
def by_probability(nats_per_token, tokens, characters):
    return -math.log2(math.exp(-nats_per_token)) * (tokens / characters)


@wrong("bits_per_character", says="that is nats per character")
def still_nats(nats_per_token, tokens, characters):
    return nats_per_token * tokens / characters


@wrong("bits_per_character", says="multiplied by ln 2")
def times_ln_2(nats_per_token, tokens, characters):
    return nats_per_token * tokens / characters * math.log(2)


@wrong("bits_per_character", says="upside down")
def characters_above(nats_per_token, tokens, characters):
    return nats_per_token * characters / tokens / math.log(2)


@wrong("bits_per_character", says="bits per token")
def per_token(nats_per_token, tokens, characters):
    return nats_per_token / math.log(2)


@wrong("bits_per_character", says="bits of the whole text")
def of_the_text(nats_per_token, tokens, characters):
    return nats_per_token * tokens / math.log(2)


@wrong("bits_per_character", says="one token's bits")
def one_token_only(nats_per_token, tokens, characters):
    return nats_per_token / characters / math.log(2)


@wrong("bits_per_character", says="decimal digits")
def digits(nats_per_token, tokens, characters):
    return nats_per_token * tokens / characters / math.log(10)


@wrong("bits_per_character", says="perplexity")
def perplexity(nats_per_token, tokens, characters):
    return math.exp(nats_per_token)


@wrong("bits_per_character", says="the loss is a logarithm already")
def log2_of_the_loss(nats_per_token, tokens, characters):
    return math.log2(nats_per_token) * tokens / characters


@wrong("bits_per_character", says="two things")
def per_token_times_ln_2(nats_per_token, tokens, characters):
    return nats_per_token * math.log(2)


@wrong("bits_per_character", says="upside down, and still in nats")
def upside_down_nats(nats_per_token, tokens, characters):
    return nats_per_token * characters / tokens


@wrong("bits_per_character", says="not 2 nats")
def halved(nats_per_token, tokens, characters):
    return nats_per_token * tokens / characters / 2


@wrong("bits_per_character", says="nats of the whole text")
def nats_of_the_text(nats_per_token, tokens, characters):
    return nats_per_token * tokens


# --- steps_in_a_run ------------------------------------------------------------------------------------------------


@right("steps_in_a_run")
def rounded_up(examples, batch, epochs):
    return -(-examples // batch) * epochs


@right("steps_in_a_run")
def by_ceil(examples, batch, epochs):
    return epochs * math.ceil(examples / batch)


@right("steps_in_a_run")
def by_counting(examples, batch, epochs):
    return sum(1 for _ in range(epochs) for _ in range(0, examples, batch))


@wrong("steps_in_a_run", says="rounded down")
def rounded_down(examples, batch, epochs):
    return examples // batch * epochs


@wrong("steps_in_a_run", says="rounded down")
def rounded_to_the_nearest(examples, batch, epochs):
    return round(examples / batch) * epochs


@wrong("steps_in_a_run", says="rounded up once")
def rounded_up_once(examples, batch, epochs):
    return math.ceil(examples * epochs / batch)


@wrong("steps_in_a_run", says="count one epoch, then multiply")
def rounded_down_once(examples, batch, epochs):
    return examples * epochs // batch


@wrong("steps_in_a_run", says="a fraction of a step")
def not_rounded(examples, batch, epochs):
    return examples / batch * epochs


@wrong("steps_in_a_run", says="one too many in every epoch")
def one_more(examples, batch, epochs):
    return (examples // batch + 1) * epochs


@wrong("steps_in_a_run", says="one time through")
def one_epoch(examples, batch, epochs):
    return math.ceil(examples / batch)


@wrong("steps_in_a_run", says="that counts examples")
def batch_forgotten(examples, batch, epochs):
    return examples * epochs


@wrong("steps_in_a_run", says="one epoch too many")
def from_epoch_zero(examples, batch, epochs):
    return math.ceil(examples / batch) * (epochs + 1)


@wrong("steps_in_a_run", says="for the whole run is not enough")
def one_step_more(examples, batch, epochs):
    return examples // batch * epochs + 1


@wrong("steps_in_a_run", says="one smaller batch, and one step")
def remainder_added(examples, batch, epochs):
    return (examples // batch + examples % batch) * epochs


@wrong("steps_in_a_run", says="the examples are divided by it")
def batch_over_examples(examples, batch, epochs):
    return math.ceil(batch / examples) * epochs


@wrong("steps_in_a_run", says="one time through, and a fraction")
def fraction_of_an_epoch(examples, batch, epochs):
    return examples / batch


# --- may_see -------------------------------------------------------------------------------------------------------


def _example(lengths):
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


@right("may_see")
def by_blocks(lengths):
    example = _example(lengths)
    return (example[:, None] == example).tril()


@right("may_see")
def by_two_loops(lengths):
    example = [k for k, length in enumerate(lengths) for _ in range(length)]
    return [[j <= i and example[j] == example[i] for j in range(len(example))] for i in range(len(example))]


@right("may_see")
def by_slices(lengths):
    grid, at = np.zeros((sum(lengths), sum(lengths))), 0
    for length in lengths:
        grid[at : at + length, at : at + length] = np.tri(length)
        at += length
    return grid


@right("may_see")
def by_block_diag(lengths):
    return torch.block_diag(*(torch.ones(length, length).tril() for length in lengths)).bool()


@right("may_see")
def by_places(lengths):
    places = torch.tensor([place for length in lengths for place in range(length)])
    here = torch.arange(len(places))
    return (here[:, None] >= here) & (here[:, None] - places[:, None] <= here)


@wrong("may_see", says="one triangle over the whole row: each example")
def causal_alone(lengths):
    return torch.ones(sum(lengths), sum(lengths)).tril().bool()


@wrong("may_see", says="whole blocks")
def blocks_alone(lengths):
    example = _example(lengths)
    return example[:, None] == example


@wrong("may_see", says="all see all")
def nothing_cut(lengths):
    return np.ones((sum(lengths), sum(lengths)), dtype=bool)


@wrong("may_see", says="the other half of each triangle")
def triu_for_tril(lengths):
    example = _example(lengths)
    return (example[:, None] == example).triu()


@wrong("may_see", says="the other half, and over the whole row")
def causal_alone_turned(lengths):
    return np.triu(np.ones((sum(lengths), sum(lengths))))


@wrong("may_see", says="the diagonal is True")
def not_itself(lengths):
    example = _example(lengths)
    return (example[:, None] == example).tril(-1)


@wrong("may_see", says="True and False are exchanged: True is where")
def masked_out(lengths):
    example = _example(lengths)
    return ~(example[:, None] == example).tril()


@wrong("may_see", says="exchanged, and it is one triangle")
def pytorch_causal_mask(lengths):
    return torch.ones(sum(lengths), sum(lengths), dtype=torch.bool).triu(1)


@wrong("may_see", says="only other examples are seen")
def not_equal(lengths):
    example = _example(lengths)
    return example[:, None] != example


@wrong("may_see", says="it is the own one's that should be")
def not_equal_and_earlier(lengths):
    example = _example(lengths)
    return (example[:, None] != example).tril()


@wrong("may_see", says="sees itself alone")
def diagonal_alone(lengths):
    return torch.eye(sum(lengths))


@wrong("may_see", says="lets a token see the example before its own")
def one_example_too_many(lengths):
    example = _example(lengths)
    return (example[:, None] - example <= 1).tril()


@wrong("may_see", says="one place too early")
def slices_one_too_early(lengths):
    grid, at = np.zeros((sum(lengths), sum(lengths))), 0
    for length in lengths:
        grid[at : at + length, max(0, at - 1) : at + length] = 1
        at += length
    return np.tril(grid) * np.triu(np.ones_like(grid), -1) + np.tril(by_slices(lengths), -2)


@wrong("may_see", says="which comes before it in the same example")
def first_and_itself(lengths):
    example = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.r_[True, example[1:] != example[:-1]]
    return np.array(by_slices(lengths), dtype=bool) & (begins[None] | np.eye(len(example), dtype=bool))


@wrong("may_see", says="which is of another example")
def the_first_example_for_all(lengths):
    example = _example(lengths)
    return ((example[:, None] == example) | (example == 0)).tril()


@wrong("may_see", says="holds True and False")
def numbers_of_examples(lengths):
    example = _example(lengths)
    return ((example[:, None] == example) * (example + 1)).tril()


@wrong("may_see", says="not finite")
def as_attention_adds_it(lengths):
    example = _example(lengths)
    return torch.zeros(len(example), len(example)).masked_fill(~(example[:, None] == example).tril(), -math.inf)


@wrong("may_see", says="it should be [9, 9]")
def a_grid_of_examples(lengths):
    return np.tri(len(lengths))


@wrong("may_see", says="it should be [9, 9]", plain=True)
def a_row(lengths):
    return [n for length in lengths for n in range(length)]


# --- answer_only ---------------------------------------------------------------------------------------------------


@right("answer_only")
def by_lists(prompt, answer):
    return prompt + answer, [-100] * len(prompt) + answer


@right("answer_only")
def by_writing_over(prompt, answer):
    input_ids = [*prompt, *answer]
    labels = list(input_ids)
    labels[: len(prompt)] = [-100] * len(prompt)
    return input_ids, labels


@right("answer_only")
def by_tensors(prompt, answer):
    input_ids = torch.tensor(prompt + answer)
    return input_ids, torch.where(torch.arange(len(input_ids)) < len(prompt), -100, input_ids)


@wrong("answer_only", says="the model learns to ask")
def everything(prompt, answer):
    return prompt + answer, prompt + answer


@wrong("answer_only", says="must be as many")
def short_labels(prompt, answer):
    return prompt + answer, answer


@wrong("answer_only", says="0 is a token")
def zeros(prompt, answer):
    return prompt + answer, [0] * len(prompt) + answer


@wrong("answer_only", says="minus 100")
def plus_100(prompt, answer):
    return prompt + answer, [100] * len(prompt) + answer


@wrong("answer_only", says="the wrong part is left out")
def prompt_only(prompt, answer):
    return prompt + answer, prompt + [-100] * len(answer)


@wrong("answer_only", says="labels are shifted by one")
def shifted(prompt, answer):
    return prompt + answer, ([-100] * len(prompt) + answer)[1:] + [-100]


@wrong("answer_only", says="one token too many")
def one_too_many(prompt, answer):
    return prompt + answer, [-100] * (len(prompt) + 1) + answer[1:]


@wrong("answer_only", says="one token too few")
def one_too_few(prompt, answer):
    masked = max(0, len(prompt) - 1)
    return prompt + answer, [-100] * masked + (prompt + answer)[masked:]


@wrong("answer_only", says="by place, not by number")
def by_number(prompt, answer):
    ids = np.array(prompt + answer)
    return ids, np.where(np.isin(ids, prompt), -100, ids)


@wrong("answer_only", says="must still read the prompt")
def prompt_unread(prompt, answer):
    return answer, answer


@wrong("answer_only", says="in the other order")
def other_order(prompt, answer):
    return [-100] * len(prompt) + answer, prompt + answer


@wrong("answer_only", says="-100 is a label")
def masked_on_both_sides(prompt, answer):
    labels = [-100] * len(prompt) + answer
    return labels, labels


@wrong("answer_only", says="Join lists with +")
def appended(prompt, answer):
    input_ids = list(prompt)
    input_ids.append(answer)
    return input_ids, [-100] * len(prompt) + answer


@wrong("answer_only", says="has the label -100")
def none_for_the_prompt(prompt, answer):
    return prompt + answer, [None] * len(prompt) + answer


@wrong("answer_only", says="not a mask of ones and zeros")
def a_mask(prompt, answer):
    return prompt + answer, [0] * len(prompt) + [1] * len(answer)


@wrong("answer_only", says="comes after the prompt")
def labels_of_the_answer_first(prompt, answer):
    return prompt + answer, answer + [-100] * len(prompt)


@wrong("answer_only", says="one number after the other")
def a_batch_of_one(prompt, answer):
    return torch.tensor([prompt + answer]), torch.tensor([[-100] * len(prompt) + answer])


@wrong("answer_only", says="changes its input")
def in_place(prompt, answer):
    labels = [-100] * len(prompt) + answer
    prompt += answer
    return prompt, labels


@wrong("answer_only", says="should be 2 things", plain=True)
def labels_alone(prompt, answer):
    return [-100] * len(prompt) + answer
