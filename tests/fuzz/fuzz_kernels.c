/* Fuzzes the compiled kernels: run.sh builds this with the sanitizers and runs it.
 *
 * Every decision is drawn from the input bytes, so that a coverage-guided fuzzer can steer it
 * (LLVMFuzzerTestOneInput); main() takes inputs that are kept, and then makes them up by itself:
 * fuzz_kernels EXECUTIONS [SEED [FILE ...]].
 * An execution makes a bucket or a run of symbols, encodes it, checks that it decodes to the
 * same with every instruction set, damages it, and decodes that, which may fail but must not
 * touch memory it was not given; or it counts, and compares that with a plain count. All buffers
 * are allocated at exactly their size. */
#define _GNU_SOURCE /* memfd_create */
#include <inttypes.h>
#include <stdio.h>

#include "integers.h"
#include "payload.h"
#include "rans.h"
#include "tables.h"

static const uint8_t *input;
static size_t input_left;

static uint64_t draw(uint64_t below) { /* 0 … below - 1 */
    uint64_t x = 0;
    const int n_bytes = below <= 1 ? 0 : below <= 256 ? 1 : 4;
    for (int i = 0; i < n_bytes && input_left; i++, input_left--) x = x << 8 | *input++;
    return below ? x % below : 0;
}

static void check(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "failed: %s\n", what);
    abort();
}

static void *exactly(const void *data, size_t size) {
    uint8_t *copy = malloc(size); /* malloc(0) gives a place no byte of which may be touched */
    if (size) memcpy(copy, data, size);
    return copy;
}

static const Loops *some_loops(void) {
    const Loops *found = &loops_baseline;
    for (const Loops *const *each = all_loops; *each; each++)
        if (is_supported(*each) && draw(2)) found = *each;
    return found;
}

/* A field of a tier: bytes of exactly their size, some of them damaged. */
typedef struct {
    uint8_t *data;
    size_t size;
} Field;

static Field field(const uint8_t *data, size_t size, int damage, int may_resize) {
    Field f = {NULL, size};
    damage = damage && draw(8) == 0;
    if (damage && may_resize && draw(4) == 0) {
        f.size += draw(5);
        f.size -= f.size < 2 ? f.size : 2;
    }
    uint8_t *longer = calloc(1, (f.size > size ? f.size : size) + 1);
    if (size) memcpy(longer, data, size);
    if (damage && f.size)
        for (uint64_t n = 1 + draw(3); n; n--) /* a little, most times, so that it gets far */
            longer[draw(f.size)] ^= (uint8_t)(draw(4) ? 1u << draw(3) : draw(256));
    f.data = exactly(longer, f.size);
    free(longer);
    return f;
}

static Field bits_of(Bits *b, int damage) {
    check(reserve(&b->bytes, 8), "memory");
    memcpy(b->bytes.data + b->bytes.size, &b->partial, 8);
    return field(b->bytes.data, b->bytes.size + (b->fill + 7) / 8, damage, 1);
}

/* Decode the tiers of a bucket from `base` in two pieces; 0 if they were refused. */
static int decode(const Diff *diff, const Layout *l, int damage, const uint8_t *base, uint8_t *out,
                  size_t n_words) {
    Patch *p = calloc(1, sizeof *p);
    Field fields[4 * MAX_TIERS];
    const size_t word = (size_t)l->word_bits / 8;
    int n_fields = 0, ok = 1;
    p->layout = *l;
    for (int k = 0; ok && k < l->n_tiers; k++) {
        OutTier t = diff->tiers[k];
        Field *f = &fields[n_fields];
        Bits gap_bits = t.gap_bits, step_bits = t.step_bits;
        Bytes gap_copy = {exactly(gap_bits.bytes.data, gap_bits.bytes.size), gap_bits.bytes.size,
                          gap_bits.bytes.size};
        Bytes step_copy = {exactly(step_bits.bytes.data, step_bits.bytes.size),
                           step_bits.bytes.size, step_bits.bytes.size};
        gap_bits.bytes = gap_copy;
        step_bits.bytes = step_copy;
        f[0] = field(t.gap_symbols.data, t.gap_symbols.size, damage, 0);
        f[1] = bits_of(&gap_bits, damage);
        f[2] = field(t.step_symbols.data, t.step_symbols.size, damage, 0);
        f[3] = bits_of(&step_bits, damage);
        free(gap_bits.bytes.data);
        free(step_bits.bytes.data);
        n_fields += 4;
        InTier in = {
            .n_members = diff->reached[k] - diff->reached[k + 1],
            .n_changed = t.n_changed,
            .gap_symbols = f[0].data,
            .gap_extra = f[1].data,
            .gap_extra_size = f[1].size,
            .step_symbols = f[2].data,
            .step_extra = f[3].data,
            .step_extra_size = f[3].size,
        };
        if (damage && draw(32) == 0) in.n_members += draw(3) ? draw(100) : draw(UINT32_MAX);
        ok = patch_set_tier(p, k, in, f[0].size, f[2].size);
    }
    if (ok) ok = patch_begin(p) == OK;
    const Loops *loops = some_loops();
    const size_t cut = draw(n_words + 1);
    for (int piece = 0; ok && piece < 2; piece++) {
        const size_t from = piece ? cut : 0, n = piece ? n_words - cut : cut;
        uint8_t *words = exactly(base + from * word, n * word);
        ok = loops->patch[width_index(l)](p, words, n) == OK;
        if (ok && n) memcpy(out + from * word, words, n * word);
        free(words);
    }
    if (ok) ok = patch_end(p) == OK;
    for (int i = 0; i < n_fields; i++) free(fields[i].data);
    patch_free(p);
    free(p);
    return ok;
}

