/* Compiled with -ffp-contract=off, so that sums of products have the same last digit everywhere. */
#include "tables.h"

#define MAX_GROUPS 64
#define TIER_BITS 48
#define SYMBOL_BITS 8
#define FINE ((double)(1 << 28)) /* parts of a bit */
#define LOG2_DIGITS 48 /* binary ones */

/* Classes that are never cut, as groups. */
typedef struct {
    int n;
    int first[MAX_GROUPS];
    int64_t members[MAX_GROUPS], changed[MAX_GROUPS];
    int n_used[MAX_GROUPS];              /* symbols that occur, */
    uint8_t used[MAX_GROUPS][N_SYMBOLS]; /* these */
    int64_t steps[MAX_GROUPS][N_SYMBOLS];
    int64_t cost[MAX_GROUPS + 1][MAX_GROUPS + 1];
} Groups;

int survey_is_sound(const TierChoice *c) {
    int64_t total = 0;
    for (int i = 0; i < c->n_classes; i++) {
        int64_t left = c->members[i];
        if (left < 0 || left > MAX_SURVEYED) return 0;
        total += left;
        const int64_t *steps = c->steps + N_SYMBOLS * i;
        for (int s = 0; s < N_SYMBOLS; s++) {
            if (steps[s] < 0 || steps[s] > left) return 0;
            left -= steps[s];
        }
    }
    return total && total <= MAX_SURVEYED && c->scale >= 1 && c->scale <= (double)MAX_SURVEYED;
}

static int64_t changed_of(const TierChoice *c, int i) {
    int64_t sum = 0;
    for (int s = 0; s < N_SYMBOLS; s++) sum += c->steps[N_SYMBOLS * i + s];
    return sum;
}

static void add_class(Groups *g, const TierChoice *c, int i, int begins) {
    if (begins) g->first[g->n++] = i;
    const int last = g->n - 1;
    g->members[last] += c->members[i];
    for (int s = 0; s < N_SYMBOLS; s++) {
        const int64_t count = c->steps[N_SYMBOLS * i + s];
        if (!count) continue;
        if (!g->steps[last][s]) g->used[last][g->n_used[last]++] = (uint8_t)s;
        g->steps[last][s] += count;
        g->changed[last] += count;
    }
}

static void make_groups(Groups *g, const TierChoice *c) {
    int n_used = 0;
    int64_t members = 0, changed = 0;
    for (int i = 0; i < c->n_classes; i++) n_used += c->members[i] > 0;
    if (n_used > MAX_GROUPS)
        for (int i = 0; i < c->n_classes; i++)
            if (c->members[i]) {
                members += c->members[i];
                changed += changed_of(c, i);
            }
    double weight = 0;
    int group = -1;
    for (int i = 0; i < c->n_classes; i++) {
        if (!c->members[i]) continue;
        if (n_used <= MAX_GROUPS) {
            add_class(g, c, i, 1);
            continue;
        }
        const double share = (double)c->members[i] / (double)members;
        weight += share + (double)changed_of(c, i) / (double)(changed ? changed : 1);
        const int reached = (int)(weight / 2 * (MAX_GROUPS - 2));
        add_class(g, c, i, reached != group);
        group = reached;
    }
}

/* To whole numbers, halves to even, without the library of functions. */
static int64_t nearest(double x) {
    const double one_apart = 6755399441055744.0; /* 1.5 * 2^52 */
    return (int64_t)(x + one_apart - one_apart);
}

/* log2 of 0 (which is 0), 1, 2, ...; and millionths of a bit that a symbol of each frequency takes. */
static double log2_of[1 << LOG2_BITS];
static int64_t microbits[SCALE + 1];

/* By squaring, in integers, so that every machine and every library finds the same digits. */
static double log2_by_squares(uint32_t x) {
    const unsigned octave = 31 - (unsigned)__builtin_clz(x);
    uint64_t m = (uint64_t)x << (63 - octave), found = octave;
    for (int i = 0; i < LOG2_DIGITS; i++) {
        const uint64_t high = m >> 32, low = m & UINT32_MAX;
        const uint64_t square = high * high + (high * low >> 31);
        const uint64_t is_large = square >> 63;
        found = found << 1 | is_large;
        m = square << (1 - is_large);
    }
    return (double)found / (double)((uint64_t)1 << LOG2_DIGITS);
}

