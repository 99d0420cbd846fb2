"""Colab's packages in a folder of their own, to lie over this environment: python -m tests.elsewhere.colab FOLDER

Named by LORA_LAB_COLAB, the folder is used by test_colab.py. Torch, and whatever is not in colab.txt, stays this
environment's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).with_name("colab.txt")


def pins() -> dict[str, str]:
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def build(folder: Path) -> None:
    """Fill the folder, unless it was filled from these very pins. Raises CalledProcessError where pip fails."""
    stamp, wanted = folder / "colab.txt", PINS.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--progress-bar=off", "--disable-pip-version-check"]
    # --no-deps: what the others need is here already, and pip would bring a torch of several GB with them.
    subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(folder), "-r", str(PINS)], check=True)
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
