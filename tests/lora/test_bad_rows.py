"""Every row of our table of bad inputs has a test of its name."""

from __future__ import annotations

import re
from pathlib import Path

ROWS = """
    A A2 A3 B B2 C C2 C3 D E F F2 F3 F4 G G2 H H2 H3 I I2 J J2 J3 J4 J5 J6 J7 J8 J9 J10 J11 K K2 K3 L L2
    M M2 M3 M4 M5 M6 M7 M8 M9 M10 M11 N N2 O P P2 P3 Q R S T U V W
""".split()


def test_every_row_has_a_test():
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    found = {row for path in files for row in re.findall(r"^def test_row_([A-Z]\d*)_", path.read_text(), re.MULTILINE)}
    assert found == set(ROWS)