/* Widths, kinds and shifts of words. */
static const int kinds[][3] = {{8, 0, 0},  {16, 0, 7},  {16, 0, 10}, {32, 0, 23}, {64, 0, 52},
                               {8, 1, 0},  {16, 1, 0},  {32, 1, 0},  {64, 1, 0},  {8, 2, 0},
                               {16, 2, 0}, {32, 2, 0},  {64, 2, 0}};

/* Words, and some of them changed, by one or by anything. */
static void make_words(size_t word, size_t n_words, uint64_t density, uint8_t *base,
                       uint8_t *target) {
    uint64_t few[4] = {draw(256) << 7, draw(UINT32_MAX), draw(UINT32_MAX) << 31, 0x3c00};
    uint64_t random = draw(UINT32_MAX) | 1;
    for (size_t i = 0; i < n_words; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t b = few[random >> 62] ^ (random >> 50 & 0x3ff);
        uint64_t t = b;
        if ((random >> 20 & 255) < density) t = random >> 30 & 1 ? b + 1 : b ^ random >> (random & 63);
        memcpy(base + i * word, &b, word);
        memcpy(target + i * word, &t, word);
    }
}

/* Make a payload of a bucket, and words of that, damaged or not. */
static void through_payload(Diff *diff, const Layout *l, const uint8_t *base,
                            const uint8_t *target, size_t n_words) {
    uint8_t *memory;
    const size_t size = n_words * (size_t)l->word_bits / 8;
    size_t start, n_payload;
    prepare_logarithms();
    check(payload_of(some_loops(), diff, &memory, &start, &n_payload) == OK, "payload");
    for (int damage = 0; damage < 6; damage++) {
        const long first = 0;
        const size_t given = damage && draw(4) == 0 ? draw(n_payload + 1) : n_payload;
        const uint64_t n_told = damage && draw(8) == 0 ? draw(2 * n_words) : n_words;
        uint8_t *payload = exactly(memory + start, given), *words = exactly(base, size), *symbols;
        for (uint64_t n = damage ? draw(4) : 0; n && given; n--) /* most of it in the head */
            payload[draw(draw(3) && given > 40 ? 40 : given)] ^=
                (uint8_t)(draw(4) ? 1u << draw(8) : draw(256));
        Patch *p = calloc(1, sizeof *p);
        check(layout_init(&p->layout, l->word_bits, (int)l->kind, l->shift, &first, 1), "layout");
        const Loops *loops = some_loops();
        const int is_taken = patch_from(loops, p, payload, given, n_told, &symbols) == OK &&
                             loops->patch[width_index(l)](p, words, n_words) == OK &&
                             patch_end(p) == OK;
        check(damage || (is_taken && !memcmp(words, target, size)), "payload is the target's");
        patch_free(p);
        free(p);
        free(symbols);
        free(payload);
        free(words);
    }
    free(memory);
}

