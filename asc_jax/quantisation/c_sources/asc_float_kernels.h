/* The operations of a network in float, in C99 without heap or global state.

   A result is an array of float, channels last: an image is [mel][time][channels]. No kernel but
   asc_activate and asc_scale works in place: x and y must not overlap. */
#ifndef ASC_FLOAT_KERNELS_H
#define ASC_FLOAT_KERNELS_H

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

/* A channel of y reads one of `groups` equal parts of the channels of x. weights: [channels of y]
   [size[0]][size[1]][channels of x / groups]. biases: [channels of y]. */
struct asc_conv {
    struct asc_window window;
    int32_t groups;
    const float *weights, *biases;
};

/* Four loops of size[0] to size[3] values, and by how many values each moves on in the two operands
   and in the result: 0 where one value serves all. */
struct asc_walk {
    int32_t size[4], a[4], b[4], y[4];
};

/* What a walk does with values a and b, and y, which it replaces. */
enum asc_map_kind {
    ASC_COPY, ASC_ADD, ASC_SUB, ASC_MUL, ASC_DIV, ASC_MAX, ASC_MIN, /* of a and b */
    ASC_SQRT, ASC_EXP, ASC_LOG, ASC_TANH, ASC_ABS,                  /* of a */
    ASC_SUM, ASC_LARGEST, ASC_SMALLEST                              /* of y and a */
};

enum asc_activation { ASC_RELU, ASC_RELU6, ASC_SILU, ASC_HARD_SWISH, ASC_GELU, ASC_SIGMOID };

/* Convolution; what lies outside x is 0. */
void asc_conv(const struct asc_conv *conv, const float *x, float *y);

/* Mean of every window; what lies outside x counts as 0. */
void asc_avg_pool(const struct asc_window *window, const float *x, float *y);

/* Largest value of every window; what lies outside x is ignored. */
void asc_max_pool(const struct asc_window *window, const float *x, float *y);

/* Value by value, in any order of the axes. */
void asc_map(const struct asc_walk *walk, enum asc_map_kind kind, const float *a, const float *b,
             float *y);

/* Global response normalisation: x + gamma x r + beta, where r is a channel's norm over the mean of
   all channels' norms. norms: room for a value for each channel. */
void asc_grn(const struct asc_image *image, const float *gamma_beta, const float *x, float *y,
             float *norms);

void asc_fill(int32_t n, float value, float *y);
void asc_scale(int32_t n, float factor, float *y);
void asc_activate(int32_t n, enum asc_activation activation, float *y);

#endif
