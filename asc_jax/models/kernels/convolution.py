"""Convolution: one meaning, and the fastest way to compute it on the machine that runs it.

The meaning is `jax.lax.conv_general_dilated`. The complexity counter, the exporters and TPUs, where
nothing has been measured, use it. On CPUs and NVIDIA GPUs `taps` computes the same; tests compare
the two, forward and backward.
"""

import functools

import jax
import jax.numpy as jnp

from asc_jax.models.kernels import taps
from asc_jax.models.kernels.compiler import EXACT, by_machine, written_out
from asc_jax.models.kernels.taps import Window
from asc_jax.types import Array


def conv(x: Array, kernel: Array, strides=(1, 1), groups: int = 1, padding=None) -> Array:
    """Convolve, channels last.

    Args:
      x: `[b, f, t, c_in]` floating.
      kernel: `[kf, kt, c_in / groups, c_out]`, of the same dtype.
      strides: of mel bins and of frames.
      groups: as many equal parts of the channels are convolved each by itself; `c_in`: each
        channel (depthwise).
      padding: zeros `(before, after)` for mel bins and for frames; None: half the kernel on both
        sides, which is PyTorch's `padding=k // 2` and, at stride 2, not TensorFlow's SAME.

    Returns:
      `[b, f', t', c_out]`.
    """
    size = kernel.shape[:2]
    padding = padding or [(n // 2, n // 2) for n in size]
    window = Window(size, tuple(strides), tuple(map(tuple, padding)))
    return _conv(window, groups, x, kernel)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    precision=None,
    **rest,
) -> Array:
    """Do what `jax.lax.conv_general_dilated` does, by `conv` where that can.

    For `flax.linen.Conv(..., conv_general_dilated=conv_general_dilated)`.
    """
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = numbers == jax.lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, ("NHWC", "HWIO", "NHWC") if lhs.ndim == 4 else None
    )
    dilated = any(n != 1 for n in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if lhs.ndim != 4 or not plain or dilated or lhs.dtype != rhs.dtype or any(rest.values()):
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
            **rest,
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    return conv(lhs, rhs, window_strides, feature_group_count, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(window: Window, groups: int, x: Array, kernel: Array) -> Array:
    return _forward(window, groups, x, kernel)[0]


def _forward(window, groups, x, kernel):
    return by_machine(_fast, _definition, (window, groups), x, kernel), (x, kernel)


def _backward(window, groups, residuals, dy):
    return by_machine(_fast_backward, _definition_backward, (window, groups), *residuals, dy)


_conv.defvjp(_forward, _backward)


def _definition(window: Window, groups: int, x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=window.strides,
        padding=window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=EXACT,
    )


def _definition_backward(window: Window, groups: int, x: Array, kernel: Array, dy: Array):
    return jax.vjp(functools.partial(_definition, window, groups), x, kernel)[1](dy)


def _is_lax_faster(window: Window, groups: int, x: Array) -> bool:
    """Return whether a GPU leaves it to XLA: where patches are many, or products small."""
    return 1 < groups < x.shape[-1] or (groups < x.shape[-1] and len(window.taps) > 9)


def _fast(window: Window, groups: int, x: Array, kernel: Array, *, cpu: bool) -> Array:
    if not cpu and _is_lax_faster(window, groups, x):
        return _definition(window, groups, x, kernel)
    if groups == x.shape[-1]:
        return taps.filter_channels(window, x, kernel, cpu=cpu)
    if groups > 1 and cpu:  # else what makes it is computed again for each group, from slices
        x = written_out(x)
    parts = [_product(window, *part, cpu) for part in _groups(groups, x, kernel)]
    return parts[0] if groups == 1 else jnp.concatenate(parts, axis=-1)


def _fast_backward(window, groups, x, kernel, dy, *, cpu: bool) -> tuple[Array, Array]:
    if not cpu and _is_lax_faster(window, groups, x):
        return _definition_backward(window, groups, x, kernel, dy)
    if groups == x.shape[-1]:
        return taps.filter_channels_backward(window, x, kernel, dy, cpu=cpu)
    if groups > 1 and cpu:
        x, dy = written_out(x), written_out(dy)
    grads = [_product_backward(window, *part, cpu) for part in _groups(groups, x, kernel, dy)]
    dx, dkernel = zip(*grads, strict=True)
    return grads[0] if groups == 1 else tuple(jnp.concatenate(d, axis=-1) for d in (dx, dkernel))


# On a CPU XLA's convolution needs no patches, and is faster than a product of them where its
# results fill registers: 3×3 from 32 to 32 channels, 111 in place of 157 µs a clip of 63 × 10
# positions; but 3×3 from 1 to 8, 214 in place of 78 µs. That holds for its gradient to the input
# too, which is a convolution if the strides are 1; not for that to the kernel.
REGISTER = 16  # float32 values


def _is_lax_faster_on_cpu(window: Window, x: Array, n_channels: int) -> bool:
    return x.dtype == jnp.float32 and len(window.taps) > 1 and n_channels >= REGISTER


def _product(window: Window, x: Array, kernel: Array, cpu: bool) -> Array:
    if cpu and _is_lax_faster_on_cpu(window, x, kernel.shape[-1]):
        return _definition(window, 1, x, kernel)
    return taps.product(window, x, kernel, cpu=cpu)


def _product_backward(window, x, kernel, dy, cpu: bool) -> tuple[Array, Array]:
    lax = cpu and window.strides == (1, 1) and _is_lax_faster_on_cpu(window, x, x.shape[-1])
    if not lax:
        return taps.product_backward(window, x, kernel, dy, cpu=cpu)
    dkernel = taps.product_of_patches(window, x, kernel, dy, cpu=cpu)
    sides = zip(window.size, window.padding, strict=True)
    padding = tuple((n - 1 - before, n - 1 - after) for n, (before, after) in sides)
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _definition(window._replace(padding=padding), 1, dy, turned), dkernel


def _groups(n: int, *arrays: Array):
    """Return the channels of the groups, each as `(x, kernel, …)`; a kernel's are its results."""
    return zip(*(jnp.split(array, n, axis=-1) for array in arrays), strict=True)
