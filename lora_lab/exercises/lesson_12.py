"""Checks of lesson 12, real hardware."""

from __future__ import annotations

from lora_lab.attempt import Attempt
from lora_lab.exercises import exercise


@exercise(
    "12",
    "the least time",
    difficulty=1,
    importance=3,
    minutes=4,
    hints=(
        "There are two times: operations over operations a second, and bytes over bytes a second.",
        "A card computes while it moves: the longer of the two times hides the shorter one, so take max(...).",
    ),
    expect=(
        "the sum of the two times: a card moves the next numbers while it computes with the last",
        "the shorter of the two: as if the slower of two that work side by side did not matter",
        "one of the two times alone, mostly the computing",
    ),
)
def least_seconds(attempt: Attempt) -> str:
    """The least time of an operation, from its work, its bytes, and a card's two speeds."""
    for flops, moved, peak, bandwidth in ((6e12, 5e9, 1.5e12, 4e9), (2e12, 7e9, 1e12, 2e9), (9e9, 4e9, 3e12, 5e11)):
        computing, moving = flops / peak, moved / bandwidth
        got = attempt.number(attempt(flops, moved, peak, bandwidth), "least_seconds")
        attempt.agree(
            got,
            max(computing, moving),
            {
                "that adds the two times: a card moves numbers while it computes, so the longer one hides the other.": (
                    computing + moving
                ),
                "that is the computing alone. Here the bytes take longer, and the longer decides.": computing,
                "that is the moving alone. Here the computing takes longer, and the longer decides.": moving,
                "that is the mean of the two times. They run side by side: the longer one decides.": (
                    (computing + moving) / 2
                ),
                "upside down: a time is work over speed.": max(peak / flops, bandwidth / moved),
                "upside down: a time is work over speed, not speed over work.": min(peak / flops, bandwidth / moved),
                "the speeds are crossed: operations belong over the peak, bytes over the bandwidth.": (
                    max(flops / bandwidth, moved / peak)
                ),
                "that is in milliseconds: asked are seconds.": 1e3 * max(computing, moving),
                "that multiplies the two times. They run side by side: the longer one decides.": computing * moving,
                "that is the intensity, operations for each byte. It says which of the two times is the longer one.": (
                    flops / moved
                ),
                "that is the speed that it reaches, in operations a second. Asked is the time.": (
                    min(peak, bandwidth * flops / moved)
                ),
            },
            case=f"{flops:g} operations and {moved:g} bytes",
        )
    return "Everything about the roofline is in that one max."


@exercise(
    "12",
    "nearly two thirds",
    difficulty=2,
    importance=3,
    minutes=6,
    hints=(
        "In full, whatever goes forward once comes back as twice as much: 3 of each. Which third does a frozen matrix "
        "save?",
        "Attention's products have no weight that could be frozen: all 3 of them stay. Frozen matrices keep 2 of 3.",
    ),
    expect=(
        "two thirds whatever the attention: its products were frozen too",
        "one third: the way back through the frozen matrices was left out",
        "the third is taken off attention, and not off the matrices",
    ),
)
def lora_over_full(attempt: Attempt) -> str:
    """LoRA's work over full fine-tuning's, from the forward work of the matrices and of attention's products."""
    for matrices, attention in ((10.0, 2.0), (4.0, 8.0), (10.0, 0.0)):
        full = 3 * (matrices + attention)
        got = attempt.number(attempt(matrices, attention), f"lora_over_full({matrices:g}, {attention:g})")
        attempt.agree(
            got,
            (2 * matrices + 3 * attention) / full,
            {
                "that is 2 of 3 of attention as well. It multiplies activations: nothing in it is frozen.": 2 / 3,
                "that leaves out the way back through the frozen matrices. The layers below need it.": (
                    (matrices + 3 * attention) / full
                ),
                "that is the forward pass alone: training also goes back through the matrices.": 1 / 3,
                "the third is taken off attention. It is the frozen matrices that need no gradient of their own.": (
                    (3 * matrices + 2 * attention) / full
                ),
                "attention goes forward only there. On the way back it takes twice as much.": (
                    (2 * matrices + attention) / full
                ),
                "attention is missing from the work in full: it takes 3 there, as with LoRA.": (
                    (2 * matrices + 3 * attention) / (3 * matrices)
                ),
                "attention is missing from LoRA's work: all 3 of it stay.": 2 * matrices / full,
                "upside down: LoRA's work over the work in full.": full / (2 * matrices + 3 * attention),
                "that is the share that is saved. Asked is the share that stays.": matrices / full,
                "that is LoRA's work itself. Divide it by the work in full.": 2 * matrices + 3 * attention,
                "that is over a forward pass. In full the step is worth three of them.": (
                    (2 * matrices + 3 * attention) / (matrices + attention)
                ),
                "attention is 2 in the work in full there: it takes 3, as with LoRA.": (
                    (2 * matrices + 3 * attention) / (3 * matrices + 2 * attention)
                ),
                "that is LoRA's way back alone: it goes forwards through everything as well.": (
                    (matrices + 2 * attention) / full
                ),
                "that is in per cent: asked is a share.": 100 * (2 * matrices + 3 * attention) / full,
            },
            case=f"{matrices:g} for the matrices and {attention:g} for attention",
        )
    return "Two thirds is where it starts; with long texts attention's share grows, and with it LoRA's."


