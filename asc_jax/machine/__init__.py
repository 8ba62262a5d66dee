"""The machine that a program runs on: replicas, processes, memory, files, locks."""
