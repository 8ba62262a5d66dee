/* Reads clips of ASC_N_SAMPLES floats from standard input, and writes the log-mel of each to
   standard output, [ASC_N_MELS][ASC_N_FRAMES] floats. Exit status 1: the input ends within a clip,
   or nothing can be written. */
#include <stdio.h>

#include "asc_features.h"

static struct asc_features features;
static float samples[ASC_N_SAMPLES], log_mel[ASC_N_MELS * ASC_N_FRAMES];

int main(void)
{
    size_t n;

    while ((n = fread(samples, 1, sizeof samples, stdin)) == sizeof samples) {
        asc_log_mel(&features, samples, log_mel);
        if (fwrite(log_mel, 1, sizeof log_mel, stdout) != sizeof log_mel)
            return 1;
    }
    return n == 0 && !ferror(stdin) && fflush(stdout) == 0 ? 0 : 1;
}
