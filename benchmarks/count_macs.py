"""Time to count the network, in a fresh process and after import.

python benchmarks/count_macs.py

The bar is 0.2 s: fast enough that every command can check the budget before anything else.
"""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from asc_jax.complexity import count_macs  # noqa: E402
from asc_jax.models import CPMobile  # noqa: E402


def main() -> None:
    net, clip = CPMobile(body="lax"), jax.ShapeDtypeStruct((1, 256, 68, 1), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), clip)
    for label in ("first", "again"):
        start = time.perf_counter()
        total = count_macs(net.apply, variables, clip).total
        print(f"{label} {1000 * (time.perf_counter() - start):.0f} ms, {total:,} MACs")


if __name__ == "__main__":
    main()
