/* take_in, rebuild and choose_by_sample: a bucket's words gone through in one call, from files and
 * to files. */
#include <time.h>

#include "files.h"
#include "python.h"

/* Memory and buffers of a call; `good` as long as they were to be had and fit. */
typedef struct {
    int good, n_views, n_owned;
    Py_buffer view[2];
    void *owned[12];
} Held;

static void release(Held *h) {
    while (h->n_views) PyBuffer_Release(&h->view[--h->n_views]);
    Py_BEGIN_ALLOW_THREADS /* the system takes its time to take pages back */
    while (h->n_owned) free(h->owned[--h->n_owned]);
    Py_END_ALLOW_THREADS
}

/* Memory that goes with the call. */
static void *own(Held *h, void *memory) {
    if (!memory) h->good = 0;
    if (memory) h->owned[h->n_owned++] = memory;
    if (!memory && !PyErr_Occurred()) PyErr_NoMemory();
    return memory;
}

static void pass_from(Held *h, Pass *p, PyObject *ends, Py_ssize_t piece_words) {
    p->loops = loops;
    p->ends = own(h, integers_from(ends, &p->n_parts));
    p->piece_words = (size_t)piece_words;
    h->good = h->good && p->n_parts && piece_words > 0;
    for (size_t i = 0; h->good && i < p->n_parts; i++)
        h->good = p->ends[i] > (i ? p->ends[i - 1] : 0) && p->ends[i] <= MAX_WORDS;
    p->n_words = h->good ? (size_t)p->ends[p->n_parts - 1] : 0;
    if (p->piece_words > p->n_words) p->piece_words = p->n_words;
}

static int extent_from(Extent *e, PyObject *item) {
    long long descriptor, offset, size;
    if (!PyTuple_Check(item) || !PyArg_ParseTuple(item, "LLL", &descriptor, &offset, &size)) return 0;
    *e = (Extent){descriptor, offset, size};
    return 1;
}

/* Extents; how many bytes they are, which is no more than words may have. */
static uint64_t place_from(Held *h, Place *place, PyObject *extents) {
    const uint64_t most = (uint64_t)MAX_WORDS * 8;
    uint64_t sum = 0;
    PyObject *items = h->good ? PySequence_Tuple(extents) : NULL;
    const size_t n = items ? (size_t)PyTuple_Size(items) : 0;
    Extent *made = items ? own(h, malloc((n + 1) * sizeof *made)) : NULL;
    h->good = h->good && made;
    for (size_t i = 0; h->good && i < n; i++) {
        h->good = extent_from(&made[i], PyTuple_GetItem(items, (Py_ssize_t)i)) &&
                  made[i].size >= 0 && (uint64_t)made[i].size <= most - sum;
        if (h->good) sum += (uint64_t)made[i].size;
    }
    place->extents = made;
    Py_XDECREF(items);
    return sum;
}

static uint64_t n_bytes(const Pass *p, uint64_t n_words) {
    return n_words * (uint64_t)p->layout.word_bits / 8;
}

static void sums_from(Held *h, Sums *s, const Pass *p) {
    if (h->good) s->sums = own(h, malloc(p->n_parts * HASH_BYTES));
}

/* (extents, memory or None); whether all words can be kept in the memory. */
static int side_from(Held *h, Side *s, const Pass *p, PyObject *extents, PyObject *memory) {
    const uint64_t size = place_from(h, &s->place, extents);
    h->good = h->good && size == n_bytes(p, p->n_words);
    sums_from(h, &s->sums, p);
    if (!h->good) return 0;
    if (memory == Py_None) {
        s->memory = own(h, malloc(n_bytes(p, p->piece_words)));
        return 0;
    }
    Py_buffer *view = &h->view[h->n_views];
    if (!(h->good = !PyObject_GetBuffer(memory, view, PyBUF_WRITABLE))) return 0;
    h->n_views++;
    s->memory = view->buf;
    h->good = (uintptr_t)view->buf % (size_t)(p->layout.word_bits / 8) == 0 &&
              (uint64_t)view->len >= n_bytes(p, p->n_words);
    return h->good;
}

static int is_ready(const Held *h) {
    if (!h->good && !PyErr_Occurred())
        PyErr_SetString(PyExc_AssertionError, "buffers do not fit the words");
    return h->good;
}

/* Go through all pieces; on a disk that is slow, signals are looked for now and then. Returns
 * whether all was read and written; else there is an exception, or nothing to be known. */
