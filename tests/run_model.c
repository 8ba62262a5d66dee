/* Reads a log-mel (float32) from stdin, runs the network of asc_model.h (ReLU, float16 values)
   as the header describes it, and prints the logits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "asc_model.h"

struct image {
    int mel, time, c;
    float *at;
};

static float widen(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent ? (float)(fraction + 1024) : (float)fraction;
    for (exponent = exponent ? exponent : 1; exponent > 25; exponent--) value *= 2;
    for (; exponent < 25; exponent++) value /= 2;
    return bits >> 15 ? -value : value;
}

static float pixel(const struct image *x, int mel, int time, int c) {
    if (mel < 0 || time < 0 || mel >= x->mel || time >= x->time) return 0;
    return x->at[(mel * x->time + time) * x->c + c];
}

static float window(const struct asc_layer *l, const float *kernel, const struct image *x, int mel,
                    int time, int c) {
    int size = l->kind == ASC_POINTWISE ? 1 : 3, mixed = l->kind != ASC_DEPTHWISE, pad = size / 2;
    float sum = 0;
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++)
            for (int k = 0; k < (mixed ? l->c_in : 1); k++)
                sum += kernel[((i * size + j) * (mixed ? l->c_in : 1) + k) * l->c_out + c] *
                       pixel(x, mel * l->stride_mel + i - pad, time * l->stride_time + j - pad,
                             mixed ? k : c);
    return sum;
}

static float value(const struct asc_layer *l, const float *values, const struct image *x,
                   const struct image *other, int mel, int time, int c) {
    float sum = 0;
    if (l->kind == ASC_ADD) return pixel(x, mel, time, c) + pixel(other, mel, time, c);
    if (l->kind == ASC_MEAN) {
        for (int i = 0; i < x->mel * x->time; i++) sum += x->at[i * x->c + c];
        return sum / (x->mel * x->time);
    }
    if (l->kind == ASC_AVG_POOL) {
        for (int i = -1; i < 2; i++)
            for (int j = -1; j < 2; j++)
                sum += pixel(x, mel * l->stride_mel + i, time * l->stride_time + j, c);
        return sum / 9;
    }
    int size = l->kind == ASC_POINTWISE ? 1 : 9, c_in = l->kind == ASC_DEPTHWISE ? 1 : l->c_in;
    return window(l, values, x, mel, time, c) + values[size * c_in * l->c_out + c];
}

int main(void) {
    static float values[sizeof ASC_VALUES / sizeof *ASC_VALUES];
    struct image log_mel = {ASC_N_MELS, ASC_N_FRAMES, 1, NULL}, outputs[ASC_N_LAYERS];
    size_t n = (size_t)ASC_N_MELS * ASC_N_FRAMES;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) values[i] = widen(ASC_VALUES[i]);
    log_mel.at = malloc(n * sizeof(float));
    if (fread(log_mel.at, sizeof(float), n, stdin) != n) return 1;
    for (int i = 0; i < ASC_N_LAYERS; i++) {
        const struct asc_layer *l = &ASC_LAYERS[i];
        const struct image *x = l->input < 0 ? &log_mel : &outputs[l->input];
        struct image y = {(x->mel - 1) / l->stride_mel + 1, (x->time - 1) / l->stride_time + 1,
                          l->c_out, NULL};
        if (l->kind == ASC_MEAN) y.mel = y.time = 1;
        y.at = malloc(sizeof(float) * y.mel * y.time * y.c);
        for (int mel = 0; mel < y.mel; mel++)
            for (int time = 0; time < y.time; time++)
                for (int c = 0; c < y.c; c++) {
                    float v = value(l, values + (l->values < 0 ? 0 : l->values), x,
                                    &outputs[l->other < 0 ? 0 : l->other], mel, time, c);
                    y.at[(mel * y.time + time) * y.c + c] = l->activation && v < 0 ? 0 : v;
                }
        outputs[i] = y;
    }
    for (int c = 0; c < ASC_N_SCENES; c++)
        printf("%s %.9g\n", ASC_SCENES[c], outputs[ASC_N_LAYERS - 1].at[c]);
    return 0;
}
