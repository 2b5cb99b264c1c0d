/* Setting up a bucket: which words belong to which tier, and what its symbols say, checked and
 * worked out before its words are gone through; which loops do that; and counts. */
#include "state.h"

int layout_init(Layout *l, int word_bits, int kind, int shift, const long *bounds, size_t n_tiers) {
    memset(l, 0, sizeof *l);
    if ((word_bits != 8 && word_bits != 16 && word_bits != 32 && word_bits != 64) || kind < 0 ||
        kind > KIND_UNSIGNED || shift < 0 || shift >= word_bits ||
        (kind == KIND_FLOAT && word_bits - 1 - shift > 11))
        return 0;
    l->word_bits = word_bits;
    l->kind = (enum kind)kind;
    l->shift = shift;
    l->n_classes = kind == KIND_FLOAT ? 1 << (word_bits - 1 - shift) : 1;
    if (n_tiers < 1 || n_tiers > MAX_TIERS || bounds[0] != 0) return 0;
    l->n_tiers = (int)n_tiers;
    for (int k = 0; k < l->n_tiers; k++) {
        if ((k && bounds[k] <= bounds[k - 1]) || bounds[k] >= l->n_classes) return 0;
        memset(l->tier_of_class + bounds[k], k, (size_t)(l->n_classes - bounds[k]));
        l->first_level[k] = (uint8_t)(l->n_classes > 256 ? k : bounds[k]);
    }
    for (int i = 0; i < 256; i++)
        l->tier_of_level[i] = l->n_classes > 256 ? (uint8_t)(i < l->n_tiers ? i : 0)
                              : i < l->n_classes ? l->tier_of_class[i]
                                                 : 0;
    return 1;
}

/* Add tier k to a list of ranges, in increasing order. */
static inline void add_to_ranges(uint8_t ranges[][2], int *n, int k) {
    if (!*n || ranges[*n - 1][1] != k - 1) ranges[(*n)++][0] = (uint8_t)k;
    ranges[*n - 1][1] = (uint8_t)k;
}

void diff_mark_unchanged(Diff *d, int k) {
    add_to_ranges(d->inverted, &d->n_inverted, k);
    d->marks_unchanged[k] = 1;
}

static void put_gap(OutTier *t, uint64_t gap) {
    const unsigned c = number_class(gap);
    t->gap_symbols.data[t->gap_symbols.size++] = (uint8_t)c;
    put_bits(&t->gap_bits, gap - class_start(c), class_width(c));
}

/* Mark the other half of a tier's members. */
static enum status remark(OutTier *t, uint64_t n_members) {
    const OutTier old = *t;
    const uint64_t n = old.gap_symbols.size;
    if (!reserve(&t->gap_bits.bytes, 8)) return NO_MEMORY;
    const Bytes bits = t->gap_bits.bytes;
    memcpy(bits.data + bits.size, &t->gap_bits.partial, 8); /* the last ones, too */
    memset(&t->gap_symbols, 0, sizeof t->gap_symbols);
    memset(&t->gap_bits, 0, sizeof t->gap_bits);
    enum status status = reserve(&t->gap_symbols, n_members - n) &&
                                 reserve(&t->gap_bits.bytes, 4 * (n_members - n) + 16)
                             ? OK
                             : NO_MEMORY;
    BitReader r = {bits.data, bits.size + (old.gap_bits.fill + 7) / 8, 0};
    uint64_t run = 0, passed = 0; /* marked members since the last that was not; members */
    for (uint64_t i = 0; status == OK && i <= n; i++) {
        uint64_t left = i < n ? get_extra(&r, old.gap_symbols.data[i]) : n_members - passed;
        passed += left + 1;
        for (; left; left--, run = 0) put_gap(t, run);
        run++;
    }
    free(old.gap_symbols.data);
    free(bits.data);
    return status;
}

