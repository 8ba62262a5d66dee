"""Convert weights from PyTorch and to it, and compare this package with it."""