static int go_through(const Held *h, void *state, Pass *p, enum status (*next)(void *)) {
    if (!is_ready(h)) return 0;
    enum status status = OK;
    while (status == OK && p->n_done < p->n_words) {
        const time_t start = time(NULL);
        Py_BEGIN_ALLOW_THREADS
        do
            status = next(state);
        while (status == OK && p->n_done < p->n_words && time(NULL) == start);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals()) return 0;
    }
    if (status != OK && status != NOT_DONE) failed(status);
    return status == OK;
}

static enum status next_of_intake(void *state) { return take_in_piece(state); }

static enum status next_of_rebuild(void *state) { return rebuild_piece(state); }

/* One of every `stride` bytes, in hex. */
static PyObject *in_hex(const uint8_t *bytes, size_t n, size_t stride) {
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(2 * n);
    for (size_t i = 0; text && i < n; i++) {
        text[2 * i] = digits[bytes[stride * i] >> 4];
        text[2 * i + 1] = digits[bytes[stride * i] & 15];
    }
    PyObject *made = text ? PyUnicode_FromStringAndSize(text, (Py_ssize_t)(2 * n)) : PyErr_NoMemory();
    free(text);
    return made;
}

/* (checksum of the n parts' checksums, first byte of each). */
static PyObject *of_parts(const Sums *s, size_t n) {
    uint8_t all[HASH_BYTES];
    loops->hash(s->sums, HASH_BYTES * n, all);
    return Py_BuildValue("NN", in_hex(all, HASH_BYTES, 1), in_hex(s->sums, n, HASH_BYTES));
}

static PyObject *nothing_known(void) { return PyErr_Occurred() ? NULL : Py_NewRef(Py_None); }

PyObject *py_take_in(PyObject *module, PyObject *args) {
    PyObject *tiers, *ends, *base, *target, *memory[2], *result = NULL;
    int word_bits, kind, shift;
    Py_ssize_t piece_words;
    Held h = {.good = 1};
    Intake t = {.diff = NULL};
    (void)module;
    if (!PyArg_ParseTuple(args, "iiiOnO(OO)(OO)", &word_bits, &kind, &shift, &tiers, &piece_words,
                          &ends, &base, &memory[0], &target, &memory[1]) ||
        !layout_of_one_tier(&t.pass.layout, word_bits, kind, word_bits - 1))
        return NULL;
    if (tiers != Py_None) {
        PyObject *bounds, *marks;
        t.diff = own(&h, calloc(1, sizeof *t.diff));
        h.good = h.good && PyArg_ParseTuple(tiers, "OO", &bounds, &marks) &&
                 diff_from(t.diff, word_bits, kind, shift, bounds, marks);
    }
    if (h.good) pass_from(&h, &t.pass, ends, piece_words);
    t.keeps_words = side_from(&h, &t.base, &t.pass, base, memory[0]);
    const int keeps = side_from(&h, &t.target, &t.pass, target, memory[1]);
    h.good = h.good && keeps == t.keeps_words;
    if (h.good) t.by_class = own(&h, calloc(t.pass.n_parts * N_CLASSES, sizeof *t.by_class));
    if (h.good) t.largest = own(&h, calloc(t.pass.n_parts, sizeof *t.largest));
    const size_t n = t.pass.n_parts;
    if (go_through(&h, &t, &t.pass, next_of_intake)) {
        const int changed = memcmp(t.base.sums.sums, t.target.sums.sums, HASH_BYTES * n) != 0;
        result = Py_BuildValue(
            "NNNN", of_parts(&t.base.sums, n), of_parts(&t.target.sums, n),
            counts_of_parts(t.by_class, N_CLASSES, t.largest, n),
            t.diff && changed ? payload_from(t.diff) : PyBytes_FromStringAndSize(NULL, 0));
    } else
        result = nothing_known();
    if (t.diff) diff_free(t.diff);
    release(&h);
    return result;
}

PyObject *rebuild(int word_bits, int kind, Patch *patch, PyObject *args) {
    PyObject *ends, *base, *target, *result = NULL;
    Py_ssize_t piece_words;
    Held h = {.good = 1};
    Rebuild r = {.patch = patch};
    if (!PyArg_ParseTuple(args, "nOOO", &piece_words, &ends, &base, &target) ||
        !layout_of_one_tier(&r.pass.layout, word_bits, kind, word_bits - 1))
        return NULL;
    pass_from(&h, &r.pass, ends, piece_words);
    side_from(&h, &r.base, &r.pass, base, Py_None);
    h.good = place_from(&h, &r.target, target) == n_bytes(&r.pass, r.pass.n_words) && h.good;
    sums_from(&h, &r.target_sums, &r.pass);
    if (go_through(&h, &r, &r.pass, next_of_rebuild))
        result = Py_BuildValue("NN", of_parts(&r.base.sums, r.pass.n_parts),
                               of_parts(patch ? &r.target_sums : &r.base.sums, r.pass.n_parts));
    else
        result = nothing_known();
    release(&h);
    return result;
}