enum status diff_end(Diff *d) {
    enum status status = OK;
    for (int k = 0; status == OK && k < d->layout.n_tiers; k++) {
        const uint64_t n_members = d->reached[k] - d->reached[k + 1];
        const uint8_t is_rare = 2 * d->tiers[k].n_changed > n_members;
        if (d->marks_unchanged[k] != is_rare) status = remark(&d->tiers[k], n_members);
        d->marks_unchanged[k] = is_rare;
    }
    return status;
}

void diff_free(Diff *d) {
    for (int k = 0; k < MAX_TIERS; k++) {
        OutTier *t = &d->tiers[k];
        free(t->marks.data);
        free(t->steps.data);
        free(t->gap_symbols.data);
        free(t->step_symbols.data);
        free(t->gap_bits.bytes.data);
        free(t->step_bits.bytes.data);
    }
    memset(d->tiers, 0, sizeof d->tiers);
}

int patch_set_tier(Patch *p, int k, InTier t, size_t n_gap_symbols, size_t n_step_symbols) {
    if (t.n_changed > t.n_members || t.n_members > MAX_WORDS || n_step_symbols != t.n_changed)
        return 0;
    const int unchanged = 2 * t.n_changed > t.n_members;
    t.n_marked = unchanged ? t.n_members - t.n_changed : t.n_changed;
    if (n_gap_symbols != t.n_marked) return 0;
    if (unchanged) add_to_ranges(p->inverted, &p->n_inverted, k);
    p->tiers[k] = t;
    return 1;
}

const Loops *const all_loops[] = {
#if defined(WITH_AVX512)
    &loops_avx512,
#endif
#if defined(__x86_64__)
    &loops_avx2,
#elif defined(__aarch64__)
    &loops_neon,
#endif
    &loops_baseline,
    NULL,
};

int is_supported(const Loops *candidate) {
#if defined(WITH_AVX512)
    if (candidate == &loops_avx512) { /* where the system keeps its registers, too */
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vpopcntdq") &&
               is_supported(&loops_avx2);
    }
#endif
#if defined(__x86_64__)
    if (candidate == &loops_avx2) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    }
#elif defined(__aarch64__)
    if (candidate == &loops_neon) return 1;
#endif
    return candidate == &loops_baseline;
}

void count_parts(const Loops *loops, const Layout *l, const uint8_t *base, const uint8_t *target,
                 const int64_t *end, size_t n_parts, int64_t *by_class, size_t n_columns,
                 uint64_t *largest) {
    const size_t word = (size_t)l->word_bits / 8;
    int64_t members = 0, steps[N_SYMBOLS] = {0};
    for (size_t i = 0, start = 0; i < n_parts; start = (size_t)end[i++], by_class += n_columns) {
        loops->survey[width_index(l)](l, base + start * word, target + start * word,
                                      (size_t)end[i] - start, &members, steps, &largest[i]);
        if (!largest[i]) continue;
        const unsigned n = number_class(largest[i] - 1) + 1;
        for (unsigned c = 0; c < n && c < n_columns; c++)
            by_class[c] = steps[2 * c] + steps[2 * c + 1];
        memset(steps, 0, 2 * n * sizeof *steps);
    }
}

void positions_of(const uint64_t *masks, size_t n, int32_t *positions) {
    int32_t first = 0;
    for (size_t i = 0; i < n; first += 64)
        for (uint64_t left = *masks++; left; left &= left - 1)
            positions[i++] = first + __builtin_ctzll(left);
}

#define PICK(WORD) \
    for (size_t i = 0; i < n; i++) ((WORD *)picked)[i] = ((const WORD *)words)[positions[i]]

void pick(const uint8_t *words, size_t w, const int32_t *positions, size_t n, uint8_t *picked) {
    if (w == 1) PICK(uint8_t);
    else if (w == 2) PICK(uint16_t);
    else if (w == 4) PICK(uint32_t);
    else PICK(uint64_t);
}

#undef PICK

