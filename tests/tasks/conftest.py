from pathlib import Path

import pytest

import lora_lab


@pytest.fixture(scope="session")
def tokenizer():
    """The embedded base model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(lora_lab.__file__).parent / "assets" / "base")
