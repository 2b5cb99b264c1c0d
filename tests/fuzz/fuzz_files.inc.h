/* Buckets in files, taken in and rebuilt piece by piece; included by fuzz_kernels.c. What comes out
 * is compared with each step by itself, of the whole bucket and with the plainest loops. */
#include <sys/mman.h>
#include <unistd.h>

#include "files.h"

/* Put words into a file, or make room for them, in runs that other bytes lie between. */
static size_t scatter(int fd, const uint8_t *words, size_t size, size_t word, size_t start,
                      Extent *extents) {
    size_t n = 0, at = 0;
    do {
        const size_t some = n < 3 ? word * draw(size / word + 1) : size;
        const size_t here = some < size - at ? some : size - at;
        start += draw(9);
        if (words) check(pwrite(fd, words + at, here, (off_t)start) == (ssize_t)here, "written");
        extents[n++] = (Extent){fd, (int64_t)start, (int64_t)here};
        start += here;
        at += here;
    } while (at < size);
    return start;
}

static void check_sums(const Sums *s, const Pass *p, const uint8_t *words) {
    const size_t word = (size_t)p->layout.word_bits / 8;
    for (size_t i = 0, start = 0; i < p->n_parts; start = (size_t)p->ends[i++]) {
        uint8_t sum[HASH_BYTES];
        loops_baseline.hash(words + word * start, word * ((size_t)p->ends[i] - start), sum);
        check(!memcmp(sum, s->sums + HASH_BYTES * i, sizeof sum), "checksum of a part");
    }
}

static void fuzz_files(void) {
    static int fd = -1;
    if (fd < 0) fd = memfd_create("words", 0);
    const int *kind = kinds[draw(sizeof kinds / sizeof *kinds)];
    const long bounds[1] = {0};
    const size_t word = (size_t)kind[0] / 8, n_words = 1 + draw(600), size = n_words * word;
    uint8_t *made[2] = {malloc(size), malloc(size)}, *sums[3];
    make_words(word, n_words, draw(256), made[0], made[1]);
    int64_t ends[8];
    Pass pass = {.loops = some_loops(), .ends = ends, .n_words = n_words};
    check(layout_init(&pass.layout, kind[0], kind[1], kind[0] - 1, bounds, 1), "layout");
    pass.piece_words = 1 + draw(2 * n_words);
    while (!pass.n_parts || ends[pass.n_parts - 1] < (int64_t)n_words) {
        const size_t start = pass.n_parts ? (size_t)ends[pass.n_parts - 1] : 0;
        ends[pass.n_parts] =
            (int64_t)(pass.n_parts < 7 ? start + 1 + draw(n_words - start) : n_words);
        pass.n_parts++;
    }
    for (int i = 0; i < 3; i++) sums[i] = malloc(HASH_BYTES * pass.n_parts);
    check(!ftruncate(fd, 0), "truncated");
    Extent of_base[5], of_target[5], places[5];
    size_t end = scatter(fd, made[0], size, word, 0, of_base);
    end = scatter(fd, made[1], size, word, end, of_target);
    scatter(fd, NULL, size, word, end, places);

    const int keeps = (int)draw(2);
    const size_t held = word * (keeps || n_words < pass.piece_words ? n_words : pass.piece_words);
    uint8_t *memory[2] = {malloc(held), malloc(held)};
    const size_t n_counts = pass.n_parts * N_CLASSES;
    int64_t *by_class = calloc(n_counts, sizeof *by_class);
    int64_t *expected = calloc(n_counts, sizeof *expected);
    uint64_t largest[8] = {0}, expected_largest[8];
    Diff *diff = draw(2) ? calloc(1, sizeof *diff) : NULL;
    if (diff) diff->layout = pass.layout;
    Intake t = {.pass = pass, .diff = diff, .by_class = by_class, .largest = largest,
                .base = {{of_base, 0, 0}, memory[0], {.sums = sums[0]}},
                .target = {{of_target, 0, 0}, memory[1], {.sums = sums[1]}},
                .keeps_words = held == size};
    while (t.pass.n_done < n_words) check(take_in_piece(&t) == OK, "taken in");
    check_sums(&t.base.sums, &pass, made[0]);
    check_sums(&t.target.sums, &pass, made[1]);
    count_parts(&loops_baseline, &pass.layout, made[0], made[1], ends, pass.n_parts, expected,
                N_CLASSES, expected_largest);
    check(!memcmp(by_class, expected, n_counts * sizeof *expected), "steps of parts");
    check(!memcmp(largest, expected_largest, pass.n_parts * sizeof *largest), "largest steps");
    if (held == size) check(!memcmp(memory[1], made[1], size), "words that are kept");

    const size_t run = word * (1 + draw(60)), stride = run + word * draw(60);
    const size_t sampled = sample_bytes(size, stride, run);
    uint8_t *some = malloc(sampled);
    Place place = {of_target, 0, 0};
    check(sample(&place, size, stride, run, some), "sampled");
    for (size_t i = 0, at = 0; i < size; i += stride) {
        const size_t here = size - i < run ? size - i : run;
        check(at + here <= sampled && !memcmp(some + at, made[1] + i, here), "sample");
        at += here;
        check(i + stride < size || at == sampled, "size of a sample");
    }
    free(some);

    const int is_cut = draw(8) == 0; /* a file that is shorter than it was */
    if (is_cut) check(!ftruncate(fd, (off_t)draw((uint64_t)of_base[0].size)), "truncated");
    const int writes = (int)draw(4) > 0;
    for (int i = 0; i < 5 && !writes; i++) places[i].descriptor = -1;
    Rebuild r = {.pass = pass, .base = {{of_base, 0, 0}, memory[0], {.sums = sums[0]}},
                 .target = {places, 0, 0}, .target_sums = {.sums = sums[2]}};
    enum status status = OK;
    while (status == OK && r.pass.n_done < n_words) status = rebuild_piece(&r);
    check(status == OK || (status == NOT_DONE && is_cut), "rebuilt");
    if (!is_cut) check_sums(&r.base.sums, &pass, made[0]); /* else what is written fills the file up */
    uint8_t *found = malloc(size);
    for (size_t i = 0, at = 0; !is_cut && writes && at < size; i++) {
        const size_t n = (size_t)places[i].size;
        check(pread(fd, found + at, n, (off_t)places[i].offset) == (ssize_t)n, "read");
        at += n;
        if (at == size) check(!memcmp(found, made[0], size), "what was written");
    }
    if (diff) diff_free(diff);
    free(diff);
    free(found);
    free(by_class);
    free(expected);
    for (int i = 0; i < 3; i++) free(sums[i]);
    for (int i = 0; i < 2; i++) free(memory[i]), free(made[i]);
}
