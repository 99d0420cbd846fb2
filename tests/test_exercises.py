"""Exercises: a lesson runs with its stubs as they are, the folded solution passes its check, and wrong answers do not.

An exercise is a code cell tagged "exercise", the code cell after it, which checks, and the first Python block of the
`<details>` titled "Solution" below, which stands in for the stub.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution.*?</summary>.*?```python\n(.*?)```", re.DOTALL)

# What learners really answer, by lesson and exercise: each must be turned away.
WRONG = {
    "01": {
        0: ["b1, a1 = np.array([0, 2, 0]), W[1]", "b1, a1 = np.ones(3), W[1]", "b1, a1 = W[1], np.array([0, 1, 0])"],
        1: [
            "def work(o, i, r): return r * (o + i), o * i",
            "def work(o, i, r): return r * o * i, o * r * i + o * i",
            "def work(o, i, r): return r * (o + i), o * r * i",
        ],
        2: [
            "def adapter_pages(o, i, r): return r, r",
            "def adapter_pages(o, i, r): return r, r * i / o",
            "def adapter_pages(o, i, r): return r * o / i, r",
        ],
        3: [
            "def to_peft(a, b): return a, b",
            "def to_peft(a, b): return b.T, a.T",
            "def to_peft(a, b): return a.reshape(2, 4), b.reshape(3, 2)",
        ],
    },
    "02": {
        0: [
            "def add(A1, B1, A2, B2): return np.vstack([A1, A2]), np.hstack([B2, B1])",
            "def add(A1, B1, A2, B2): return A1, B1",
            "def add(A1, B1, A2, B2): return np.vstack([A1, A2[:2]]), np.hstack([B1, B2[:, :2]])",
        ],
        1: [
            "def rank_for(v, share): return int(np.argmax(np.cumsum(v) / v.sum() >= share)) + 1",
            "def rank_for(v, share): return int(np.argmax(np.cumsum(v**2) / (v**2).sum() >= share))",
            "def rank_for(v, share): return int((np.cumsum(v**2) / (v**2).sum() <= share).sum())",
        ],
        2: [
            "def best_on_data(change, variance, rank): return cut(change, rank)",
            "def best_on_data(change, variance, rank): return cut(change * np.sqrt(variance), rank)",
            "def best_on_data(change, variance, rank): return cut(change * variance, rank) / variance",
            "def best_on_data(change, variance, rank): return change",
        ],
        3: ["needed = 64", "needed = 4", "needed = 6", "needed = 1"],
    },
    "04": {
        0: [
            "def break_even(o, i): return min(o, i) // 2",
            "def break_even(o, i): return (o + i) // 4",
            "def break_even(o, i): return o * i / (o + i)",
            "def break_even(o, i): return -(-o * i // (o + i))",
        ],
        1: [
            "def qv_parameters(h, n, heads, kv, d, r): return 2 * n * r * 2 * h",
            "def qv_parameters(h, n, heads, kv, d, r): return n * r * (2 * h + h + kv * d)",
            "def qv_parameters(h, n, heads, kv, d, r): return 2 * n * r * (h + heads * d)",
            "def qv_parameters(h, n, heads, kv, d, r): return n * 8 * (2 * h + (heads + kv) * d)",
            "def qv_parameters(h, n, heads, kv, d, r): return r * (2 * h + (heads + kv) * d)",
        ],
        2: [f"of_the_base, of_both = {ranks}" for ranks in ("26, 26", "27, 27", "27, 26", "27, 28")],
        3: [
            f"times_fewer, megabytes, mebibytes = {numbers}"
            for numbers in (
                "10_000, 37.7, 36.0",
                "9285.4, 36.0, 37.7",
                "9285.4, 75.5, 72.0",
                "9285.4, 35, 35",
                "18571, 37.7, 36",
            )
        ],
    },
    "05": {
        0: ["by_luck = 1 / 2", "by_luck = 0.5**5", "by_luck = 2 / 252", "by_luck = 1 / 120"],
        1: [
            "def needed(task, wanted): return next((r for r in RANKS if mean(shares[task][r]) >= wanted), 64)",
            "def needed(task, wanted): return next((r for r in RANKS if max(shares[task][r]) >= wanted), None)",
            "def needed(task, wanted): return next((r for r in RANKS[::-1] if mean(shares[task][r]) >= wanted), None)",
        ],
        2: [
            "def front(rows): return [min(rows, key=lambda r: r['loss'])]",
            """def front(rows):
    return [r for r in rows if not any(o['loss'] < r['loss'] and o['base_loss'] < r['base_loss'] for o in rows)]""",
            """def front(rows):
    def beaten(r, o): return o is not r and o['loss'] <= r['loss'] and o['base_loss'] <= r['base_loss']
    return [r for r in rows if not any(beaten(r, o) for o in rows)]""",
        ],
        3: [
            "def phi(a, b, i, j): return lowrank.overlap(a, b, i, j, side='left')",
            "def phi(a, b, i, j): return lowrank.overlap(a, b, i, j) * min(i, j) / max(i, j)",
            "def phi(a, b, i, j): return lowrank.overlap(a, b, i, j) * min(i, j)",
            "def phi(a, b, i, j): return lowrank.overlap(a, b, i, j) ** 0.5",
        ],
    },
    "06": {
        0: [
            "def alpha_for(factor, rank, use_rslora): return factor * rank",
            "def alpha_for(factor, rank, use_rslora): return factor / rank**0.5 if use_rslora else factor / rank",
            "def alpha_for(factor, rank, use_rslora): return factor * rank if use_rslora else factor * rank**0.5",
        ],
        1: [
            "def at_scale(W, merged, scale): return scale * merged",
            "def at_scale(W, merged, scale): return W + scale * merged",
            "def at_scale(W, merged, scale): return merged + scale * (merged - W)",
        ],
        2: [
            "def matching_rate(lr_b, c, optimizer): return lr_b / c",
            "def matching_rate(lr_b, c, optimizer): return lr_b / c**2",
            "def matching_rate(lr_b, c, optimizer): return lr_b * c**2 if optimizer == 'sgd' else lr_b * c",
        ],
        3: [
            "def predicted_slope(optimizer, p): return 1 - p",
            "def predicted_slope(optimizer, p): return -2 * p if optimizer == 'sgd' else -p",
            "def predicted_slope(optimizer, p): return 1 - p if optimizer == 'sgd' else 1 - 2 * p",
        ],
    },
    "08": {
        0: [
            "def kept_along(change, update): return (change * update).sum() / change.norm() / update.norm()",
            "def kept_along(change, update): return change.norm() / update.norm()",
            "def kept_along(change, update): return 1 - gap(change, update)",
            "def kept_along(change, update): return (change * update).sum() / change.square().sum()",
            "def kept_along(change, update): return abs((change * update).sum()) / update.square().sum()",
        ],
        1: [
            """def merge_exactly(layer, update):
    layer.kept, layer.weight = layer.weight, (layer.weight + update).to(layer.weight.dtype)
