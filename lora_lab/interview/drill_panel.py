"""A drill on the page: a box to type into, the verdict, the way, other numbers."""

from __future__ import annotations

import random

from lora_lab.attempt import Verdict
from lora_lab.interview import drills
from lora_lab.markup import Html, join, prose, tag


class DrillPanel:
    """A drill with a box to type into: Enter or Check judges it, Another draws new numbers, the way can be shown.

    `check(value)` judges without the widgets; `drill` is the drill that is on.
    """

    def __init__(self, drill: drills.Drill) -> None:
        import ipywidgets

        from lora_lab import panel

        self.panel = panel
        self.head, self.said = panel.words(), panel.words()
        layout = ipywidgets.Layout(width="260px")
        self.given = ipywidgets.Text(
            description="Answer", placeholder="a number", continuous_update=False, layout=layout
        )
        self.unit = ipywidgets.Label()
        self.given.observe(lambda change: change["new"].strip() and self.judge(), names="value")
        self.buttons = [
            panel.button("Check", self.judge),
            panel.button("Show the way", self.show_way),
            panel.button("Another", self.another),
        ]
        self.box = panel.column(self.head, panel.row(self.given, self.unit), panel.row(*self.buttons), self.said)
        self.put(drill)

    def put(self, drill: drills.Drill) -> None:
        """Ask this drill."""
        self.drill = drill
        self.given.value = ""
        self.unit.value = drill.unit
        self.panel.say(self.head, tag("p", tag("b", drills.KINDS[drill.kind])), tag("p", prose(drill.text)))
        self.panel.say(self.said)

    def check(self, value: object) -> Verdict:
        """Judge a value, print the message, and return the verdict."""
        return self.drill.check(value)

    def judge(self) -> None:
        """Judge what stands in the box."""
        self.panel.say(self.said, tag("p", prose(drills.judge(self.drill, self.given.value).message)))

    def show_way(self) -> None:
        """Show the worked solution."""
        self.panel.say(self.said, tag("p", prose(self.drill.solution)))

    def another(self) -> None:
        """Draw other numbers of the same kind."""
        self.put(drills.make(self.drill.kind, random.randrange(10**6)))
        self.panel.focus(self.given)

    def twin(self) -> Html:
        """The drill with its solution folded, for readers without a kernel."""
        way = tag("details", tag("summary", "The way"), tag("p", prose(self.drill.solution)))
        return join([tag("p", tag("b", drills.KINDS[self.drill.kind])), tag("p", prose(self.drill.text)), way])

    def _ipython_display_(self) -> None:
        self.panel.show(self.box, self.twin(), self.drill.text)
