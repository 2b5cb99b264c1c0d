/* One pass of a kernel over bf16 words like those of a model, for instructions.sh to count:
 * one_pass LOOPS words|diff|coded|patch N_WORDS CHANGED, of which the last is per 10,000 words. Made
 * are the words; with diff, they are compared, too; coded, by baseline; and with patch, rebuilt. */
#include <math.h>
#include <stdio.h>

#include "state.h"

static uint64_t random_bits(void) {
    static uint64_t state = 1;
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return state >> 32;
}

static uint16_t weight(void) { /* of a normal distribution, near enough */
    float sum = -6, scaled;
    uint32_t bits;
    for (int i = 0; i < 12; i++) sum += (float)random_bits() / 4294967296.0f;
    scaled = 0.02f * sum;
    memcpy(&bits, &scaled, 4);
    return (uint16_t)(bits >> 16);
}

static void finish(Bits *b, InTier *in, int gaps) {
    if (!reserve(&b->bytes, 8)) abort();
    memcpy(b->bytes.data + b->bytes.size, &b->partial, 8);
    *(gaps ? &in->gap_extra : &in->step_extra) = b->bytes.data;
    *(gaps ? &in->gap_extra_size : &in->step_extra_size) = b->bytes.size + (b->fill + 7) / 8;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    const size_t n_words = strtoul(argv[3], NULL, 10);
    const uint64_t changed = strtoul(argv[4], NULL, 10);
    const Loops *loops = NULL;
    for (const Loops *const *each = all_loops; *each; each++)
        if (is_supported(*each) && !strcmp((*each)->name, argv[1])) loops = *each;
    static const long bounds[] = {0, 108, 114, 117, 119, 120, 121, 122}; /* 8 tiers of exponents */
    static Diff diff;
    static Patch patch;
    int64_t steps[N_SYMBOLS] = {0};
    uint64_t largest;
    uint16_t *base = malloc(2 * n_words), *target = malloc(2 * n_words);
    if (!loops || !base || !target || !layout_init(&diff.layout, 16, KIND_FLOAT, 7, bounds, 8))
        return 2;
    for (size_t i = 0; i < n_words; i++) {
        base[i] = target[i] = weight();
        if (random_bits() % 10000 < changed) target[i] += (uint16_t)(random_bits() & 1 ? 1 : -1);
    }
    patch.layout = diff.layout;
    const uint8_t *b = (uint8_t *)base, *t = (uint8_t *)target;
    if (!strcmp(argv[2], "words")) return 0;
    if (!strcmp(argv[2], "diff"))
        return loops->diff[1](&diff, b, t, n_words, steps, &largest) != OK;
    if (loops_baseline.diff[1](&diff, b, t, n_words, steps, &largest) != OK) return 1;
    for (int k = 0; k < diff.layout.n_tiers; k++) {
        OutTier *o = &diff.tiers[k];
        InTier in = {.n_members = diff.reached[k] - diff.reached[k + 1],
                     .n_changed = o->n_changed,
                     .gap_symbols = o->gap_symbols.data,
                     .step_symbols = o->step_symbols.data};
        finish(&o->gap_bits, &in, 1);
        finish(&o->step_bits, &in, 0);
        if (!patch_set_tier(&patch, k, in, o->gap_symbols.size, o->step_symbols.size)) return 1;
    }
    if (patch_begin(&patch) != OK) return 1;
    if (!strcmp(argv[2], "coded")) return 0;
    if (loops->patch[1](&patch, (uint8_t *)base, n_words) != OK || patch_end(&patch) != OK) return 1;
    return memcmp(base, target, 2 * n_words) != 0;
}
