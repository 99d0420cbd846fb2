"""The fast part of the suite on other versions of torch and its companions, each set in an environment of its own.

    python -m tests.versions --torch 2.11.0
    python -m tests.versions --torch newest --transformers 5.17.0
    python -m tests.versions --lowest                           every lower bound of pyproject.toml
    python -m tests.versions --torch 2.11.0 -x tests/lora       further words go to pytest

Not part of `.ci/run`: an environment takes minutes, and several GB where torch's CPU index is out of reach. It is made
once, as `.venv-torch-2.11.0` beside `.venv` (or where `--at` says), and used again until it is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

import course
import setup_here

ROOT = Path(__file__).parent.parent
# What depends on torch or transformers and takes minutes: no notebooks, no browser, no class of learners.
FAST = [
    "tests/lora",
    "tests/counting",
    "tests/finetune",
    "tests/families",
    "tests/hub",
    "tests/conformance",
    "tests/tasks",
    "tests/base",
    "tests/test_quantise.py",
    "tests/test_serving.py",
    "tests/test_experiments.py",
    "tests/test_explore_live_dial.py",
    "tests/test_live.py",
]
# transformers says itself which versions of these it goes with.
OF_TRANSFORMERS = ("tokenizers", "huggingface_hub")


def pin(name: str, version: str) -> str:
    return name if version == "newest" else f"{name}=={version}"


def others(requirements: str, chosen: dict[str, str]) -> list[str]:
    """The lines of requirements.txt that stay: all but those that `chosen` (name -> version) replaces.

    >>> pins = "torch==2.13.0\\ntransformers==5.23.0\\ntokenizers==0.23.3\\nnumpy==2.4.6  # why\\n-e .\\n"
    >>> others(pins, {"torch": "2.11.0", "transformers": "5.17.0"})
    ['numpy==2.4.6', '-e .']
    """
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    replaced = {*chosen, *(OF_TRANSFORMERS if "transformers" in chosen else ())}
    return [line for line in lines if line and line.split("==")[0] not in replaced]


def make(folder: Path, python: str, chosen: dict[str, str]) -> Path:
    """The environment's Python; what is already in it stays. Raises CalledProcessError where pip fails."""
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not inside.exists():
        if python == sys.executable:
            venv.create(folder, with_pip=True)
        else:
            subprocess.run([python, "-m", "venv", str(folder)], check=True)
    done = folder / "versions.json"
    wanted = [pin(name, version) for name, version in chosen.items()]
    wanted += others((ROOT / "requirements.txt").read_text(encoding="utf-8"), chosen)
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != wanted:
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--progress-bar=off", "--disable-pip-version-check"]
        cpu = course.torch_build(None, platform.system(), course.nvidia_driver()) == "cpu"
        if cpu and "torch" in chosen and course.reachable(course.TORCH_CPU_INDEX + "/torch/"):
            torch = pin("torch", chosen["torch"])
            subprocess.run([*pip, "--no-deps", "--index-url", course.TORCH_CPU_INDEX, torch], check=True, cwd=ROOT)
        subprocess.run([*pip, *(word for line in wanted for word in line.split())], check=True, cwd=ROOT)
        done.write_text(json.dumps(wanted), encoding="utf-8")
    return inside


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options (words for pytest in `words`), and name -> version of what is not as requirements.txt has it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", help='a version, or "newest"')
    parser.add_argument("--transformers", help='a version, or "newest"; without it the pinned one')
    parser.add_argument("--lowest", action="store_true", help="the oldest version of everything that will do")
    parser.add_argument("--python", default=sys.executable, help="the Python to make the environment with")
    parser.add_argument("--at", type=Path, help="the environment's folder")
    args, args.words = parser.parse_known_args(argv)
    chosen = setup_here.needs() if args.lowest else {}
    chosen |= {name: getattr(args, name) for name in ("torch", "transformers") if getattr(args, name)}
    if not chosen:
        parser.error("say which: --torch 2.11.0, --transformers 5.17.0 or --lowest")
    return args, chosen


def main(argv: list[str] | None = None) -> int:
    args, chosen = parse(sys.argv[1:] if argv is None else argv)
    name = "lowest" if args.lowest else "-".join(f"{package}-{version}" for package, version in chosen.items())
    inside = make((args.at or ROOT / f".venv-{name}").absolute(), args.python, chosen)
    names = ["torch", "transformers", "peft", "accelerate", "numpy"]
    said = f"import sys, importlib.metadata as m; print(sys.version[:7], *[n + ' ' + m.version(n) for n in {names}])"
    subprocess.run([str(inside), "-c", said], check=True)
    words = args.words
    if not [word for word in words if not word.startswith("-")]:
        words = [*words, *(path for path in FAST if (ROOT / path).exists())]
    env = {name: value for name, value in os.environ.items() if name != "LORA_LAB_NO_SKIP"}
    env.setdefault("OMP_NUM_THREADS", "1")
    return subprocess.run([str(inside), "-m", "pytest", "-q", *words], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
