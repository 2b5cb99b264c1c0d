#include "rans.h"

int rans_table_is_valid(const uint32_t *table) {
    uint64_t sum = 0;
    for (int s = 0; s < N_SYMBOLS; s++) sum += table[s];
    return sum == SCALE;
}

size_t rans_limit(size_t n, size_t lanes) { return 4 * lanes + 2 * n + 32; }

/* From the last symbol to the first, filling the output from its end, so that the
 * decoder takes words in file order. */
enum status rans_encode(const Loops *loops, const Run *runs, size_t n_runs, size_t lanes,
                        uint8_t *out, size_t limit, size_t *size) {
    size_t n = 0;
    for (size_t r = 0; r < n_runs; r++) n += runs[r].n;
    Lanes l = {malloc(lanes * sizeof *l.state), lanes, n ? (n - 1) % lanes : 0, limit};
    if (!l.state) return NO_MEMORY;
    for (size_t i = 0; i < lanes; i++) l.state[i] = LOW;
    enum status status = OK;
    for (size_t r = n_runs; status == OK && r-- > 0;)
        status = loops->encode_run(&runs[r], &l, out);
    if (status == OK) {
        l.at -= 4 * lanes;
        memcpy(out + l.at, l.state, 4 * lanes);
        *size = limit - l.at;
    }
    free(l.state);
    return status;
}

enum status rans_decode(const Loops *loops, const uint8_t *data, size_t size, Run *runs,
                        size_t n_runs, size_t lanes) {
    if (size % 2 || size / 4 < lanes) return RANS_SHORT;
    Lanes l = {malloc(lanes * sizeof *l.state), lanes, 0, 4 * lanes};
    uint8_t *symbol_of = calloc(SCALE + 3, 1);
    enum status status = l.state && symbol_of ? OK : NO_MEMORY;
    if (status == OK) {
        memcpy(l.state, data, 4 * lanes);
        for (size_t i = 0; i < lanes; i++)
            if (l.state[i] < LOW) status = RANS_STATE;
    }
    for (size_t r = 0; status == OK && r < n_runs; r++)
        status = loops->decode_run(&runs[r], &l, data, size, symbol_of);
    for (size_t i = 0; status == OK && i < lanes; i++)
        if (l.state[i] != LOW) status = RANS_END;
    if (status == OK && l.at != size) status = RANS_END;
    free(l.state);
    free(symbol_of);
    return status;
}
