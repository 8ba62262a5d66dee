/* Classes of a wav file, in C alone: the front end, the network, in integers or in float, and the
   probabilities of its logits.

     ./classify FILE.wav

   The file is mono, of 16 bits, at the network's sample rate. It is cut into clips as `asc-jax
   predict` cuts it: one after the other; if the end that is left has a tenth of a clip or more, a
   last one ends with the file; a file shorter than a clip is filled up with silence. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "asc_features.h"
#include "asc_model.h"

#ifdef ASC_FLOAT
typedef float number_t;

static float asc_logit(float logit)
{
    return logit;
}

static void asc_store_column(const float *column, int32_t frame, float *log_mel)
{
    int32_t band;

    for (band = 0; band < ASC_N_MELS; band++)
        log_mel[band * ASC_N_FRAMES + frame] = column[band];
}
#else
#include "asc_float.h"
typedef int8_t number_t;
#endif

#define N_SHOWN (ASC_N_CLASSES < 3 ? ASC_N_CLASSES : 3)

static struct asc_features features;
static int16_t samples[ASC_N_SAMPLES];
static number_t log_mel[ASC_N_MELS * ASC_N_FRAMES], logits[ASC_N_CLASSES];
static double probabilities[ASC_N_CLASSES];

static uint32_t little_endian(const uint8_t *bytes, int n)
{
    uint32_t value = 0;

    while (n-- > 0)
        value = value << 8 | bytes[n];
    return value;
}

/* Goes to the samples of a wav file. Returns how many there are, or -1 after saying what is wrong.
   Source: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0". */
static long find_samples(FILE *file, const char *name)
{
    uint8_t head[12], format[16] = {0};

    if (fread(head, 1, 12, file) != 12 || memcmp(head, "RIFF", 4) || memcmp(head + 8, "WAVE", 4)) {
        fprintf(stderr, "error: %s is no wav file: convert it, as by clips.py --recording\n", name);
        return -1;
    }
    while (fread(head, 1, 8, file) == 8) {
        const uint32_t size = little_endian(head + 4, 4), skipped = size + size % 2;
        const uint32_t known = !memcmp(head, "fmt ", 4) && size >= 16 ? 16 : 0;

        if (!memcmp(head, "data", 4)) {
            const uint32_t n_channels = little_endian(format + 2, 2);
            const uint32_t rate = little_endian(format + 4, 4);

            if (n_channels == 1 && rate == ASC_SAMPLE_RATE && little_endian(format + 14, 2) == 16)
                return (long)(size / 2);
            fprintf(stderr, "error: %s: %u channels, %u Hz, %u bits; expected 1 channel, %d Hz, 16 "
                    "bits: convert it\n", name, (unsigned)n_channels, (unsigned)rate,
                    (unsigned)little_endian(format + 14, 2), ASC_SAMPLE_RATE);
            return -1;
        }
        if (fread(format, 1, known, file) != known ||
            fseek(file, (long)(skipped - known), SEEK_CUR) != 0)
            break;
    }
    fprintf(stderr, "error: %s has no samples\n", name);
    return -1;
}

/* Reads n samples from the place `at` of a file on, and fills a clip up with silence. */
static int read_clip(FILE *file, long start, long at, int32_t n)
{
    uint8_t bytes[2];
    int32_t i;

    memset(samples, 0, sizeof samples);
    if (fseek(file, start + 2 * at, SEEK_SET) != 0)
        return 0;
    for (i = 0; i < n; i++) {
        if (fread(bytes, 1, 2, file) != 2)
            return 0;
        samples[i] = (int16_t)(uint16_t)little_endian(bytes, 2);
    }
    return 1;
}

/* Computes the probabilities of the clip in `samples`, column by column, as a device would. */
static void classify(void)
{
    static float column[ASC_N_MELS];
    double total = 0.0;
    number_t highest;
    int32_t taken = 0, frame, k;

    asc_features_start(&features);
    for (frame = 0; frame < ASC_N_FRAMES; frame++) {
        taken += asc_features_push_int16(&features, samples + taken, ASC_N_SAMPLES - taken);
        if (taken == ASC_N_SAMPLES)
            asc_features_end(&features);
        asc_features_column(&features, column);
        asc_store_column(column, frame, log_mel);
    }
    asc_run(log_mel, logits);
    highest = logits[0];
    for (k = 1; k < ASC_N_CLASSES; k++)
        if (logits[k] > highest)
            highest = logits[k];
    for (k = 0; k < ASC_N_CLASSES; k++) {
        const double distance = (double)asc_logit(logits[k]) - (double)asc_logit(highest);

        probabilities[k] = exp(distance);
        total += probabilities[k];
    }
    for (k = 0; k < ASC_N_CLASSES; k++)
        probabilities[k] /= total;
}

static void print_best(const char *what, const double *values)
{
    int32_t shown, k, best;
    uint8_t done[ASC_N_CLASSES] = {0};

    printf("%s", what);
    for (shown = 0; shown < N_SHOWN; shown++) {
        for (best = 0; done[best]; best++)
            ;
        for (k = best + 1; k < ASC_N_CLASSES; k++)
            if (!done[k] && values[k] > values[best])
                best = k;
        done[best] = 1;
        printf("  %s %.1f %%", asc_classes[best], 100.0 * values[best]);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    double means[ASC_N_CLASSES] = {0};
    long n_samples, start, at, n_clips = 0;
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    int32_t k;

    if (file == NULL) {
        fprintf(stderr, argc == 2 ? "error: cannot read %s\n" : "usage: classify FILE.wav\n",
                argv[argc - 1]);
        return 2;
    }
    if ((n_samples = find_samples(file, argv[1])) < 0)
        return 2;
    start = ftell(file);
    for (at = 0; at < n_samples; at += ASC_N_SAMPLES) {
        const long left = n_samples - at;
        const long first = left < ASC_N_SAMPLES && at > 0 ? n_samples - ASC_N_SAMPLES : at;
        char text[64];

        if (at > 0 && left < ASC_N_SAMPLES && 10 * left < ASC_N_SAMPLES)
            break;
        if (!read_clip(file, start, first, left < ASC_N_SAMPLES && at == 0 ? (int32_t)left
                                                                          : ASC_N_SAMPLES)) {
            fprintf(stderr, "error: %s ends before its header says\n", argv[1]);
            return 2;
        }
        classify();
        snprintf(text, sizeof text, "%9.2f s", (double)first / ASC_SAMPLE_RATE);
        print_best(text, probabilities);
        for (k = 0; k < ASC_N_CLASSES; k++)
            means[k] += probabilities[k];
        n_clips++;
    }
    fclose(file);
    for (k = 0; k < ASC_N_CLASSES && n_clips > 0; k++)
        means[k] /= (double)n_clips;
    if (n_clips > 0)
        print_best("mean       ", means);
    return 0;
}