void histogram(const uint8_t *data, size_t size, int64_t *counts) {
    uint64_t partial[4][N_SYMBOLS] = {{0}}; /* so that equal neighbours do not wait for each other */
    size_t i = 0;
    for (; i + 4 <= size; i += 4)
        for (size_t j = 0; j < 4; j++) partial[j][data[i + j]]++;
    for (; i < size; i++) partial[0][data[i]]++;
    for (int s = 0; s < N_SYMBOLS; s++)
        counts[s] += (int64_t)(partial[0][s] + partial[1][s] + partial[2][s] + partial[3][s]);
}

uint64_t extra_bits(const uint8_t *symbols, size_t n, int is_steps) {
    int64_t count[N_SYMBOLS] = {0};
    uint64_t bits = 0;
    histogram(symbols, n, count);
    for (unsigned s = 0; s < (is_steps ? N_SYMBOLS : N_SYMBOLS / 2); s++)
        bits += (uint64_t)count[s] * class_width(is_steps ? s >> 1 : s);
    return bits;
}

static inline void to_plane(const uint8_t *target, const uint8_t *base, size_t n, size_t w,
                            uint8_t *plane) {
    if (base)
        for (size_t i = 0; i < n; i++) plane[i] = target[w * i] ^ base[w * i];
    else
        for (size_t i = 0; i < n; i++) plane[i] = target[w * i];
}

void to_planes(const uint8_t *target, const uint8_t *base, size_t n, size_t w, uint8_t *planes,
               size_t apart) {
    for (size_t b = 0; b < w; b++) {
        const uint8_t *from = base ? base + b : NULL;
        if (w == 2) to_plane(target + b, from, n, 2, planes + apart * b);
        else if (w == 4) to_plane(target + b, from, n, 4, planes + apart * b);
        else to_plane(target + b, from, n, w, planes + apart * b);
    }
}

static inline void from_plane(const uint8_t *plane, uint8_t *words, size_t n, size_t w,
                              int is_xor) {
    if (is_xor)
        for (size_t i = 0; i < n; i++) words[w * i] ^= plane[i];
    else
        for (size_t i = 0; i < n; i++) words[w * i] = plane[i];
}

void from_planes(const uint8_t *planes, size_t apart, uint8_t *words, size_t n, size_t w,
                 int is_xor) {
    for (size_t b = 0; b < w; b++) {
        if (w == 2) from_plane(planes + apart * b, words + b, n, 2, is_xor);
        else if (w == 4) from_plane(planes + apart * b, words + b, n, 4, is_xor);
        else from_plane(planes + apart * b, words + b, n, w, is_xor);
    }
}

static int literals_of(const uint8_t *data, size_t size, size_t *n_literals);

int count_literals(const uint8_t *data, size_t size, size_t stride, size_t *n_literals) {
    const size_t n = (size + stride - 1) / stride;
    uint8_t *every = malloc(n + 1);
    if (every) to_plane(data, NULL, n, stride, every);
    const int ok = every && literals_of(every, n, n_literals);
    free(every);
    return ok;
}

/* Runs are looked up by a hash of theirs, in twice the room that they need. */
static int literals_of(const uint8_t *data, size_t size, size_t *n_literals) {
    *n_literals = 0;
    if (size < 4) return 1;
    int bits = 8;
    while ((size_t)1 << bits < 2 * size) bits++;
    const size_t mask = ((size_t)1 << bits) - 1;
    uint32_t *first = calloc(mask + 1, sizeof *first); /* where a run begins, plus one */
    if (!first) return 0;
    size_t covered = 0; /* by runs that were there before, up to here */
    int was_literal = 0;
    for (size_t i = 0; i + 4 <= size; i++) {
        uint32_t run, other = 0;
        memcpy(&run, data + i, 4);
        size_t slot = (run * 2654435761u) >> (32 - bits);
        for (; first[slot]; slot = (slot + 1) & mask) {
            memcpy(&other, data + first[slot] - 1, 4);
            if (other == run) break;
        }
        if (first[slot])
            covered = i + 4;
        else
            first[slot] = (uint32_t)(i + 1);
        const int is_literal = i >= covered;
        *n_literals += is_literal && was_literal && data[i] != data[i - 1];
        was_literal = is_literal;
    }
    free(first);
    return 1;
}