/* (word_bits, kind, shift, extents of the base, of the target, stride, size) ->
 * ((bounds, marks_unchanged, estimate), both samples or None if these are the same), or None. */
PyObject *py_choose_by_sample(PyObject *module, PyObject *args) {
    PyObject *extents[2], *result = NULL;
    int word_bits, kind, shift;
    Py_ssize_t stride, size;
    Held h = {.good = 1};
    Layout layout;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiiOOnn", &word_bits, &kind, &shift, &extents[0], &extents[1],
                          &stride, &size) ||
        !layout_of_one_tier(&layout, word_bits, kind, shift))
        return NULL;
    const size_t word = (size_t)word_bits / 8;
    PyObject *made[2] = {NULL, NULL};
    Place place[2] = {{0}};
    uint64_t n[2] = {0};
    for (int i = 0; i < 2; i++) n[i] = place_from(&h, &place[i], extents[i]);
    h.good = h.good && n[0] == n[1] && n[0] && size > 0 && stride >= size && n[0] % word == 0 &&
             (size_t)stride % word == 0 && (size_t)size % word == 0;
    const size_t found = h.good ? sample_bytes(n[0], (size_t)stride, (size_t)size) : 0;
    const size_t n_classes = (size_t)layout.n_classes;
    int64_t *members = h.good ? own(&h, calloc(n_classes * (1 + N_SYMBOLS), sizeof *members)) : NULL;
    for (int i = 0; i < 2 && is_ready(&h); i++)
        h.good = (made[i] = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)found)) != NULL;
    if (h.good) {
        TierChoice c = {.members = members,
                        .steps = members + n_classes,
                        .n_classes = layout.n_classes,
                        .scale = (double)(n[0] / word) / (double)(found / word)};
        uint64_t largest = 0;
        uint8_t *memory[2];
        int is_read;
        for (int i = 0; i < 2; i++) memory[i] = (uint8_t *)PyByteArray_AsString(made[i]);
        Py_BEGIN_ALLOW_THREADS
        is_read = sample(&place[0], n[0], (size_t)stride, (size_t)size, memory[0]) &&
                  sample(&place[1], n[0], (size_t)stride, (size_t)size, memory[1]);
        if (is_read)
            loops->survey[width_index(&layout)](&layout, memory[0], memory[1], found / word, members,
                                                members + n_classes, &largest);
        Py_END_ALLOW_THREADS
        if (!is_read)
            result = nothing_known();
        else if (largest)
            result = Py_BuildValue("N(OO)", choice_of(&c), made[0], made[1]);
        else
            result = Py_BuildValue("NO", choice_of(&c), Py_None);
    }
    for (int i = 0; i < 2; i++) Py_XDECREF(made[i]);
    release(&h);
    return result;
}

/* (word_bits, kind, base, target, ends) -> (by_class, largest) */
PyObject *py_count_parts(PyObject *module, PyObject *args) {
    int word_bits, kind;
    PyObject *base, *target, *ends, *result = NULL;
    Held h = {.good = 1};
    Layout layout;
    size_t n_words, n_parts = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiOOO", &word_bits, &kind, &base, &target, &ends)) return NULL;
    if (!layout_of_one_tier(&layout, word_bits, kind, word_bits - 1) ||
        !word_buffers(base, target, &layout, &h.view[0], &h.view[1], &n_words))
        return NULL;
    h.n_views = 2;
    const int64_t *end = own(&h, integers_from(ends, &n_parts));
    for (size_t i = 0; h.good && i < n_parts; i++) h.good = end[i] >= (i ? end[i - 1] : 0);
    h.good = h.good && (n_parts ? end[n_parts - 1] : 0) == (int64_t)n_words;
    int64_t *by_class = h.good ? own(&h, calloc(n_parts * N_CLASSES + 1, sizeof *by_class)) : NULL;
    uint64_t *largest = h.good ? own(&h, calloc(n_parts + 1, sizeof *largest)) : NULL;
    if (is_ready(&h)) {
        Py_BEGIN_ALLOW_THREADS
        count_parts(loops, &layout, h.view[0].buf, h.view[1].buf, end, n_parts, by_class,
                    N_CLASSES, largest);
        Py_END_ALLOW_THREADS
        result = counts_of_parts(by_class, N_CLASSES, largest, n_parts);
    }
    release(&h);
    return result;
}
