"""One run in several processes, as `torchrun` and `accelerate launch` start them: which of them this is, how they wait
for each other, and what is said, once, when one of them fails or is lost. Thin over accelerate and torch.distributed.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

if TYPE_CHECKING:
    from lora_lab.shapes import Shape

# A lost process is noticed at once, by the launcher or the closed connection; this is for what may take long (a
# download that the others wait for).
PATIENCE = timedelta(hours=2)
FAILED = "lora_lab/failed"  # a key of the group's store: how many processes have failed so far


class Stopped(KeyboardInterrupt):
    """The launcher asked this process to end (SIGTERM): another one was lost, or the job's time is up."""


def launched() -> bool:
    """Whether a launcher started this process; the variables are torchrun's, which all launchers set."""
    return "RANK" in os.environ and "LOCAL_RANK" in os.environ and dist.is_available()


def count() -> int:
    """How many processes work on this run: 1 unless a launcher started more and they have met."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0 on; a launcher's word for it before they meet and after they part."""
    return dist.get_rank() if count() > 1 else int(os.environ["RANK"]) if launched() else 0


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return index() == 0


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        PartialState().wait_for_everyone()


def one_first() -> AbstractContextManager:
    """One process of each machine goes first, so that what it fetches from the hub lies there for the others."""
    return PartialState().local_main_process_first() if count() > 1 else nullcontext()


def from_main(value: Any) -> Any:
    """The main process's value, everywhere."""
    return broadcast_object_list([value])[0] if count() > 1 else value


def total(*numbers: float) -> list[float]:
    """Each number summed over the processes, in float64: the same everywhere."""
    if count() == 1:
        return list(numbers)
    numbers = torch.tensor(numbers, dtype=torch.float64, device=PartialState().device)
    dist.all_reduce(numbers)
    return numbers.tolist()


def share(rows: Sequence) -> Sequence:
    """This process's part of rows that all processes hold: every `count`-th; it may be empty."""
    return rows[index() :: count()]


def rows_each(batch_size: int) -> int:
    """How many of a batch's examples each process takes. Raises ValueError where they cannot be shared out equally."""
    each, rest = divmod(batch_size, count())
    if rest:
        near = " or ".join(str(n * count()) for n in (each, each + 1) if n)
        raise ValueError(
            f"batch_size {batch_size} cannot be shared equally by {count()} processes (it counts the examples of one "
            f"pass of all of them together): use {near}"
        )
    return each


def sharding(settings: dict[str, Any]):
    """How transformers is to spread the frozen base over the processes (FSDP2); None where each holds it whole.

    Each process reads its part alone, and the adapter beside it is on all of them. Raises ValueError where that cannot
    be done.
    """
    if not settings.get("fsdp"):
        return None
    if count() == 1:
        raise ValueError("fsdp spreads the frozen base over several processes, and this one is alone: start torchrun")
    if settings["method"] == "full":
        raise ValueError("fsdp spreads a frozen base, and method 'full' has none: use method 'lora'")
    if settings.get("quantise"):
        raise ValueError(
            f"fsdp cannot spread a base in 4 bits (quantise {settings['quantise']!r}): leave one of them out"
        )
    from transformers.distributed import DistributedConfig

    return DistributedConfig(fsdp_size=count())


def held(shape: Shape, cards: int) -> float:
    """The most of a base spread over `cards` that each of them holds at once, as a share of the whole.

    Its own part, and from the others two blocks (the one at work and the next, which is fetched meanwhile), embedding
    and head, which are never put away between the forward and the backward pass.
    """
    blocks = sum(m.parameters for m in shape.matrices)
    gathered = min(1, (shape.total - blocks * max(0, 1 - 2 / shape.layers)) / shape.total)
    return gathered + (1 - gathered) / cards


def lost(error: BaseException | None) -> bool:
    """Whether `error` says that another process is gone. Gloo says so only in words."""
    if isinstance(error, Stopped) or (count() > 1 and isinstance(error, dist.DistError)):
        return True
    return count() > 1 and isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def end_in_peace() -> None:
    """From now on no signal stops this process: it has failed, and what it cleans up and says shall be whole."""
    if launched() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def together(run: Callable) -> Callable:
    """Decorates a function with a `device` argument that a launcher may start in several processes.

    They meet before it runs and part after it. When it fails, the error of the process that failed first goes on to the
    caller, and the others end without a word (SystemExit): one failure, one message.
    """

    @functools.wraps(run)
    def joined(*args, **kwargs):
        if not launched() or dist.is_initialized():  # alone, or inside a program that takes care of its processes
            return run(*args, **kwargs)
        bound = inspect.signature(run).bind(*args, **kwargs)
        bound.apply_defaults()
        device = str(bound.arguments["device"])
        before = _listen()
        try:
            _meet(device)
            result = run(*args, **kwargs)
        except BaseException as error:
            end_in_peace()
            if not _first_to_fail():
                raise SystemExit(1) from error
            raise
        for number, handler in before.items():
            signal.signal(number, handler)
        PartialState().destroy_process_group()
        return result

    return joined


def _meet(device: str) -> None:
    """Start the process group: NCCL where each process has a GPU of its own, gloo on a CPU."""
    cpu = device == "cpu" or not torch.cuda.is_available()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    PartialState._reset_state()  # what an earlier run in this process left there
    PartialState(cpu=cpu, timeout=PATIENCE)
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r} with several processes: use cuda, and each takes a GPU of its own, or cpu")
    if not cpu and here > torch.cuda.device_count():
        raise ValueError(
            f"{here} processes were started on a machine with {torch.cuda.device_count()} GPUs: start one for each"
        )


def _listen() -> dict[int, Any]:
    """Turn the first SIGINT or SIGTERM into an exception and the later ones into nothing; returns the old handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def stop(number, _):
        end_in_peace()
        raise Stopped if number == signal.SIGTERM else KeyboardInterrupt

    return {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}


def _first_to_fail() -> bool:
    """Whether no other process has failed before this one; also where nobody is left to be asked."""
    if not dist.is_initialized():
        return os.environ["RANK"] == "0"
    try:
        return dist.distributed_c10d._get_default_store().add(FAILED, 1) == 1
    except RuntimeError:  # the store went with the process or the machine that held it
        return True
