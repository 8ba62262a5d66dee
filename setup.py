"""The packages of the wheel; pyproject.toml has all the rest.

The folder configs/ is installed as asc_jax/configs. pyproject.toml could say so only by a list of
every package.
"""

from setuptools import find_packages, setup

CONFIGS = {
    "asc_jax.configs": "configs",
    "asc_jax.configs.splits": "configs/splits",
    "asc_jax.configs.baseline": "configs/baseline",
}
setup(packages=[*find_packages(include=["asc_jax", "asc_jax.*"]), *CONFIGS], package_dir=CONFIGS)
