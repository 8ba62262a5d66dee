/* The operations of an integer network, in C99 without heap, floating point or global state.

   A result is an image [mel][time][channels] of int8, channels last. An int8 q stands for the real
   value scale * (q - zero_point). No kernel works in place: x and y must not overlap. */
#ifndef ASC_KERNELS_H
#define ASC_KERNELS_H

#include <stdint.h>

struct asc_image {
    int32_t mel, time, channels;
};

/* Value [i][j] of y is that of the window of size[0] by size[1] whose first value is
   [i * stride[0] - pad[0]][j * stride[1] - pad[1]] of x: [0] of mel bins, [1] of frames. */
struct asc_window {
    struct asc_image x, y;
    int32_t size[2], stride[2], pad[2];
};

/* A sum becomes an int8 as sum * multiplier / 2^(31 + shift), plus the zero point of y, at least
   low and at most high. multiplier: 0, or from 2^30 to 2^31 - 1. shift: from 0 to 31. */
struct asc_result {
    int32_t zero_point, low, high;
};

/* A channel of y reads one of `groups` equal parts of the channels of x. weights: [channels of y]
   [size[0]][size[1]][channels of x / groups]. biases, multipliers, shifts: [channels of y]. */
struct asc_conv {
    struct asc_window window;
    int32_t groups, x_zero_point;
    const int8_t *weights;
    const int32_t *biases, *multipliers;
    const uint8_t *shifts;
    struct asc_result result;
};

/* Two inputs value by value: the result has the shape n, and the value at [i][j][k][l] of input m
   is x[i * stride[m][0] + ... + l * stride[m][3]]. A stride is 0 along an axis that the input has
   once for all positions. */
struct asc_pair {
    int32_t n[4], stride[2][4];
};

/* The first two multipliers and shifts are those of the inputs, the third that of the sum. sign: 1
   for a sum, -1 for a difference. */
struct asc_add {
    struct asc_pair pair;
    int32_t sign, zero_points[2], multipliers[3];
    uint8_t shifts[3];
    struct asc_result result;
};

struct asc_mul {
    struct asc_pair pair;
    int32_t zero_points[2], multiplier;
    uint8_t shift;
    struct asc_result result;
};

/* n: values. table: the results for -128 to 127. */
struct asc_lookup {
    int32_t n;
    const int8_t *table;
};

/* The result has the scale and the zero point of x. */
struct asc_pool {
    struct asc_window window;
    struct asc_result result;
};

/* x is [outer][n][inner], and the result [outer][inner]. */
struct asc_mean {
    int32_t outer, n, inner, x_zero_point, multiplier;
    uint8_t shift;
    struct asc_result result;
};

/* The value [i][j][k][l] of y, of shape n, is x[start + i * stride[0] + ... + l * stride[3]]. */
struct asc_view {
    int32_t n[4], start, stride[4];
};

/* y is [outer][size[0] + size[1]]. */
struct asc_concat {
    int32_t outer, size[2];
};

/* Convolution; what lies outside x stands for the value 0. */
void asc_conv(const struct asc_conv *conv, const int8_t *x, int8_t *y);

/* Sum or difference of two results. */
void asc_add(const struct asc_add *add, const int8_t *left, const int8_t *right, int8_t *y);

/* Product of two results. */
void asc_mul(const struct asc_mul *mul, const int8_t *left, const int8_t *right, int8_t *y);

/* The larger ones of n values of two results. */
void asc_max(int32_t n, const int8_t *left, const int8_t *right, int8_t *y);

/* A function of every value. */
void asc_lookup(const struct asc_lookup *lookup, const int8_t *x, int8_t *y);

/* Mean of every window; what lies outside x counts as the value 0. */
void asc_avg_pool(const struct asc_pool *pool, const int8_t *x, int8_t *y);

/* Largest value of every window; what lies outside x is ignored. */
void asc_max_pool(const struct asc_pool *pool, const int8_t *x, int8_t *y);

/* Mean over n values. */
void asc_mean(const struct asc_mean *mean, const int8_t *x, int8_t *y);

/* Sum of the squares of n values. */
void asc_energy(const struct asc_mean *mean, const int8_t *x, int8_t *y);

/* A part of x, or its axes in another order. */
void asc_view(const struct asc_view *view, const int8_t *x, int8_t *y);

/* One result after the other along an axis. */
void asc_concat(const struct asc_concat *concat, const int8_t *left, const int8_t *right,
                int8_t *y);

/* The same n values. */
void asc_copy(int32_t n, const int8_t *x, int8_t *y);

#endif
