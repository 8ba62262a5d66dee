"""Train a network: `python train.py …` is `asc-jax train …`."""

from asc_jax.cli import main

if __name__ == "__main__":
    main("train")
