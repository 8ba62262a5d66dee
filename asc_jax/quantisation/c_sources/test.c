/* Computes the log-mels of asc_test_vector.h and compares every logit. Prints the first one that
   differs; exit status 1 then. */
#include <stdio.h>

#include "asc_model.h"
#include "asc_test_vector.h"

int main(void)
{
    int clip, k;
    int8_t logits[ASC_N_CLASSES];

    for (clip = 0; clip < ASC_N_TEST_CLIPS; clip++) {
        asc_run(asc_test_log_mel[clip], logits);
        for (k = 0; k < ASC_N_CLASSES; k++)
            if (logits[k] != asc_test_logits[clip][k]) {
                printf("clip %d, logit %d (%s): %d, expected %d\n", clip, k, asc_classes[k],
                       logits[k], asc_test_logits[clip][k]);
                return 1;
            }
    }
    printf("OK: %d clips, %d logits each\n", ASC_N_TEST_CLIPS, ASC_N_CLASSES);
    return 0;
}
