"""Exact multiply-accumulates and bytes of any JAX function, and the limits on them."""

from asc_jax.complexity.count import count_macs, layer_bytes, torchinfo_macs

__all__ = ["count_macs", "layer_bytes", "torchinfo_macs"]
