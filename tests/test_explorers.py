"""What all explorers share: one figure, one picture, controls that cannot be wrong, and a door to each."""

from __future__ import annotations

import asyncio
import io
import threading
import time

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from lora_lab import explorer, explorers, figures, render
from lora_lab.explorer import Explorer, compare, menu, slider, stops


def small(power=2, x=4, lock=None, move=None):
    """A dot on a line: power chooses the line, x the place on it, and the colour changes nothing but a word."""
    figure, (axes,) = figures.new_figure(4, 2.5)
    axes.set(xlim=(0, 8), ylim=(0, 64))
    (dot,) = axes.plot([], [], "o", animated=True)

    def follow(power: int, x: float, colour: str) -> tuple[str, str]:
        dot.set_data([x], [x**power])
        return f"{x:g} to the power {power} is {x**power:g} <{colour}>.", figures.table([{"x": x, "y": x**power}])

    controls = {
        "power": stops("power", "no unit", [1, 2, 4], power),
        "x": slider("place", "cm", 0.0, 8.0, x, 0.5),
        "colour": menu("colour", [("rot", "red"), ("blau", "blue")], "red"),
    }
    return Explorer(figure, controls, move or follow, "A dot on a curve.", lock)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def shown(explorer: Explorer) -> list:
    """The controls that the learner sees."""
    return list(explorer.box.children[0].children[0].children)


def test_each_move_changes_the_picture_and_coming_back_restores_it():
    one = small()
    seen = [one.image.value]
    for x in (0.5, 3, 8):
        one.controls["x"].value = x
        seen.append(one.image.value)
    assert len(set(seen)) == 4
    one.controls["x"].value = 4
    assert one.image.value == seen[0]


def test_a_move_draws_on_the_same_figure_in_the_same_places():
    one = small()
    (axes,) = one.figure.axes
    place, artists, size = axes.get_position().bounds, len(axes.get_children()), pixels(one.image.value).shape
    one.controls["x"].value = 8
    assert one.figure.axes == [axes] and axes.get_position().bounds == place and len(axes.get_children()) == artists
    assert pixels(one.image.value).shape == size
    assert (one.image.layout.width, one.image.layout.height) == ("400px", "250px")


def test_the_live_picture_is_the_static_picture_to_the_pixel():
    one = small()
    one.controls["x"].value = 2.5
    assert np.array_equal(pixels(one.image.value), pixels(figures.png(one.figure, dpi=explorer.DPI)))


def test_the_finding_and_its_table_follow_and_are_escaped():
    one = small()
    one.controls["x"].value = 3
    assert one.text == "3 to the power 2 is 9 <red>."
    assert one.finding.value.removeprefix(explorer.CLOSE) == "<b>3 to the power 2 is 9 &lt;red&gt;.</b></div>"
    assert ">9.0</td>" in one.detail.value


def test_controls_say_what_they_are_and_in_which_unit_and_answer_while_they_move():
    controls = small().controls
    assert [c.description for c in controls.values()] == ["power (no unit)", "place (cm)", "colour"]
    assert isinstance(slider("rank", "directions", 1, 64, 8), ipywidgets.IntSlider)
    assert isinstance(controls["x"], ipywidgets.FloatSlider) and controls["x"].readout_format == ".1f"
    assert controls["x"].continuous_update and controls["power"].continuous_update


def test_reset_puts_every_control_back():
    one = small()
    picture = one.image.value
    one.controls["power"].value, one.controls["x"].value, one.controls["colour"].value = 1, 1.5, "blue"
    assert one.image.value != picture
    one.reset_button.click()
    assert {name: c.value for name, c in one.controls.items()} == {"power": 2, "x": 4, "colour": "red"}
    assert one.image.value == picture


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"x": 9}, "place is 9, but must be 0 to 8"),
        ({"power": 3}, r"power is 3, but must be one of \[1, 2, 4\]"),
        ({"lock": {"x": -1}}, "x is -1, but must be 0 to 8"),
        ({"lock": {"colour": "green"}}, r"colour is 'green', but must be one of \['red', 'blue'\]"),
        ({"lock": {"x": (4, 9)}}, r"x cannot be limited to \(4, 9\): it goes from 0 to 8"),
        ({"lock": {"power": (1, 3)}}, r"power cannot be limited to \(1, 3\)"),
        ({"lock": {"pwer": 1}}, "no control 'pwer': there are power, x, colour; did you mean 'power'?"),
    ],
)
def test_what_a_control_cannot_take_is_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        small(**given)


def test_a_slider_cannot_leave_its_range():
    one = small()
    one.controls["x"].value = 100
    assert one.controls["x"].value == 8 and one.text.startswith("8 ")


def test_a_teacher_limits_fixes_and_hides():
    one = small(lock={"x": (1, 3), "power": 4, "colour": None})
    x, power = one.controls["x"], one.controls["power"]
    assert (x.min, x.max, x.value) == (1, 3, 3)  # 4, where it started, is not allowed: the nearest is
    assert power.value == 4 and power.disabled and not x.disabled
    assert shown(one) == [power, x]
    assert one.text == "3 to the power 4 is 81 <red>."
    x.value = 1
    one.reset()
    assert (x.value, power.value) == (3, 4)


def test_stops_and_menus_are_limited_to_what_lies_between():
    one = small(power=4, lock={"power": (1, 2), "colour": ("blue", "blue")})
    assert [value for _, value in one.controls["power"].options] == [1, 2] and one.controls["power"].value == 1
    assert one.controls["colour"].value == "blue"
    assert small(power=2, lock={"power": (2, 4)}).controls["power"].value == 2


