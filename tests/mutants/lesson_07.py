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
