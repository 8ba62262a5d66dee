"""The network's convolutions: one meaning each, a body per kind of machine.

`"lax"` is the definition: a `lax` convolution, which the complexity counter reads and which
TPUs get, where nothing has been measured. `"shifts"` computes the same on CPUs and GPUs, whose
grouped and strided convolutions are slow: dense products over patches, and depthwise filters as
nine shifted multiply-adds with a hand-written backward pass. Tests hold the bodies equal, forward
and backward. `"auto"` takes the one for the default backend when the function is traced.

All are channels-last: `x [b, f, t, c]`, kernels `[kf, kt, c_in, c_out]`. 3×3 windows are
padded by 1 on every side (PyTorch's padding, which for stride 2 is not TensorFlow's SAME).
"""

import jax

from asc_jax.models.kernels import shifts
from asc_jax.models.kernels.compiler import EXACT
from asc_jax.types import Array

BODIES = ("auto", "lax", "shifts")


def resolve_body(body: str) -> str:
    """`"auto"` → the body for this machine; an unknown name raises ValueError."""
    if body not in BODIES:
        raise ValueError(f"unknown body {body!r}; known: {', '.join(BODIES)}")
    if body != "auto":
        return body
    return "lax" if jax.default_backend() == "tpu" else "shifts"


def conv3x3(x: Array, kernel: Array, *, strides=(1, 1), body: str = "auto") -> Array:
    """3×3 convolution: `x [b, f, t, c_in]`, `kernel [3, 3, c_in, c_out]`."""
    if resolve_body(body) == "lax":
        return _lax_conv(x, kernel, strides, padding=1)
    if x.shape[-1] == 1:
        return shifts.one_channel_conv(x, kernel, tuple(strides))
    return shifts.patches_conv(x, kernel, strides)


def pointwise_conv(x: Array, kernel: Array, *, body: str = "auto") -> Array:
    """1×1 convolution: `x [b, f, t, c_in]`, `kernel [1, 1, c_in, c_out]`."""
    if resolve_body(body) == "lax":
        return _lax_conv(x, kernel, (1, 1), padding=0)
    return shifts.dot(x, kernel[0, 0])


def depthwise_conv(x: Array, kernel: Array, *, strides=(1, 1), body: str = "auto") -> Array:
    """3×3 convolution of each channel by itself: `x [b, f, t, c]`, `kernel [3, 3, 1, c]`."""
    if resolve_body(body) == "lax":
        return _lax_conv(x, kernel, strides, padding=1, groups=x.shape[-1])
    return shifts.depthwise_conv(x, kernel, tuple(strides))


def avg_pool3x3(x: Array, *, strides=(1, 1)) -> Array:
    """Mean over 3×3 windows; the padding counts as zeros in it. `x [b, f, t, c]`."""
    return shifts.avg_pool3x3(x, tuple(strides))


def _lax_conv(x, kernel, strides, padding, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=EXACT,
    )