def unmerge_exactly(layer): layer.weight = layer.kept""",
            """def merge_exactly(layer, update):
    layer.kept = getattr(layer, "kept", layer.weight)
    layer.weight = (layer.weight + update).to(layer.weight.dtype)
def unmerge_exactly(layer): layer.weight = layer.kept""",
            """def merge_exactly(layer, update):
    layer.kept = getattr(layer, "kept", None) or [layer.weight]
    layer.weight += update.to(layer.weight.dtype)
def unmerge_exactly(layer): layer.weight = layer.kept.pop()""",
            """def merge_exactly(layer, update):
    layer.kept = getattr(layer, "kept", 0) + update
    layer.weight = (layer.weight + update).to(layer.weight.dtype)
def unmerge_exactly(layer):
    layer.weight, layer.kept = (layer.weight - layer.kept).to(layer.weight.dtype), 0""",
            """def merge_exactly(layer, update):
    layer.kept = getattr(layer, "kept", None) or [layer.weight]
    layer.weight = layer.weight + update
def unmerge_exactly(layer): layer.weight = layer.kept.pop()""",
        ],
        2: [
            """def mask_for(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = 1
    return mask""",
            """def mask_for(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row, ranks[user] * user : ranks[user] * (user + 1)] = scalings[user]
    return mask""",
            """def mask_for(users, ranks, scalings):
    mask = torch.ones(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user is not None:
            mask[row] = 0
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[user]
    return mask""",
            """def mask_for(users, ranks, scalings):
    mask = torch.zeros(len(users), sum(ranks))
    for row, user in enumerate(users):
        if user:
            mask[row, sum(ranks[:user]) : sum(ranks[: user + 1])] = scalings[user]
    return mask""",
        ],
        3: [
            "def mix(A1, B1, w1, A2, B2, w2): return np.vstack([w1 * A1, w2 * A2]), np.hstack([w1 * B1, w2 * B2])",
            "def mix(A1, B1, w1, A2, B2, w2): return np.vstack([A1, A2]), np.hstack([B1, B2])",
            "def mix(A1, B1, w1, A2, B2, w2): return np.vstack([A1, A2]), np.hstack([w2 * B2, w1 * B1])",
            """def mix(A1, B1, w1, A2, B2, w2):
    a, b = abs(w1) ** 0.5, abs(w2) ** 0.5
    return np.vstack([a * A1, b * A2]), np.hstack([a * B1, b * B2])""",
        ],
        4: [
            "def most_requests(miss_rate, load_seconds): return 1 / load_seconds",
            "def most_requests(miss_rate, load_seconds): return miss_rate / load_seconds",
            "def most_requests(miss_rate, load_seconds): return miss_rate * load_seconds",
            "def most_requests(miss_rate, load_seconds): return 1 / (1 - miss_rate) / load_seconds",
        ],
    },
    "09": {
        0: [
            "def two_rates(model, lr, ratio): return [{'params': list(model.parameters()), 'lr': lr}]",
            """def two_rates(model, lr, ratio):
    a, b = model[0].matrices("default")
    return [{"params": [a], "lr": ratio * lr}, {"params": [b], "lr": lr}]""",
            """def two_rates(model, lr, ratio):
    a, b = model[0].matrices("default")
    return [{"params": [a], "lr": lr}, {"params": [b], "lr": 16 * lr}]""",
            """def two_rates(model, lr, ratio):
    a, b = model[0].matrices("default")
    return [{"params": [a], "lr": lr / ratio}, {"params": [b], "lr": lr}]""",
        ],
        1: [
            "def outside(A, update): return (update - update @ A.T @ A).norm() / update.norm()",
            """def outside(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update @ Q @ Q.T).norm() / update.norm()""",
            """def outside(A, update):
    Q = torch.linalg.qr(A.T).Q
    return (update - update @ Q @ Q.T).norm() ** 2 / update.norm() ** 2""",
            "def outside(A, update): return torch.zeros(())",
        ],
        2: [
            "def dora_weight(W, A, B, s, m): return W + s * B @ A",
            """def dora_weight(W, A, B, s, m):
    V = W + B @ A
    return m[:, None] * V / V.norm(dim=1, keepdim=True)""",
            """def dora_weight(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / V.norm(dim=0, keepdim=True)""",
            """def dora_weight(W, A, B, s, m):
    V = W + s * B @ A
    return m[:, None] * V / W.norm(dim=1, keepdim=True)""",
            "def dora_weight(W, A, B, s, m): return m[:, None] * W / W.norm(dim=1, keepdim=True) + s * B @ A",
        ],
        3: [
            """def pissa_start(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = values[:rank].sqrt()
    return root[:, None] * V[:rank], U[:, :rank] * root""",
            """def pissa_start(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    return V[:rank], U[:, :rank] * values[:rank] / s""",
            """def pissa_start(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = (values[-rank:] / s).sqrt()
    return root[:, None] * V[-rank:], U[:, -rank:] * root""",
            """def pissa_start(W, rank, s):
    U, values, V = torch.linalg.svd(W)
    root = values[:rank] / s
    return root[:, None] * V[:rank], U[:, :rank] * root""",
        ],
        4: [
            "def as_lora(A, B, d, b): return d[:, None] * A, B",
            "def as_lora(A, B, d, b): return A, b[:, None] * B",
            "def as_lora(A, B, d, b): return d[:, None] * A, B / b[:, None]",
            "def as_lora(A, B, d, b): return A, B",
        ],
        5: [
            "def through_four_bits(block, levels): return levels[(block[:, None] - levels).abs().argmin(dim=1)]",
            """def through_four_bits(block, levels):
    return levels[(block[:, None] / block.abs().max() - levels).abs().argmin(dim=1)]""",
            """def through_four_bits(block, levels):
    largest = block.max()
    return levels[(block[:, None] / largest - levels).abs().argmin(dim=1)] * largest""",
            """def through_four_bits(block, levels):
    levels, largest = torch.linspace(-1, 1, 16), block.abs().max()
    return levels[(block[:, None] / largest - levels).abs().argmin(dim=1)] * largest""",
        ],
    },
    "11": {
        0: [
            """def moved(model, step):
    before = dict(model.named_parameters())
    step()
    return [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]""",
            """def moved(model, step):
    step()
    return [n for n, p in model.named_parameters() if p.requires_grad]""",
            """def moved(model, step):
    step()
    return [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]""",
        ],
        1: [
            "def measured_scaling(layer, x): return layer.scaling",
            "def measured_scaling(layer, x): return layer.alpha",
            """def measured_scaling(layer, x):
    return ((layer(x) - layer.base(x)).norm() / ((x @ layer.A.T) @ layer.B.T).norm()).item()""",
            "def measured_scaling(layer, x): return (layer(x).norm() / ((x @ layer.A.T) @ layer.B.T).norm()).item()",
        ],
        2: [
            """def merge_error(layer, x):
    probe = copy.deepcopy(layer)
    probe.merge()
    return (probe(x) - layer(x)).abs().max().item()""",
            """def merge_error(layer, x):
    before = as_if_trained(layer)(x)
    layer.merge()
    return (layer(x) - before).abs().max().item()""",
            """def merge_error(layer, x):
    probe = as_if_trained(copy.deepcopy(layer))
    probe.merge()
    return (probe(x) - layer(x)).abs().max().item()""",
        ],
        3: [
            """def merge(layer):
    if not layer.merged:
        layer.merge()
def unmerge(layer): layer.unmerge()""",
            """def merge(layer):
    layer.kept = layer.base.weight.data
    layer.base.weight.data += layer.delta()
def unmerge(layer): layer.base.weight.data = layer.kept""",
            """def merge(layer):
    layer.kept = layer.base.weight.data.clone()
    layer.base.weight.data += layer.delta()
def unmerge(layer): layer.base.weight.data = layer.kept""",
            """def merge(layer):
    if not hasattr(layer, "kept"):
        layer.kept = layer.base.weight.data
        layer.base.weight.data = layer.kept + layer.delta()
def unmerge(layer): layer.base.weight.data = layer.kept""",
        ],
        4: [
            """def tied_to(model, name):
    every = dict(model.named_parameters())
    place = model.get_parameter(name).data_ptr()
    return [n for n, p in every.items() if p.data_ptr() == place and n != name]""",
            """def tied_to(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p is every[name] and n != name]""",
            """def tied_to(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if torch.equal(p, every[name]) and n != name]""",
            """def tied_to(model, name):
    every = dict(model.named_parameters(remove_duplicate=False))
    return [n for n, p in every.items() if p.data_ptr() == every[name].data_ptr()]""",
        ],
        5: [
            "def file_key(key): return key.lstrip('_orig_mod.').replace('.default', '')",
            "import re\ndef file_key(key): return re.sub(r'_orig_mod\\.|module\\.|\\.default', '', key)",
            "def file_key(key): return key.removeprefix('module.').removeprefix('_orig_mod.').replace('.default', '')",
            "def file_key(key): return 'base_model.' + key.rpartition('base_model.')[2].replace('.default.', '.')",
        ],
    },
}


def exercises(path):
    """Number, position of the stub, and solution, of each exercise in the notebook; and the notebook's cells."""
    cells = nbformat.read(path, as_version=4).cells
    found = []
    for at, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            below = "\n".join(c.source for c in cells[at + 1 : at + 5] if c.cell_type == "markdown")
            solution = SOLUTION.search(below)
            assert solution, f"{path.stem}: no folded solution under the stub {cell.source!r}"
            found.append((at, solution.group(1)))
    return cells, found


LESSONS = [path for path in NOTEBOOKS if exercises(path)[1]]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_solutions_pass_their_checks_and_wrong_answers_do_not(path, capsys, monkeypatch):
    """One run of the lesson, in order; at each exercise stub, wrong answers, then the solution."""
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: None)
    cells, found = exercises(path)
    assert len(found) >= 4
    wrong, names = WRONG.get(path.stem[:2], {}), {"__name__": "lesson"}
    numbers = {at: number for number, (at, _) in enumerate(found)}
    skip = None
    for at, cell in enumerate(cells):
        if cell.cell_type != "code" or at == skip:
            continue
        if at not in numbers:
            exec(compile(cell.source, f"{path.stem}[{at}]", "exec"), names)
            continue
        number = numbers[at]
        skip = next(i for i in range(at + 1, len(cells)) if cells[i].cell_type == "code")
        check = compile(cells[skip].source, f"{path.stem}[{skip}]", "exec")
        for answer in wrong.get(number, []):
            exec(answer, names)
            with pytest.raises(AssertionError):
                exec(check, names)
        for answer, says in ((cell.source, "yours to answer"), (found[number][1], "Right")):
            exec(answer, names)
            capsys.readouterr()
            exec(check, names)
            assert says in capsys.readouterr().out, (number, says)
