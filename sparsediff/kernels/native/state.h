/* What a bucket's coding keeps between two pieces of words, and the small parts
 * both directions share. No Python here: lengths come in with every pointer and
 * nothing is read or written outside them. Clauses refer to docs/format.md. */
#ifndef SPARSEDIFF_STATE_H
#define SPARSEDIFF_STATE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words are little-endian; the NumPy kernels do this machine"
#endif

#define MAX_TIERS 64
#define MAX_CLASSES 2048
#define N_SYMBOLS 256

enum kind { KIND_FLOAT, KIND_SIGNED, KIND_UNSIGNED };

enum status {
    OK,
    NO_MEMORY,
    BAD_GAP_SYMBOL,
    BAD_GAP,
    BAD_STEP,
    BAD_EXTRA_LENGTH,
    BAD_EXTRA_END,
    FEW_STEPS,
    BAD_TIERS,
    RANS_SHORT,
    RANS_STATE,
    RANS_END,
    TABLE_SHORT,
    TABLE_ORDER,
    TABLE_NUMBER,
    TABLE_SUM,
    TABLE_CLASS,
    BAD_MODE,
    BAD_TIER_COUNT,
    BAD_BOUNDS,
    BAD_COUNTS,
    BAD_GAP_TABLE,
    BAD_STEP_TABLE,
    BAD_EMPTY,
    BAD_LANES,
    BAD_END,
    NOT_DONE, /* something could not be read or written */
};

/* Layout of a word (DType), and which words belong to which tier. A word's level
 * is its class where there are at most 256 of them, else its tier already. */
typedef struct {
    int word_bits;
    enum kind kind;
    int shift;
    int n_classes;
    int n_tiers;
    uint8_t tier_of_class[MAX_CLASSES];
    uint8_t first_level[MAX_TIERS]; /* of each tier */
    uint8_t tier_of_level[256];
} Layout;

/* Fill in a layout; 0 if there is none such. `bounds` are the tiers' first classes. */
int layout_init(Layout *l, int word_bits, int kind, int shift, const long *bounds, size_t n_tiers);

/* Into the loops: log2 of the word's bytes. */
static inline int width_index(const Layout *l) {
    return l->word_bits == 8 ? 0 : l->word_bits == 16 ? 1 : l->word_bits == 32 ? 2 : 3;
}

/* Growing bytes. */
typedef struct {
    uint8_t *data;
    size_t size, capacity;
} Bytes;

static inline int reserve(Bytes *b, size_t more) { /* and a place for them, even if 0 */
    if (b->capacity - b->size > more) return 1;
    size_t capacity = 2 * b->capacity + more + 256;
    uint8_t *data = realloc(b->data, capacity);
    if (!data) return 0;
    b->data = data;
    b->capacity = capacity;
    return 1;
}

/* Bits, least significant first: whole bytes, and up to 7 bits more. */
typedef struct {
    Bytes bytes;
    uint64_t partial;
    unsigned fill;
} Bits;

/* "Numbers": class number of v < 2^63, and how many extra bits go with a class. */
static inline unsigned number_class(uint64_t v) {
    if (v < 2) return (unsigned)v;
    unsigned b = 63 - (unsigned)__builtin_clzll(v);
    return 2 * b + (unsigned)(v >> (b - 1) & 1);
}

static inline unsigned class_width(unsigned c) { return c < 4 ? 0 : (c >> 1) - 1; }

static inline uint64_t class_start(unsigned c) {
    return c < 2 ? c : (uint64_t)(2 + (c & 1)) << ((c >> 1) - 1);
}

/* Most extra bits that fit behind the 7 of an unfinished byte in one 64-bit word. */
#define MAX_PUT 56

/* Append the lowest `width` bits, at most MAX_PUT, for which room was reserved, 8 bytes more
 * than are kept: all are written and the whole ones kept, so nothing depends on a branch. */
