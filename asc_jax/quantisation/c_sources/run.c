/* Reads log-mels of int8 from standard input, ASC_INPUT_BYTES each, and writes the logits of each
   to standard output, ASC_N_CLASSES bytes of int8. Exit status 1: the input ends within a log-mel,
   or nothing can be written. */
#include <stdio.h>

#include "asc_model.h"

static int8_t log_mel[ASC_INPUT_BYTES];

int main(void)
{
    int8_t logits[ASC_N_CLASSES];
    size_t n;

    while ((n = fread(log_mel, 1, sizeof log_mel, stdin)) == sizeof log_mel) {
        asc_run(log_mel, logits);
        if (fwrite(logits, 1, sizeof logits, stdout) != sizeof logits)
            return 1;
    }
    return n == 0 && !ferror(stdin) && fflush(stdout) == 0 ? 0 : 1;
}
