/* All widths for one instruction set; included with LOOPS defined, the name of the table,
 * and LOOPS_NAME. What differs between instruction sets is how bytes become a bit mask and
 * how a bit is found in one; the plain loops the compiler turns into vectors by itself. */

#include "state.h"

#if !defined(BLOCK)
#define BLOCK 128 /* words gone through at a time, in groups of 64, one for each bit of a mask */
#endif
_Static_assert(BLOCK <= MOST_BLOCK, "masks of whole blocks have room");
#define GROUPS (BLOCK / 64)

#if defined(LOOPS_AVX512)
#define XXH_VECTOR 3 /* as xxhash.h counts them; it sees by itself what every machine has */
#elif defined(LOOPS_AVX2)
#define XXH_VECTOR 2
#endif
#if defined(LOOPS_AVX2)
#include <immintrin.h>
#endif
#define XXH_INLINE_ALL
#include "xxhash.h"

_Static_assert(sizeof(XXH3_state_t) <= sizeof(Hash), "a state fits its memory");

static void hash_begin(Hash *h) { XXH3_128bits_reset((XXH3_state_t *)h); }

static void hash_add(Hash *h, const uint8_t *data, size_t size) {
    XXH3_128bits_update((XXH3_state_t *)h, data, size);
}

static void put_hash(XXH128_hash_t hash, uint8_t *sum) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(sum, canonical.digest, sizeof canonical.digest);
}

static void hash_end(const Hash *h, uint8_t *sum) {
    put_hash(XXH3_128bits_digest((const XXH3_state_t *)h), sum);
}

static void hash(const uint8_t *data, size_t size, uint8_t *sum) {
    put_hash(XXH3_128bits(data, size), sum);
}

#if defined(LOOPS_AVX2)

/* Bits of the bytes, of 64, that lie in first … last. */
static inline uint64_t mask_between(const uint8_t *byte, uint8_t first, uint8_t last) {
    const __m256i low = _mm256_set1_epi8((char)first);
    const __m256i span = _mm256_set1_epi8((char)(last - first));
    uint64_t half[2];
    for (int h = 0; h < 2; h++) {
        const __m256i x =
            _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)(byte + 32 * h)), low);
        half[h] = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(x, span), x));
    }
    return half[0] | half[1] << 32;
}

/* The set bit of a mask that has `index` set bits below it. */
static inline uint64_t select_bit(uint64_t mask, unsigned index) {
    return _pdep_u64((uint64_t)1 << index, mask);
}

#elif defined(LOOPS_NEON)
#include <arm_neon.h>

/* Each byte keeps the bit of its place among 8; sums of neighbours, thrice, gather them. */
static inline uint64_t mask_between(const uint8_t *byte, uint8_t first, uint8_t last) {
    static const uint8_t place[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t low = vdupq_n_u8(first), span = vdupq_n_u8((uint8_t)(last - first));
    uint8x16_t bits[4];
    for (int q = 0; q < 4; q++)
        bits[q] = vandq_u8(vcleq_u8(vsubq_u8(vld1q_u8(byte + 16 * q), low), span), vld1q_u8(place));
    const uint8x16_t sums = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)), 0);
}

/* There is no deposit of bits: counts of bits, up to each byte in one word, say which byte. */
static inline uint64_t select_bit(uint64_t mask, unsigned index) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    const uint64_t counts = vget_lane_u64(vreinterpret_u64_u8(vcnt_u8(vcreate_u8(mask))), 0);
    const uint64_t up_to = counts * ones; /* by byte, its bits and those below; at most 64 */
    const uint64_t passed = (((index * ones) | tops) - up_to) & tops; /* where that is <= index */
    const unsigned at = 8 * (unsigned)__builtin_popcountll(passed);
    uint64_t byte = mask >> at & 255;
    for (unsigned left = index - (unsigned)((up_to << 8) >> at & 255); left; left--) byte &= byte - 1;
    return (byte & (0 - byte)) << at;
}

