/* What a bucket will be coded with: tiers and tables; included by fuzz_kernels.c. What is chosen
 * is compared with a plain count of what it costs, and with what is read back of it. */
#include <math.h>

#include "tables.h"

#ifdef WITH_PYTHON
#include "fuzz_python.inc.h"
#endif

static double entropy_term(double x) { return x > 0 ? x * log2(x) : 0; }

/* Bits of the classes from `first` to `end` as one tier, by the formula of ../tiers.py; and whether
 * more than half of them changed. */
static double cost_of_tier(const TierChoice *c, long first, long end, int *marks_unchanged) {
    double members = 0, changed = 0, bits = 48;
    for (long i = first; i < end; i++) members += (double)c->members[i];
    for (int s = 0; s < N_SYMBOLS; s++) {
        double n = 0;
        for (long i = first; i < end; i++) n += (double)c->steps[N_SYMBOLS * i + s];
        bits += c->scale * (n * class_width((unsigned)s >> 1) - entropy_term(n)) + 8 * (n > 0);
        changed += n;
    }
    *marks_unchanged = 2 * changed > members;
    return bits + c->scale * (entropy_term(members) - entropy_term(members - changed));
}

static void check_choice(const TierChoice *c) {
    double bits = 0;
    int marks, n_used = 0;
    for (int i = 0; i < c->n_classes; i++) n_used += c->members[i] > 0;
    check(c->n_tiers >= 1 && c->n_tiers <= MAX_CHOSEN && c->bounds[0] == 0, "tiers");
    for (int k = 0; k < c->n_tiers; k++) {
        const long end = k + 1 < c->n_tiers ? c->bounds[k + 1] : c->n_classes;
        check(c->bounds[k] < end, "tiers in order");
        bits += cost_of_tier(c, c->bounds[k], end, &marks);
        check(marks == c->marks_unchanged[k], "marks are those of the rarer half");
    }
    const double slack = 2 * MAX_CHOSEN + 1e-5 * bits;
    check(bits <= (double)c->bits + slack, "estimate");
    if (n_used <= MAX_CHOSEN) /* else each tier may cost more, so that they are few enough */
        check(bits >= (double)c->bits - slack, "estimate");
    check(bits <= cost_of_tier(c, 0, c->n_classes, &marks) + slack, "one tier is no cheaper");
}

/* Counts of a survey, most of them sound, and the same by the words of tables.h. */
static int make_survey(TierChoice *c, int64_t *members, int64_t *steps) {
    static const double odd[] = {0, -1, 0.5, NAN, INFINITY, -INFINITY, 1e300, 67108865};
    const int is_hostile = draw(8) == 0;
    /* The more words, the longer it takes to find as few tiers as there may be. */
    uint64_t left = c->n_classes > MAX_CHOSEN ? 1 << 16 : MAX_SURVEYED, total = 0;
    int is_sound = 1;
    const uint64_t most = draw(2) ? 200 : 1 + left / (uint64_t)c->n_classes;
    for (int i = 0; i < c->n_classes; i++) {
        const uint64_t here = draw(3) ? draw(most < left ? most : left) : 0;
        uint64_t unstepped = here;
        members[i] = (int64_t)here;
        left -= here;
        total += here;
        for (uint64_t n = draw(6); n && unstepped; n--) {
            const uint64_t some = draw(unstepped + 1), s = draw(draw(2) ? 8 : 256);
            steps[N_SYMBOLS * i + (int)s] += (int64_t)some;
            unstepped -= some;
        }
    }
    c->scale = 1 + (double)draw(64) / (1 + (double)draw(3));
    if (is_hostile) {
        int64_t *one = draw(2) ? members + draw((uint64_t)c->n_classes)
                               : steps + draw(N_SYMBOLS * (uint64_t)c->n_classes);
        static const int64_t odd_counts[] = {-1, INT64_MIN, INT64_MAX, MAX_SURVEYED + 1};
        if (draw(2)) *one = odd_counts[draw(4)], is_sound = 0;
        else c->scale = odd[draw(8)], is_sound = 0;
    }
    return is_sound && total;
}

static void fuzz_tiers(void) {
    static const int n_of[] = {1, 64, 65, 128, 256, 2048};
    TierChoice c = {0};
    prepare_logarithms();
    c.n_classes = draw(16) ? 1 + (int)draw(40) : n_of[draw(6)];
    int64_t *members = calloc((size_t)c.n_classes, sizeof *members);
    int64_t *steps = calloc((size_t)c.n_classes * N_SYMBOLS, sizeof *steps);
    c.members = members;
    c.steps = steps;
    const int is_sound = make_survey(&c, members, steps);
    check(survey_is_sound(&c) == is_sound, "soundness");
    if (is_sound) {
        check(choose_tiers(&c) == OK, "memory");
        check_choice(&c);
    }
#ifdef WITH_PYTHON
    tiers_through_python(&c, is_sound);
#endif
    free(members);
    free(steps);
}