/* Extra bits must be exactly as long as the symbols ask for, and end in zeros. */
static enum status check_extra(const uint8_t *symbols, uint64_t n, int shift, const uint8_t *extra,
                               size_t size) {
    int64_t count[N_SYMBOLS] = {0};
    uint64_t bits = 0;
    histogram(symbols, n, count);
    for (unsigned s = 0; s < N_SYMBOLS; s++) {
        if (s >> shift > 127 && count[s]) return BAD_GAP_SYMBOL;
        bits += (uint64_t)count[s] * class_width(s >> shift);
    }
    if ((bits + 7) / 8 != size) return BAD_EXTRA_LENGTH;
    if (bits % 8 && extra[size - 1] >> bits % 8) return BAD_EXTRA_END;
    return OK;
}

static enum status read_marks(InTier *t) {
    BitReader r = {t->gap_extra, t->gap_extra_size, 0};
    t->marks = malloc((t->n_marked + 1) * sizeof *t->marks);
    if (!t->marks) return NO_MEMORY;
    uint64_t next = 0; /* below 2^32, like each gap let through: the sum cannot overflow */
    for (uint64_t i = 0; i < t->n_marked; i++) {
        const uint64_t gap = get_extra(&r, t->gap_symbols[i]);
        if (gap >= t->n_members || next + gap >= t->n_members) return BAD_GAP;
        t->marks[i] = (uint32_t)(next + gap);
        next += gap + 1;
    }
    t->marks[t->n_marked] = UINT32_MAX;
    return OK;
}

/* |step| - 1 is below 2^(W-1), and for positive steps below one less. */
#define READ_STEPS(WORD)                                                          \
    do {                                                                          \
        const uint64_t limit = (WORD)((WORD)~(WORD)0 >> 1);                       \
        WORD *steps = t->steps;                                                   \
        for (uint64_t i = 0; i < t->n_changed; i++) {                             \
            const unsigned symbol = t->step_symbols[i];                           \
            const uint64_t v = get_extra(&r, symbol >> 1);                        \
            if (v >= limit + (symbol & 1)) return BAD_STEP;                       \
            steps[i] = (WORD)(symbol & 1 ? 0 - (v + 1) : v + 1);                  \
        }                                                                         \
    } while (0)

static enum status read_steps(InTier *t, int word_bits) {
    BitReader r = {t->step_extra, t->step_extra_size, 0};
    t->steps = malloc((t->n_changed + 1) * (size_t)word_bits / 8);
    if (!t->steps) return NO_MEMORY;
    if (word_bits == 8)
        READ_STEPS(uint8_t);
    else if (word_bits == 16)
        READ_STEPS(uint16_t);
    else if (word_bits == 32)
        READ_STEPS(uint32_t);
    else
        READ_STEPS(uint64_t);
    return OK;
}

enum status patch_begin(Patch *p) {
    for (int k = 0; k < p->layout.n_tiers; k++) {
        InTier *t = &p->tiers[k];
        enum status status =
            check_extra(t->gap_symbols, t->n_marked, 0, t->gap_extra, t->gap_extra_size);
        if (status == OK)
            status = check_extra(t->step_symbols, t->n_changed, 1, t->step_extra, t->step_extra_size);
        if (status == OK) status = read_marks(t);
        if (status == OK) status = read_steps(t, p->layout.word_bits);
        if (status != OK) return status;
        p->next[k] = t->marks;
    }
    return OK;
}

enum status patch_end(const Patch *p) {
    for (int k = 0; k < p->layout.n_tiers; k++) {
        const InTier *t = &p->tiers[k];
        if (p->reached[k] - p->reached[k + 1] != t->n_members || t->steps_used != t->n_changed)
            return BAD_TIERS;
    }
    return OK;
}

void patch_free(Patch *p) {
    for (int k = 0; k < MAX_TIERS; k++) {
        free(p->tiers[k].marks);
        free(p->tiers[k].steps);
    }
    memset(p->tiers, 0, sizeof p->tiers);
}