void prepare_logarithms(void) {
    static int is_done;
    if (is_done) return;
    for (uint32_t odd = 1; odd <= SCALE; odd += 2) {
        double log2 = log2_by_squares(odd);
        for (uint32_t x = odd; x <= SCALE; x *= 2, log2++) {
            if (x >> LOG2_BITS == 0) log2_of[x] = log2;
            microbits[x] = nearest(1e6 * (SCALE_BITS - log2));
        }
    }
    microbits[0] = microbits[1];
    is_done = 1;
}

static int64_t x_log2_x(int64_t x) {
    static const double c[] = {1.4426950408889634, -1.4426950408889634 / 2, 1.4426950408889634 / 3,
                               -1.4426950408889634 / 4, 1.4426950408889634 / 5};
    int shift = 0;
    while (x >> shift >> LOG2_BITS) shift++;
    const int64_t top = x >> shift, start = top << shift;
    if (!shift) return (int64_t)((double)x * log2_of[top] * FINE + 0.5);
    const double r = (double)(x - start) / (double)start;
    const double rest = (((c[4] * r + c[3]) * r + c[2]) * r + c[1]) * r + c[0];
    return (int64_t)((double)x * (shift + log2_of[top] + rest * r) * FINE + 0.5);
}

/* Of all ranges of groups that begin with i. */
static void find_costs(Groups *g, const TierChoice *c, int i) {
    int64_t steps[N_SYMBOLS] = {0}, fine[N_SYMBOLS] = {0};
    int64_t members = 0, changed = 0, sum = 0, n_extra = 0;
    int n_symbols = 0;
    for (int j = i; j < g->n; j++) {
        members += g->members[j];
        changed += g->changed[j];
        for (int u = 0; u < g->n_used[j]; u++) {
            const unsigned s = g->used[j][u];
            n_symbols += !steps[s];
            n_extra += g->steps[j][s] * class_width(s >> 1);
            steps[s] += g->steps[j][s];
            sum -= fine[s];
            fine[s] = x_log2_x(steps[s]);
            sum += fine[s];
        }
        const int64_t cost = x_log2_x(members) - x_log2_x(members - changed) -
                             sum + n_extra * (int64_t)FINE;
        g->cost[i][j + 1] = nearest((double)cost * c->scale / FINE) +
                            SYMBOL_BITS * n_symbols + TIER_BITS;
    }
}

/* The cheapest partition into MAX_CHOSEN ranges at most: how many, with which groups they begin,
 * and what they cost. */
static int cheapest_cuts(const Groups *g, int *cuts, int64_t *bits) {
    int64_t best[MAX_GROUPS + 1], before[MAX_GROUPS + 1];
    int start[MAX_CHOSEN][MAX_GROUPS + 1] = {{0}}; /* of the last of 1 range, of at most 2, ... */
    int n_most = 1, n = 0;
    memcpy(best, g->cost[0], sizeof best);
    for (int improved = 1; improved && n_most < MAX_CHOSEN; n_most++) {
        memcpy(before, best, sizeof best);
        improved = 0;
        for (int j = 1; j <= g->n; j++) {
            best[j] = INT64_MAX;
            for (int i = 0; i <= j; i++) /* an empty range, where i is j, costs 0 */
                if (before[i] + g->cost[i][j] < best[j]) {
                    best[j] = before[i] + g->cost[i][j];
                    start[n_most][j] = i;
                }
            improved |= best[j] < before[j];
        }
    }
    for (int k = n_most - 1, j = g->n; j; j = start[k--][j]) n += start[k][j] < j;
    for (int k = n_most - 1, j = g->n, at = n; j; j = start[k--][j])
        if (start[k][j] < j) cuts[--at] = start[k][j];
    *bits = best[g->n];
    return n;
}

enum status choose_tiers(TierChoice *c) {
    Groups *g = calloc(1, sizeof *g);
    if (!g) return NO_MEMORY;
    make_groups(g, c);
    for (int i = 0; i < g->n; i++) find_costs(g, c, i);
    int cuts[MAX_GROUPS];
    c->n_tiers = cheapest_cuts(g, cuts, &c->bits);
    for (int k = 0; k < c->n_tiers; k++) {
        int64_t members = 0, changed = 0;
        for (int i = cuts[k]; i < (k + 1 < c->n_tiers ? cuts[k + 1] : g->n); i++) {
            members += g->members[i];
            changed += g->changed[i];
        }
        c->bounds[k] = k ? g->first[cuts[k]] : 0;
        c->marks_unchanged[k] = 2 * changed > members;
    }
    free(g);
    return OK;
}

