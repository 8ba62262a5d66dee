"""`python -m asc_jax` is the command `asc-jax`."""

from asc_jax.cli import main

if __name__ == "__main__":  # a process that builds shards imports this module again
    main()
