"""Describe a trained network as plain data, from which the files of every kind are written.

A `Deployment` is all that a file needs. Its operations list the network in the order of
computation; every operation names the operations whose results it takes. `reader` makes them.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.features import filters
from asc_jax.models import layers
from asc_jax.models.kernels.compiler import EXACT, channels
from asc_jax.models.kernels.convolution import conv
from asc_jax.models.kernels.pool import avg_pool, max_pool
from asc_jax.types import Array, Params

ARTEFACTS = ("waveform_to_probs", "log_mel_to_logits")
INPUT = "log_mel"  # name of the input of the first operation
ACTIVATIONS = layers.ACTIVATIONS | {"sigmoid": jax.nn.sigmoid}
# Element by element, with broadcasting: kind → its name in NumPy, JAX and TensorFlow.
ELEMENTWISE = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "max": "maximum",
    "min": "minimum",
    **{kind: kind for kind in ("sqrt", "exp", "log", "tanh", "abs")},
}
REDUCTIONS = ("reduce_mean", "reduce_sum", "reduce_max", "reduce_min")


@dataclasses.dataclass(eq=False)
class Operation:
    """One step of the network, channels last.

    kind: with its options,
      "conv": `strides`, `padding` ((before, after) for mel bins and for frames), `groups`; arrays
        `kernel [kf, kt, c_in / groups, c_out]`, `bias [c_out]`,
      "dense", over the last axis: arrays `kernel [c_in, c_out]`, `bias [c_out]`,
      "avg_pool" (padding counted), "max_pool": `size`, `strides`, `padding`,
      one of `ELEMENTWISE`, "constant" (array `value`, of one clip or equal for all: `[1, …]`),
      one of `REDUCTIONS`: `axis`, several (0 would be the clips), `keepdims`,
      "reshape" (to `shape`), "transpose": `permutation`, "concatenate": `axis`,
      "slice": `ranges` (start, end, step) of every axis but the clips',
      "grn", `layers.response_norm`: arrays `gamma`, `beta` `[1]`,
      "activation": nothing but that.
    name: its layer's, slashes between. inputs: names of operations, or `INPUT`. shape: of the
    result for one clip. activation: a key of `ACTIVATIONS` applied to the result, or None. shares:
    the operation whose arrays these are, as where a recurrent layer is written out step by step.
    """

    kind: str
    name: str
    inputs: list[str]
    shape: tuple[int, ...]
    options: Mapping = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    activation: str | None = None
    shares: str | None = None

    @property
    def owner(self) -> str:
        """Return the name under which its arrays are kept."""
        return self.shares or self.name


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A network with everything that is written beside it.

    operations: of the network, arrays in the dtype of the file. features: keywords of
    `features.log_mel`. n_samples: of a clip. metadata: text by name, the class names as JSON among
    it. own: `(variables, log_mel) -> logits` and numpy variables in the dtype of the file, of a
    network that has no operations because a primitive of it is not known.
    """

    operations: Sequence[Operation]
    features: Mapping
    n_samples: int
    metadata: Mapping[str, str]
    own: tuple[Callable, Params] | None = None

    @property
    def params(self) -> Params:
        """Return the arrays of the operations by name, or the variables of `own`."""
        return self.own[1] if self.own else {op.owner: op.arrays for op in self.operations}

    @property
    def variables(self) -> Params:
        """Return the float32 variables that `apply` takes."""
        return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), self.params)

    def apply(self, variables: Params, log_mel: Array) -> Array:
        """Return the logits `[b, n_classes]`."""
        if self.own:
            return self.own[0](variables, log_mel)
        return compute(self.operations, variables, log_mel)

    @property
    def n_frames(self) -> int:
        """Return the number of frames of a clip's log-mel."""
        return features.n_frames(self.n_samples, **self.features)

    @property
    def classes(self) -> list[str]:
        """Return the class names, in the order of the logits."""
        return json.loads(self.metadata["classes"])

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one clip's input by artefact."""
        log_mel = self.features["n_mels"], self.n_frames, 1
        return dict(zip(ARTEFACTS, ((self.n_samples,), log_mel), strict=True))

    def mel_bands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mel filterbank of the front end as 3 values for each bin.

        Only neighbouring triangles overlap: the power of bin k counts `here[k]`-fold in mel band
        `band[k]`, `below[k]`-fold in the band before it, and in no other.

        Returns:
          `band` int32, never falling; `here`, `below` float32; all `[n_fft // 2 + 1]`. The
          weights equal those of the filterbank bit for bit.
        """
        names = ("mel_scale", "n_fft", "n_mels", "sample_rate", "f_min", "f_max")
        bank = filters.filterbank(**{name: self.features[name] for name in names})
        last = np.where(bank != 0, np.arange(bank.shape[1]), 0).max(axis=1)
        band = np.maximum.accumulate(last)
        rows = np.arange(len(bank))
        below = np.where(band > 0, bank[rows, band - 1], np.float32(0))
        return band.astype(np.int32), bank[rows, band], below

    def window(self) -> np.ndarray:
        """Return the window of the front end, centred among zeros: `[n_fft]` float32."""
        n_fft, win_length = self.features["n_fft"], self.features["win_length"]
        left = (n_fft - win_length) // 2
        window = filters.window(self.features["window"], win_length)
        return np.pad(window, (left, n_fft - win_length - left))


def compute(operations: Sequence[Operation], params: Params, log_mel: Array) -> Array:
    """Return the result of the last operation, computed by JAX; see `results`."""
    return results(operations, params, log_mel)[operations[-1].name]


def results(
    operations: Sequence[Operation],
    params: Params,
    log_mel: Array,
    rules: Mapping[str, Callable] | None = None,
) -> dict[str, Array]:
    """Return the results of all operations by name, and the log-mel as `INPUT`.

    Args:
      operations: as `reader.read` returns them.
      params: float32 arrays by the name of their operation.
      log_mel: `[b, n_mels, n_frames, 1]`.
      rules: `(operation, its params, *inputs) -> result` of further kinds.
    """
    found = {INPUT: log_mel}
    for op in operations:
        inputs = [found[name] for name in op.inputs]
        found[op.name] = result(op, params.get(op.owner, {}), *inputs, rules=rules)
    return found


def result(
    op: Operation, params: Params, *inputs: Array, rules: Mapping[str, Callable] | None = None
) -> Array:
    """Return the result of one operation, of its float32 arrays and of its inputs.

    rules: those of further kinds, as in `results`.
    """
    y = (_COMPUTE | dict(rules or {}))[op.kind](op, params, *inputs)
    return ACTIVATIONS[op.activation](y) if op.activation else y


def is_whole(size, padding, image) -> bool:
    """Return whether a window is as large as the image `(mel bins, frames)` that it goes over."""
    return tuple(size) == tuple(image) and not np.any(padding)


def _conv(op: Operation, params: Params, x: Array) -> Array:
    kernel, bias, options = params["kernel"], params["bias"], op.options
    if is_whole(kernel.shape[:2], options["padding"], x.shape[1:3]) and options["groups"] == 1:
        flat = x.reshape(x.shape[0], 1, 1, -1)
        y = jnp.dot(flat, kernel.reshape(-1, kernel.shape[-1]), precision=EXACT)
    else:
        y = conv(x, kernel, options["strides"], options["groups"], options["padding"])
    return y + channels(bias, y)


def _dense(op: Operation, params: Params, x: Array) -> Array:
    y = jnp.dot(x, params["kernel"], precision=EXACT)
    return y + channels(params["bias"], y)


def _pool(op: Operation, params: Params, x: Array) -> Array:
    options = op.options
    if op.kind == "avg_pool" and is_whole(options["size"], options["padding"], x.shape[1:3]):
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    pool = avg_pool if op.kind == "avg_pool" else max_pool
    return pool(x, options["size"], options["strides"], options["padding"])


def _elementwise(op: Operation, params: Params, *inputs: Array) -> Array:
    return getattr(jnp, ELEMENTWISE[op.kind])(*inputs)


def _reduce(op: Operation, params: Params, x: Array) -> Array:
    return getattr(jnp, op.kind.removeprefix("reduce_"))(x, **op.options)


_COMPUTE = {
    "conv": _conv,
    "dense": _dense,
    "avg_pool": _pool,
    "max_pool": _pool,
    "grn": lambda op, params, x: layers.response_norm(x, params["gamma"][0], params["beta"][0]),
    "activation": lambda op, params, x: x,
    "constant": lambda op, params: params["value"],
    "reshape": lambda op, params, x: x.reshape(x.shape[0], *op.shape),
    "transpose": lambda op, params, x: x.transpose(op.options["permutation"]),
    "concatenate": lambda op, params, *x: jnp.concatenate(x, op.options["axis"]),
    "slice": lambda op, params, x: x[:, *(slice(*r) for r in op.options["ranges"])],
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
}
