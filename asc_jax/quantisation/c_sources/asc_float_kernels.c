/* The operations of a network in float: see asc_float_kernels.h. */
#include "asc_float_kernels.h"

#include <math.h>

static float larger(float a, float b)
{
    return a > b ? a : b;
}

static float smaller(float a, float b)
{
    return a < b ? a : b;
}

/* A window: its first row and column of x, which may lie outside, and the rows from top to bottom
   and columns from left to right that lie inside, the last ones excluded. */
struct part {
    int32_t row, column, top, bottom, left, right;
};

static struct part part_inside(const struct asc_window *window, int32_t i, int32_t j)
{
    struct part part;

    part.row = i * window->stride[0] - window->pad[0];
    part.column = j * window->stride[1] - window->pad[1];
    part.top = part.row < 0 ? 0 : part.row;
    part.left = part.column < 0 ? 0 : part.column;
    part.bottom = part.row + window->size[0];
    part.right = part.column + window->size[1];
    if (part.bottom > window->x.mel)
        part.bottom = window->x.mel;
    if (part.right > window->x.time)
        part.right = window->x.time;
    return part;
}

static float conv_sum(const struct asc_conv *conv, const float *x, const struct part *part,
                      int32_t k, int32_t first, int32_t n)
{
    const struct asc_window *window = &conv->window;
    int32_t row, column, c;
    float sum = 0.0f;

    for (row = part->top; row < part->bottom; row++)
        for (column = part->left; column < part->right; column++) {
            const int32_t at = row * window->x.time + column;
            const int32_t tap = (k * window->size[0] + row - part->row) * window->size[1] +
                                column - part->column;
            const float *values = x + at * window->x.channels + first;
            const float *weights = conv->weights + tap * n;

            for (c = 0; c < n; c++)
                sum += values[c] * weights[c];
        }
    return sum + conv->biases[k];
}

void asc_conv(const struct asc_conv *conv, const float *x, float *y)
{
    const struct asc_window *window = &conv->window;
    const int32_t n_in = window->x.channels / conv->groups;
    const int32_t n_out = window->y.channels / conv->groups;
    int32_t i, j, k;

    for (i = 0; i < window->y.mel; i++)
        for (j = 0; j < window->y.time; j++) {
            const struct part part = part_inside(window, i, j);

            for (k = 0; k < window->y.channels; k++)
                *y++ = conv_sum(conv, x, &part, k, k / n_out * n_in, n_in);
        }
}

void asc_avg_pool(const struct asc_window *window, const float *x, float *y)
{
    const int32_t channels = window->x.channels;
    const float n = (float)(window->size[0] * window->size[1]);
    int32_t i, j, c, row, column;

    for (i = 0; i < window->y.mel; i++)
        for (j = 0; j < window->y.time; j++) {
            const struct part part = part_inside(window, i, j);

            for (c = 0; c < channels; c++) {
                float sum = 0.0f;

                for (row = part.top; row < part.bottom; row++)
                    for (column = part.left; column < part.right; column++)
                        sum += x[(row * window->x.time + column) * channels + c];
                *y++ = sum / n;
            }
        }
}

void asc_max_pool(const struct asc_window *window, const float *x, float *y)
{
    const int32_t channels = window->x.channels;
    int32_t i, j, c, row, column;

    for (i = 0; i < window->y.mel; i++)
        for (j = 0; j < window->y.time; j++) {
            const struct part part = part_inside(window, i, j);

            for (c = 0; c < channels; c++) {
                float largest = -HUGE_VALF;

                for (row = part.top; row < part.bottom; row++)
                    for (column = part.left; column < part.right; column++)
                        largest = larger(largest, x[(row * window->x.time + column) * channels + c]);
                *y++ = largest;
            }
        }
}

static float combined(enum asc_map_kind kind, float a, float b, float y)
{
    switch (kind) {
    case ASC_COPY: return a;
    case ASC_ADD: return a + b;
    case ASC_SUB: return a - b;
    case ASC_MUL: return a * b;
    case ASC_DIV: return a / b;
    case ASC_MAX: return larger(a, b);
    case ASC_MIN: return smaller(a, b);
    case ASC_SQRT: return sqrtf(a);
    case ASC_EXP: return expf(a);
    case ASC_LOG: return logf(a);
    case ASC_TANH: return tanhf(a);
    case ASC_ABS: return fabsf(a);
    case ASC_SUM: return y + a;
    case ASC_LARGEST: return larger(y, a);
    case ASC_SMALLEST: return smaller(y, a);
    }
    return a;
}

void asc_map(const struct asc_walk *walk, enum asc_map_kind kind, const float *a, const float *b,
             float *y)
{
    int32_t i, j, k, l;

    for (i = 0; i < walk->size[0]; i++)
        for (j = 0; j < walk->size[1]; j++)
            for (k = 0; k < walk->size[2]; k++) {
                const float *p = a + i * walk->a[0] + j * walk->a[1] + k * walk->a[2];
                const float *q = b + i * walk->b[0] + j * walk->b[1] + k * walk->b[2];
                float *r = y + i * walk->y[0] + j * walk->y[1] + k * walk->y[2];

                for (l = 0; l < walk->size[3]; l++) {
                    float *to = r + l * walk->y[3];

                    *to = combined(kind, p[l * walk->a[3]], q[l * walk->b[3]],
                                   kind >= ASC_SUM ? *to : 0.0f);
                }
            }
}

void asc_grn(const struct asc_image *image, const float *gamma_beta, const float *x, float *y,
             float *norms)
{
    const int32_t n = image->mel * image->time, channels = image->channels;
    float mean = 0.0f;
    int32_t c, i;

    for (c = 0; c < channels; c++) {
        float sum = 0.0f;

        for (i = 0; i < n; i++)
            sum += x[i * channels + c] * x[i * channels + c];
        norms[c] = sqrtf(sum);
        mean += norms[c] / (float)channels;
    }
    for (c = 0; c < channels; c++)
        norms[c] = gamma_beta[0] * norms[c] / (mean + 1e-6f);
    for (i = 0; i < n; i++)
        for (c = 0; c < channels; c++)
            y[i * channels + c] = x[i * channels + c] + x[i * channels + c] * norms[c] +
                                  gamma_beta[1];
}

void asc_fill(int32_t n, float value, float *y)
{
    int32_t i;

    for (i = 0; i < n; i++)
        y[i] = value;
}

void asc_scale(int32_t n, float factor, float *y)
{
    int32_t i;

    for (i = 0; i < n; i++)
        y[i] *= factor;
}

static float activated(enum asc_activation activation, float x)
{
    switch (activation) {
    case ASC_RELU: return larger(x, 0.0f);
    case ASC_RELU6: return smaller(larger(x, 0.0f), 6.0f);
    case ASC_SILU: return x / (1.0f + expf(-x));
    case ASC_HARD_SWISH: return x * smaller(larger(x + 3.0f, 0.0f), 6.0f) / 6.0f;
    case ASC_GELU:
        return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
    case ASC_SIGMOID: return 1.0f / (1.0f + expf(-x));
    }
    return x;
}

void asc_activate(int32_t n, enum asc_activation activation, float *y)
{
    int32_t i;

    for (i = 0; i < n; i++)
        y[i] = activated(activation, y[i]);
}