static void fuzz_bucket(void) {
    const int *kind = kinds[draw(sizeof kinds / sizeof *kinds)];
    const int n_classes = kind[1] ? 1 : 1 << (kind[0] - 1 - kind[2]);
    const size_t word = (size_t)kind[0] / 8;
    long bounds[MAX_TIERS] = {0};
    size_t n_tiers = 1;
    const uint64_t widest = 1 + draw((uint64_t)n_classes / 4 + 1);
    while (n_tiers < MAX_TIERS && n_classes > 1 && draw(16)) {
        const long next = bounds[n_tiers - 1] + 1 + (long)draw(widest);
        if (next >= n_classes) break;
        bounds[n_tiers++] = next;
    }
    Layout layout;
    check(layout_init(&layout, kind[0], kind[1], kind[2], bounds, n_tiers), "layout");

    const size_t n_words = draw(4) ? draw(300) : draw(2000), size = n_words * word;
    uint8_t *base = malloc(size), *target = malloc(size), *out = malloc(size);
    const uint64_t density = draw(256);
    make_words(word, n_words, density, base, target);
    const size_t cut = draw(n_words + 1);
    Diff *diff[2];
    int unchanged[MAX_TIERS];
    for (int k = 0; k < layout.n_tiers; k++) unchanged[k] = draw(8) ? density > 140 : (int)draw(2);
    for (int i = 0; i < 2; i++) { /* with any two instruction sets, the same */
        int64_t steps[N_SYMBOLS] = {0}, total = 0;
        const Loops *loops = some_loops();
        diff[i] = calloc(1, sizeof **diff);
        diff[i]->layout = layout;
        for (int k = 0; k < layout.n_tiers; k++)
            if (unchanged[k]) diff_mark_unchanged(diff[i], k);
        for (int piece = 0; piece < 2; piece++) {
            const size_t from = piece ? cut : 0, n = piece ? n_words - cut : cut;
            uint8_t *b = exactly(base + from * word, n * word);
            uint8_t *t = exactly(target + from * word, n * word);
            uint64_t largest;
            check(loops->diff[width_index(&layout)](diff[i], b, t, n, steps, &largest) == OK, "diff");
            free(b);
            free(t);
        }
        for (int s = 0; s < N_SYMBOLS; s++) total += steps[s];
        uint64_t changed = 0;
        for (int k = 0; k < layout.n_tiers; k++) changed += diff[i]->tiers[k].n_changed;
        check((uint64_t)total == changed, "step counts");
    }
    for (int i = 0; i < 2; i++) check(diff_end(diff[i]) == OK, "ends");
    for (int k = 0; k < layout.n_tiers; k++) {
        const OutTier *a = &diff[0]->tiers[k], *b = &diff[1]->tiers[k];
        check(a->gap_symbols.size == b->gap_symbols.size, "gaps agree");
        check(!a->gap_symbols.size || !memcmp(a->gap_symbols.data, b->gap_symbols.data,
                                              a->gap_symbols.size), "gaps agree");
        check(a->step_symbols.size == b->step_symbols.size, "steps agree");
        check(!a->step_symbols.size || !memcmp(a->step_symbols.data, b->step_symbols.data,
                                               a->step_symbols.size), "steps agree");
    }
    if (memcmp(base, target, size)) through_payload(diff[0], &layout, base, target, n_words);
    check(decode(diff[0], &layout, 0, base, out, n_words), "decodes");
    check(!size || !memcmp(out, target, size), "decodes to the target");
    for (int i = 0; i < 6; i++) /* also undamaged, with words it was not made from */
        decode(diff[0], &layout, i > 0, i & 1 ? base : target, out, n_words);
    for (int i = 0; i < 2; i++) {
        diff_free(diff[i]);
        free(diff[i]);
    }
    free(base);
    free(target);
    free(out);
}

/* |step| - 1 of words that differ, by the values that they stand for. */
static uint64_t distance(uint64_t base, uint64_t target, int word_bits, int kind) {
    const uint64_t sign = (uint64_t)1 << (word_bits - 1), all = sign | (sign - 1);
    uint64_t place[2] = {base, target}; /* in the order of the values */
    for (int i = 0; i < 2; i++)
        if (kind == KIND_FLOAT)
            place[i] = place[i] & sign ? all - place[i] : place[i] + sign;
        else if (kind == KIND_SIGNED)
            place[i] = (place[i] + sign) & all;
    const uint64_t up = (place[1] - place[0]) & all, down = (place[0] - place[1]) & all;
    return (up < down ? up : down) - 1;
}

