"""Lesson 12: answers to its exercises."""

from tests.mutants import right, wrong

# --- least_seconds -------------------------------------------------------------------------------------------------


@right("least_seconds")
def the_longer(flops, moved, peak, bandwidth):
    return max(flops / peak, moved / bandwidth)


@right("least_seconds")
def by_the_ridge(flops, moved, peak, bandwidth):
    return flops / peak if flops / moved > peak / bandwidth else moved / bandwidth


@wrong("least_seconds", says="adds the two times")
def the_sum(flops, moved, peak, bandwidth):
    return flops / peak + moved / bandwidth


@wrong("least_seconds", says="Here the computing takes longer")
def the_shorter(flops, moved, peak, bandwidth):
    return min(flops / peak, moved / bandwidth)


@wrong("least_seconds", says="Here the bytes take longer")
def computing_alone(flops, moved, peak, bandwidth):
    return flops / peak


@wrong("least_seconds", says="Here the computing takes longer")
def moving_alone(flops, moved, peak, bandwidth):
    return moved / bandwidth


@wrong("least_seconds", says="upside down")
def speed_over_work(flops, moved, peak, bandwidth):
    return max(peak / flops, bandwidth / moved)


@wrong("least_seconds", says="upside down")
def least_speed_over_work(flops, moved, peak, bandwidth):
    return min(peak / flops, bandwidth / moved)


@wrong("least_seconds", says="the speeds are crossed")
def crossed(flops, moved, peak, bandwidth):
    return max(flops / bandwidth, moved / peak)


@wrong("least_seconds", says="mean of the two")
def the_mean(flops, moved, peak, bandwidth):
    return (flops / peak + moved / bandwidth) / 2


@wrong("least_seconds", says="milliseconds")
def in_milliseconds(flops, moved, peak, bandwidth):
    return 1000 * max(flops / peak, moved / bandwidth)


@wrong("least_seconds", says="operations for each byte")
def the_intensity(flops, moved, peak, bandwidth):
    return flops / moved


@wrong("least_seconds", says="the speed that it reaches")
def the_speed(flops, moved, peak, bandwidth):
    return min(peak, flops / moved * bandwidth)


# --- lora_over_full ------------------------------------------------------------------------------------------------


@right("lora_over_full")
def two_and_three(matrices, attention):
    return (2 * matrices + 3 * attention) / (3 * (matrices + attention))


@right("lora_over_full")
def one_less_a_third(matrices, attention):
    return 1 - matrices / (matrices + attention) / 3


@wrong("lora_over_full", says="2 of 3 of attention as well", plain=True)
def always_two_thirds(matrices, attention):
    return 2 / 3


@wrong("lora_over_full", says="the way back through the frozen matrices")
def no_way_back(matrices, attention):
    return (matrices + 3 * attention) / (3 * (matrices + attention))


@wrong("lora_over_full", says="forward pass alone")
def forwards_only(matrices, attention):
    return (matrices + attention) / (3 * (matrices + attention))


@wrong("lora_over_full", says="taken off attention")
def off_attention(matrices, attention):
    return (3 * matrices + 2 * attention) / (3 * (matrices + attention))


@wrong("lora_over_full", says="attention goes forward only")
def attention_forwards(matrices, attention):
    return (2 * matrices + attention) / (3 * (matrices + attention))


@wrong("lora_over_full", says="missing from the work in full")
def full_without_attention(matrices, attention):
    return (2 * matrices + 3 * attention) / (3 * matrices)


@wrong("lora_over_full", says="missing from LoRA's work")
def lora_without_attention(matrices, attention):
    return 2 * matrices / (3 * (matrices + attention))


@wrong("lora_over_full", says="upside down")
def full_over_lora(matrices, attention):
    return 3 * (matrices + attention) / (2 * matrices + 3 * attention)


@wrong("lora_over_full", says="the share that is saved")
def saved(matrices, attention):
    return matrices / (3 * (matrices + attention))


@wrong("lora_over_full", says="per cent")
def in_per_cent(matrices, attention):
    return 100 * (2 * matrices + 3 * attention) / (3 * (matrices + attention))


@wrong("lora_over_full", says="LoRA's work itself")
def not_divided(matrices, attention):
    return 2 * matrices + 3 * attention


@wrong("lora_over_full", says="over a forward pass")
def over_forward(matrices, attention):
    return (2 * matrices + 3 * attention) / (matrices + attention)


@wrong("lora_over_full", says="attention is 2 in the work in full")
def full_attention_two(matrices, attention):
    return (2 * matrices + 3 * attention) / (3 * matrices + 2 * attention)


@wrong("lora_over_full", says="way back alone")
def backwards_only(matrices, attention):
    return (matrices + 2 * attention) / (3 * (matrices + attention))


# --- price_per_million ---------------------------------------------------------------------------------------------


@right("price_per_million")
def hours_times_price(price_per_hour, tokens_per_second):
    return 1e6 / tokens_per_second / 3600 * price_per_hour