def test_displaying_gives_the_widgets_and_a_picture_with_alt_text(monkeypatch):
    calls = []
    monkeypatch.setattr(explorer, "display", lambda data, raw, metadata: calls.append((data, metadata)))
    one = small()
    one._ipython_display_()
    ((data, metadata),) = calls
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == one.box.model_id
    assert len(data["image/png"]) > 1000
    assert metadata["image/png"] == {"alt": "A dot on a curve. 4 to the power 2 is 16 <red>.", "width": 400}
    assert data["text/plain"] == metadata["image/png"]["alt"]


# --- a move that goes on by itself -----------------------------------------------------------------------------------


def counting(power, x, colour):
    for i in range(5):
        yield f"{x:g}, part {i}.", ""


def test_without_a_kernel_a_move_in_parts_ends_at_once():
    assert small(move=counting).text == "4, part 4."


def test_with_a_kernel_the_first_part_comes_at_once_and_the_next_move_ends_the_rest():
    async def kernel():
        one, seen = small(move=counting), []
        one.finding.observe(lambda change: seen.append(one.text), "value")
        assert one.text == "4, part 0."
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        one.controls["x"].value = 5
        await one.task
        return seen

    seen = asyncio.run(kernel())
    old = [text for text in seen if text.startswith("4")]
    assert 0 < len(old) < 4
    assert seen[len(old) :] == [f"5, part {i}." for i in range(5)]


@pytest.mark.parametrize(("rendering", "shown"), [(False, "4, part 0."), (True, "4, part 4.")])
def test_a_learner_sees_it_at_once_and_the_static_picture_is_of_the_end(monkeypatch, rendering, shown):
    calls = []
    monkeypatch.setattr(explorer, "display", lambda data, raw, metadata: calls.append(data["text/plain"]))
    if rendering:
        monkeypatch.setenv(render.RENDERING, "yes")

    async def kernel():
        one = small(move=counting)
        one._ipython_display_()
        return one.text

    assert asyncio.run(kernel()) == "4, part 4."
    assert calls == [f"A dot on a curve. {shown}"]


def test_a_move_from_another_thread_waits_for_its_turn_and_ends_the_old():
    """JupyterLab has moves answered by a second thread while a cell runs, the one that displays for instance."""
    inside, clashes = [], []

    def slow(power, x, colour):
        for i in range(4):
            clashes.extend(inside)
            inside.append(x)
            time.sleep(0.02)
            inside.pop()
            yield f"{x:g}, part {i}.", ""

    async def kernel():
        one = small(move=slow)
        thread = threading.Timer(0.03, lambda: setattr(one.controls["x"], "value", 5))
        thread.start()
        one.finish()
        thread.join()
        return one.text

    assert asyncio.run(kernel()) == "5, part 3." and clashes == []


# --- two side by side -------------------------------------------------------------------------------------------------


def test_what_differs_at_the_start_is_compared_and_the_rest_moves_together():
    one, other = small(power=1), small(power=2)
    both = compare(one, other)
    assert both.linked == ["x", "colour"]
    one.controls["x"].value = 3
    other.controls["colour"].value = "blue"
    assert (one.text, other.text) == ("3 to the power 1 is 3 <blue>.", "3 to the power 2 is 9 <blue>.")
    one.controls["power"].value = 4
    assert other.controls["power"].value == 2
    other.reset()
    assert one.controls["x"].value == 4


def test_the_linked_controls_can_be_chosen_and_both_pictures_fit():
    one, other = small(x=1), small(x=8)
    compare(one, other, link=["x"])
    assert other.controls["x"].value == 1
    other.controls["x"].value = 5
    assert one.controls["x"].value == 5
    one.controls["power"].value = 1
    assert other.controls["power"].value == 2
    assert one.image.layout.width == other.image.layout.width == "280px"


def test_a_comparison_without_a_kernel_is_both_pictures(monkeypatch):
    calls = []
    monkeypatch.setattr(explorer, "display", lambda data, raw, metadata: calls.append((data, metadata["image/png"])))
    compare(small(x=1), small(x=2))._ipython_display_()
    ((data, metadata),) = calls
    assert metadata["width"] == 560
    assert "1 to the power 2 is 1" in metadata["alt"] and "2 to the power 2 is 4" in metadata["alt"]


def test_only_explorers_of_a_kind_are_compared():
    figure, _ = figures.new_figure()
    other = Explorer(figure, {"rank": slider("rank", "", 1, 2, 1)}, lambda rank: ("", ""), "")
    with pytest.raises(ValueError, match="one has power, x, colour; the other rank"):
        compare(small(), other)
    with pytest.raises(ValueError, match="no control 'rank'"):
        compare(small(), small(), link=["rank"])


# --- the front door ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", explorers.MODULES)
def test_each_explorer_is_one_call(name):
    made = getattr(explorers, name)()
    assert isinstance(made, Explorer) and made.text.endswith(".") and made.summary.endswith(".")
    assert bytes(made.image.value).startswith(b"\x89PNG")
    assert all(0 < len(control.description) <= 24 for control in made.controls.values()), "a longer label is cut"
    assert "<t" in made.detail.value, "no table beside the picture"


def test_an_explorer_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="no explorer 'swd': there are compare, "):
        explorers.swd  # noqa: B018
    assert set(explorers.MODULES) < set(dir(explorers))