static inline void put_bits(Bits *b, uint64_t value, unsigned width) {
    b->partial |= value << b->fill;
    b->fill += width;
    memcpy(b->bytes.data + b->bytes.size, &b->partial, 8);
    b->bytes.size += b->fill >> 3;
    b->partial >>= b->fill & 56;
    b->fill &= 7;
}

/* One tier being written. The loop over words notes marks and steps as they come; they
 * become symbols and bits at the end of each piece. */
typedef struct {
    uint64_t n_changed;
    uint64_t next;      /* number of the member after the last marked one */
    Bytes marks, steps; /* of this piece: 32-bit numbers, words */
    Bytes gap_symbols, step_symbols;
    Bits gap_bits, step_bits;
} OutTier;

typedef struct {
    Layout layout;
    int n_inverted; /* ranges of tiers, first and last, that mark their unchanged members */
    uint8_t inverted[MAX_TIERS][2], marks_unchanged[MAX_TIERS];
    uint64_t reached[MAX_TIERS + 1]; /* words so far of this tier or a later one */
    OutTier tiers[MAX_TIERS];
} Diff;

#define MAX_WORDS (UINT32_MAX - 1) /* so many words numbers of 32 bits can tell apart, and an end */

/* One tier being read. What its symbols say is worked out first, tier by tier; then the
 * words are gone through. */
typedef struct {
    uint64_t n_members, n_changed, n_marked;
    const uint8_t *gap_symbols, *step_symbols, *gap_extra, *step_extra;
    size_t gap_extra_size, step_extra_size;
    uint32_t *marks; /* numbers of the marked members, increasing, then UINT32_MAX */
    void *steps;     /* words: steps of the changed members, modulo 2^word_bits */
    uint64_t steps_used;
} InTier;

typedef struct {
    Layout layout;
    int n_inverted; /* ranges of tiers, first and last, that mark their unchanged members */
    uint8_t inverted[MAX_TIERS][2];
    uint64_t reached[MAX_TIERS + 1]; /* words so far of this tier or a later one */
    const uint32_t *next[MAX_TIERS]; /* the next of its marks */
    InTier tiers[MAX_TIERS];
} Patch;

/* Extra bits being read; the caller has shown that all of them are there. */
typedef struct {
    const uint8_t *data;
    size_t size, bit;
} BitReader;

static inline uint64_t get_extra(BitReader *r, unsigned c) {
    const unsigned width = class_width(c), shift = r->bit & 7;
    const size_t at = r->bit >> 3;
    uint64_t low = 0, high = 0;
    if (at + 9 <= r->size) {
        memcpy(&low, r->data + at, 8);
        high = r->data[at + 8];
    } else if (at < r->size) {
        memcpy(&low, r->data + at, r->size - at < 8 ? r->size - at : 8);
    }
    r->bit += width;
    low = low >> shift | high << 1 << (63 - shift);
    return class_start(c) + (low & (((uint64_t)1 << width) - 1));
}

/* Memory for the state of XXH3-128 (xxhash.h), which each set of loops has its own type for. */
typedef struct {
    _Alignas(64) uint8_t memory[576];
} Hash;

#define HASH_BYTES 16 /* of its canonical form */

/* A run of symbols coded with one frequency table of 256 entries that sum to SCALE. */
typedef struct {
    uint8_t *symbols;
    size_t n;
    const uint32_t *table;
} Run;

#define SCALE_BITS 14
#define SCALE (1u << SCALE_BITS)
#define LOW (1u << 16)

/* The interleaved states of the entropy coder, between two runs. */
typedef struct {
    uint32_t *state;
    size_t n, next; /* of them; which takes the next symbol */
    size_t at;      /* in the coded bytes */
} Lanes;

static inline void rans_starts(const uint32_t *table, uint32_t *start) {
    uint32_t sum = 0;
    for (int s = 0; s < N_SYMBOLS; s++) {
        start[s] = sum;
        sum += table[s];
    }
}

#define MOST_BLOCK 512 /* words that any of the loops goes through at a time */

