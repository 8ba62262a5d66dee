/* What runs on the Cortex-M: the test vector of the library; then, by semihosting, the clips of the
   file samples.s16 beside the program, ASC_N_SAMPLES int16 each, if it is there. Their log-mels go
   to log_mels.int8, ASC_INPUT_BYTES each, and their logits to logits.int8, ASC_N_CLASSES bytes each.

   Instructions are counted by a timer of the board: under QEMU's "-icount shift=0" an instruction
   takes a nanosecond, so that a tick of the timer's 25 MHz is 40 instructions. On a computer, where
   this program runs as well, nothing is counted. */
#include <stdint.h>

#include "asc_features.h"
#include "asc_float.h"
#include "asc_model.h"
#include "asc_test_vector.h"
#include "semihosting.h"

#define BLOCK 256 /* samples that come at a time, as from a microphone */

static struct asc_features features;
static int8_t log_mel[ASC_INPUT_BYTES], logits[ASC_N_CLASSES];
static float column[ASC_N_MELS];

static void print_number(uint32_t value)
{
    char text[11], *at = text + 10;

    *at = '\0';
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    semihosting_print(at);
}

static void print_result(const char *what, uint32_t n, const char *unit)
{
    semihosting_print(what);
    semihosting_print(": ");
    print_number(n);
    semihosting_print(unit);
}

#ifdef __arm__
#define TIMER ((volatile uint32_t *)0x40000000u) /* CMSDK timer 0: control, value, reload */
#define PER_TICK 40u

static void start_timer(void)
{
    TIMER[0] = 0;
    TIMER[2] = 0xFFFFFFFFu;
    TIMER[1] = 0xFFFFFFFFu;
    TIMER[0] = 1;
}

static void print_count(const char *what)
{
    const uint64_t n = (uint64_t)(0xFFFFFFFFu - TIMER[1]) * PER_TICK;

    print_result(what, (uint32_t)(n / 1000u), " thousand instructions\n");
}
#else
static void start_timer(void) {}

static void print_count(const char *what)
{
    (void)what;
}
#endif

static int test_vector(void)
{
    int32_t clip, k;

    for (clip = 0; clip < ASC_N_TEST_CLIPS; clip++) {
        start_timer();
        asc_run(asc_test_log_mel[clip], logits);
        if (clip == 0)
            print_count("the network");
        for (k = 0; k < ASC_N_CLASSES; k++)
            if (logits[k] != asc_test_logits[clip][k]) {
                semihosting_print("the test vector's logits are others\n");
                return 1;
            }
    }
    print_result("test vector", ASC_N_TEST_CLIPS, " clips OK\n");
    return 0;
}

/* Computes the columns that the samples so far allow. Returns the number of the next one. */
static int32_t take_columns(int32_t frame)
{
    static int counted;

    for (; frame < ASC_N_FRAMES; frame++) {
        start_timer();
        if (!asc_features_column(&features, column))
            break;
        if (!counted)
            print_count("a column of the log-mel");
        counted = 1;
        asc_store_column(column, frame, log_mel);
    }
    return frame;
}

/* Reads a clip and computes its log-mel, a block of samples after the other. Returns how many
   samples were missing: all of them after the last clip. */
static int32_t listen(int32_t file)
{
    static int16_t block[BLOCK];
    int32_t frame = 0, left = ASC_N_SAMPLES;

    asc_features_start(&features);
    while (left > 0) {
        const int32_t size = left < BLOCK ? left : BLOCK;
        int32_t taken = 0;

        if (semihosting_read(file, block, (uint32_t)size * sizeof *block) != 0)
            return left;
        left -= size;
        while (taken < size) {
            taken += asc_features_push_int16(&features, block + taken, size - taken);
            frame = take_columns(frame);
        }
    }
    asc_features_end(&features);
    take_columns(frame);
    return 0;
}

static int classify_file(void)
{
    const int32_t samples = semihosting_open("samples.s16", SEMIHOSTING_READ_MODE);
    int32_t log_mels, results, missing;
    uint32_t n;

    if (samples < 0)
        return 0;
    log_mels = semihosting_open("log_mels.int8", SEMIHOSTING_WRITE_MODE);
    results = semihosting_open("logits.int8", SEMIHOSTING_WRITE_MODE);
    for (n = 0; (missing = listen(samples)) == 0; n++) {
        asc_run(log_mel, logits);
        if (semihosting_write(log_mels, log_mel, sizeof log_mel) != 0 ||
            semihosting_write(results, logits, sizeof logits) != 0)
            return 1;
    }
    print_result("samples.s16", n, " clips\n");
    return missing != ASC_N_SAMPLES;
}

int main(void)
{
    const int status = test_vector() || classify_file();

    semihosting_print(status ? "FAILED\n" : "done\n");
    return status;
}
