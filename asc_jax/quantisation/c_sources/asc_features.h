/* The front end: samples to columns of a log-mel, in C99 and float, without heap or libm.

   $front_end

   Every operation is rounded to float once and in this order, whatever the machine, if the compiler
   neither fuses multiplications with additions (-ffp-contract=off; never -ffast-math) nor computes
   in more than float (x87: -msse2 -mfpmath=sse). */
#ifndef ASC_FEATURES_H
#define ASC_FEATURES_H

#include <stdint.h>

#include "asc_model.h"

#define ASC_SAMPLE_RATE $sample_rate /* Hz; the library does not resample */
#define ASC_N_SAMPLES $n_samples /* of a clip that the network was trained on: ASC_N_FRAMES columns */
#define ASC_HOP_LENGTH $hop_length /* samples between columns */
#define ASC_WIN_LENGTH $win_length /* samples under the window of a column */
#define ASC_N_FFT $n_fft

/* What lies between two calls, of a stream or clip: sizeof says how many bytes. The caller has one
   for each stream and need not look into it. */
struct asc_features {
    float work[ASC_N_FFT];
    float ring[ASC_WIN_LENGTH + 1]; /* the last samples, pre-emphasised */
    float last;                     /* sample, as it came */
    int32_t at;                     /* place in the ring of the next sample */
    int32_t heard;                  /* samples, counted up to the length of the ring */
    int32_t centre;                 /* of the next column, counted up to half a window */
    int32_t ahead;                  /* samples since that centre */
    int32_t begun, ended;           /* 1 if so */
};

#ifdef __cplusplus
extern "C" {
#endif

/* Begins a clip, or a stream without end. */
void asc_features_start(struct asc_features *state);

/* Takes samples, amplitude in [-1, 1), up to those that the next column needs, and returns how many
   it took. The rest is to be pushed again after asc_features_column. */
int32_t asc_features_push(struct asc_features *state, const float *samples, int32_t n);

/* The same for samples of 16 bits, which count 1 / 32,768 each. */
int32_t asc_features_push_int16(struct asc_features *state, const int16_t *samples, int32_t n);

/* Ends a clip: the columns whose windows reach beyond it can be computed, by reflection. */
void asc_features_end(struct asc_features *state);

/* Computes the next column, ASC_N_MELS values, the lowest band first. Returns 1, or 0 if that needs
   more samples or the clip has no more columns. */
int asc_features_column(struct asc_features *state, float *column);

/* Computes the log-mel [ASC_N_MELS][ASC_N_FRAMES] of a clip of ASC_N_SAMPLES: the columns that the
   functions above give for it. */
void asc_log_mel(struct asc_features *state, const float *samples, float *log_mel);

#ifdef __cplusplus
}
#endif

#endif
