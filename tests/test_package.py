"""The package as a whole: light to import, importing one way, small, and free of the machine it was written on."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lora_lab.__main__ import COMMANDS
from lora_lab.render import MACHINE_PATH

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lora_lab"
# By name from the package down: "counting", "proofs.sizes".
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.stem.startswith("__")
}

PACKAGES = {"lora_lab", *(f"lora_lab.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))}
# A module imports only from those above it. A new module takes its place here, and in README's map where it is in it.
ORDER = """
    whole_file counting shapes flops memory count_command
    lowrank teacher_student serving corpus lessons reading_time query_language task_files peak_memory plain_errors
    result recorded hardware doctor render
    fused layers variants config matching record report adapters merging mixed_batch peft_format adapter_files storage
    combining hot_swap quantise training_variants chunked_loss
    families hub forecast models chat packing tasks generate scoring prediction export training_setup processes
    run_folder trainer finetune finetune_command pretrain model_card experiments
    runs short_runs measurements sweeps variant_costs
    figures figures_lowrank figures_results figures_scaling figures_counting figures_variants figures_breaks
    figures_merging figures_serving figures_conformance figures_hardware
    explorer explore_dial explore_live_dial explore_results explore_calculator explore_svd
    explore_diagram explore_training explore_hardware
    explorers figures_command live
    markup panel attempt exercises progress quizzes figures_practice practice
    proofs ledger figures_interview interview classroom
""".split()
# Known upward imports, both inside a function: the pretraining command ends by writing the model's card.
UPWARD = {("pretrain", "model_card")}

STANDARD_LIBRARY_ALONE = set(
    "whole_file counting shapes flops memory count_command lessons query_language plain_errors result".split()
)
LONGEST_MODULE = 400
# Lines that are not blank. DESIGN planned about 6,000 for the package; seven explorers, exact counting, the sweeps, the
# variants, and real size (hub, families, chat, packing, export, many processes) came to more. The rooms around it, and
# what the course says as functions (the exercises' checks, the sentences' proofs), are counted apart.
LONGEST = {"package": 12600, "hardware": 700, "interview": 1500, "classroom": 1700, "exercises": 3700, "proofs": 3300}
HEAVY = ("torch", "transformers", "peft", "matplotlib", "numpy")


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside a function, `lora_lab` ones by their full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or PACKAGE not in path.parents, f"{path.name}: write imports of this package in full"
            found |= {node.module} if node.level == 0 else set()
    return found


def loaded_by(statement: str) -> set[str]:
    """Which heavy packages a fresh Python holds after `statement`."""
    code = f"{statement}; import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    return set(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split())


def test_import_lora_lab_is_light():
    assert loaded_by("import lora_lab") == set()
    assert loaded_by("import lora_lab.__main__") == set()


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ALONE | {"doctor", "render"} & set(MODULES)))
def test_modules_that_any_python_can_import(name):
    assert loaded_by(f"import lora_lab.{name}") == set()


def test_figures_know_numbers_only():
    assert not {name.split(".")[0] for name in imports(MODULES["figures"])} & {"torch", "transformers", "peft"}
    assert "torch" not in loaded_by("import lora_lab.figures")


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ALONE & set(MODULES)))
def test_the_standard_library_is_enough_for(name):
    ours = {f"lora_lab.{other}" for other in STANDARD_LIBRARY_ALONE}
    assert {module.split(".")[0] for module in imports(MODULES[name]) - ours} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    room = name.split(".")[0]
    assert room in ORDER, f"{room} has no place in ORDER, the map of who may import whom"
    for other in sorted(module.split(".")[1] for module in imports(MODULES[name]) if module.startswith("lora_lab.")):
        if other in ORDER and other != room and (name, other) not in UPWARD:
            assert ORDER.index(other) < ORDER.index(room), f"{name} imports {other}, which stands below it in ORDER"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_one_idea(name):
    assert MODULES[name].read_text(encoding="utf-8").count("\n") <= LONGEST_MODULE, "two ideas: split it"


def test_the_package_stays_small():
    lines = dict.fromkeys(LONGEST, 0)
    for path in PACKAGE.rglob("*.py"):
        room = path.parent.name if path.parent != PACKAGE else "package"
        lines[room] += sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    assert {room: count for room, count in lines.items() if count > LONGEST[room]} == {}, f"cut something: {lines}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_used(command):
    run = subprocess.run(
        [sys.executable, "-m", "lora_lab", command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.startswith(f"usage: python -m lora_lab {command}"), run.stderr


# --- what is in the repository ----------------------------------------------------------------------------------------


@functools.cache
def repository() -> dict[str, str]:
    """Path -> text of every text file that git knows, or would know if it were added."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:  # an archive without .git
        every = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        names = [p.as_posix() for p in every if not any(part.startswith((".venv", "__py")) for part in p.parts)]
    texts = {}
    for name in names:
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return texts


def test_no_file_names_a_path_of_a_machine():
    found = [
        f"{name}: {line.strip()[:100]}"
        for name, text in repository().items()
        for line in text.splitlines()
        if MACHINE_PATH.search(re.sub(r"[A-Za-z0-9+/]{200,}={0,2}", "", line))  # pictures, in base 64
    ]
    assert found == []


def test_no_file_names_the_host_of_a_package_registry():
    dot = "."
    hosts = [
        f"pypi{dot}org",
        f"pythonhosted{dot}org",
        f"npmjs{dot}org",
        f"deb.debian{dot}org",
        f"conda.anaconda{dot}org",
    ]
    assert [(name, host) for name, text in repository().items() for host in hosts if host in text] == []


def test_every_requirement_is_pinned_and_the_package_comes_last():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
    assert wanted[-1] == "-e ."
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in wanted[:-1])
    assert "torch==2.13.0" in wanted


def test_what_is_imported_is_required():
    """Each package that code or a test imports stands in requirements.txt under its own name."""
    required = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    required = {name.lower().replace("_", "-") for name in required}
    required |= {"bitsandbytes"}  # used where somebody installed it
    required |= {"ipython", "httpx"}  # these come with ipykernel and huggingface_hub, whose names they are part of
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    tops = {name.split(".")[0] for path in files for name in imports(path)}
    local = {"lora_lab", "tests", "course", "setup_here"}
    local |= {name for path in (ROOT / "tests").rglob("*.py") for name in (path.stem, path.parent.name)}
    packages = importlib.metadata.packages_distributions()
    foreign = sorted(top for top in tops - local - sys.stdlib_module_names)
    assert len(foreign) > 10
    missing = [t for t in foreign if not {d.lower().replace("_", "-") for d in packages.get(t, [t])} & required]
    assert missing == []


def test_the_library_asks_for_no_newer_release_than_the_course_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(
        re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for dependency in project["dependencies"]:
        name, oldest = dependency.split(">=")
        assert [int(n) for n in oldest.split(".")] <= [int(n) for n in pins[name].split(".")]


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_style(words):
    """ruff is content, notebooks included: python -m ruff check, python -m ruff format"""
    environment = {**os.environ, "RUFF_NO_CACHE": "true"}
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
