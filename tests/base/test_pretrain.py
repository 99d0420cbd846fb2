"""Pretraining on a few pages: what is held out, and a run that was stopped goes on as if it had not been."""

import json

import numpy as np
import pytest
import torch

from lora_lab import pretrain
from lora_lab.corpus import RowSampler, read_corpus


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    (folder / "childrens_classics").mkdir(parents=True)
    stories = [
        f"Story {i}. A cat saw {i} birds. The birds sang {'la ' * (i % 7)}and the cat slept." for i in range(400)
    ]
    (folder / "tinystories.txt").write_text("\n<|endoftext|>\n".join(stories))
    book = "".join(f"Chapter {i}. The sea was grey, and the ship with {i} sails went on. \n\n" for i in range(2000))
    (folder / "childrens_classics" / "A Book.md").write_text(book)
    (folder / "childrens_classics" / "Peter Pan.md").write_text(book)
    return folder


def test_what_is_held_out_is_not_trained_on(text):
    corpus = read_corpus(text)
    assert [s.split(".")[0] for s in corpus.held_out_stories] == [f"Story {i}" for i in range(0, 400, 89)]
    assert len(corpus.stories) == 400 - 5
    assert list(corpus.books) == ["childrens_classics/A Book.md"]
    assert len(corpus.held_out_windows) == 80 and all(len(w) == 800 for w in corpus.held_out_windows)


def test_a_folder_without_stories_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="tinystories.txt"):
        read_corpus(tmp_path)


def test_rows_depend_on_step_and_seed_alone():
    stories = np.array([0, 5, 6, 7] * 100, dtype=np.uint16)
    books = np.arange(1, 1000, dtype=np.uint16)
    sampler = RowSampler(stories, [(books, 1.0)], start=0, story_share=0.5)
    rows = sampler.rows(3, 8, 16, seed=0)
    assert rows.shape == (8, 16)
    assert (rows[:4, 0] == 0).all()
    assert (rows == sampler.rows(3, 8, 16, seed=0)).all()
    assert not (rows == sampler.rows(4, 8, 16, seed=0)).all()


def test_a_stopped_run_goes_on_to_the_same_weights(text, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TOKENS_PER_STEP", 512)
    monkeypatch.setattr(pretrain, "CONTEXT", 64)
    monkeypatch.setattr(pretrain, "LONG_CONTEXT", 128)
    monkeypatch.setattr(pretrain, "WARM_UP_STEPS", 2)
    options = {"save_minutes": 0.0, "device": "cpu", "compile": False}
    whole = pretrain.pretrain(text, tmp_path / "whole", 512 * 8, **options)

    class Stopped(Exception):
        pass

    real_rows = RowSampler.rows

    def rows(self, step, *rest):
        if step == 5:
            raise Stopped
        return real_rows(self, step, *rest)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(RowSampler, "rows", rows)
        pretrain.pretrain(text, tmp_path / "stopped", 512 * 8, **options)
    resumed = pretrain.pretrain(text, tmp_path / "stopped", 512 * 8, **options)
    assert resumed["loss"] == whole["loss"]
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("whole", "stopped")
    ]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    assert json.loads((tmp_path / "whole" / "log.json").read_text())[-1]["stories"] > 0


def test_the_rate_is_flat_then_falls_to_zero():
    assert pretrain.rate(0.1) == pretrain.rate(1 - pretrain.COOL_DOWN - 1e-9) == 1
    assert pretrain.rate(1 - pretrain.COOL_DOWN / 2) == pytest.approx(0.5)
    assert pretrain.rate(1.0) == 0


def test_the_command_names_a_folder_without_stories(tmp_path, capsys):
    from lora_lab.__main__ import main

    assert main(["pretrain", "--text", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "tinystories.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
