"""The results explorer: it shows what the rows say, cannot leave them, and says so where training diverged."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from lora_lab import experiments, explore_results, explorers, figures

BEFORE = {"loss": 4.75, "base_loss": 3.4}
RANKS, RATIOS, RATES, TARGETS = (1, 16), (0.5, 2.0), (0.001, 0.01), ("q_proj,v_proj", "all-linear")


def made_up(ratio, rank, lr, seed, place):
    """A loss that falls with the step until the step is too large; None at the largest of all."""
    step = ratio * lr * math.sqrt(rank) * (2 if place == "all-linear" else 1)
    if step > 0.15:
        return None, None
    loss = 4.7 - 15 * step + 0.01 * seed if step < 0.07 else 6.0 + seed
    return loss, 3.4 + step + 0.01 * seed


@pytest.fixture
def rows():
    rows = []
    for place in TARGETS:
        for rank in RANKS:
            for ratio in RATIOS:
                for lr in RATES:
                    for seed in (2, 0, 1):
                        loss, base = made_up(ratio, rank, lr, seed, place)
                        text = f"said <b>cat</b> ye {place} {rank} {ratio} {lr} {seed}"
                        row = {"task": "pirate", "targets": place, "rank": rank, "alpha": ratio * rank, "lr": lr}
                        rows.append(
                            row
                            | {"seed": seed, "trainable": 1000 * rank, "loss": loss}
                            | {"base_loss": base, "text": text}
                        )
    return rows


@pytest.fixture
def explorer(rows, monkeypatch, tmp_path):
    header = {field: "x" for field in experiments.HEADER}
    experiments.write(header | {"before": {"pirate": BEFORE}, "rows": rows}, tmp_path / "grid.json")
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    return explorers.results()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_only_what_was_recorded_can_be_chosen(explorer):
    choices = {name: [value for _, value in control.options] for name, control in explorer.controls.items()}
    assert choices == {"rank": [*RANKS], "ratio": [*RATIOS], "lr": [*RATES], "targets": [*TARGETS]}


@pytest.mark.parametrize("control", ["rank", "ratio", "lr", "targets"])
def test_each_control_changes_picture_finding_and_table_and_reset_brings_them_back(explorer, control):
    before = explorer.image.value, explorer.text, explorer.detail.value
    widget = explorer.controls[control]
    widget.value = next(value for _, value in widget.options if value != widget.value)
    after = explorer.image.value, explorer.text, explorer.detail.value
    assert all(old != new for old, new in zip(before, after, strict=True))
    explorer.reset()
    assert (explorer.image.value, explorer.text, explorer.detail.value) == before


def test_lines_bands_and_rings_are_the_rows_own_numbers(rows):
    cells = explore_results.by_setting(rows)
    figure, draw = explore_results.results_figure(cells, BEFORE)
    draw("q_proj,v_proj", 2.0, 16, 0.001)
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.lines if line.get_label().startswith("rank")}
    mine = [made_up(2.0, 1, lr, 1, "q_proj,v_proj") for lr in RATES]  # seed 1 is the mean of 0, 1 and 2
    assert list(lines["rank 1"].get_xdata()) == [*RATES]
    assert list(lines["rank 1"].get_ydata()) == pytest.approx([loss for loss, _ in mine])
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((mine[1][0] - 0.01, mine[0][0] + 0.01))
    across = next(line for line in right.lines if line.get_label() == "rank 1")
    assert list(across.get_ydata()) == pytest.approx([base for _, base in mine])
    chosen = made_up(2.0, 16, 0.001, 1, "q_proj,v_proj")
    rings = [line for line in (*left.lines, *right.lines) if line.get_color() == figures.RED]
    assert [(float(r.get_xdata()[0]), float(r.get_ydata()[0])) for r in rings] == [
        (0.001, pytest.approx(chosen[0])),
        (pytest.approx(chosen[0]), pytest.approx(chosen[1])),
    ]


def test_a_diverged_run_stands_at_the_edge_with_a_cross_and_is_said(explorer):
    explorer.controls["lr"].value = 0.01  # rank 16, ratio 2, all-linear: no number at all
    left = explorer.figure.axes[0]
    top = left.get_ylim()[1]
    cross = next(line for line in left.lines if line.get_label() == "beyond the axes")
    assert (0.01, top) in [(float(x), float(y)) for x, y in zip(*cross.get_data(), strict=True)]
    assert "loss no number (no number to no number over 3 seeds) from 4.75 on pirate stories" in explorer.text
    assert "3 of 3 diverged: steps grow with" in explorer.text
    explorer.controls["targets"].value = "q_proj,v_proj"  # numbers, but worse than before training
    assert "loss 7.00 (6.00 to 8.00 over 3 seeds)" in explorer.text and "3 of 3 diverged" in explorer.text
    explorer.controls["lr"].value = 0.001
    assert "diverged" not in explorer.text
    assert len(cross.get_xdata()) == 1  # rank 16 at the other rate


def test_the_finding_names_the_better_rate_or_says_that_there_is_none(explorer):
    explorer.controls["ratio"].value, explorer.controls["rank"].value = 0.5, 1
    explorer.controls["lr"].value = 0.001
    assert explorer.text.startswith("Rank 1, alpha 0.5, learning rate 0.001, all-linear: loss 4.70 (")
    assert "Larger steps do better here: 0.01 reaches 4.56" in explorer.text
    explorer.controls["lr"].value = 0.01
    assert "No other learning rate here has a lower mean" in explorer.text


def test_parameters_bytes_text_and_table_stand_below_and_are_escaped(explorer):
    explorer.controls["lr"].value = 0.001
    detail = explorer.detail.value
    assert "16,000 parameters train; the adapter's file has " in detail
    assert (
        "said &lt;b&gt;cat&lt;/b&gt; <mark><b>ye</b></mark> all-linear 16 2.0 0.001 0" in detail
        and "<b>cat" not in detail
    )
    loss, base = made_up(2.0, 16, 0.001, 1, "all-linear")
    assert f"→ {loss:.2f} ({loss - 0.01:.2f} to {loss + 0.01:.2f}); {base:.2f}" in detail
    assert detail.count("<tr>") == 1 + len(RANKS) and "16 (chosen)" in detail


def test_a_grid_with_a_hole_is_refused_by_the_name_of_the_hole(rows):
    holed = [row for row in rows if (row["targets"], row["rank"], row["lr"]) != ("all-linear", 16, 0.01)]
    with pytest.raises(ValueError, match=r"nothing is recorded for .*'all-linear', 0.5, 16, 0.01"):
        explore_results.by_setting(holed)


def test_the_live_picture_is_the_static_picture_to_the_pixel(explorer):
    explorer.controls["rank"].value = 1
    assert np.array_equal(pixels(explorer.image.value), pixels(figures.png(explorer.figure, dpi=144)))


def test_a_teacher_may_hide_and_limit(rows, explorer):
    locked = explorers.results(lock={"targets": None, "rank": (1, 16), "ratio": 2.0})
    assert locked.controls["ratio"].disabled
    with pytest.raises(ValueError, match="rank is 3, but must be one of"):
        explorers.results(rank=3)


def test_it_opens_on_the_record_that_is_shipped():
    shipped = explorers.results()
    assert len(experiments.recorded("grid")["rows"]) == 3 * np.prod([len(c.options) for c in shipped.controls.values()])
    assert shipped.text.startswith("Rank 16, alpha 32, learning rate 0.01, all-linear: loss 3.")


def test_bytes_are_those_of_the_file_that_is_saved(tmp_path):
    from lora_lab import models, storage
    from lora_lab.adapters import add_adapter
    from lora_lab.config import LoraConfig

    model = add_adapter(models.load_model(), LoraConfig(rank=4, target_modules=["q_proj", "v_proj"]))
    folder = storage.save_adapter(model, tmp_path / "saved")
    shown = explorers.results(rank=4, targets="q_proj,v_proj").detail.value
    assert f"the adapter's file has {(folder / storage.WEIGHTS_FILE).stat().st_size:,} bytes" in shown
