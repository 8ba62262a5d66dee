"""The packages of the wheel; pyproject.toml has all the rest.

configs/ is installed as asc_jax/configs, which pyproject.toml could say only beside a list of every
package.
"""

from setuptools import find_packages, setup

FOLDERS = {  # of files, without an __init__.py
    "asc_jax.configs": "configs",
    "asc_jax.configs.splits": "configs/splits",
    "asc_jax.configs.baseline": "configs/baseline",
    "asc_jax.configs.students": "configs/students",
    "asc_jax.configs.teachers": "configs/teachers",
    "asc_jax.configs.recommended": "configs/recommended",
    "asc_jax.pytorch.parity.golden": "asc_jax/pytorch/parity/golden",
}
setup(packages=[*find_packages(include=["asc_jax", "asc_jax.*"]), *FOLDERS], package_dir=FOLDERS)
