"""Evaluate a run: `python eval.py …` is `asc-jax eval …`."""

from asc_jax.cli import main

if __name__ == "__main__":
    main("eval")