@right("price_per_million")
def price_over_tokens(price_per_hour, tokens_per_second):
    millions = tokens_per_second * 60 * 60 / 1_000_000
    return price_per_hour / millions


@wrong("price_per_million", says="an hour has 3600 seconds")
def no_hour(price_per_hour, tokens_per_second):
    return price_per_hour / tokens_per_second * 1e6


@wrong("price_per_million", says="60 times 60")
def a_minute(price_per_hour, tokens_per_second):
    return price_per_hour / (tokens_per_second * 60) * 1e6


@wrong("price_per_million", says="price of one token")
def one_token(price_per_hour, tokens_per_second):
    return price_per_hour / (tokens_per_second * 3600)


@wrong("price_per_million", says="price of a thousand")
def a_thousand(price_per_hour, tokens_per_second):
    return price_per_hour / (tokens_per_second * 3600) * 1e3


@wrong("price_per_million", says="upside down")
def tokens_for_money(price_per_hour, tokens_per_second):
    return tokens_per_second * 3600 / 1e6 / price_per_hour


@wrong("price_per_million", says="divide by the speed")
def faster_is_dearer(price_per_hour, tokens_per_second):
    return price_per_hour * tokens_per_second * 3600 / 1e6


@wrong("price_per_million", says="in hours")
def only_hours(price_per_hour, tokens_per_second):
    return 1e6 / tokens_per_second / 3600


@wrong("price_per_million", says="in seconds, and no price")
def only_seconds(price_per_hour, tokens_per_second):
    return 1e6 / tokens_per_second


@wrong("price_per_million", says="where it should divide")
def hour_upside_down(price_per_hour, tokens_per_second):
    return price_per_hour / tokens_per_second * 3600 * 1e6


@wrong("price_per_million", says="an hour's price over a second's tokens")
def hour_over_second(price_per_hour, tokens_per_second):
    return price_per_hour / tokens_per_second


@wrong("price_per_million", says="in hundredths")
def in_cents(price_per_hour, tokens_per_second):
    return 100 * price_per_hour / (tokens_per_second * 3600) * 1e6


@wrong("price_per_million", says="it should be")
def a_thousand_million(price_per_hour, tokens_per_second):
    return price_per_hour / 3600 / tokens_per_second * 1e9


# --- ring_seconds --------------------------------------------------------------------------------------------------


@right("ring_seconds")
def two_rounds(parameters, bytes_each, devices, bandwidth):
    return 2 * (devices - 1) / devices * parameters * bytes_each / bandwidth


@right("ring_seconds")
def part_by_part(parameters, bytes_each, devices, bandwidth):
    part = parameters * bytes_each / devices
    return sum(part / bandwidth for _ in range(2 * (devices - 1)))


@wrong("ring_seconds", says="one round")
def one_round(parameters, bytes_each, devices, bandwidth):
    return (devices - 1) / devices * parameters * bytes_each / bandwidth


@wrong("ring_seconds", says="divide by the number of devices")
def not_cut(parameters, bytes_each, devices, bandwidth):
    return 2 * (devices - 1) * parameters * bytes_each / bandwidth


@wrong("ring_seconds", says="to every other device")
def to_everyone(parameters, bytes_each, devices, bandwidth):
    return (devices - 1) * parameters * bytes_each / bandwidth


@wrong("ring_seconds", says="keeps its own part")
def its_own_too(parameters, bytes_each, devices, bandwidth):
    return 2 * parameters * bytes_each / bandwidth


@wrong("ring_seconds", says="once, to one other device")
def once(parameters, bytes_each, devices, bandwidth):
    return parameters * bytes_each / bandwidth


@wrong("ring_seconds", says="bytes_each")
def no_bytes(parameters, bytes_each, devices, bandwidth):
    return 2 * (devices - 1) / devices * parameters / bandwidth


@wrong("ring_seconds", says="those are bits")
def in_bits(parameters, bytes_each, devices, bandwidth):
    return 2 * (devices - 1) / devices * parameters * bytes_each * 8 / bandwidth


@wrong("ring_seconds", says="upside down")
def bandwidth_over_bytes(parameters, bytes_each, devices, bandwidth):
    return bandwidth / (2 * (devices - 1) / devices * parameters * bytes_each)


@wrong("ring_seconds", says="fraction is upside down")
def fraction_upside_down(parameters, bytes_each, devices, bandwidth):
    return 2 * devices / (devices - 1) * parameters * bytes_each / bandwidth


@wrong("ring_seconds", says="sends one part in each round")
def one_part_a_round(parameters, bytes_each, devices, bandwidth):
    return 2 * parameters * bytes_each / devices / bandwidth


@wrong("ring_seconds", says="Divide by the bandwidth")
def bytes_only(parameters, bytes_each, devices, bandwidth):
    return 2 * (devices - 1) / devices * parameters * bytes_each