static void check_differences(const uint8_t *base, const uint8_t *target, size_t word, size_t n_words) {
    const int width = word == 1 ? 0 : word == 2 ? 1 : word == 4 ? 2 : 3;
    uint64_t *masks = malloc((n_words + MOST_BLOCK) / 8);
    const size_t n = some_loops()->differing[width](base, target, n_words, masks);
    int32_t *positions = malloc(n * sizeof *positions);
    uint8_t *picked = malloc(n * word);
    positions_of(masks, n, positions);
    pick(target, word, positions, n, picked);
    size_t found = 0;
    for (size_t i = 0; i < n_words; i++) {
        if (!memcmp(base + i * word, target + i * word, word)) continue;
        check(found < n && positions[found] == (int32_t)i, "position");
        check(!memcmp(picked + found++ * word, target + i * word, word), "word at a position");
    }
    check(found == n, "how many words differ");
    free(masks);
    free(positions);
    free(picked);
}

static void fuzz_parts(void) {
    const int *kind = kinds[draw(sizeof kinds / sizeof *kinds)];
    const long bounds[1] = {0};
    Layout layout;
    check(layout_init(&layout, kind[0], kind[1], kind[0] - 1, bounds, 1), "layout");
    const size_t word = (size_t)kind[0] / 8, n_words = draw(4) ? draw(300) : draw(2000);
    const size_t n_parts = 1 + draw(8), n_columns = draw(130);
    int64_t ends[8], counted[128], n_bytes = (int64_t)(n_parts * n_columns * sizeof *counted);
    uint64_t largest[8];
    uint8_t *made[2] = {malloc(n_words * word), malloc(n_words * word)};
    make_words(word, n_words, draw(256), made[0], made[1]);
    uint8_t *base = exactly(made[0], n_words * word), *target = exactly(made[1], n_words * word);
    for (size_t i = 0, start = 0; i < n_parts; start = (size_t)ends[i++])
        ends[i] = (int64_t)(i + 1 < n_parts ? start + draw(n_words - start + 1) : n_words);
    int64_t *by_class = malloc((size_t)n_bytes);
    memset(by_class, 0, (size_t)n_bytes);
    count_parts(some_loops(), &layout, base, target, ends, n_parts, by_class, n_columns, largest);
    for (size_t i = 0, at = 0; i < n_parts; i++) {
        uint64_t widest = 0;
        memset(counted, 0, sizeof counted);
        for (; at < (size_t)ends[i]; at++) {
            uint64_t b = 0, t = 0, top = 0;
            memcpy(&b, base + at * word, word);
            memcpy(&t, target + at * word, word);
            if (b == t) continue;
            const uint64_t v = distance(b, t, kind[0], kind[1]);
            if (v >= widest) widest = v + 1;
            while (v >> top > 3) top++; /* two bits are left: 2 or 3, or all of v */
            counted[v < 4 ? v : 2 * top + (v >> top)]++;
        }
        check(largest[i] == widest, "largest step of a part");
        for (size_t c = 0; c < n_columns; c++)
            check(by_class[i * n_columns + c] == (c < 128 ? counted[c] : 0), "steps of a part");
    }
    check_differences(base, target, word, n_words);
    free(by_class);
    free(base);
    free(target);
    free(made[0]);
    free(made[1]);
}

static void fuzz_literals(void) {
    const size_t size = draw(256);
    uint8_t *made = malloc(size);
    for (size_t i = 0; i < size; i++) { /* new bytes, and runs that were there before */
        const size_t n = 1 + draw(12), from = draw(i + 1), is_new = draw(2);
        for (size_t j = 0; j < n && i < size; j++, i += j < n)
            made[i] = (uint8_t)(is_new || from + j >= i ? draw(256) : made[from + j]);
    }
    const size_t stride = 1 + draw(9);
    uint8_t *data = exactly(made, size), *spread = malloc(size ? stride * (size - 1) + 1 : 0);
    for (size_t i = 0; i < size; i++) spread[stride * i] = data[i];
    int is_old[256] = {0}; /* in a run of four that was there before */
    size_t found, expected = 0;
    check(count_literals(spread, size ? stride * (size - 1) + 1 : 0, stride, &found), "memory");
    free(spread);
    for (size_t i = 0; i + 4 <= size; i++)
        for (size_t before = 0; before < i; before++)
            if (!memcmp(data + before, data + i, 4)) {
                for (int j = 0; j < 4; j++) is_old[i + (size_t)j] = 1;
                break;
            }
    for (size_t i = 1; i + 4 <= size; i++)
        expected += !is_old[i] && !is_old[i - 1] && data[i] != data[i - 1];
    check(found == expected, "literals");
    free(data);
    free(made);
}

