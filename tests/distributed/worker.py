"""`python -m lora_lab ...` as one of several processes, with a fault in it: `worker.py FAULT RANK COUNT finetune ...`.

The fault strikes process RANK at its COUNT-th step (or checkpoint): "kill" is SIGKILL, which nothing can catch or clean
up after; "full" a disk that is full; "break" an error of this process alone; "wait" stops there until it is ended.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from lora_lab import __main__, trainer


def plant(fault: str, count: int) -> None:
    """Let the COUNT-th call of the method go wrong."""
    method = "_save_optimizer_and_scheduler" if fault == "full" else "training_step"
    original, calls = getattr(trainer.LabTrainer, method), []

    def faulty(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
            if fault == "full":
                raise OSError(errno.ENOSPC, "No space left on device", "optimizer.pt")
            if fault == "break":
                raise ValueError("this process alone went wrong")
            print("waiting", flush=True)
            time.sleep(60)
        return original(self, *args, **kwargs)

    setattr(trainer.LabTrainer, method, faulty)


if __name__ == "__main__":
    if os.environ["RANK"] == sys.argv[2]:
        plant(sys.argv[1], int(sys.argv[3]))
    __main__.leave(__main__.main(sys.argv[4:]))
