"""Build every explorer of the course, move each of its controls to both ends, and put them back: as a program.

Exits with what did not follow, or needs JavaScript of its own, by name. test_colab.py runs it on an older ipywidgets.
"""

from __future__ import annotations

import sys

import ipywidgets

from lora_lab import explorers


def ends(control) -> list:
    """Two values that the control can take, neither being where it stands if it has three."""
    if isinstance(control, ipywidgets.Text | ipywidgets.Textarea):
        return [control.value + " and"]
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return [values[0], values[-1]]
    if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        return [not control.value]
    return [control.min, control.max]


def foreign(widget: ipywidgets.Widget) -> set[str]:
    """JavaScript modules, of this widget and those in it, that not every front end of Jupyter brings."""
    core = {"@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output"}
    found = {widget._view_module, widget._model_module} - {None, *core}
    for child in getattr(widget, "children", ()):
        found |= foreign(child)
    return found


def still(name: str) -> list[str]:
    """What is wrong: controls that change neither words, table nor picture, or cannot be put back; foreign widgets."""
    made = getattr(explorers, name)()
    start = {key: control.value for key, control in made.controls.items()}
    found = [f"{name}: its widgets need {module}" for module in foreign(made.box)]
    for key, control in made.controls.items():
        seen = {(made.text, made.detail.value, bytes(made.image.value))}
        for value in ends(control):
            control.value = value
            made.finish()
            seen.add((made.text, made.detail.value, bytes(made.image.value)))
        if len(seen) == 1:
            found.append(f"{name}: nothing follows {key}")
        made.reset_button.click()
        made.finish()
        if {key: control.value for key, control in made.controls.items()} != start:
            found.append(f"{name}: {key} is not put back")
    return found


if __name__ == "__main__":
    wrong = [line for name in explorers.MODULES for line in still(name)]
    print(f"ipywidgets {ipywidgets.__version__}: {len(explorers.MODULES)} explorers moved")
    sys.exit("\n".join(wrong) or None)
