"""Describe a trained network as plain data, from which the writers of ONNX, LiteRT and C work.

A `Deployment` is all that a file needs. `operations` lists the network in the order of
computation; every operation names the operations whose results it takes.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from asc_jax import features
from asc_jax.features import filters
from asc_jax.models.cp_mobile import STAGES, CPMobile
from asc_jax.types import Array, Params

ARTEFACTS = ("waveform_to_probs", "log_mel_to_logits")
INPUT = "log_mel"  # name of the input of the first operation
N_SAMPLES = 32_000  # of a one-second clip


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A network with everything that is written beside it.

    params: numpy, in the dtype of the file: what `folding.fold_batch_norm` returns, or the
    parameters of another network than CPMobile, as trained. model: the network's attributes.
    features: keywords of `features.log_mel`. metadata: text by name, scene names among it.
    network, batch_stats: of another network than CPMobile.
    """

    params: Params
    model: Mapping
    features: Mapping
    metadata: Mapping[str, str]
    network: nn.Module | None = None
    batch_stats: Params = dataclasses.field(default_factory=dict)

    @property
    def variables(self) -> Params:
        """Return the float32 variables that `apply` takes."""
        trees = {"params": self.params} | (
            {"batch_stats": self.batch_stats} if self.network else {}
        )
        return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), trees)

    def apply(self, variables: Params, log_mel: Array, body: str = "auto") -> Array:
        """Return the logits; `body` chooses the convolutions of CPMobile."""
        network = self.network or CPMobile(**self.model, folded=True, body=body)
        return network.apply(variables, log_mel, train=False)

    @property
    def n_frames(self) -> int:
        """Return the number of frames of a clip's log-mel."""
        return features.n_frames(N_SAMPLES, self.features["hop_length"])

    @property
    def operations(self) -> list["Operation"]:
        """Return the operations of the network in order, from `log_mel` to `logits`."""
        return operations(self.params, self.model["activation"])

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one clip's input by artefact."""
        log_mel = self.features["n_mels"], self.n_frames, 1
        return dict(zip(ARTEFACTS, ((N_SAMPLES,), log_mel), strict=True))

    def mel_bands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mel filterbank of the front end as 3 values for each bin.

        Only neighbouring triangles overlap: the power of bin k counts `here[k]`-fold in mel band
        `band[k]`, `below[k]`-fold in the band before it, and in no other.

        Returns:
          `band` int32, never falling; `here`, `below` float32; all `[n_fft // 2 + 1]`. The
          weights equal those of the filterbank bit for bit.
        """
        names = ("n_fft", "n_mels", "sample_rate", "f_min", "f_max")
        bank = filters.mel_filterbank(**{name: self.features[name] for name in names})
        last = np.where(bank != 0, np.arange(bank.shape[1]), 0).max(axis=1)
        band = np.maximum.accumulate(last)
        rows = np.arange(len(bank))
        below = np.where(band > 0, bank[rows, band - 1], np.float32(0))
        return band.astype(np.int32), bank[rows, band], below

    def window(self) -> np.ndarray:
        """Return the window of the front end, centred among zeros: `[n_fft]` float32."""
        n_fft, win_length = self.features["n_fft"], self.features["win_length"]
        left = (n_fft - win_length) // 2
        return np.pad(filters.hann_window(win_length), (left, n_fft - win_length - left))


@dataclasses.dataclass(frozen=True)
class Operation:
    """One step of the network, channels last.

    kind: "conv3x3", "pointwise", "depthwise" (arrays `kernel [kf, kt, c_in, c_out]`, `bias
    [c_out]`), "avg_pool" (3×3, padding counted), "add", "grn" (arrays `gamma`, `beta` `[1]`),
    or "mean" over mel bins and frames. 3×3 windows are padded by 1 on every side. activation:
    a key of `blocks.ACTIVATIONS` applied to the result, or None.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    strides: tuple[int, int] = (1, 1)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    activation: str | None = None


def operations(params: Params, activation: str) -> list[Operation]:
    """Return the operations of a folded network in order, from `log_mel` to `logits`.

    Args:
      params: the "params" that `folding.fold_batch_norm` returns.
      activation: of every convolution but a block's last and the head.

    Example:
      >>> conv = {"kernel": np.zeros((1, 1, 8, 8)), "bias": np.zeros(8)}
      >>> block = dict.fromkeys(("expand", "depthwise", "project"), conv)
      >>> params = {"stem1": conv, "stem2": conv, "head": conv}
      >>> params |= {f"b{i}": block for i in range(1, 7)}
      >>> [op.name for op in operations(params, "relu")][2:6]
      ['b1.expand', 'b1.depthwise', 'b1.project', 'b1.add']
    """
    network = [
        Operation("conv3x3", "stem1", (INPUT,), (2, 2), params["stem1"], activation),
        Operation("conv3x3", "stem2", ("stem1",), (2, 2), params["stem2"], activation),
    ]
    for number, strides in enumerate((s for stage in STAGES for s in stage), 1):
        block = params[f"b{number}"]
        network += _block(f"b{number}", network[-1].name, block, strides, activation)
    network.append(Operation("pointwise", "head", (network[-1].name,), arrays=params["head"]))
    return [*network, Operation("mean", "logits", ("head",))]


def _block(name, source, params, strides, activation) -> Iterator[Operation]:
    """Yield an inverted residual block; its last operation, whichever it is, is activated."""
    expand, depthwise, project = (f"{name}.{layer}" for layer in ("expand", "depthwise", "project"))
    yield Operation("pointwise", expand, (source,), (1, 1), params["expand"], activation)
    yield Operation("depthwise", depthwise, (expand,), strides, params["depthwise"], activation)
    last = Operation("pointwise", project, (depthwise,), arrays=params["project"])
    if params["expand"]["kernel"].shape[2] == params["project"]["kernel"].shape[3]:
        if strides != (1, 1):
            yield Operation("avg_pool", f"{name}.shortcut", (source,), strides)
            source = f"{name}.shortcut"
        yield last
        last = Operation("add", f"{name}.add", (project, source))
    if "grn" in params:
        yield last
        last = Operation("grn", f"{name}.grn", (last.name,), arrays=params["grn"])
    yield dataclasses.replace(last, activation=activation)
