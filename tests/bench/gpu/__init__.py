"""What needs a GPU, measured in one go: `python tests/bench/gpu/run.py --part A --out FOLDER`. See README.md here."""
