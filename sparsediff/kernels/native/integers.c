#include "integers.h"

#include <string.h>

size_t integers_room(const char *text, size_t size) {
    size_t n = 1;
    for (size_t i = 0; i < size; i++) n += text[i] == ',';
    return n;
}

/* One integer as JSON writes it at `*at`, which moves behind it. */
static int read_one(const char **at, const char *end, int64_t low, uint64_t high, int64_t *value) {
    const char *p = *at;
    const int is_negative = p < end && *p == '-';
    uint64_t found = 0;
    p += is_negative;
    const char *first = p;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        const uint64_t digit = (uint64_t)(*p - '0');
        if (found > (UINT64_MAX - digit) / 10) return 0;
        found = 10 * found + digit;
    }
    if (p == first || (*first == '0' && (p > first + 1 || is_negative))) return 0;
    if (found > (is_negative ? 0 - (uint64_t)low : high)) return 0;
    *value = (int64_t)(is_negative ? 0 - found : found);
    *at = p;
    return 1;
}

int integers_read(const char *text, size_t size, int64_t low, uint64_t high, int64_t *values,
                  size_t *n_values, int64_t *ends, size_t *n_ends) {
    const char *p = text, *end = text + size;
    const int has_lists = size > 2 && p[1] == '[';
    *n_values = *n_ends = 0;
    if (size < 2 || *p++ != '[' || *--end != ']') return 0;
    if (p == end) return 1;
    for (;;) {
        if (has_lists && (p == end || *p++ != '[')) return 0;
        const int is_empty = has_lists && p < end && *p == ']';
        for (; !is_empty; p++) {
            if (!read_one(&p, end, low, high, &values[*n_values])) return 0;
            ++*n_values;
            if (p == end || *p != ',') break;
        }
        if (has_lists) {
            if (p == end || *p++ != ']') return 0;
            ends[(*n_ends)++] = (int64_t)*n_values;
        }
        if (p == end) return 1;
        if (!has_lists || *p++ != ',') return 0;
    }
}