@exercise(
    "12",
    "money",
    difficulty=1,
    importance=2,
    minutes=3,
    hints=(
        "How many tokens does one hour give, at so many a second? There are 3600 seconds in it.",
        "The price of the hour, over the tokens of the hour, is the price of one token. Asked are a million of them.",
    ),
    expect=(
        "the hour has 60 seconds, or 1",
        "the price of one token, or of a thousand",
        "upside down: tokens for the money",
    ),
)
def price_per_million(attempt: Attempt) -> str:
    """Money for a million tokens, from the price of an hour and the tokens in a second."""
    for price, speed in ((2.7, 500.0), (2.0, 12_000.0), (0.5, 90.0)):
        right = price / (speed * 3600) * 1e6
        got = attempt.number(attempt(price, speed), f"price_per_million({price}, {speed:g})")
        attempt.agree(
            got,
            right,
            {
                "the speed is for a second and the price for an hour: an hour has 3600 seconds.": price / speed * 1e6,
                "that hour has 60 seconds. It has 60 times 60.": price / (speed * 60) * 1e6,
                "that is an hour's price over a second's tokens: an hour has 3600 times as many.": price / speed,
                "that is in hundredths: asked is the price in the unit that it came in.": 100 * right,
                "that is the price of one token: asked is that of a million.": right / 1e6,
                "that is the price of a thousand tokens: asked is that of a million.": right / 1e3,
                "upside down: those are the millions of tokens that one unit of money buys.": 1 / right,
                "the more tokens a second, the cheaper each must be: divide by the speed.": (
                    price * speed * 3600 / 1e6
                ),
                "the price is divided by 3600 and multiplied again: that is the price for a million seconds.": (
                    price / 3600 * 1e6
                ),
                "that is the time for a million tokens, in hours. Multiply it by the price of an hour.": (
                    1e6 / (speed * 3600)
                ),
                "that is the time for a million tokens, in seconds, and no price yet.": 1e6 / speed,
                "that multiplies by 3600 where it should divide: more tokens come in an hour than in a second.": (
                    price * 3600 / speed * 1e6
                ),
            },
            case=f"{price} an hour and {speed:g} tokens a second",
        )
    return "Note what is not in it: the card's name. A dear card that is fast may be the cheap one."


@exercise(
    "12",
    "what cards tell one another",
    difficulty=2,
    importance=2,
    minutes=6,
    hints=(
        "The bytes are parameters times bytes_each. Cut them into as many parts as there are devices.",
        "First each device sends devices - 1 parts, to sum them; in the second as many, to share the sums.",
    ),
    expect=(
        "one round only: sums that nobody is told of",
        "all bytes to every other device, as if nothing were cut into parts",
        "divided by the number of devices, as if the links became faster",
    ),
)
def ring_seconds(attempt: Attempt) -> str:
    """Seconds in which so many devices sum their gradients in a ring, over links of that many bytes a second."""
    for parameters, each, devices, bandwidth in ((6e9, 4, 6, 1e9), (4_194_304, 2, 8, 5e8), (1e9, 4, 3, 2e9)):
        moved = parameters * each / bandwidth
        right = 2 * (devices - 1) / devices * moved
        got = attempt.number(attempt(parameters, each, devices, bandwidth), "ring_seconds")
        attempt.agree(
            got,
            right,
            {
                "that is one round. After summing, each device has one part of the sums: a second round shares them.": (
                    right / 2
                ),
                "each device sends a part at a time, a devices-th of the bytes: divide by the number of devices.": (
                    2 * (devices - 1) * moved
                ),
                "that sends all bytes to every other device, in one round. A ring sends parts, twice around.": (
                    (devices - 1) * moved
                ),
                "nearly: each device keeps its own part, so it sends devices - 1 parts in a round.": 2 * moved,
                "that sends all gradients once, to one other device.": moved,
                "that sends a part once. There are devices - 1 sendings, twice.": moved / devices,
                "that sends one part in each round. A round has devices - 1 of them.": 2 * moved / devices,
                "the bytes of one number are missing: bytes_each.": right / each,
                "bytes_each divides there: more bytes take longer.": right / each**2,
                "those are bits: the bandwidth is in bytes a second already.": 8 * right,
                "upside down: bytes over bytes a second are seconds.": 1 / right,
                "the fraction is upside down: (devices - 1) / devices of the bytes leave in a round.": (
                    2 * devices / (devices - 1) * moved
                ),
                "that is the bytes that a device sends. Divide by the bandwidth.": right * bandwidth,
            },
            case=f"{parameters:g} parameters on {devices} devices",
        )
    return "It hardly depends on the number of devices: with many of them it is twice the bytes over the bandwidth."
