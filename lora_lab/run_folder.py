"""The folder of one fine-tune: checkpoints while it runs, whole files at the end, nothing half-written in between."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lora_lab import processes, storage, whole_file
from lora_lab.adapters import adapter_names
from lora_lab.result import Result

CHECKPOINTS, SETTINGS_FILE, RESULT_FILE, PARTIAL = "checkpoints", "settings.json", "training.json", ".partial"
# What may differ when a run is resumed, as after "out of memory": it changes no step but in the last bits.
FREE_TO_CHANGE = {"evaluate_every", "fsdp", "checkpointing", "loss_chunk", "fused", "compile"}


class RunFolder:
    """`with RunFolder(output, settings, resume) as folder:` around a fine-tune.

    Entering makes the folder and raises ValueError where it cannot serve: a file, a model where an adapter should go,
    a resume with nothing to resume or with other settings. Leaving by an error takes away what is of no use; leaving
    by ^C, a full disk or a lost process keeps the checkpoints, so that --resume can go on. Without `output` it is a
    temporary folder. Of several processes the main one alone writes; all must see the same folder.
    """

    def __init__(self, output: str | Path | None, settings: dict[str, Any], resume: bool):
        self.settings, self.resume = settings, resume
        self.to_keep = output is not None
        self.temporary = None if self.to_keep or not processes.is_main() else tempfile.TemporaryDirectory()
        self.path = Path(processes.from_main(str(output) if self.temporary is None else self.temporary.name))
        self.checkpoints = self.path / CHECKPOINTS

    def __enter__(self) -> RunFolder:
        if processes.is_main():
            self._make()
        processes.wait()
        if not (self.checkpoints / SETTINGS_FILE).is_file():
            raise ValueError(f"process {processes.index()} does not see {self.path}: --output must be shared by all")
        return self

    def _make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--output {self.path} is a file; expected a folder, new or from an earlier run")
        wrong = {"lora": "config.json", "full": storage.CONFIG_FILE}[self.settings["method"]]
        if (self.path / wrong).exists():
            kind = {"lora": "a whole model", "full": "an adapter"}[self.settings["method"]]
            raise ValueError(f"{self.path} holds {kind} already, which would be mixed up: choose another --output")
        if self.resume:
            self._check_resumable()
        elif self.checkpoints.exists() and not self._ours():
            raise ValueError(
                f"{self.checkpoints} is not a fine-tune's (it has no {SETTINGS_FILE}): choose another --output"
            )
        self.was_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.resume:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            self.checkpoints.mkdir()
            _write_json(self.checkpoints / SETTINGS_FILE, self.settings)

    def _ours(self) -> bool:
        """Whether the folder of checkpoints is an earlier run's, which a new one may delete."""
        return (self.checkpoints / SETTINGS_FILE).is_file() or (
            self.checkpoints.is_dir() and not any(self.checkpoints.iterdir())
        )

    def __exit__(self, kind, error, _) -> None:
        if error is not None:
            processes.end_in_peace()
        if processes.is_main():
            self._tidy(error)
        if self.to_keep and processes.lost(error):
            raise ConnectionError(f"a process was lost, or the launcher stopped this one. {self._way_on()}") from error

    def _tidy(self, error: BaseException | None) -> None:
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        shutil.rmtree(self.checkpoints / PARTIAL, ignore_errors=True)
        if self.temporary is not None:
            self.temporary.cleanup()
        elif error is not None:
            kept = self.newest_checkpoint()
            if isinstance(error, FloatingPointError) or kept is None:
                shutil.rmtree(self.checkpoints, ignore_errors=True)
                if self.was_new and not any(self.path.iterdir()):
                    self.path.rmdir()
            elif isinstance(error, KeyboardInterrupt) and not processes.lost(error):
                raise KeyboardInterrupt(self._way_on()) from error

    def _way_on(self) -> str:
        kept = self.newest_checkpoint()
        if kept is None:
            return "There is no checkpoint yet: start again"
        return f"{kept} is kept: the same command with --resume goes on from step {step_of(kept)}"

    def check_room(self, trainable: int) -> None:
        """Raise the system's own "disk full" error if the checkpoints of `trainable` parameters will not fit.

        Three can be there at once (newest, best, and the one being written), each with its Adam state, in float32.
        """
        whole_file.check_room(self.path, 3 * 12 * trainable, "checkpoints")

    def newest_checkpoint(self) -> Path | None:
        """The last whole checkpoint, or None."""
        return max(self.checkpoints.glob("checkpoint-*"), key=step_of, default=None)

    def finish(self, result: Result) -> None:
        """Write the adapter (or the model and its tokenizer) and training.json, then drop the checkpoints."""
        if self.to_keep and processes.is_main():
            self._finish(result)
        processes.wait()

    def _finish(self, result: Result) -> None:
        partial = self.path / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write_json(partial / RESULT_FILE, result.record())
        if adapter_names(result.model):  # leaves no half by itself
            storage.save_adapter(result.model, self.path, base_model_name=self.settings["model"])
        else:
            result.model.save_pretrained(partial)
            result.tokenizer.save_pretrained(partial)
        for file in sorted(partial.iterdir()):
            os.replace(file, self.path / file.name)
        shutil.rmtree(self.checkpoints)

    def _check_resumable(self) -> None:
        if self.newest_checkpoint() is None:
            done = (self.path / RESULT_FILE).is_file()
            why = "the run there has finished" if done else "there is no checkpoint there"
            raise ValueError(f"nothing to resume in {self.path}: {why}. Leave --resume out to start anew")
        before = json.loads((self.checkpoints / SETTINGS_FILE).read_text(encoding="utf-8"))
        changed = [k for k, v in before.items() if k not in FREE_TO_CHANGE and self.settings.get(k) != v]
        if changed:
            k = changed[0]
            raise ValueError(
                f"{self.path} was started with {k} {before[k]!r}, not {self.settings.get(k)!r}: resume with the same "
                "settings, or leave --resume out to start anew"
            )


def step_of(checkpoint: Path) -> int:
    """The number of steps behind a checkpoint folder.

    >>> step_of(Path("checkpoints/checkpoint-30"))
    30
    """
    return int(checkpoint.name.rsplit("-", 1)[1])


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
