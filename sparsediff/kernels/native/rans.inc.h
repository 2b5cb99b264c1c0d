/* A run of symbols by the entropy coder, for one instruction set. AVX-512 takes 16 lanes at a time
 * where that many lie side by side; what is left over is done one by one. */

#if defined(LOOPS_AVX512)
#define AT_ONCE 16

/* Table entries of 16 symbols, as `packed` makes them. */
static inline __m512i entries(const uint32_t *table, __m512i symbols) {
    return _mm512_i32gather_epi32(symbols, table, 4);
}

/* Of each symbol its frequency, at most 2^14, above where its slots start. */
static inline void packed(const uint32_t *table, const uint32_t *start, uint32_t *both) {
    for (int s = 0; s < N_SYMBOLS; s++) both[s] = table[s] << 16 | start[s];
}

/* x / f, rounded down, by the inverse of f. (x + 1/2) / f is 2^-15 and more from any integer, and
 * below 2^18, where the inverse being rounded moves it by some 2^-34. */
static inline __m256i quotients(__m256i x, const double *inverse, __m256i s) {
    const __m512d more = _mm512_add_pd(_mm512_cvtepu32_pd(x), _mm512_set1_pd(0.5));
    return _mm512_cvttpd_epu32(_mm512_mul_pd(more, _mm512_i32gather_pd(s, inverse, 8)));
}

/* Encode 16 symbols; 0 if one has no frequency. */
static inline int encode_16(const uint8_t *symbols, const uint32_t *both, const double *inverse,
                            uint32_t *state, uint8_t *out, size_t *at) {
    const __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)symbols));
    const __m512i entry = entries(both, s), f = _mm512_srli_epi32(entry, 16);
    if (_mm512_testn_epi32_mask(f, f)) return 0;
    __m512i x = _mm512_loadu_si512(state);
    const __mmask16 full = _mm512_cmpge_epu32_mask(_mm512_srli_epi32(x, 32 - SCALE_BITS), f);
    const unsigned n = (unsigned)__builtin_popcount(full);
    *at -= 2 * n;
    _mm256_mask_storeu_epi16(out + *at, (__mmask16)((1u << n) - 1),
                             _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, x)));
    x = _mm512_mask_srli_epi32(x, full, x, 16);
    const __m512i q = _mm512_inserti64x4(
        _mm512_castsi256_si512(
            quotients(_mm512_castsi512_si256(x), inverse, _mm512_castsi512_si256(s))),
        quotients(_mm512_extracti64x4_epi64(x, 1), inverse, _mm512_extracti64x4_epi64(s, 1)), 1);
    const __m512i rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(q, f));
    const __m512i start = _mm512_and_si512(entry, _mm512_set1_epi32(0xffff));
    x = _mm512_add_epi32(_mm512_slli_epi32(q, SCALE_BITS), _mm512_add_epi32(rest, start));
    _mm512_storeu_si512(state, x);
    return 1;
}

/* Decode 16 symbols, with 32 bytes at data; how many bytes of these were used. */
static inline size_t decode_16(uint8_t *symbols, const uint32_t *both, const uint8_t *symbol_of,
                               uint32_t *state, const uint8_t *data) {
    __m512i x = _mm512_loadu_si512(state);
    const __m512i slot = _mm512_and_si512(x, _mm512_set1_epi32(SCALE - 1));
    const __m512i s = _mm512_and_si512(_mm512_i32gather_epi32(slot, symbol_of, 1),
                                       _mm512_set1_epi32(0xff));
    _mm_storeu_si128((__m128i *)symbols, _mm512_cvtepi32_epi8(s));
    const __m512i entry = entries(both, s), f = _mm512_srli_epi32(entry, 16);
    const __m512i start = _mm512_and_si512(entry, _mm512_set1_epi32(0xffff));
    x = _mm512_add_epi32(_mm512_mullo_epi32(f, _mm512_srli_epi32(x, SCALE_BITS)),
                         _mm512_sub_epi32(slot, start));
    const __mmask16 low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(LOW));
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)data));
    x = _mm512_mask_or_epi32(x, low, _mm512_slli_epi32(x, 16),
                             _mm512_maskz_expand_epi32(low, words));
    _mm512_storeu_si512(state, x);
    return 2 * (size_t)__builtin_popcount(low);
}
#endif

/* From the last symbol to the first. */
static enum status encode_run(const Run *run, Lanes *l, uint8_t *out) {
    uint32_t start[N_SYMBOLS], *state = l->state;
    size_t at = l->at, lane = l->next;
    rans_starts(run->table, start);
#if defined(LOOPS_AVX512)
    uint32_t both[N_SYMBOLS];
    double inverse[N_SYMBOLS];
    packed(run->table, start, both);
    for (int s = 0; s < N_SYMBOLS; s++) inverse[s] = 1.0 / (run->table[s] + !run->table[s]);
#endif
    for (size_t i = run->n; i > 0;) {
        if (at < 4 * l->n + 32) return RANS_STATE;
#if defined(LOOPS_AVX512)
        if (lane % AT_ONCE == AT_ONCE - 1 && i >= AT_ONCE) {
            i -= AT_ONCE;
            lane -= AT_ONCE - 1;
            if (!encode_16(run->symbols + i, both, inverse, state + lane, out,
                           &at)) return RANS_STATE;
            lane = lane ? lane - 1 : l->n - 1;
            continue;
        }
#endif
        const unsigned s = run->symbols[--i];
        const uint32_t f = run->table[s];
        uint32_t x = state[lane];
        if (!f) return RANS_STATE;
        if (x >= (uint64_t)f << (32 - SCALE_BITS)) {
            const uint16_t word = (uint16_t)x;
            at -= 2;
            memcpy(out + at, &word, 2);
            x >>= 16;
        }
        state[lane] = ((x / f) << SCALE_BITS) + x % f + start[s];
        lane = lane ? lane - 1 : l->n - 1;
    }
    l->at = at;
    l->next = lane;
    return OK;
}

/* `symbol_of` has room for the symbol of each slot, and 3 bytes more. */
static enum status decode_run(Run *run, Lanes *l, const uint8_t *data, size_t size,
                              uint8_t *symbol_of) {
    uint32_t start[N_SYMBOLS], *state = l->state;
    const uint32_t *table = run->table;
    size_t at = l->at, lane = l->next;
    rans_starts(table, start);
    for (int s = 0; s < N_SYMBOLS; s++) memset(symbol_of + start[s], s, table[s]);
#if defined(LOOPS_AVX512)
    uint32_t both[N_SYMBOLS];
    packed(table, start, both);
#endif
    for (size_t i = 0; i < run->n;) {
#if defined(LOOPS_AVX512)
        if (lane % AT_ONCE == 0 && l->n >= AT_ONCE && run->n - i >= AT_ONCE && size - at >= 32) {
            at += decode_16(run->symbols + i, both, symbol_of, state + lane, data + at);
            i += AT_ONCE;
            lane += AT_ONCE;
            if (lane == l->n) lane = 0;
            continue;
        }
#endif
        uint32_t x = state[lane];
        const uint32_t slot = x & (SCALE - 1);
        const unsigned s = symbol_of[slot];
        run->symbols[i++] = (uint8_t)s;
        x = table[s] * (x >> SCALE_BITS) + slot - start[s];
        if (x < LOW) {
            uint16_t word;
            if (at == size) return RANS_SHORT;
            memcpy(&word, data + at, 2);
            at += 2;
            x = x << 16 | word;
        }
        state[lane] = x;
        if (++lane == l->n) lane = 0;
    }
    l->at = at;
    l->next = lane;
    return OK;
}