static void fuzz_planes(void) {
    const size_t word = (size_t)1 << draw(4), n = draw(300), cut = draw(n + 1);
    uint8_t *made[2] = {malloc(n * word), malloc(n * word)};
    make_words(word, n, draw(256), made[0], made[1]);
    const int is_xor = (int)draw(2);
    uint8_t *planes = malloc(n * word), *words = exactly(made[0], n * word);
    to_planes(made[1], is_xor ? made[0] : NULL, cut, word, planes, n);
    to_planes(made[1] + word * cut, is_xor ? made[0] + word * cut : NULL, n - cut, word,
              planes + cut, n);
    for (size_t b = 0; b < word; b++)
        for (size_t i = 0; i < n; i++)
            check(planes[n * b + i] ==
                      (made[1][word * i + b] ^ (is_xor ? made[0][word * i + b] : 0)), "planes");
    from_planes(planes, n, words, cut, word, is_xor);
    from_planes(planes + cut, n, words + word * cut, n - cut, word, is_xor);
    check(!n || !memcmp(words, made[1], n * word), "words of planes");
    free(planes);
    free(words);
    for (int i = 0; i < 2; i++) free(made[i]);
}

static void fuzz_rans(void) {
    uint32_t table[3][N_SYMBOLS] = {{0}};
    uint8_t *symbols[3];
    Run runs[3];
    const size_t n_runs = 1 + draw(3), lanes = (size_t)1 << draw(6);
    size_t n = 0;
    for (size_t r = 0; r < n_runs; r++) {
        uint32_t left = 1u << 14;
        uint8_t used[16];
        const unsigned kinds = 1 + (unsigned)draw(16);
        for (unsigned i = 0; i < kinds; i++) {
            used[i] = (uint8_t)draw(256);
            const uint32_t f = i + 1 == kinds ? left : 1 + (uint32_t)draw(left / 2);
            if (f >= left && i + 1 != kinds) { /* nothing would be left for the others */
                used[i] = used[0];
                continue;
            }
            table[r][used[i]] += f;
            left -= f;
        }
        check(rans_table_is_valid(table[r]), "table");
        const size_t size = draw(700);
        symbols[r] = malloc(size);
        for (size_t i = 0; i < size; i++) {
            uint8_t s = used[(i * 2654435761u >> 7) % kinds];
            symbols[r][i] = table[r][s] ? s : used[kinds - 1];
        }
        runs[r] = (Run){symbols[r], size, table[r]};
        n += size;
    }
    const size_t limit = rans_limit(n, lanes);
    uint8_t *coded = malloc(limit);
    size_t size;
    check(rans_encode(some_loops(), runs, n_runs, lanes, coded, limit, &size) == OK, "rANS encodes");
    for (int damage = 0; damage < 6; damage++) {
        uint8_t *data = exactly(coded + limit - size, size);
        size_t given = size;
        Run decoded[3];
        if (damage) {
            for (uint64_t i = 1 + draw(4); i; i--) data[draw(size)] ^= (uint8_t)draw(256);
            if (draw(3) == 0) given = draw(size + 1);
        }
        uint8_t *cut = exactly(data, given);
        for (size_t r = 0; r < n_runs; r++)
            decoded[r] = (Run){malloc(runs[r].n), runs[r].n, table[r]};
        const enum status status = rans_decode(some_loops(), cut, given, decoded, n_runs, lanes);
        if (!damage) {
            check(status == OK, "rANS decodes");
            for (size_t r = 0; r < n_runs; r++)
                check(!runs[r].n || !memcmp(decoded[r].symbols, symbols[r], runs[r].n),
                      "rANS decodes to the symbols");
        }
        for (size_t r = 0; r < n_runs; r++) free(decoded[r].symbols);
        free(data);
        free(cut);
    }
    free(coded);
    for (size_t r = 0; r < n_runs; r++) free(symbols[r]);
}

