/* take_in and rebuild: a bucket's words gone through in one call, from files and to files. */
#include <time.h>

#include "files.h"
#include "python.h"

#define MAX_VIEWS 9

/* Buffers that were asked for; `good` as long as they were to be had and fit. */
typedef struct {
    int n, good;
    Py_buffer view[MAX_VIEWS];
} Views;

static Py_buffer *view(Views *v, PyObject *o, int flags) {
    Py_buffer *found = &v->view[v->n];
    if (v->good && (v->good = !PyObject_GetBuffer(o, found, flags))) v->n++;
    return v->good ? found : NULL;
}

static void release(Views *v) {
    while (v->n) PyBuffer_Release(&v->view[--v->n]);
}

/* An array of n elements, or of any number, which is then found out. */
static void *array(Views *v, PyObject *o, int flags, size_t element, size_t align, size_t *n,
                   int is_open) {
    const Py_buffer *found = view(v, o, flags);
    if (!found) return NULL;
    const size_t length = (size_t)found->len;
    v->good = (uintptr_t)found->buf % align == 0 &&
              (is_open ? length % element == 0 : length == *n * element);
    if (is_open) *n = length / element;
    return found->buf;
}

#define ARRAY(v, o, type, n) array(v, o, PyBUF_WRITABLE, sizeof(type), _Alignof(type), &(n), 0)

static void pass_from(Views *v, Pass *p, PyObject *ends, Py_ssize_t piece_words) {
    p->loops = loops;
    p->ends = array(v, ends, PyBUF_SIMPLE, sizeof(int64_t), _Alignof(int64_t), &p->n_parts, 1);
    p->piece_words = (size_t)piece_words;
    v->good = v->good && p->n_parts && piece_words > 0;
    for (size_t i = 0; v->good && i < p->n_parts; i++)
        v->good = p->ends[i] > (i ? p->ends[i - 1] : 0) && p->ends[i] <= MAX_WORDS;
    p->n_words = v->good ? (size_t)p->ends[p->n_parts - 1] : 0;
}

/* Extents of as many bytes as the words have. */
static void place_from(Views *v, Place *place, const Pass *p, PyObject *extents) {
    size_t n = 0;
    const Extent *e = array(v, extents, PyBUF_SIMPLE, sizeof *e, _Alignof(int64_t), &n, 1);
    uint64_t left = (uint64_t)p->n_words * (uint64_t)p->layout.word_bits / 8;
    for (size_t i = 0; v->good && i < n; i++) {
        v->good = e[i].size >= 0 && (uint64_t)e[i].size <= left;
        left -= (uint64_t)e[i].size;
    }
    v->good = v->good && !left;
    place->extents = e;
}

static void sums_from(Views *v, Sums *s, const Pass *p, PyObject *sums) {
    size_t n = p->n_parts * HASH_BYTES;
    s->sums = ARRAY(v, sums, uint8_t, n);
}

/* (extents, memory, sums); whether all words can be kept in the memory. */
static int side_from(Views *v, Side *s, const Pass *p, PyObject *side) {
    PyObject *extents, *memory, *sums;
    if (!(v->good = v->good && PyArg_ParseTuple(side, "OOO", &extents, &memory, &sums))) return 0;
    place_from(v, &s->place, p, extents);
    sums_from(v, &s->sums, p, sums);
    size_t n_bytes = 0;
    s->memory = array(v, memory, PyBUF_WRITABLE, 1, sizeof(uint64_t), &n_bytes, 1);
    const size_t n_words = n_bytes * 8 / (size_t)p->layout.word_bits;
    v->good = v->good && n_words >= (p->n_words < p->piece_words ? p->n_words : p->piece_words);
    return n_words >= p->n_words;
}

/* Go through all pieces; on a disk that is slow, signals are looked for now and then. Returns
 * whether all was read and written. */
static PyObject *go_through(Views *v, void *state, Pass *p, enum status (*next)(void *)) {
    if (!v->good) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_AssertionError, "buffers do not fit the words");
        return NULL;
    }
    enum status status = OK;
    while (status == OK && p->n_done < p->n_words) {
        const time_t start = time(NULL);
        Py_BEGIN_ALLOW_THREADS
        do
            status = next(state);
        while (status == OK && p->n_done < p->n_words && time(NULL) == start);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals()) return NULL;
    }
    return status == OK || status == NOT_DONE ? PyBool_FromLong(status == OK) : failed(status);
}

static enum status next_of_intake(void *state) { return take_in_piece(state); }

static enum status next_of_rebuild(void *state) { return rebuild_piece(state); }

PyObject *take_in(int word_bits, int kind, Diff *diff, PyObject *args) {
    PyObject *ends, *by_class, *largest, *base, *target;
    Py_ssize_t piece_words;
    Views v = {.good = 1};
    Intake t = {.diff = diff};
    if (!PyArg_ParseTuple(args, "nOOOOO", &piece_words, &ends, &by_class, &largest, &base,
                          &target) ||
        !layout_of_one_tier(&t.pass.layout, word_bits, kind, word_bits - 1))
        return NULL;
    pass_from(&v, &t.pass, ends, piece_words);
    t.keeps_words = side_from(&v, &t.base, &t.pass, base);
    t.keeps_words = side_from(&v, &t.target, &t.pass, target) && t.keeps_words;
    size_t n_counts = t.pass.n_parts * N_CLASSES;
    t.by_class = ARRAY(&v, by_class, int64_t, n_counts);
    t.largest = ARRAY(&v, largest, uint64_t, t.pass.n_parts);
    PyObject *result = go_through(&v, &t, &t.pass, next_of_intake);
    release(&v);
    return result;
}

PyObject *rebuild(int word_bits, int kind, Patch *patch, PyObject *args) {
    PyObject *ends, *base, *target, *target_sums;
    Py_ssize_t piece_words;
    Views v = {.good = 1};
    Rebuild r = {.patch = patch};
    if (!PyArg_ParseTuple(args, "nOOOO", &piece_words, &ends, &base, &target, &target_sums) ||
        !layout_of_one_tier(&r.pass.layout, word_bits, kind, word_bits - 1))
        return NULL;
    pass_from(&v, &r.pass, ends, piece_words);
    side_from(&v, &r.base, &r.pass, base);
    place_from(&v, &r.target, &r.pass, target);
    sums_from(&v, &r.target_sums, &r.pass, target_sums);
    PyObject *result = go_through(&v, &r, &r.pass, next_of_rebuild);
    release(&v);
    return result;
}
