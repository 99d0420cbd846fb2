"""LoRA Lab: learn LoRA by computing it. `import lora_lab` is light; each module loads what it needs."""

__version__ = "0.1.0"
