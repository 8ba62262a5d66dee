/* Reads a log-mel (float32) from stdin, runs the network of asc_model.h (float16 values) as the
   header describes it, and prints the logits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "asc_model.h"

struct image {
    int mel, time, c;
    float *at;
};

static float values[sizeof ASC_VALUES / sizeof *ASC_VALUES];

static float widen(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent ? (float)(fraction + 1024) : (float)fraction;
    for (exponent = exponent ? exponent : 1; exponent > 25; exponent--) value *= 2;
    for (; exponent < 25; exponent++) value /= 2;
    return bits >> 15 ? -value : value;
}

static float *pixel(const struct image *x, int mel, int time, int c) {
    if (mel < 0 || time < 0 || mel >= x->mel || time >= x->time) return NULL;
    return &x->at[(mel * x->time + time) * x->c + c];
}

static float window(const struct asc_layer *l, const struct image *x, int mel, int time, int c) {
    int size = l->size_mel * l->size_time, mixed = l->kind == ASC_CONV, n = x->c / l->groups;
    int first = mixed ? n * (c / (l->c / l->groups)) : c;
    float result = l->kind == ASC_MAX_POOL ? -INFINITY : 0;
    for (int i = 0; i < size; i++)
        for (int k = 0; k < (mixed ? n : 1); k++) {
            float *at = pixel(x, mel * l->stride_mel - l->pad_mel + i / l->size_time,
                              time * l->stride_time - l->pad_time + i % l->size_time, first + k);
            if (at == NULL) continue;
            if (l->kind == ASC_MAX_POOL) result = fmaxf(result, *at);
            else result += *at * (mixed ? values[l->values + (i * n + k) * l->c + c] : 1);
        }
    if (mixed) result += values[l->values + size * n * l->c + c];
    return l->kind == ASC_AVG_POOL ? result / size : result;
}

static float norm(const struct image *x, int c) {
    float sum = 0;
    for (int i = 0; i < x->mel * x->time; i++) sum += x->at[i * x->c + c] * x->at[i * x->c + c];
    return sqrtf(sum);
}

static float response_norm(const struct asc_layer *l, const struct image *x, float v, int c) {
    float mean = 0;
    for (int k = 0; k < x->c; k++) mean += norm(x, k) / x->c;
    return v + values[l->values] * v * norm(x, c) / (mean + 1e-6f) + values[l->values + 1];
}

static float activate(int activation, float x) {
    switch (activation) {
        case ASC_RELU: return fmaxf(x, 0);
        case ASC_RELU6: return fminf(fmaxf(x, 0), 6);
        case ASC_HARD_SWISH: return x * fminf(fmaxf(x + 3, 0), 6) / 6;
        case ASC_SILU: return x / (1 + expf(-x));
        case ASC_GELU: return x / 2 * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
        case ASC_SIGMOID: return 1 / (1 + expf(-x));
        default: return x;
    }
}

int main(void) {
    struct image log_mel = {ASC_N_MELS, ASC_N_FRAMES, 1, NULL}, results[ASC_N_LAYERS];
    size_t n = (size_t)ASC_N_MELS * ASC_N_FRAMES;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) values[i] = widen(ASC_VALUES[i]);
    log_mel.at = malloc(n * sizeof(float));
    if (fread(log_mel.at, sizeof(float), n, stdin) != n) return 1;
    for (int i = 0; i < ASC_N_LAYERS; i++) {
        const struct asc_layer *l = &ASC_LAYERS[i];
        const struct image *x = l->input < 0 ? &log_mel : &results[l->input];
        const struct image *other = l->other < 0 ? &log_mel : &results[l->other];
        struct image y = {l->mel, l->time, l->c, malloc(sizeof(float) * l->mel * l->time * l->c)};
        for (int at = 0; at < y.mel * y.time * y.c; at++) {
            int mel = at / y.c / y.time, time = at / y.c % y.time, c = at % y.c;
            float v;
            switch (l->kind) {
                case ASC_ADD: v = x->at[at] + other->at[at]; break;
                case ASC_MUL: v = x->at[at] * other->at[at]; break;
                case ASC_ACTIVATION: v = x->at[at]; break;
                case ASC_GRN: v = response_norm(l, x, x->at[at], c); break;
                default: v = window(l, x, mel, time, c);
            }
            y.at[at] = activate(l->activation, v);
        }
        results[i] = y;
    }
    for (int c = 0; c < ASC_N_CLASSES; c++)
        printf("%s\t%.9g\n", ASC_CLASSES[c], results[ASC_N_LAYERS - 1].at[c]);
    return 0;
}
