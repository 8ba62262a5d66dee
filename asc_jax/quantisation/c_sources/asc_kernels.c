/* The operations of an integer network: see asc_kernels.h.

   No sum leaves int32, whatever x holds: the generator rejects convolutions whose sums might. No
   negative number is shifted, because C99 leaves the result of that to the compiler. */
#include "asc_kernels.h"

/* Returns a * b / 2^31, halves rounded up; 0 <= b < 2^31. */
static int32_t high_product(int32_t a, int32_t b)
{
    const int64_t half = (int64_t)1 << 30;
    const int64_t offset = (int64_t)1 << 62; /* makes the sum positive; 2^31 after the shift */

    return (int32_t)((((int64_t)a * b + half + offset) >> 31) - (offset >> 31));
}

/* Returns x / 2^exponent, halves rounded away from 0; x > -2^31, exponent 0 to 31. */
static int32_t divide_by_power(int32_t x, uint8_t exponent)
{
    uint32_t size = (uint32_t)(x < 0 ? -x : x);

    if (exponent > 0)
        size = (size + ((uint32_t)1 << (exponent - 1))) >> exponent;
    return x < 0 ? -(int32_t)size : (int32_t)size;
}

static int32_t requantise(int32_t sum, int32_t multiplier, uint8_t shift)
{
    return divide_by_power(high_product(sum, multiplier), shift);
}

static int8_t bounded(int32_t value, const struct asc_result *result)
{
    if (value < result->low)
        value = result->low;
    if (value > result->high)
        value = result->high;
    return (int8_t)value;
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
    if (part.bottom < part.top) /* all of it is outside */
        part.bottom = part.top;
    if (part.right < part.left)
        part.right = part.left;
    return part;
}

/* Returns the sum of products for channel k of y, which reads n channels of x from `first` on. */
static int32_t conv_sum(const struct asc_conv *conv, const int8_t *x, const struct part *part,
                        int32_t k, int32_t first, int32_t n)
{
    const struct asc_window *window = &conv->window;
    const int32_t zero_point = conv->x_zero_point;
    int32_t row, column, c, sum = conv->biases[k];

    for (row = part->top; row < part->bottom; row++)
        for (column = part->left; column < part->right; column++) {
            const int32_t at = row * window->x.time + column;
            const int32_t tap = (k * window->size[0] + row - part->row) * window->size[1] +
                                column - part->column;
            const int8_t *values = x + at * window->x.channels + first;
            const int8_t *weights = conv->weights + tap * n;

            for (c = 0; c < n; c++)
                sum += (values[c] - zero_point) * weights[c];
        }
    return sum;
}

void asc_conv(const struct asc_conv *conv, const int8_t *x, int8_t *y)
{
    const struct asc_window *window = &conv->window;
    const struct asc_result *result = &conv->result;
    const int32_t n_in = window->x.channels / conv->groups;
    const int32_t n_out = window->y.channels / conv->groups;
    int32_t i, j, group, k;

    for (i = 0; i < window->y.mel; i++)
        for (j = 0; j < window->y.time; j++) {
            const struct part part = part_inside(window, i, j);

            for (group = 0; group < conv->groups; group++)
                for (k = group * n_out; k < (group + 1) * n_out; k++) {
                    const int32_t sum = conv_sum(conv, x, &part, k, group * n_in, n_in);
                    const int32_t value = requantise(sum, conv->multipliers[k], conv->shifts[k]);

                    *y++ = bounded(value + result->zero_point, result);
                }
        }
}

/* Returns where the value at [i][j][k][l] lies. */
static int32_t position(const int32_t *stride, int32_t i, int32_t j, int32_t k, int32_t l)
{
    return i * stride[0] + j * stride[1] + k * stride[2] + l * stride[3];
}

static int8_t sum_of(const struct asc_add *add, int32_t left, int32_t right)
{
    const int32_t spare = (int32_t)1 << 20; /* bits that scaling rounds off */
    const int32_t a = (left - add->zero_points[0]) * spare;
    const int32_t b = (right - add->zero_points[1]) * spare * add->sign;
    int32_t sum = requantise(a, add->multipliers[0], add->shifts[0]) +
                  requantise(b, add->multipliers[1], add->shifts[1]);

    sum = requantise(sum, add->multipliers[2], add->shifts[2]);
    return bounded(sum + add->result.zero_point, &add->result);
}

void asc_add(const struct asc_add *add, const int8_t *left, const int8_t *right, int8_t *y)
{
    const struct asc_pair *pair = &add->pair;
    int32_t i, j, k, l;

    for (i = 0; i < pair->n[0]; i++)
        for (j = 0; j < pair->n[1]; j++)
            for (k = 0; k < pair->n[2]; k++)
                for (l = 0; l < pair->n[3]; l++)
                    *y++ = sum_of(add, left[position(pair->stride[0], i, j, k, l)],
                                  right[position(pair->stride[1], i, j, k, l)]);
}

