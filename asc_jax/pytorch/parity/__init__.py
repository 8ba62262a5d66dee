"""Compare this package with PyTorch, stage by stage: the table of `docs/parity.md`."""
