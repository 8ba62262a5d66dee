"""Print, as JSON, every primitive in JAX's own modules: name → the modules that have it.

A process of its own, because what loading all those modules sets up would touch other tests.
"""

import collections
import importlib
import json
import pkgutil

import jax
from jax.extend.core import Primitive

# They need packages that are not required here; a primitive of theirs is refused as unknown.
UNLOADED = ("test", "jax2tf", "collect_profile", "tools")


def modules(package):
    """Yield the modules below a package, those of UNLOADED left out."""
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if any(word in info.name for word in UNLOADED):
            continue
        try:
            module = importlib.import_module(info.name)
        except Exception:  # another platform's, or an optional package is missing
            continue
        yield module
        if info.ispkg:
            yield from modules(module)


def main():
    found = collections.defaultdict(list)
    for module in modules(jax):
        for value in list(vars(module).values()):
            if isinstance(value, Primitive):
                found[value.name].append(module.__name__)
    print(json.dumps(found))


if __name__ == "__main__":  # doctest imports every module of this folder
    main()