/* A table read back from what is stored of it; the number of bytes. */
static size_t read_table(const uint8_t *form, size_t size, int is_symmetric, uint32_t *table) {
    const uint32_t total = is_symmetric ? SCALE / 8 : SCALE / 4;
    uint32_t freqs[N_SYMBOLS] = {0}, sum = 0;
    size_t at = 2;
    check(size >= 2 && form[0] <= form[1], "stored table");
    for (int s = form[0]; s < form[1]; s++) {
        check(at < size, "stored table");
        freqs[s] = form[at++];
        if (freqs[s] > 127) {
            check(at < size, "stored table");
            freqs[s] += (uint32_t)(form[at++] - 1) << 7;
        }
        sum += freqs[s];
    }
    check(sum < total, "stored table");
    freqs[form[1]] = total - sum;
    for (int s = 0; s < N_SYMBOLS; s++) table[s] = 4 * freqs[is_symmetric ? s / 2 : s];
    return at;
}

/* What is stored of a table, damaged: refused, or a table that ends inside the data. */
static void check_stored(const uint8_t *form, size_t size, int is_symmetric) {
    uint32_t table[N_SYMBOLS];
    size_t given = draw(4) ? size : draw(size + 1), at = draw(given + 1);
    if (draw(2)) at = 0;
    uint8_t *data = exactly(form, given);
    for (uint64_t i = draw(4); i && given; i--) data[draw(given)] = (uint8_t)draw(256);
    const enum status status = load_table(data, given, &at, is_symmetric, table);
    check(status == OK || (status >= TABLE_SHORT && status <= TABLE_CLASS), "a refusal");
    if (status == OK) check(at <= given && rans_table_is_valid(table), "a table");
    free(data);
}

/* That what is stored of the tables is what they are read back as, and that all symbols have
 * codes. */
static void check_tables(const TierSymbols *tiers, size_t n, const uint32_t (*tables)[N_SYMBOLS],
                         size_t n_tables) {
    uint32_t table[N_SYMBOLS] = {0}, previous[N_SYMBOLS] = {0};
    size_t found = 0;
    for (const TierSymbols *t = tiers; t < tiers + n; t++) {
        size_t at = 1;
        check(t->head_size >= 1 && t->head[0] < 6, "kinds of tables");
        for (int is_steps = !t->n_marked; is_steps < 2; is_steps++, found++) {
            const uint8_t *symbols = is_steps ? t->step_symbols : t->gap_symbols;
            const size_t n_symbols = is_steps ? t->n_step_symbols : t->n_gap_symbols;
            const int kind = is_steps ? t->head[0] >> 1 : t->head[0] & 1;
            if (!is_steps && !kind)
                geometric_table(t->n_marked, t->n_members, table);
            else if (is_steps && kind == 2)
                memcpy(table, previous, sizeof table);
            else {
                const int is_symmetric = is_steps && kind == 1;
                uint32_t loaded[N_SYMBOLS];
                size_t end = at;
                check(load_table(t->head, t->head_size, &end, is_symmetric, loaded) == OK, "loaded");
                check_stored(t->head + at, t->head_size - at, is_symmetric);
                at += read_table(t->head + at, t->head_size - at, is_symmetric, table);
                check(end == at && !memcmp(loaded, table, sizeof table), "loaded");
            }
            check(found < n_tables && !memcmp(table, tables[found], sizeof table), "table");
            check(rans_table_is_valid(table), "table is valid");
            for (size_t i = 0; i < n_symbols; i++) check(table[symbols[i]] != 0, "code");
            if (is_steps) memcpy(previous, table, sizeof table);
        }
        check(at == t->head_size, "nothing more is stored");
    }
    check(found == n_tables, "number of tables");
}

/* Symbols of a tier as steps may have them, or gaps among n numbers, at exactly their size. */
static uint8_t *some_symbols(size_t n, unsigned highest) {
    uint8_t *made = malloc(n), few[4];
    const uint64_t shape = draw(3);
    for (int i = 0; i < 4; i++) few[i] = (uint8_t)draw(highest + 1);
    for (size_t i = 0; i < n; i++)
        made[i] = shape == 0 ? few[i & 3] : shape == 1 ? few[i * 2654435761u >> 7 & i & 3]
                                                      : (uint8_t)draw(highest + 1);
    return made;
}

static void fuzz_tables(void) {
    prepare_logarithms();
    const size_t n = draw(5);
    TierSymbols tiers[4] = {0};
    uint32_t(*tables)[N_SYMBOLS] = malloc((2 * n + 1) * sizeof *tables);
    for (TierSymbols *t = tiers; t < tiers + n; t++) {
        t->n_step_symbols = 1 + draw(draw(4) ? 60 : 3000);
        t->n_members = t->n_step_symbols + draw(draw(2) ? 100 : MAX_WORDS - t->n_step_symbols + 1);
        const uint64_t unchanged = t->n_members - t->n_step_symbols;
        t->n_marked = unchanged < t->n_step_symbols ? unchanged : t->n_step_symbols;
        t->n_gap_symbols = t->n_marked;
        t->step_symbols = some_symbols(t->n_step_symbols, 255);
        t->gap_symbols = some_symbols(t->n_gap_symbols, number_class(t->n_members - t->n_marked));
    }
    const size_t n_tables = tier_tables(tiers, n, tables);
    check_tables(tiers, n, tables, n_tables);
    for (TierSymbols *t = tiers; t < tiers + n; t++) {
        free((void *)t->step_symbols);
        free((void *)t->gap_symbols);
    }
    free(tables);
}
