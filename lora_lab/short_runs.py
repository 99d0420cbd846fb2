"""One short training run of the embedded base model: a few settings in, one flat row of numbers out.

`finetune` trains one model well and tells its whole story; a sweep trains hundreds and wants a row of each. Here the
model is loaded once, trained in place and put back; there are no checkpoints, and the last step counts, not the best.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import get_cosine_schedule_with_warmup

from lora_lab import models, scoring, tasks
from lora_lab.adapters import adapter_names, add_adapter
from lora_lab.generate import complete
from lora_lab.merging import unload
from lora_lab.quantise import dequantise_linears, quantise_linears
from lora_lab.runs import ADAPTERS, Recipe, Run
from lora_lab.training_variants import add_vera, freeze_a, lora_plus_groups


class Lab:
    """The base model and the tasks, loaded once; `run` trains, measures and restores."""

    def __init__(self, device: str = "cpu") -> None:
        torch.set_flush_denormal(True)
        self.tokenizer = models.load_tokenizer()
        # In bfloat16, as a GPU would have it, weights that train themselves would lose their small steps.
        self.model = models.load_model("base", device).float()
        self.pristine = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.encoded: dict[tuple[str, int], list] = {}
        self.stories = [tasks.Example("", story) for story in tasks.base_stories()]

    def run(self, run: Run, recipe: Recipe) -> dict:
        """Train once and return the settings and what came of them, loss None where it was no number any more."""
        start = time.perf_counter()
        with self.trained(run, recipe) as trainable:
            row = dataclasses.asdict(run) | {"trainable": trainable} | self.measure(run.task, recipe, run.seed)
        return row | {"seconds": round(time.perf_counter() - start, 1)}

    @contextmanager
    def trained(self, run: Run, recipe: Recipe) -> Iterator[int]:
        """`self.model` as it is after `run`, for the body of a `with`; yields how many parameters were trained."""
        with self.prepared(run) as chosen:
            self._train(chosen, run, recipe)
            yield sum(p.numel() for p in chosen)

    @contextmanager
    def prepared(self, run: Run) -> Iterator[list[torch.nn.Parameter]]:
        """`self.model` as `run` starts to train it; yields what it trains. Afterwards the model is as it was."""
        torch.manual_seed(run.seed)
        try:
            yield self._make_trainable(run)
        finally:
            if adapter_names(self.model):
                unload(self.model)
            dequantise_linears(self.model)
            with torch.no_grad():
                for name, p in self.model.named_parameters():
                    p.requires_grad_(False).copy_(self.pristine[name])
                    p.grad = None

    def measure(self, name: str, recipe: Recipe, seed: int = 0) -> dict:
        """Losses in nats per token on the task's validation examples and on plain stories, and what the model writes.

        exact_match: of 200 test questions; style: the task's own score of four sampled texts; None where there is none.
        """
        task = tasks.load_task(name)
        size = {"max_length": recipe.length, "batch_size": 16}
        loss = scoring.loss(self.model, self.tokenizer, task.validation, **size)
        if not math.isfinite(loss):
            return {"loss": None, "base_loss": None, "exact_match": None, "style": None, "text": ""}
        if task.exact_match:
            texts = complete(self.model, self.tokenizer, task.prompts[:1], 40)
        else:
            prompts = [*task.prompts, task.prompts[0]]
            texts = complete(self.model, self.tokenizer, prompts, 40, temperature=0.7, seed=seed)
        exact = scoring.exact_match(self.model, self.tokenizer, task.test[:200]) if task.exact_match else None
        return {
            "loss": round(loss, 4),
            "base_loss": round(scoring.loss(self.model, self.tokenizer, self.stories, batch_size=16), 4),
            "exact_match": exact,
            "style": round(task.style_score(" ".join(texts)), 2) if task.style_score else None,
            "text": texts[0].strip(),
        }

    def _make_trainable(self, run: Run) -> list[torch.nn.Parameter]:
        if run.method in ADAPTERS:
            if run.method == "qlora":
                quantise_linears(self.model)
            if run.method == "vera":
                add_vera(self.model, run.rank, run.config().target_modules, seed=run.seed)
            else:
                add_adapter(self.model, run.config())
            if run.method == "frozen A":
                freeze_a(self.model)
        else:
            last = f"layers.{self.model.config.num_hidden_layers - 1}."
            linears = [path for path, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
            matrices = {f"{path}.weight" for path in linears if not path.endswith("lm_head")}
            if run.targets != "all-linear":
                matrices = {m for m in matrices if m.split(".")[-2] in run.targets.split(",")}
            for name, p in self.model.named_parameters():
                wanted = "norm" in name if run.method == "norms" else name in matrices
                p.requires_grad_(wanted and (run.method != "last block" or last in name))
        return [p for p in self.model.parameters() if p.requires_grad]

    def _train(self, chosen: list[torch.nn.Parameter], run: Run, recipe: Recipe) -> None:
        rows = self.rows(run.task, recipe.length)
        optimizer = self.optimizer(chosen, run)
        schedule = get_cosine_schedule_with_warmup(optimizer, max(1, recipe.steps // 20), recipe.steps)
        order: list[int] = []
        dice = torch.Generator().manual_seed(run.seed)
        self.model.train()
        for _ in range(recipe.steps):
            if len(order) < recipe.batch_size:
                order += torch.randperm(len(rows), generator=dice).tolist()
            batch = scoring.collate([rows[order.pop(0)] for _ in range(recipe.batch_size)], self.tokenizer.pad_token_id)
            loss = self.loss(batch)
            if not torch.isfinite(loss):
                break
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def optimizer(self, chosen: list[torch.nn.Parameter], run: Run) -> torch.optim.Optimizer:
        """AdamW without decay over what `run` trains."""
        groups = lora_plus_groups(self.model, run.lr) if run.method == "lora+" else chosen
        return torch.optim.AdamW(groups, lr=run.lr, weight_decay=0.0)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean nats per scored token. Logits are made for scored positions only: in `query` a third of all."""
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        labels = batch.pop("labels")[:, 1:]
        wanted = labels != scoring.IGNORE
        hidden = self.model.model(**batch, use_cache=False).last_hidden_state[:, :-1][wanted]
        return torch.nn.functional.cross_entropy(self.model.lm_head(hidden).float(), labels[wanted])

    def rows(self, task: str, length: int) -> list:
        """The task's training examples, encoded: at most `length` tokens each."""
        if (task, length) not in self.encoded:
            train = tasks.load_task(task).train
            self.encoded[task, length] = [tasks.encode(e, self.tokenizer, length) for e in train]
        return self.encoded[task, length]
