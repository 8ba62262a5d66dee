"""The cost of each JAX primitive: multiply-accumulates, and other floating-point operations.

Read off the shapes of one equation of a jaxpr; `jaxpr_walk` says how often it runs.
A name that is in none of the sets below is rejected, so that a new primitive is never free by
default. They hold the names of JAX 0.10 to 0.12; none of those versions has all of them.
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
    integer_pow lgamma log log1p log2 logistic max min mul neg nextafter one_minus_square
    polygamma pow reciprocal regularized_incomplete_beta rem round rsqrt sign sin sinh sqrt
    square sub tan tanh zeta"""
)
# One per element that is taken in, less one per result. psum, pmax and pmin give as many as they
# take between replicas, fewer where vmap has made a named axis one of the array's.
REDUCTIONS = _names("reduce_sum reduce_max reduce_min reduce_prod argmax argmin psum pmax pmin")
CUMULATIVE = _names("cumsum cumprod cummax cummin cumlogsumexp")
WINDOWS = _names("reduce_window_sum reduce_window_max reduce_window_min reduce_window")
# One per value of the first operand: each is added to some result.
SUMS = _names(
    """bcoo_sum_duplicates bcoo_todense bcsr_todense coo_todense csr_todense
    select_and_scatter_add"""
)
# What their own combiner costs, each time.
COMBINED = _names(
    """reduce scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub
    select_and_scatter"""
)
# They multiply, but by algorithms whose products a jaxpr does not show.
ALGORITHMS = _names(
    """cholesky cholesky_update eig eigh fft geqrf geqp3 hessenberg householder_product lu ormqr
    qr random_gamma schur svd triangular_solve tridiagonal tridiagonal_solve"""
)
# Known to cost nothing: they move, compare, select, convert, draw random bits, work on integers
# or bits alone, communicate, print, or only speak to the compiler.
FREE = _names(
    """accum_grad_in_ref after_all all_gather all_gather_invariant all_gather_reduced all_to_all
    and approx_top_k assert_consumed_value axis_index bcoo_extract bcoo_fromdense
    bcoo_sort_indices bcoo_transpose bcsr_extract bcsr_fromdense bitcast_convert_type box_get
    box_set broadcast_in_dim broadcast_to check clz complex concatenate conj consume
    convert_element_type coo_fromdense copy create_linear create_token csr_fromdense dce_sink
    debug_callback debug_print device_put dim_as_value dimension_size dynamic_slice
    dynamic_update_slice empty empty2 empty_ref eq eq_to free_ref freeze from_edtype gather ge
    get global_array_to_host_local_array gt host_local_array_to_global_array imag
    inspect_sharding iota iota_2x32_shape is_finite layout_constraint le le_to log_extend
    log_read lt lt_to lu_pivots_to_permutation mulhi name ne new_box new_log new_ref not
    optimization_barrier or pad pbroadcast pbroadcast_dynamic philox2x32 philox4x32 pin
    platform_index population_count ppermute precv preduced psend psum_invariant pvary
    ragged_all_to_all random_bits random_clone random_fold_in random_seed random_split
    random_unwrap random_wrap real reduce_and reduce_or reduce_precision reduce_scatter
    reduce_xor reduced_vary_cast reduced_vary_cast_p relayout reshape reshard rev
    rng_bit_generator rng_uniform select_and_gather_add select_n shape_assertion shard_alike
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical slice sort split
    squeeze stack stage stop_gradient swap threefry2x32 threefry4x32 tie tile to_edtype todense
    top_k transpose unpin unreachable unreduced_pmax unreduced_pmin unreduced_psum
    unreduced_reduce_scatter unstack vary_unreduced_cast vary_unreduced_cast_p
    with_memory_space_constraint xla_metadata_value xor zeros_like"""
)
# Collectives that may run while others compute come as two primitives.
ASYNCHRONOUS = re.compile(
    "(all_gather|all_gather_reduced|all_to_all|pbroadcast|ppermute|psum|psum_invariant"
    "|reduce_scatter|unreduced_psum|unreduced_reduce_scatter)_(start|done)"
)
# Code from elsewhere, and products without a definition here: nothing to read a cost from.
OPAQUE = (
    "buffer_callback",
    "call_exported",
    "call_hi_primitive",
    "call_tf",
    "cudnn",
    "custom_call",
    "dot_product_attention",
    "ffi_call",
    "io_callback",
    "mosaic_gpu",
    "pure_callback",
    "rnn",
    "scaled_dot",
    "scaled_matmul",
    "symmetric_product",
    "thunky.",
    "tpu_custom_call",
)
# Sparse products: how many there are is a matter of values.
SPARSE = re.compile(r"(bcoo|bcsr)_(sp)?dot_general\w*|(coo|csr)_(matmat|matvec|spmm|spmv)|spsolve")


def refusal(name: str) -> str | None:
    """Why the primitive of that name, one without a jaxpr, is not counted; None: it is."""
    if name in KNOWN or ASYNCHRONOUS.fullmatch(name):
        return None
    if name.startswith(OPAQUE):
        return "the counter cannot see what it computes, and would have to call it free"
    if SPARSE.fullmatch(name):
        return "how many products a sparse matrix takes depends on its values, not on shapes"
    return "the counter does not know what it computes, and would have to call it free"


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
    if not floating or name in FREE:
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
    if name in SUMS:
        return floating[0].size
    if name == "addupdate":
        return eqn.invars[1].aval.size  # the first is what it is added to
    return 0


def n_applications(eqn) -> int:
    """Return how often a primitive that combines values pairwise calls its combiner."""
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
    """Return the cost as if the groups filled every row: their sizes are values, not shapes."""
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
OTHERS = _names("addupdate clamp polynomial")
KNOWN = FREE.union(
    ELEMENTWISE, REDUCTIONS, CUMULATIVE, WINDOWS, SUMS, COMBINED, ALGORITHMS, PRODUCTS, OTHERS
)
