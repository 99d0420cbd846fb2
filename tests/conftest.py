"""What all tests share: the folder of outside data, hypothesis' settings, and a CI where nothing may be skipped."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# No deadline and no word about slow examples: the first one pays for an import, machines differ, and one may be busy.
# The same examples every time.
PATIENT = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("course", derandomize=True, **PATIENT)
# pytest --hypothesis-profile=long: other examples each time, and many (8 minutes for tests/lora/test_sequences.py).
hypothesis.settings.register_profile("long", **PATIENT, max_examples=1500, stateful_step_count=40)
hypothesis.settings.load_profile("course")

NO_SKIP = bool(os.environ.get("LORA_LAB_NO_SKIP"))


def pytest_terminal_summary(terminalreporter):
    """The last lines of a run: how many of the exercises' wrong answers were refused by name."""
    reports = [(kind, report) for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    mutants = [kind for kind, report in reports if "::test_mutants_are_killed_by_name[" in report.nodeid]
    if mutants:
        killed = mutants.count("passed")
        terminalreporter.write_line(f"mutants killed: {killed} of {len(mutants)} ({killed / len(mutants):.0%})")


@pytest.fixture(scope="module")
def one_thread():
    """Tiny matrices gain nothing from a second thread, and one thread adds in the same order every time."""
    import torch  # here: some tests are of code that needs no torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def outside_data() -> Path:
    """The folder named by LORA_LAB_DATA: text and models that others made, which this repository does not carry."""
    folder = os.environ.get("LORA_LAB_DATA")
    if not folder:
        pytest.skip("LORA_LAB_DATA is not set: it names the folder of outside text and models")
    if not Path(folder).is_dir():
        pytest.fail(f"LORA_LAB_DATA names {folder}, which is no folder")
    return Path(folder)


def _fail_if_skipped(report) -> None:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"LORA_LAB_NO_SKIP is set, so a skipped test is a failure. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _fail_if_skipped(report)
    return report