#define STORED (SCALE / 4)
#define GAPS_TABLE 1
#define NO_CODE ((int64_t)1 << 60)

static int largest_of(const int64_t *freqs, int n) { /* the first such */
    int top = 0;
    for (int s = 1; s < n; s++)
        if (freqs[s] > freqs[top]) top = s;
    return top;
}

void geometric_table(uint64_t n_marked, uint64_t n_members, uint32_t *table) {
    const uint64_t rest = n_members - n_marked;
    const unsigned last = number_class(rest);
    uint64_t reached[N_SYMBOLS + 2], power = (rest << 32) / n_members;
    unsigned n = 0;
    reached[n++] = (uint64_t)1 << 32;
    reached[n++] = power;
    while (n <= last) {
        const uint64_t square = power * power >> 32;
        reached[n++] = square;
        reached[n++] = square * power >> 32;
        power = square;
    }
    reached[last + 1] = 0;
    int64_t freqs[N_SYMBOLS], sum = 0;
    for (unsigned s = 0; s <= last; s++) {
        freqs[s] = (int64_t)((reached[s] - reached[s + 1]) >> 18);
        if (!freqs[s]) freqs[s] = 1;
        sum += freqs[s];
    }
    freqs[largest_of(freqs, (int)last + 1)] += SCALE - sum;
    for (unsigned s = 0; s < N_SYMBOLS; s++) table[s] = s <= last ? (uint32_t)freqs[s] : 0;
}

static void fit(const int64_t *counts, int n, int64_t scale, int64_t *freqs) {
    int64_t total = 0, excess = -scale;
    for (int s = 0; s < n; s++) total += counts[s];
    for (int s = 0; s < n; s++) {
        freqs[s] = counts[s] ? (counts[s] * scale * 2 + total) / (2 * total) : 0;
        if (counts[s] && !freqs[s]) freqs[s] = 1;
        excess += freqs[s];
    }
    while (excess > 0) {
        const int top = largest_of(freqs, n);
        int64_t taken = freqs[top] / 8 > 1 ? freqs[top] / 8 : 1;
        if (taken > excess) taken = excess;
        freqs[top] -= taken;
        excess -= taken;
    }
    freqs[largest_of(freqs, n)] -= excess;
}

/* First symbol, last symbol, all frequencies but the last. Returns the size. */
static size_t dump(const int64_t *freqs, int n, uint8_t *out) {
    int first = 0, last = n - 1;
    while (!freqs[first]) first++;
    while (!freqs[last]) last--;
    size_t size = 0;
    out[size++] = (uint8_t)first;
    out[size++] = (uint8_t)last;
    for (int s = first; s < last; s++) {
        if (freqs[s] > 127) out[size++] = (uint8_t)(freqs[s] | 128);
        out[size++] = (uint8_t)(freqs[s] > 127 ? freqs[s] >> 7 : freqs[s]);
    }
    return size;
}

static int64_t cost_bits(const int64_t *counts, const uint32_t *table) {
    int64_t sum = 0;
    for (int s = 0; s < N_SYMBOLS; s++) {
        if (counts[s] && !table[s]) return NO_CODE;
        sum += counts[s] * microbits[table[s]];
    }
    return (2 * sum + 1000000) / 2000000;
}

static void append(TierSymbols *t, const uint8_t *form, size_t size) {
    memcpy(t->head + t->head_size, form, size);
    t->head_size += size;
}

/* Frequencies that `counts` are coded with, and their stored form, whose size is returned. */
static size_t fitted(const int64_t *counts, uint32_t *table, uint8_t *form) {
    int64_t freqs[N_SYMBOLS];
    fit(counts, N_SYMBOLS, STORED, freqs);
    for (int s = 0; s < N_SYMBOLS; s++) table[s] = (uint32_t)freqs[s] * (SCALE / STORED);
    return dump(freqs, N_SYMBOLS, form);
}