/* Canonical JSON of what integers_read found; values are unsigned, or all below 2^63. */
static size_t print_integers(char *out, size_t size, const int64_t *values, size_t n,
                             const int64_t *ends, size_t n_ends, int is_unsigned) {
    size_t at = 0, done = 0;
    out[at++] = '[';
    for (size_t i = 0; i < (n_ends ? n_ends : 1); i++) {
        const size_t end = n_ends ? (size_t)ends[i] : n;
        if (n_ends) at += (size_t)snprintf(out + at, size - at, "%s[", i ? "," : "");
        for (size_t first = done; done < end; done++)
            at += (size_t)snprintf(out + at, size - at, is_unsigned ? "%s%" PRIu64 : "%s%" PRId64,
                                   done > first ? "," : "", values[done]);
        if (n_ends) out[at++] = ']';
    }
    out[at++] = ']';
    return at;
}

static void fuzz_integers(void) {
    char made[2048], again[2048];
    int64_t numbers[48], lists[8];
    const size_t n = draw(49), n_lists = draw(2) ? 1 + draw(8) : 0;
    const int is_unsigned = (int)draw(2);
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = draw(65), top = draw(1ull << 32) << 32 | draw(1ull << 32);
        numbers[i] = (int64_t)(bits ? top >> (64 - bits) : 0);
        if (!is_unsigned && draw(2)) numbers[i] = (int64_t)(0 - (uint64_t)numbers[i]);
    }
    for (size_t i = 0, end = 0; i < n_lists; i++)
        lists[i] = (int64_t)(end = i + 1 < n_lists ? end + draw(n - end + 1) : n);
    size_t size = print_integers(made, sizeof made, numbers, n, lists, n_lists, is_unsigned);
    const int is_damaged = (int)draw(2);
    for (uint64_t i = is_damaged ? 1 + draw(4) : 0; i; i--)
        made[draw(size)] = draw(2) ? (char)draw(256) : "[],-0123456789"[draw(14)];
    if (is_damaged && !draw(4)) size = draw(size + 1);
    char *text = exactly(made, size);
    const size_t room = integers_room(text, size);
    int64_t *values = malloc(room * sizeof *values), *ends = malloc(room * sizeof *ends);
    size_t n_values, n_ends;
    const int is_good = integers_read(text, size, is_unsigned ? 0 : INT64_MIN,
                                      is_unsigned ? UINT64_MAX : INT64_MAX, values, &n_values, ends,
                                      &n_ends);
    check(is_good || is_damaged, "integers are read");
    if (is_good) {
        check(n_values <= room && n_ends <= room, "room for integers");
        check(print_integers(again, sizeof again, values, n_values, ends, n_ends, is_unsigned) ==
                      size && !memcmp(again, text, size), "only canonical integers are read");
    }
    free(text);
    free(values);
    free(ends);
}

#include "fuzz_files.inc.h"
#include "fuzz_choices.inc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input = data;
    input_left = size;
    switch (draw(10)) {
    case 0:
    case 1:
        fuzz_rans();
        break;
    case 2:
        fuzz_parts();
        break;
    case 3:
        fuzz_literals();
        break;
    case 4:
        fuzz_files();
        break;
    case 5:
        fuzz_planes();
        break;
    case 6:
        draw(2) ? fuzz_tiers() : fuzz_tables();
        break;
    case 7:
        fuzz_integers();
        break;
    default:
        fuzz_bucket();
    }
    return 0;
}

#if !defined(LIBFUZZER)
int main(int argc, char **argv) {
    uint64_t random = 88172645463325252u;
    uint8_t data[2048];
    const long n = argc > 1 ? strtol(argv[1], NULL, 10) : 1000000;
    for (const char *c = argc > 2 ? argv[2] : ""; *c; c++) /* mixes a seed in */
        random = random * 31 + (uint8_t)*c;
    for (int i = 3; i < argc; i++) { /* what is kept of earlier runs */
        FILE *file = fopen(argv[i], "rb");
        check(file != NULL, argv[i]);
        LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, file));
        fclose(file);
    }
    for (long i = 0; i < n; i++) {
        for (size_t j = 0; j < sizeof data; j++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            data[j] = (uint8_t)random;
        }
        LLVMFuzzerTestOneInput(data, sizeof data);
    }
    printf("%ld executions and %d inputs that are kept, nothing found\n", n, argc > 3 ? argc - 3 : 0);
    return 0;
}
#endif
