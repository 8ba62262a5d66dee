"""Networks by the name that `config.network` gives them."""

from asc_jax.models.cp_mobile import CPMobile

MODELS = {"cp_mobile": CPMobile}

__all__ = ["MODELS", "CPMobile"]
