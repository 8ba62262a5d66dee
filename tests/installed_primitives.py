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

found = collections.defaultdict(list)
for info in pkgutil.walk_packages(jax.__path__, "jax.", onerror=lambda name: None):
    if any(word in info.name for word in UNLOADED):
        continue
    try:
        module = importlib.import_module(info.name)
    except Exception:  # another platform's, or an optional package is missing
        continue
    for value in list(vars(module).values()):
        if isinstance(value, Primitive):
            found[value.name].append(info.name)
print(json.dumps(found))
