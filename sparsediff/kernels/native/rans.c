#include "rans.h"

#define SCALE_BITS 14
#define SCALE (1u << SCALE_BITS)
#define LOW (1u << 16)

int rans_table_is_valid(const uint32_t *table) {
    uint64_t sum = 0;
    for (int s = 0; s < N_SYMBOLS; s++) sum += table[s];
    return sum == SCALE;
}

size_t rans_limit(size_t n, size_t lanes) { return 4 * lanes + 2 * n; }

static void starts_of(const uint32_t *table, uint32_t *start) {
    uint32_t sum = 0;
    for (int s = 0; s < N_SYMBOLS; s++) {
        start[s] = sum;
        sum += table[s];
    }
}

/* From the last symbol to the first, filling the output from its end, so that the
 * decoder takes words in file order. */
enum status rans_encode(const Run *runs, size_t n_runs, size_t lanes, uint8_t *out, size_t limit,
                        size_t *size) {
    uint32_t *state = malloc(lanes * sizeof *state);
    if (!state) return NO_MEMORY;
    size_t n = 0, at = limit;
    for (size_t r = 0; r < n_runs; r++) n += runs[r].n;
    for (size_t i = 0; i < lanes; i++) state[i] = LOW;
    size_t lane = n ? (n - 1) % lanes : 0;
    for (size_t r = n_runs; r-- > 0;) {
        uint32_t start[N_SYMBOLS];
        starts_of(runs[r].table, start);
        for (size_t i = runs[r].n; i-- > 0;) {
            const unsigned s = runs[r].symbols[i];
            const uint32_t f = runs[r].table[s];
            uint32_t x = state[lane];
            if (!f || at < 4 * lanes + 2) {
                free(state);
                return RANS_STATE;
            }
            if (x >= (uint64_t)f << (32 - SCALE_BITS)) {
                const uint16_t word = (uint16_t)x;
                at -= 2;
                memcpy(out + at, &word, 2);
                x >>= 16;
            }
            state[lane] = ((x / f) << SCALE_BITS) + x % f + start[s];
            lane = lane ? lane - 1 : lanes - 1;
        }
    }
    at -= 4 * lanes;
    memcpy(out + at, state, 4 * lanes);
    free(state);
    *size = limit - at;
    return OK;
}

enum status rans_decode(const uint8_t *data, size_t size, Run *runs, size_t n_runs, size_t lanes) {
    if (size % 2 || size / 4 < lanes) return RANS_SHORT;
    enum status status = OK;
    uint32_t *state = malloc(lanes * sizeof *state);
    uint8_t *symbol_of = malloc(SCALE);
    if (!state || !symbol_of) {
        status = NO_MEMORY;
        goto end;
    }
    memcpy(state, data, 4 * lanes);
    for (size_t i = 0; i < lanes; i++)
        if (state[i] < LOW) {
            status = RANS_STATE;
            goto end;
        }
    size_t at = 4 * lanes, lane = 0;
    for (size_t r = 0; r < n_runs; r++) {
        uint32_t start[N_SYMBOLS];
        const uint32_t *table = runs[r].table;
        starts_of(table, start);
        for (int s = 0; s < N_SYMBOLS; s++) memset(symbol_of + start[s], s, table[s]);
        for (size_t i = 0; i < runs[r].n; i++) {
            uint32_t x = state[lane];
            const uint32_t slot = x & (SCALE - 1);
            const unsigned s = symbol_of[slot];
            runs[r].symbols[i] = (uint8_t)s;
            x = table[s] * (x >> SCALE_BITS) + slot - start[s];
            if (x < LOW) {
                uint16_t word;
                if (at == size) {
                    status = RANS_SHORT;
                    goto end;
                }
                memcpy(&word, data + at, 2);
                at += 2;
                x = x << 16 | word;
            }
            state[lane] = x;
            if (++lane == lanes) lane = 0;
        }
    }
    for (size_t i = 0; i < lanes; i++)
        if (state[i] != LOW) status = RANS_END;
    if (at != size) status = RANS_END;
end:
    free(state);
    free(symbol_of);
    return status;
}
