"""`python -m lora_lab COMMAND ...`: each command is one module with `arguments(parser)` and `main(args)`."""

from __future__ import annotations

import argparse
import atexit
import importlib
import os
import sys
from typing import NoReturn

from lora_lab.plain_errors import plainly

COMMANDS = {
    "doctor": ("lora_lab.doctor", "what this machine has, and what works without the rest"),
    "count": ("lora_lab.count_command", "count LoRA's parameters, bytes and FLOPs on a model"),
    "look": ("lora_lab.forecast", "what a model of the hub is, weighs and needs, before it is downloaded"),
    "finetune": ("lora_lab.finetune_command", "fine-tune a language model with LoRA (or in full)"),
    "generate": ("lora_lab.generate", "write text with a model and, if given, an adapter"),
    "export": ("lora_lab.export", "merge an adapter and write a plain Hugging Face folder"),
    "figures": ("lora_lab.figures_command", "redraw every picture in figures/"),
    "sweep": ("lora_lab.sweeps", "run an experiment behind a lesson and record its result"),
    "cheatsheet": ("lora_lab.interview.sheet", "write the one-page cheat sheet, to print"),
    "render": ("lora_lab.render", "run the notebooks and keep their outputs"),
    "classroom": ("lora_lab.classroom", "make handouts, slides, plans and homework for a class"),
    "mark": ("lora_lab.classroom.marking", "mark a folder of homework, each in a process of its own"),
    "pretrain": ("lora_lab.pretrain", "train the embedded base model from open text"),
}

UNWRITTEN = 120  # the status with which Python ends where it could not write what was printed


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. An error meant for people is one sentence, never a traceback."""
    parser = argparse.ArgumentParser(prog="python -m lora_lab", description="LoRA Lab's commands.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    argv = sys.argv[1:] if argv is None else argv
    for name, (module, summary) in COMMANDS.items():
        sub = parsers.add_parser(name, help=summary, description=summary)
        if argv[:1] == [name]:  # import only the command that was asked for
            importlib.import_module(module).arguments(sub)
    args = parser.parse_args(argv)
    try:
        return plainly(lambda: importlib.import_module(COMMANDS[args.command][0]).main(args))
    except SystemExit as silent:  # of several processes: another one says what went wrong
        return silent.code


def leave(status: int) -> NoReturn:
    """End this process with `status`; one of several, as torchrun starts them, ends without Python's own dismantling.

    A thread of gloo or of autograd may still hold a tensor then. As it lets go it takes the process down (SIGABRT,
    pytorch issue 190489), and the launcher calls a run failed whose files are all written.
    """
    if "RANK" not in os.environ:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads any more, or a full disk
            status = status or UNWRITTEN
    os._exit(status)


if __name__ == "__main__":
    leave(main())
