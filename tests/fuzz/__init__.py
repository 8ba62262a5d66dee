"""Fuzzing of everything that reads a file or an option: a value or a UserError, nothing else.

    python -m tests.fuzz --n 1000000 --state DIR      # `make fuzz`; goes on where it stopped

mutate.py      seed and random generator → an input: bytes, or trees of values, damaged
judge.py       one input → what is wrong with the reader's answer; limits of time and memory
readers_*.py   the readers: what they are given and how they are called
__main__.py    a process per reader, counted, resumable
"""
