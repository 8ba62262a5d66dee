/* The front end: see asc_features.h. The tables are those of this network.

   A column is the logarithm of a windowed frame's power spectrum in mel bands. */
#include "asc_features.h"

#include "asc_features_tables.h"

#define RING (ASC_WIN_LENGTH + 1)
#define HALF (ASC_N_FFT / 2)
#define QUARTER (ASC_N_FFT / 4) /* of a turn, in steps of the table of sines */
#define LEFT (HALF - (ASC_N_FFT - ASC_WIN_LENGTH) / 2) /* samples of a window before its centre */
#define RIGHT (ASC_WIN_LENGTH - LEFT)
#define SHORTEST ((LEFT > RIGHT ? LEFT : RIGHT) + 1) /* samples that can be reflected */

struct complex {
    float re, im;
};

void asc_features_start(struct asc_features *state)
{
    state->last = 0.0f;
    state->at = state->heard = state->centre = state->ahead = 0;
    state->begun = state->ended = 0;
}

/* Returns the samples since the centre of the next frame that it needs. */
static int32_t n_needed(const struct asc_features *state)
{
    const int32_t reflected = LEFT - 2 * state->centre + 1;

    return reflected > RIGHT ? reflected : RIGHT;
}

static void take(struct asc_features *state, float sample)
{
    const float before = state->last;

    state->last = sample;
#ifdef ASC_PRE_EMPHASIS_REST
    if (!state->begun) { /* the first sample has none before it */
        state->begun = 1;
        return;
    }
    /* sample - (1 - rest) before: what is nearly equal is subtracted before anything is rounded. */
    sample = (sample - before) + ASC_PRE_EMPHASIS_REST * before;
#else
    (void)before;
#endif
    state->ring[state->at] = sample;
    state->at = state->at + 1 < RING ? state->at + 1 : 0;
    state->heard += state->heard < RING;
    state->ahead++;
}

int32_t asc_features_push(struct asc_features *state, const float *samples, int32_t n)
{
    const int32_t needed = n_needed(state);
    int32_t i;

    for (i = 0; i < n && state->ahead < needed; i++)
        take(state, samples[i]);
    return i;
}

int32_t asc_features_push_int16(struct asc_features *state, const int16_t *samples, int32_t n)
{
    const int32_t needed = n_needed(state);
    int32_t i;

    for (i = 0; i < n && state->ahead < needed; i++)
        take(state, (float)samples[i] * (1.0f / 32768.0f));
    return i;
}

void asc_features_end(struct asc_features *state)
{
    state->ended = 1;
}

/* Writes the samples under the window, weighted, and zeros after them. */
static void frame(const struct asc_features *state, float *x)
{
    int32_t i;

    for (i = 0; i < ASC_WIN_LENGTH; i++) {
        int32_t place = i - LEFT; /* from the centre */

        if (place + state->centre < 0 && state->centre < LEFT)
            place = -place - 2 * state->centre;
        if (place >= state->ahead)
            place = 2 * (state->ahead - 1) - place;
        place += state->at - state->ahead;
        while (place < 0)
            place += RING;
        x[i] = state->ring[place] * window[i];
    }
    for (; i < ASC_N_FFT; i++)
        x[i] = 0.0f;
}

/* Returns exp(-2 pi i k / ASC_N_FFT), 0 <= k <= 2 QUARTER. */
static struct complex turn(int32_t k)
{
    struct complex w;

    if (k <= QUARTER) {
        w.re = sines[QUARTER - k];
        w.im = -sines[k];
    } else {
        w.re = -sines[k - QUARTER];
        w.im = -sines[2 * QUARTER - k];
    }
    return w;
}

static struct complex product(float re, float im, struct complex w)
{
    struct complex y;

    y.re = re * w.re - im * w.im;
    y.im = re * w.im + im * w.re;
    return y;
}

/* Brings ASC_N_FFT numbers into the order of their indices' reversed bits. */
static void reverse_bits(float *x)
{
    int32_t i, j = 0, bit;

    for (i = 1; i < ASC_N_FFT; i++) {
        for (bit = HALF; j >= bit; bit /= 2)
            j -= bit;
        j += bit;
        if (i < j) {
            const float value = x[i];

            x[i] = x[j];
            x[j] = value;
        }
    }
}

/* Joins the transform E of the n / 2 numbers with even indices, at x, with those of the n / 4 with
   the indices 1, 5, 9, ... (U, at x + n / 2) and 3, 7, 11, ... (V, at x + 3 n / 4). With the turns w,
   result k is E[k] + w^k U[k] + w^3k V[k]; it gives those of n / 2 - k and n / 4 - k and n / 4 + k,
   too. */
