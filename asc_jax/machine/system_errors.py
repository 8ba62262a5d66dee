"""Say what to do when the machine, not the program, is what fails."""

import re

from asc_jax.errors import printable
from asc_jax.machine import files

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "std::bad_alloc", "Unable to allocate")
NO_MEMORY = (
    "the memory is full{}: another program may hold it (nvidia-smi shows whose a GPU's is; JAX "
    "takes three quarters of it at the start, unless XLA_PYTHON_CLIENT_PREALLOCATE=false); in "
    "training, a smaller --config.data.batch_size or --config.train.resident=off takes less"
)
NO_PLATFORM = (
    "JAX cannot use {}: is there such a device, and the jax package for it? What JAX starts on is "
    "said by JAX_PLATFORMS, JAX_PLATFORM_NAME, JAX_NUM_CPU_DEVICES and XLA_FLAGS; without them it "
    "takes what there is"
)


def explain(error: Exception) -> str | None:
    """Return a line that says what the machine lacks and what to do; None for other errors."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        wanted = re.search(r"allocat\w+ ([\d.,]+ ?\w+)", text)
        return NO_MEMORY.format(f" ({wanted[1]} were asked for)" if wanted else "")
    if found := re.search(r"Unable to initialize backend '(\w+)'|Unknown backend:? '(\w+)'", text):
        return NO_PLATFORM.format(found[1] or found[2])
    if found := re.search(r"Invalid value (.+) for JAX flag (\w+)", text):
        return f"the environment variable {found[2].upper()} is {found[1]}, which JAX rejects"
    if isinstance(error, OSError) and error.errno is not None:
        return printable(files.reason(error))
    return None