static int8_t product_of(const struct asc_mul *mul, int32_t left, int32_t right)
{
    const int32_t product = (left - mul->zero_points[0]) * (right - mul->zero_points[1]);
    const int32_t value = requantise(product, mul->multiplier, mul->shift);

    return bounded(value + mul->result.zero_point, &mul->result);
}

void asc_mul(const struct asc_mul *mul, const int8_t *left, const int8_t *right, int8_t *y)
{
    const struct asc_pair *pair = &mul->pair;
    int32_t i, j, k, l;

    for (i = 0; i < pair->n[0]; i++)
        for (j = 0; j < pair->n[1]; j++)
            for (k = 0; k < pair->n[2]; k++)
                for (l = 0; l < pair->n[3]; l++)
                    *y++ = product_of(mul, left[position(pair->stride[0], i, j, k, l)],
                                      right[position(pair->stride[1], i, j, k, l)]);
}

void asc_max(int32_t n, const int8_t *left, const int8_t *right, int8_t *y)
{
    int32_t i;

    for (i = 0; i < n; i++)
        y[i] = left[i] > right[i] ? left[i] : right[i];
}

void asc_lookup(const struct asc_lookup *lookup, const int8_t *x, int8_t *y)
{
    int32_t i;

    for (i = 0; i < lookup->n; i++)
        y[i] = lookup->table[x[i] + 128];
}

void asc_avg_pool(const struct asc_pool *pool, const int8_t *x, int8_t *y)
{
    const struct asc_window *window = &pool->window;
    const int32_t n = window->size[0] * window->size[1];
    const int32_t channels = window->x.channels;
    int32_t i, j, c, row, column;

    for (i = 0; i < window->y.mel; i++)
        for (j = 0; j < window->y.time; j++) {
            const struct part part = part_inside(window, i, j);
            const int32_t n_inside = (part.bottom - part.top) * (part.right - part.left);

            for (c = 0; c < channels; c++) {
                int32_t sum = (n - n_inside) * pool->result.zero_point;

                for (row = part.top; row < part.bottom; row++)
                    for (column = part.left; column < part.right; column++)
                        sum += x[(row * window->x.time + column) * channels + c];
                sum += sum < 0 ? -(n / 2) : n / 2; /* the division truncates */
                *y++ = bounded(sum / n, &pool->result);
            }
        }
}

void asc_max_pool(const struct asc_pool *pool, const int8_t *x, int8_t *y)
{
    const struct asc_window *window = &pool->window;
    const int32_t channels = window->x.channels;
    int32_t i, j, c, row, column;

    for (i = 0; i < window->y.mel; i++)
        for (j = 0; j < window->y.time; j++) {
            const struct part part = part_inside(window, i, j);

            for (c = 0; c < channels; c++) {
                int32_t largest = -128;

                for (row = part.top; row < part.bottom; row++)
                    for (column = part.left; column < part.right; column++) {
                        const int32_t value = x[(row * window->x.time + column) * channels + c];

                        if (value > largest)
                            largest = value;
                    }
                *y++ = bounded(largest, &pool->result);
            }
        }
}

void asc_mean(const struct asc_mean *mean, const int8_t *x, int8_t *y)
{
    int32_t o, i, k;

    for (o = 0; o < mean->outer; o++, x += mean->n * mean->inner)
        for (k = 0; k < mean->inner; k++) {
            int32_t sum = 0;

            for (i = 0; i < mean->n; i++)
                sum += x[i * mean->inner + k] - mean->x_zero_point;
            sum = requantise(sum, mean->multiplier, mean->shift);
            *y++ = bounded(sum + mean->result.zero_point, &mean->result);
        }
}

void asc_energy(const struct asc_mean *mean, const int8_t *x, int8_t *y)
{
    int32_t o, i, k;

    for (o = 0; o < mean->outer; o++, x += mean->n * mean->inner)
        for (k = 0; k < mean->inner; k++) {
            int32_t sum = 0;

            for (i = 0; i < mean->n; i++) {
                const int32_t value = x[i * mean->inner + k] - mean->x_zero_point;

                sum += value * value;
            }
            sum = requantise(sum, mean->multiplier, mean->shift);
            *y++ = bounded(sum + mean->result.zero_point, &mean->result);
        }
}

void asc_view(const struct asc_view *view, const int8_t *x, int8_t *y)
{
    int32_t i, j, k, l;

    for (i = 0; i < view->n[0]; i++)
        for (j = 0; j < view->n[1]; j++)
            for (k = 0; k < view->n[2]; k++)
                for (l = 0; l < view->n[3]; l++)
                    *y++ = x[view->start + position(view->stride, i, j, k, l)];
}

void asc_concat(const struct asc_concat *concat, const int8_t *left, const int8_t *right,
                int8_t *y)
{
    int32_t o, i;

    for (o = 0; o < concat->outer; o++) {
        for (i = 0; i < concat->size[0]; i++)
            *y++ = *left++;
        for (i = 0; i < concat->size[1]; i++)
            *y++ = *right++;
    }
}

void asc_copy(int32_t n, const int8_t *x, int8_t *y)
{
    int32_t i;

    for (i = 0; i < n; i++)
        y[i] = x[i];
}