/* The loops over words, by width_index, and symbols; compiled once for each instruction set. */
typedef struct {
    const char *name;
    enum status (*diff[4])(Diff *, const uint8_t *base, const uint8_t *target, size_t n_words,
                           int64_t *steps, uint64_t *largest);
    enum status (*patch[4])(Patch *, uint8_t *words, size_t n_words); /* in place */
    void (*survey[4])(const Layout *, const uint8_t *base, const uint8_t *target, size_t n_words,
                      int64_t *members, int64_t *steps, uint64_t *largest);
    size_t (*differing[4])(const uint8_t *base, const uint8_t *target, size_t n_words,
                           uint64_t *masks); /* with room for n_words + MOST_BLOCK bits */
    enum status (*encode_run)(const Run *, Lanes *, uint8_t *out);
    enum status (*decode_run)(Run *, Lanes *, const uint8_t *data, size_t size, uint8_t *symbol_of);
    void (*hash)(const uint8_t *data, size_t size, uint8_t *sum); /* at once, or in pieces: */
    void (*hash_begin)(Hash *);
    void (*hash_add)(Hash *, const uint8_t *data, size_t size);
    void (*hash_end)(const Hash *, uint8_t *sum);
} Loops;

extern const Loops loops_baseline;
#if defined(__x86_64__)
extern const Loops loops_avx2;
#if defined(__clang__) ? __clang_major__ >= 7 : __GNUC__ >= 9
#define WITH_AVX512
extern const Loops loops_avx512;
#endif
#elif defined(__aarch64__)
extern const Loops loops_neon;
#endif

extern const Loops *const all_loops[]; /* best first, then NULL */
int is_supported(const Loops *candidate); /* by this processor, and by its system */

/* Take a tier whose pointers, counts and sizes of extra bits are given; 0 if the counts and
 * the numbers of symbols do not fit each other. */
int patch_set_tier(Patch *p, int k, InTier tier, size_t n_gap_symbols, size_t n_step_symbols);
enum status patch_begin(Patch *p); /* check and work out the symbols of all tiers */
enum status patch_end(const Patch *p);
void patch_free(Patch *p);
void diff_mark_unchanged(Diff *d, int k); /* tier by tier, in increasing order */
enum status diff_end(Diff *d); /* has each tier mark its rarer half */
void diff_free(Diff *d);

/* Steps of each part of the words, whose ends are given and increase: how many by class of
 * |step| - 1, as far as there are columns, and the largest |step|. The layout has one tier. */
void count_parts(const Loops *loops, const Layout *l, const uint8_t *base, const uint8_t *target,
                 const int64_t *end, size_t n_parts, int64_t *by_class, size_t n_columns,
                 uint64_t *largest);

void histogram(const uint8_t *data, size_t size, int64_t *counts);

/* Extra bits that go with symbols of numbers, or of steps. */
uint64_t extra_bits(const uint8_t *symbols, size_t n, int is_steps);

/* Number of literals among every stride-th of at most MAX_LITERALS bytes (steps.literals); 0
 * without memory. */
#define MAX_LITERALS ((size_t)1 << 24)
int count_literals(const uint8_t *data, size_t size, size_t stride, size_t *n_literals);

/* Positions of the first n set bits of masks; and the words, of w bytes each, at positions. */
void positions_of(const uint64_t *masks, size_t n, int32_t *positions);
void pick(const uint8_t *words, size_t w, const int32_t *positions, size_t n, uint8_t *picked);

/* Byte i of all n words, of w bytes each, to plane i, and back; planes are `apart` bytes apart.
 * With a base what differs from it; by XOR, what the words hold changes by so much. */
void to_planes(const uint8_t *target, const uint8_t *base, size_t n, size_t w, uint8_t *planes,
               size_t apart);
void from_planes(const uint8_t *planes, size_t apart, uint8_t *words, size_t n, size_t w,
                 int is_xor);

#endif
