/* Reads log-mels of float from standard input, ASC_N_MELS * ASC_N_FRAMES each, and writes the
   ASC_N_CLASSES logits of each to standard output. Exit status 1: the input ends within a log-mel,
   or nothing can be written. */
#include <stdio.h>

#include "asc_model.h"

static float log_mel[ASC_N_MELS * ASC_N_FRAMES];

int main(void)
{
    float logits[ASC_N_CLASSES];
    size_t n;

    while ((n = fread(log_mel, 1, sizeof log_mel, stdin)) == sizeof log_mel) {
        asc_run(log_mel, logits);
        if (fwrite(logits, 1, sizeof logits, stdout) != sizeof logits)
            return 1;
    }
    return n == 0 && !ferror(stdin) && fflush(stdout) == 0 ? 0 : 1;
}
