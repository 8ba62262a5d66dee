/* Acoustic classification in float, written by asc_jax.

$metadata
*/
#ifndef ASC_MODEL_H
#define ASC_MODEL_H

#define ASC_FLOAT 1 /* log-mel and logits are float, and not int8 */

/* The log-mel is [ASC_N_MELS][ASC_N_FRAMES]. */
#define ASC_N_MELS $n_mels
#define ASC_N_FRAMES $n_frames
#define ASC_N_CLASSES $n_classes

/* Static memory, the most of it for $peak and what is needed then. */
#define ASC_ARENA_BYTES $arena_bytes

#ifdef __cplusplus
extern "C" {
#endif

/* In UTF-8, in the order of the logits. */
extern const char *const asc_classes[ASC_N_CLASSES];

/* Computes ASC_N_CLASSES logits of a log-mel of ASC_N_MELS * ASC_N_FRAMES. They must not overlap.
   All calls use the same static memory: one at a time. */
void asc_run(const float *log_mel, float *logits);

#ifdef __cplusplus
}
#endif

#endif
