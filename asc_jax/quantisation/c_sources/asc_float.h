/* From real values to int8 and back, for a caller that computes the log-mel in floating point.
   Nothing else of the library needs this file. */
#ifndef ASC_FLOAT_H
#define ASC_FLOAT_H

#include "asc_model.h"

/* Returns the int8 for a value of the log-mel: rint(log_mel / scale) + zero point, halves to even.
   The bits are those that the network was checked with. */
static inline int8_t asc_quantise(float log_mel)
{
    /* volatile: a compiler must round the product before it subtracts from it. */
    volatile float product = log_mel * ASC_INPUT_INVERSE;
    float steps = product, rest;
    int32_t q;

    if (!(steps > -1024.0f)) /* not a number, too */
        steps = -1024.0f;
    if (steps > 1024.0f)
        steps = 1024.0f;
    q = (int32_t)steps; /* truncates */
    rest = steps - (float)q;
    if (rest > 0.5f || (rest == 0.5f && q % 2 != 0))
        q++;
    if (rest < -0.5f || (rest == -0.5f && q % 2 != 0))
        q--;
    q += ASC_INPUT_ZERO_POINT;
    return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

/* Quantises a column of the log-mel into its place, frame 0 to ASC_N_FRAMES - 1. */
static inline void asc_store_column(const float *column, int32_t frame, int8_t *log_mel)
{
    int32_t band;

    for (band = 0; band < ASC_N_MELS; band++)
        log_mel[band * ASC_N_FRAMES + frame] = asc_quantise(column[band]);
}

/* Returns the real value of a logit. */
static inline float asc_logit(int8_t q)
{
    return (float)(q - ASC_LOGIT_ZERO_POINT) * ASC_LOGIT_SCALE;
}

#endif
