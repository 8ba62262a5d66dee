"""What one JAX primitive costs: multiply-accumulates, and floating-point operations besides.

Read off the shapes of one equation of a jaxpr; `jaxpr_walk` says how often it runs.
"""

import math
import re

import jax
import jax.numpy as jnp


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# One operation per element of the result.
ELEMENTWISE = _names(
    """abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    cos cosh digamma div erf erf_inv erfc exp exp2 expm1 floor igamma igamma_grad_a igammac
    integer_pow lgamma log log1p log2 logistic max min mul neg one_minus_square polygamma pow
    reciprocal regularized_incomplete_beta rem round rsqrt sign sin sinh sqrt square sub tan
    tanh zeta"""
)
# One per element that is taken in, less one per result.
REDUCTIONS = _names("reduce_sum reduce_max reduce_min reduce_prod argmax argmin")
CUMULATIVE = _names("cumsum cumprod cummax cummin cumlogsumexp")
WINDOWS = _names("reduce_window_sum reduce_window_max reduce_window_min reduce_window")
# They multiply, but by algorithms whose products a jaxpr does not show.
ALGORITHMS = _names(
    """cholesky cholesky_update eig eigh fft geqrf geqp3 hessenberg householder_product lu ormqr
    qr schur svd triangular_solve tridiagonal tridiagonal_solve"""
)
# They move, compare, select, convert, draw random bits or communicate: no floating-point work.
FREE = _names(
    """add_dependency addupdate after_all all_gather all_gather_invariant all_gather_reduced
    all_to_all and approx_top_k axis_index bitcast bitcast_convert_type broadcast_in_dim
    broadcast_to check clz complex concatenate conj convert_element_type copy copy_p
    create_token debug_callback debug_print device_put dim_as_value dimension_size dynamic_slice
    dynamic_update_slice empty empty2 empty_ref eq eq_to free_ref freeze from_edtype gather ge
    get gt imag inspect_sharding iota iota_2x32_shape is_finite layout_constraint le le_to lt
    lt_to lu_pivots_to_permutation mesh_cast mulhi name ne new_ref nextafter not
    optimization_barrier or pack_dtype pad pbroadcast pcast philox2x32 philox4x32 platform_index
    pmax pmin population_count ppermute precv preduced psend psum psum2 psum_invariant
    psum_scatter pvary ragged_all_to_all random_bits random_clone random_fold_in random_gamma
    random_seed random_split random_unwrap random_wrap real reduce_and reduce_or
    reduce_precision reduce_scatter reduce_xor reshape reshard rev rng_bit_generator rng_uniform
    roll select_and_gather_add select_n shape_assertion shard_alike sharding_constraint
    shift_left shift_right_arithmetic shift_right_logical slice sort split squeeze stack
    stop_gradient swap threefry2x32 threefry4x32 tie tile to_edtype top_k trace_value transpose
    unpack_dtype unstack with_memory_space_constraint xla_metadata_value xor zeros_like"""
)
# Code from elsewhere, and products without a definition here: nothing to read a cost from.
OPAQUE = (
    "pure_callback",
    "io_callback",
    "ffi_call",
    "custom_call",
    "call_hi_primitive",
    "scaled_matmul",
    "symmetric_product",
    "dot_product_attention",
    "cudnn",
    "rnn",
)


def is_known(name: str) -> bool:
    """Whether it is certain what a primitive without an inner jaxpr costs."""
    special = ("clamp", "polynomial", "select_and_scatter_add", "select_and_scatter", "reduce")
    groups = (ELEMENTWISE, REDUCTIONS, CUMULATIVE, WINDOWS, ALGORITHMS, FREE, PRODUCTS, special)
    return any(name in group for group in groups) or re.fullmatch(r"scatter([-_]\w+)?", name)


def macs(eqn) -> int:
    """Multiply-accumulates of one convolution or matrix product; 0 for anything else."""
    product = PRODUCTS.get(eqn.primitive.name)
    return product(eqn) if product else 0


def flops(eqn) -> int:
    """Elementwise and reduction operations of one equation on floating-point numbers.

    The rule is that of `complexity.count_macs`.
    """
    name = eqn.primitive.name
    floating = [var.aval for var in eqn.invars if _is_floating(var)]
    if not floating:
        return 0
    n_out = sum(var.aval.size for var in eqn.outvars)
    if name in ELEMENTWISE:
        return n_out if _is_floating(eqn.outvars[0]) else 0
    if name == "clamp":
        return 2 * n_out
    if name == "polynomial":  # Horner: per coefficient after the first, a product and a sum
        return 2 * n_out * (len(eqn.invars) - 2)
    if name in REDUCTIONS:
        return max(floating[0].size - n_out, 0)
    if name in CUMULATIVE:
        return n_out
    if name in WINDOWS:
        return n_applications(eqn)
    if name == "select_and_scatter_add":
        return floating[0].size  # the source: each value is added once
    return 0


def n_applications(eqn) -> int:
    """How often a primitive that combines values pairwise calls its combiner."""
    name = eqn.primitive.name
    if name == "reduce":
        return max(eqn.invars[0].aval.size - eqn.outvars[0].aval.size, 0)
    if name in WINDOWS:
        window = math.prod(eqn.params["window_dimensions"])
        return eqn.outvars[0].aval.size * (window - 1)
    if name == "select_and_scatter":
        return eqn.invars[1].aval.size
    return eqn.invars[-1].aval.size  # scatter…: one per value of the update


def _is_floating(var) -> bool:
    return jnp.issubdtype(getattr(var.aval, "dtype", bool), jnp.inexact)


def _conv(eqn) -> int:
    """The kernel without its output channels is what one output element is the sum of."""
    kernel, c_out = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec[0]
    taps_and_channels = math.prod(size for axis, size in enumerate(kernel) if axis != c_out)
    return eqn.outvars[0].aval.size * taps_and_channels


def _dot(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return eqn.outvars[0].aval.size * _length(eqn, contracted)


def _ragged_dot(eqn) -> int:
    """As if the groups filled every row: their sizes are values, not shapes."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    total = eqn.outvars[0].aval.size * _length(eqn, contracted)
    if set(numbers.lhs_ragged_dimensions) & set(contracted):
        # the groups share the contracted length: each result sums over its own part
        total //= max(eqn.invars[2].aval.shape[-1], 1)
    return total


def _length(eqn, axes) -> int:
    return math.prod(eqn.invars[0].aval.shape[axis] for axis in axes)


PRODUCTS = {
    jax.lax.conv_general_dilated_p.name: _conv,
    jax.lax.dot_general_p.name: _dot,
    "ragged_dot_general": _ragged_dot,
}