static void join(float *x, int32_t n)
{
    const int32_t half = n / 2, quarter = n / 4, eighth = n / 8, three = 3 * quarter;
    const float u = x[half], v = x[three], both = u + v, even = x[0];
    int32_t k;

    x[0] = even + both;
    x[half] = even - both;
    x[three] = v - u;
    for (k = 1; k < eighth; k++) {
        const int32_t step = k * (ASC_N_FFT / n);
        const struct complex a = product(x[half + k], x[three - k], turn(step));
        const struct complex b = product(x[three + k], x[n - k], turn(3 * step));
        const float sum_re = a.re + b.re, sum_im = a.im + b.im;
        const float difference_re = a.re - b.re, difference_im = a.im - b.im;
        const float re = x[k], im = x[half - k], far_re = x[quarter - k], far_im = x[quarter + k];

        x[k] = re + sum_re;
        x[n - k] = im + sum_im;
        x[half - k] = re - sum_re;
        x[half + k] = sum_im - im;
        x[quarter - k] = far_re - difference_im;
        x[three + k] = far_im - difference_re;
        x[quarter + k] = far_re + difference_im;
        x[three - k] = -far_im - difference_re;
    }
    if (eighth > 0) { /* U and V are real there, and both turns are by 1/8 */
        const float root = sines[ASC_N_FFT / 8];
        const float s = (x[half + eighth] - x[three + eighth]) * root;
        const float t = (x[half + eighth] + x[three + eighth]) * root;
        const float re = x[eighth], im = x[half - eighth];

        x[eighth] = re + s;
        x[n - eighth] = im - t;
        x[half - eighth] = re - s;
        x[half + eighth] = -t - im;
    }
}

/* Transforms n real numbers, their order reversed by bits: result k, from 0 to n / 2, has the real
   part x[k] and the imaginary part x[n - k], which is 0 for the first and the last. The split-radix
   algorithm, which rounds seldom. Calls itself log2(n) deep. */
static void transform(float *x, int32_t n)
{
    if (n == 2) {
        const float first = x[0], second = x[1];

        x[0] = first + second;
        x[1] = first - second;
    }
    if (n <= 2)
        return;
    transform(x, n / 2);
    transform(x + n / 2, n / 4);
    transform(x + 3 * (n / 4), n / 4);
    join(x, n);
}

/* Makes HALF + 1 powers of a transform. */
static void power_spectrum(float *x)
{
    int32_t k;

    x[0] *= x[0];
    for (k = 1; k < HALF; k++)
        x[k] = x[k] * x[k] + x[ASC_N_FFT - k] * x[ASC_N_FFT - k];
    x[HALF] *= x[HALF];
}

/* Returns the natural logarithm of a positive number that is not tiny. Splits it into 2^exponent and
   1 + f, from 1/sqrt(2) to sqrt(2); ln(1 + f) = 2 atanh(s) with s = f / (2 + f), by its series. */
static float logarithm(float x)
{
    const float ln2_high = 0.693145751953125f; /* 17 bits: its products are exact */
    const float ln2_low = 1.42860677e-06f;
    union {
        float value;
        uint32_t bits;
    } number;
    int32_t exponent;
    float f, s, t, rest;

    number.value = x;
    exponent = (int32_t)(number.bits >> 23) - 127;
    number.bits = (number.bits & 0x7fffffu) | 0x3f800000u;
    if (number.value > 1.41421354f) {
        number.value *= 0.5f;
        exponent++;
    }
    f = number.value - 1.0f;
    s = f / (2.0f + f);
    t = s * s;
    rest = t * (0.666666687f + t * (0.4f + t * (0.285714298f + t * 0.222222224f)));
    /* 2 s = f - s f: f is exact, and so only the small part of the sum is rounded. */
    return (float)exponent * ln2_high + (f - (s * (f - rest) - (float)exponent * ln2_low));
}

/* Writes the column of a power spectrum. */
static void mel_bands(const float *power, float *column)
{
    const float *weights = mel_weights;
    int32_t band, i;

    for (band = 0; band < ASC_N_MELS; band++) {
        const float *bins = power + mel_first[band];
        float total = 0.0f, lost = 0.0f; /* by rounding, which is made up for (Kahan's sum) */

        for (i = 0; i < mel_count[band]; i++) {
            const float term = bins[i] * *weights++ - lost, more = total + term;

            lost = (more - total) - term;
            total = more;
        }
        total = logarithm(total + ASC_LOG_OFFSET);
#ifdef ASC_NORM_MEAN
        total = (total - ASC_NORM_MEAN) / ASC_NORM_STD;
#endif
        column[band] = total;
    }
}

int asc_features_column(struct asc_features *state, float *column)
{
    if (state->ended ? state->ahead < 0 || state->heard < SHORTEST
                     : state->ahead < n_needed(state))
        return 0;
    frame(state, state->work);
    reverse_bits(state->work);
    transform(state->work, ASC_N_FFT);
    power_spectrum(state->work);
    mel_bands(state->work, column);
    state->ahead -= ASC_HOP_LENGTH;
    if (state->centre < LEFT)
        state->centre += ASC_HOP_LENGTH;
    return 1;
}

void asc_log_mel(struct asc_features *state, const float *samples, float *log_mel)
{
    float column[ASC_N_MELS];
    int32_t taken = 0, frame_number = 0, band;

    asc_features_start(state);
    while (frame_number < ASC_N_FRAMES) {
        taken += asc_features_push(state, samples + taken, ASC_N_SAMPLES - taken);
        if (taken == ASC_N_SAMPLES)
            asc_features_end(state);
        if (!asc_features_column(state, column))
            break;
        for (band = 0; band < ASC_N_MELS; band++)
            log_mel[band * ASC_N_FRAMES + frame_number] = column[band];
        frame_number++;
    }
}
