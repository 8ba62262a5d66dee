/* Acoustic classification in integers of 8 bits, written by asc_jax.

$metadata
*/
#ifndef ASC_MODEL_H
#define ASC_MODEL_H

#include <stdint.h>

/* The log-mel is [ASC_N_MELS][ASC_N_FRAMES]. An int8 q of it stands for the real value
   ASC_INPUT_SCALE * (q - ASC_INPUT_ZERO_POINT), and one of the logits for
   ASC_LOGIT_SCALE * (q - ASC_LOGIT_ZERO_POINT). ASC_INPUT_INVERSE is 1 / ASC_INPUT_SCALE:
   asc_float.h has both ways. */
#define ASC_N_MELS $n_mels
#define ASC_N_FRAMES $n_frames
#define ASC_INPUT_BYTES $input_bytes
#define ASC_INPUT_SCALE $input_scale
#define ASC_INPUT_INVERSE $input_inverse
#define ASC_INPUT_ZERO_POINT ($input_zero_point)
#define ASC_N_CLASSES $n_classes
#define ASC_LOGIT_SCALE $logit_scale
#define ASC_LOGIT_ZERO_POINT ($logit_zero_point)

/* Static memory, the most of it for $peak and what is needed then. */
#define ASC_ARENA_BYTES $arena_bytes

#ifdef __cplusplus
extern "C" {
#endif

/* In UTF-8, in the order of the logits. */
extern const char *const asc_classes[ASC_N_CLASSES];

/* Computes ASC_N_CLASSES logits of a log-mel of ASC_INPUT_BYTES. They must not overlap. All calls
   use the same static memory: one at a time. */
void asc_run(const int8_t *log_mel, int8_t *logits);

#ifdef __cplusplus
}
#endif

#endif
