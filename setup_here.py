#!/usr/bin/env python3
"""The course in the Python that runs this, where course.py's own .venv does not fit. Standard library alone.

    python setup_here.py            install what is missing or too old, and leave the rest (Colab, a hub's kernel)
    python setup_here.py --check    only say what that would be
    python setup_here.py --exact    all of requirements.txt, to the version (an image: Binder, Docker)

The first cell of every lesson runs it where `lora_lab` cannot be imported. What is too old is judged by the lower
bounds in pyproject.toml; what is good enough is pinned while pip works, so that it stays as it is.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # so that `import lora_lab` works in this process, and `course` now

import course  # noqa: E402

Run = Callable[[list[str]], int]


def needs() -> dict[str, str]:
    """Package -> lowest version that will do: what `lora_lab` needs, and what its lessons do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["lessons"]
    return dict(line.split(">=") for line in lines)


def parts(version: str) -> tuple[int, ...]:
    """The numbers of a release, to compare by: "2.11.0+cu128" is (2, 11, 0)."""
    return tuple(int(n) for n in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def lacking(lowest: dict[str, str], version: Callable[[str], str | None] = installed) -> dict[str, str]:
    """What of `lowest` is not there, or older."""
    return {name: low for name, low in lowest.items() if (have := version(name)) is None or parts(have) < parts(low)}


def call(command: list[str]) -> int:
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode


def pip(*words: str, run: Run = call) -> None:
    """Raises CourseError where pip fails; what it printed stands above."""
    options = ["--quiet", "--progress-bar=off", "--disable-pip-version-check", "--no-input"]
    if run([sys.executable, "-m", "pip", "install", *options, *words]):
        raise course.CourseError(
            f"pip could not install {' '.join(words)}; it says why above. Nothing of the course was changed."
        )


def cpu_torch(pin: str, run: Run = call) -> bool:
    """Torch's CPU build from its own index, where there is no NVIDIA driver and the index answers."""
    if course.torch_build(None, platform.system(), course.nvidia_driver()) != "cpu":
        return False
    if not course.reachable(course.TORCH_CPU_INDEX + "/torch/"):
        return False
    pip("--index-url", course.TORCH_CPU_INDEX, pin, run=run)
    return True


def exact(run: Run = call) -> None:
    """requirements.txt into this Python, with torch's CPU build where that can be had."""
    pin = course.torch_pin()
    if pin and installed("torch") is None:
        cpu_torch(pin, run)
    pip("-r", "requirements.txt", run=run)
    course.quiet_lab(Path(sys.prefix))


def fill_up(run: Run = call, version: Callable[[str], str | None] = installed) -> list[str]:
    """Install what is missing or too old, keep every other version, and return what was installed."""
    lowest = needs()
    missing = lacking(lowest, version)
    if not missing:
        return []
    print("Installing what this Python lacks:", ", ".join(f"{name} {low} or newer" for name, low in missing.items()))
    if "torch" in missing and version("torch") is None and cpu_torch(f"torch>={missing['torch']}", run):
        missing.pop("torch")
    kept = [f"{name}=={version(name)}" for name in lowest if name not in missing and version(name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "keep.txt"
        constraints.write_text("\n".join(kept), encoding="utf-8")
        pip(*(f"{name}>={low}" for name, low in missing.items()), "-c", str(constraints), run=run)
    return list(missing)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="install nothing")
    parser.add_argument("--exact", action="store_true", help="all of requirements.txt")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        course.check_python()
        if args.check:
            print("\n".join(f"{name}>={low}" for name, low in lacking(needs()).items()) or "Nothing is missing.")
        elif args.exact:
            exact()
        else:
            fill_up()
    except course.CourseError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def here() -> None:
    """For the first cell of a lesson: fill up, and let this kernel and the programs it starts find the course.

    Raises CourseError with a way forward; nothing is printed where there was nothing to do.
    """
    course.check_python()
    if (course.VENV / "course.json").is_file():
        raise course.CourseError(
            f"The course's own environment is {course.VENV}, and this kernel is another one: choose that one (VS Code: "
            "Select Kernel, Python Environments; JupyterLab: start it by  python course.py), then run the cell again."
        )
    before = set(sys.modules)
    done = fill_up()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    stale = [name for name in done if {"pillow": "PIL"}.get(name, name) in before]
    if stale:
        print(f"Restart the kernel, then run this cell again: an older {', '.join(stale)} was already loaded.")


if __name__ == "__main__":
    sys.exit(main())
elif __name__ == "lesson":
    here()
