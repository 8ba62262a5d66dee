"""Networks by the name that `config.model.name` gives them, and how they are applied.

A network is a `flax.linen.Module` whose `__call__(log_mel, train)` takes
`log_mel [b, n_mels, n_frames, 1]` and returns logits `[b, n_classes]`. It may have a parameter
`mask [b]` (False: padding, no part in batch statistics) and attributes `dtype` and `axis_name`,
which the program then sets: the dtype of its arithmetic, and the axis of the replicas. One that
is deployed in another form has a method `deployed`: `from_config.deployed`.
"""

import functools
import zlib
from collections.abc import Callable

import jax

from asc_jax.machine.named_parts import takes
from asc_jax.models.cnn_gru import CNNGRU
from asc_jax.models.cp_mobile import CPMobile
from asc_jax.models.cp_resnet import CPResNet
from asc_jax.models.kernels import by_chunks
from asc_jax.models.tf_sepnet import TFSepNet
from asc_jax.types import Array, Params

MODELS = {
    "cp_mobile": CPMobile,
    "tf_sepnet": TFSepNet,
    "cnn_gru": CNNGRU,
    "cp_resnet": CPResNet,
}

__all__ = ["CNNGRU", "MODELS", "CPMobile", "CPResNet", "TFSepNet", "evaluation", "training"]


def evaluation(network) -> Callable:
    """Return `(variables, log_mel) -> logits` by the running statistics."""
    return functools.partial(network.apply, train=False)


def _in_training(network) -> Callable:
    """Return `((variables, key), clips) -> (logits, updates)`, as `by_chunks` takes it."""
    takes_mask = takes(type(network).__call__, "mask")

    def apply(shared, clips):
        variables, key = shared
        rest = {"mask": clips["mask"]} if takes_mask and "mask" in clips else {}
        rest |= {} if key is None else {"rngs": {"dropout": key}}
        return network.apply(
            variables, clips["log_mel"], train=True, mutable=["batch_stats"], **rest
        )

    return apply


def training(network, axis_name: str | None = None) -> Callable:
    """Return the network in training, by the batch's own statistics.

    Args:
      network: see the module.
      axis_name: the replica axis, under pmap.

    Returns:
      `(variables, log_mel, mask, key) -> (logits, updates)`: the network's variables, among them
      `batch_stats`, which is empty where it has none; `log_mel [b, n_mels, n_frames, 1]`; `mask
      [b]` bool, False for padding, or None; the step's key, for dropout, of which each replica
      makes its own, or None. `updates` are the collections after the step, without `params`.
      On a CPU the variables may hold `scratch`, memory that the step writes over, and then so do
      the updates.
    """
    apply = _in_training(network)

    def whole(shared, clips, scratch):
        return apply(shared, clips), scratch

    run = by_chunks.by_chunks(apply) if jax.default_backend() == "cpu" else whole

    def forward(variables: Params, log_mel: Array, mask: Array | None = None, key=None):
        variables = dict(variables)
        scratch = variables.pop("scratch", None)
        if key is not None:
            key = jax.random.fold_in(key, zlib.crc32(b"rngs/dropout"))
            if axis_name is not None:
                key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        clips = {"log_mel": log_mel} | ({} if mask is None else {"mask": mask})
        (logits, updated), scratch = run((variables, key), clips, scratch)
        batch_stats = updated.get("batch_stats", variables["batch_stats"])
        if axis_name is not None and not hasattr(network, "axis_name"):
            batch_stats = jax.lax.pmean(batch_stats, axis_name)  # or the replicas' would differ
        updates = {"batch_stats": batch_stats}
        return logits, updates if scratch is None else updates | {"scratch": scratch}

    return forward


def scratch_shapes(network, variables: Params, log_mel: jax.ShapeDtypeStruct) -> tuple:
    """Return the shapes of the memory that a training step on such a batch can write over.

    That is `scratch` among the variables that `training` takes. It is empty but on a CPU, for
    networks and batches that run a few clips at a time (`kernels.by_chunks`).
    """
    if jax.default_backend() != "cpu":
        return ()
    clips = {"log_mel": log_mel, "mask": jax.ShapeDtypeStruct(log_mel.shape[:1], bool)}
    return by_chunks.scratch_shapes(_in_training(network), (variables, jax.random.key(0)), clips)
