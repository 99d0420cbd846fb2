"""`python -m tests.conformance`: which properties hold here and in peft; `--record` writes the results down."""

from __future__ import annotations

import argparse

from lora_lab import experiments
from tests.conformance import recording


def main(argv: list[str] | None = None) -> int:
    """Run every cell and print the table. Returns 1 if one of this package's cells fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write lora_lab/assets/results/conformance.json")
    args = parser.parse_args(argv)
    result = recording.run_all()
    print(recording.table(result["rows"]))
    if args.record:
        experiments.write(result, experiments.FOLDER / "conformance.json")
    return int(any(row["failed"] for row in result["rows"] if row["implementation"] == "lora_lab"))


if __name__ == "__main__":
    raise SystemExit(main())
