/* The loops for x86-64 with AVX-512 as Ice Lake and Zen 4 have it; used only where the processor
 * does. Of 512 words at a time it is worked out which are in which tier, a bit for each word, by
 * the bits of the tiers' numbers; what is marked is then found and counted in these masks. */
#include "state.h"

#if defined(WITH_AVX512)
#if defined(__clang__)
#pragma clang attribute push(                                                             \
    __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl," \
                          "avx512vbmi,avx512vpopcntdq"))),                                 \
    apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")
#pragma GCC target("avx512vpopcntdq,prefer-vector-width=512")
#endif
#include <immintrin.h>

#define BLOCK 512 /* a mask of each of its groups of 64 fills a vector */

/* Where (c, b, a), as a number of three bits, is j. */
#define IS(j, a, b, c) _mm512_ternarylogic_epi64(c, b, a, 1 << (j))
#define EACH_OF_8(a, b, c)                                                            \
    {IS(0, a, b, c), IS(1, a, b, c), IS(2, a, b, c), IS(3, a, b, c),                  \
     IS(4, a, b, c), IS(5, a, b, c), IS(6, a, b, c), IS(7, a, b, c)}

/* Sums of the numbers in each of 8 vectors. */
static inline __m512i sums_of_8(const __m512i *v) {
    __m512i pairs[4], fours[2];
    for (int i = 0; i < 4; i++)
        pairs[i] = _mm512_add_epi64(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]),
                                    _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        fours[i] = _mm512_add_epi64(_mm512_shuffle_i64x2(pairs[2 * i], pairs[2 * i + 1], 0x88),
                                    _mm512_shuffle_i64x2(pairs[2 * i], pairs[2 * i + 1], 0xdd));
    return _mm512_add_epi64(_mm512_shuffle_i64x2(fours[0], fours[1], 0x88),
                            _mm512_shuffle_i64x2(fours[0], fours[1], 0xdd));
}

/* Which of the first n words of a block are in each tier; their numbers are added to `passed`. */
static inline void tier_masks(const uint8_t *level, const Layout *l, size_t n, uint64_t (*in)[8],
                              uint64_t *passed) {
    uint64_t valid[8], plane[6][8];
    for (size_t g = 0; g < 8; g++)
        valid[g] = n >= 64 * g + 64 ? UINT64_MAX : n <= 64 * g ? 0 : ((uint64_t)1 << n % 64) - 1;
    if (l->n_tiers == 1) {
        memcpy(in[0], valid, sizeof valid);
        passed[0] += n;
        return;
    }
    __m512i table[4], p[6];
    for (int i = 0; i < 4; i++) table[i] = _mm512_loadu_si512(l->tier_of_level + 64 * i);
    for (int g = 0; g < 8; g++) {
        const __m512i x = _mm512_loadu_si512(level + 64 * g);
        const __m512i tier = _mm512_mask_blend_epi8(
            _mm512_movepi8_mask(x), _mm512_permutex2var_epi8(table[0], x, table[1]),
            _mm512_permutex2var_epi8(table[2], x, table[3]));
        for (int j = 0; j < 6; j++)
            plane[j][g] = _mm512_test_epi8_mask(tier, _mm512_set1_epi8((char)(1 << j)));
    }
    for (int j = 0; j < 6; j++) p[j] = _mm512_loadu_si512(plane[j]);
    const __m512i low[8] = EACH_OF_8(p[0], p[1], p[2]), high[8] = EACH_OF_8(p[3], p[4], p[5]);
    const __m512i all = _mm512_loadu_si512(valid);
    for (int k = 0; k < l->n_tiers; k += 8) {
        const __m512i here = _mm512_and_si512(high[k / 8], all);
        __m512i n_here[8];
        for (int j = 0; j < 8; j++) {
            const __m512i m = _mm512_and_si512(low[j], here);
            _mm512_storeu_si512(in[k + j], m);
            n_here[j] = _mm512_popcnt_epi64(m);
        }
        _mm512_storeu_si512(passed + k,
                            _mm512_add_epi64(_mm512_loadu_si512(passed + k), sums_of_8(n_here)));
    }
}

/* Tiers whose number in `a` is below that in `b`, a bit for each. */
static inline uint64_t tiers_below(const uint64_t *a, const uint64_t *b) {
    uint64_t tiers = 0;
    for (int k = 0; k < MAX_TIERS; k += 8)
        tiers |= (uint64_t)_mm512_cmplt_epu64_mask(_mm512_loadu_si512(a + k),
                                                   _mm512_loadu_si512(b + k))
                 << k;
    return tiers;
}

/* Set bits of a block's masks before word i. */
static inline uint64_t bits_before(const uint64_t *masks, unsigned i) {
    const __mmask8 own = (__mmask8)(1u << i / 64);
    const __m512i before = _mm512_mask_set1_epi64(_mm512_maskz_set1_epi64((__mmask8)(own - 1), -1),
                                                  own, (long long)(((uint64_t)1 << i % 64) - 1));
    return (uint64_t)_mm512_reduce_add_epi64(
        _mm512_popcnt_epi64(_mm512_and_si512(_mm512_loadu_si512(masks), before)));
}

static inline uint64_t tiers_of(const uint8_t (*ranges)[2], int n) {
    uint64_t tiers = 0;
    for (int i = 0; i < n; i++)
        for (int k = ranges[i][0]; k <= ranges[i][1]; k++) tiers |= (uint64_t)1 << k;
    return tiers;
}

/* Words so far by tier, and as the state has them: of a tier or a later one. */
static inline void passed_from(const uint64_t *reached, uint64_t *passed) {
    for (int k = 0; k < MAX_TIERS; k++) passed[k] = reached[k] - reached[k + 1];
}

static inline void reached_from(const uint64_t *passed, uint64_t *reached) {
    for (int k = MAX_TIERS; k-- > 0;) reached[k] = reached[k + 1] + passed[k];
}

#define LOOPS loops_avx512
#define LOOPS_NAME "avx512"
#define LOOPS_AVX2
#define LOOPS_AVX512
#include "loops.inc.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