#else

static inline uint64_t mask_between(const uint8_t *byte, uint8_t first, uint8_t last) {
    const uint8_t span = (uint8_t)(last - first);
    uint8_t inside[64];
    uint64_t mask = 0;
    for (int i = 0; i < 64; i++) inside[i] = (uint8_t)(byte[i] - first) <= span;
    for (int i = 0; i < 8; i++) { /* one multiplication gathers the lowest bits of 8 bytes */
        uint64_t x;
        memcpy(&x, inside + 8 * i, 8);
        mask |= (x * UINT64_C(0x0102040810204080) >> 56) << 8 * i;
    }
    return mask;
}

static inline uint64_t select_bit(uint64_t mask, unsigned index) {
    while (index--) mask &= mask - 1;
    return mask & (0 - mask);
}

#endif

static inline uint64_t popcount(uint64_t mask) { return (uint64_t)__builtin_popcountll(mask); }

/* Add, for each tier but the first, the words of a block that are in it or a later one. */
static inline void count_levels(const uint8_t *level, const Layout *l, uint64_t *reached) {
    for (int k = 1; k < l->n_tiers; k++) {
        const uint8_t first = l->first_level[k];
        uint8_t n = 0; /* at most 128 */
        for (int i = 0; i < BLOCK; i++) n += level[i] >= first;
        reached[k] += n;
    }
}

/* Words of group `g` of a block that are in tiers k … last. */
static inline uint64_t members(const uint8_t *level, const Layout *l, int g, int k, int last) {
    const uint8_t end = last + 1 < l->n_tiers ? (uint8_t)(l->first_level[last + 1] - 1) : 255;
    return mask_between(level + 64 * g, l->first_level[k], end);
}

/* Note that a member is marked; 0 without memory. */
static inline int note_mark(OutTier *t, uint64_t number) {
    const uint32_t mark = (uint32_t)number;
    if (!reserve(&t->marks, sizeof mark)) return 0;
    memcpy(t->marks.data + t->marks.size, &mark, sizeof mark);
    t->marks.size += sizeof mark;
    return 1;
}

/* Turn the marks noted into symbols and extra bits of the gaps between them. */
static int put_marks(OutTier *t) {
    const size_t n = t->marks.size / sizeof(uint32_t);
    const uint32_t *marks = (const uint32_t *)t->marks.data;
    if (!reserve(&t->gap_symbols, n) || !reserve(&t->gap_bits.bytes, 4 * n + 16)) return 0;
    uint8_t *symbols = t->gap_symbols.data + t->gap_symbols.size;
    Bits bits = t->gap_bits; /* in registers */
    uint64_t next = t->next;
    for (size_t i = 0; i < n; i++) {
        const uint64_t gap = marks[i] - next;
        const unsigned c = number_class(gap);
        symbols[i] = (uint8_t)c;
        put_bits(&bits, gap - class_start(c), class_width(c));
        next = (uint64_t)marks[i] + 1;
    }
    t->gap_bits = bits;
    t->gap_symbols.size += n;
    t->next = next;
    t->marks.size = 0;
    return 1;
}

#include "rans.inc.h"

#define WORD uint8_t
#define NAME(x) x##_8
#include "words.inc.h"
#define WORD uint16_t
#define NAME(x) x##_16
#include "words.inc.h"
#define WORD uint32_t
#define NAME(x) x##_32
#include "words.inc.h"
#define WORD uint64_t
#define NAME(x) x##_64
#include "words.inc.h"

const Loops LOOPS = {
    LOOPS_NAME,
    {diff_8, diff_16, diff_32, diff_64},
    {patch_8, patch_16, patch_32, patch_64},
    {survey_8, survey_16, survey_32, survey_64},
    {differing_8, differing_16, differing_32, differing_64},
    encode_run,
    decode_run,
    hash,
    hash_begin,
    hash_add,
    hash_end,
};