static size_t fitted_symmetric(const int64_t *counts, uint32_t *table, uint8_t *form) {
    int64_t pairs[N_SYMBOLS / 2], freqs[N_SYMBOLS / 2];
    for (int c = 0; c < N_SYMBOLS / 2; c++) pairs[c] = counts[2 * c] + counts[2 * c + 1];
    fit(pairs, N_SYMBOLS / 2, STORED / 2, freqs);
    for (int s = 0; s < N_SYMBOLS; s++)
        table[s] = (uint32_t)freqs[s / 2] * (SCALE / STORED);
    return dump(freqs, N_SYMBOLS / 2, form);
}

static void gap_table(TierSymbols *t, uint32_t *table) {
    int64_t counts[N_SYMBOLS] = {0};
    uint8_t form[2 * (1 + N_SYMBOLS)];
    uint32_t own[N_SYMBOLS];
    histogram(t->gap_symbols, t->n_gap_symbols, counts);
    geometric_table(t->n_marked, t->n_members, table);
    const size_t size = fitted(counts, own, form);
    const int64_t saved = cost_bits(counts, table) - cost_bits(counts, own);
    if (saved > 8 * (int64_t)size) {
        t->head[0] |= GAPS_TABLE;
        memcpy(table, own, sizeof own);
        append(t, form, size);
    }
}

/* The table of the tier before comes in, that of this one goes out. */
static void step_table(TierSymbols *t, uint32_t *previous) {
    int64_t counts[N_SYMBOLS] = {0};
    uint8_t both_form[2 * (1 + N_SYMBOLS)], even_form[2 * (1 + N_SYMBOLS)];
    uint32_t both[N_SYMBOLS], even[N_SYMBOLS];
    histogram(t->step_symbols, t->n_step_symbols, counts);
    const size_t both_size = fitted(counts, both, both_form);
    const size_t even_size = fitted_symmetric(counts, even, even_form);
    const int64_t both_bits = cost_bits(counts, both) + 8 * (int64_t)both_size;
    const int64_t even_bits = cost_bits(counts, even) + 8 * (int64_t)even_size;
    if (cost_bits(counts, previous) <= (both_bits < even_bits ? both_bits : even_bits))
        t->head[0] |= STEPS_AS_BEFORE << 1;
    else if (even_bits <= both_bits) {
        t->head[0] |= STEPS_SYMMETRIC << 1;
        memcpy(previous, even, sizeof even);
        append(t, even_form, even_size);
    } else {
        t->head[0] |= STEPS_TABLE << 1;
        memcpy(previous, both, sizeof both);
        append(t, both_form, both_size);
    }
}

size_t tier_tables(TierSymbols *tiers, size_t n_tiers, uint32_t tables[][N_SYMBOLS]) {
    uint32_t previous[N_SYMBOLS] = {0}; /* codes nothing */
    size_t n = 0;
    for (TierSymbols *t = tiers; t < tiers + n_tiers; t++) {
        t->head[0] = 0;
        t->head_size = 1;
        if (t->n_marked) gap_table(t, tables[n++]);
        step_table(t, previous);
        memcpy(tables[n++], previous, sizeof previous);
    }
    return n;
}

enum status load_table(const uint8_t *data, size_t size, size_t *at, int is_symmetric,
                       uint32_t *table) {
    const uint32_t scale = is_symmetric ? STORED / 2 : STORED;
    uint32_t freqs[N_SYMBOLS] = {0}, left = scale;
    if (size - *at < 2) return TABLE_SHORT;
    const unsigned first = data[(*at)++], last = data[(*at)++];
    if (first > last) return TABLE_ORDER;
    for (unsigned s = first; s < last; s++) {
        uint64_t freq = 0;
        for (unsigned shift = 0;; shift += 7) {
            if (shift > 56) return TABLE_NUMBER;
            if (*at == size) return TABLE_SHORT;
            const uint8_t byte = data[(*at)++];
            freq |= (uint64_t)(byte & 127) << shift;
            if (byte < 128) break;
        }
        if (freq >= left) return TABLE_SUM;
        freqs[s] = (uint32_t)freq;
        left -= (uint32_t)freq;
    }
    freqs[last] = left;
    if (is_symmetric && last >= N_SYMBOLS / 2) return TABLE_CLASS;
    for (unsigned s = 0; s < N_SYMBOLS; s++)
        table[s] = freqs[is_symmetric ? s / 2 : s] * (SCALE / STORED);
    return OK;
}
