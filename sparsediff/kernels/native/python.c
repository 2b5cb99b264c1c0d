/* What the functions of the compiled kernels share: statuses as exceptions, buffers, layouts. */
#include "python.h"

const Loops *loops = &loops_baseline;

static const char *const messages[] = {
    [BAD_GAP_SYMBOL] = "gap symbol out of range",
    [BAD_GAP] = "gap leaves its tier",
    [BAD_STEP] = "step out of range",
    [BAD_EXTRA_LENGTH] = "extra bits have the wrong length",
    [BAD_EXTRA_END] = "extra bits are not filled up with zeros",
    [FEW_STEPS] = "more changed members than steps",
    [BAD_TIERS] = "tier sizes do not fit the base words",
    [RANS_SHORT] = "entropy-coded data is cut short",
    [RANS_STATE] = "entropy coder state out of range",
    [BAD_MODE] = "unknown bucket mode",
    [BAD_TIER_COUNT] = "number of tiers out of range",
    [BAD_BOUNDS] = "tier boundaries out of order",
    [BAD_COUNTS] = "tier counts exceed the bucket",
    [BAD_GAP_TABLE] = "gap table without gaps",
    [BAD_STEP_TABLE] = "unknown kind of step table",
    [BAD_EMPTY] = "nothing changed in a bucket with a payload",
    [BAD_LANES] = "wrong number of lanes",
    [BAD_END] = "payload has bytes left over",
    [TABLE_SHORT] = "payload is cut short",
    [TABLE_ORDER] = "frequency table runs backwards",
    [TABLE_NUMBER] = "integer too long",
    [TABLE_SUM] = "frequency table sums past its scale",
    [TABLE_CLASS] = "step class out of range",
    [RANS_END] = "entropy-coded data does not end where it should",
};

PyObject *failed(enum status status) {
    if (status == NO_MEMORY) return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, messages[status]);
    return NULL;
}

int layout_from(Layout *l, int word_bits, int kind, int shift, PyObject *bounds) {
    long first[MAX_TIERS];
    const Py_ssize_t n = PySequence_Size(bounds);
    if (n < 0) return 0;
    for (Py_ssize_t k = 0; k < n && k < MAX_TIERS; k++) {
        PyObject *item = PySequence_GetItem(bounds, k);
        first[k] = item ? PyLong_AsLong(item) : -1;
        Py_XDECREF(item);
        if (PyErr_Occurred()) return 0;
    }
    if (layout_init(l, word_bits, kind, shift, first, (size_t)n)) return 1;
    PyErr_SetString(PyExc_AssertionError, "no such layout of words and tiers");
    return 0;
}

int layout_of_one_tier(Layout *l, int word_bits, int kind, int shift) {
    const long first = 0;
    if (layout_init(l, word_bits, kind, shift, &first, 1)) return 1;
    PyErr_SetString(PyExc_AssertionError, "no such layout of words");
    return 0;
}

int word_buffers(PyObject *a, PyObject *b, const Layout *l, Py_buffer *va, Py_buffer *vb,
                 size_t *n_words) {
    const size_t word = (size_t)l->word_bits / 8;
    if (PyObject_GetBuffer(a, va, PyBUF_SIMPLE)) return 0;
    if (PyObject_GetBuffer(b, vb, PyBUF_SIMPLE)) {
        PyBuffer_Release(va);
        return 0;
    }
    if (va->len != vb->len || (size_t)va->len % word || (uintptr_t)va->buf % word ||
        (uintptr_t)vb->buf % word) {
        PyBuffer_Release(va);
        PyBuffer_Release(vb);
        PyErr_SetString(PyExc_AssertionError, "buffers of different length, or not aligned");
        return 0;
    }
    *n_words = (size_t)va->len / word;
    return 1;
}

int64_t *integers_from(PyObject *sequence, size_t *n) {
    PyObject *tuple = PySequence_Tuple(sequence);
    if (!tuple) return NULL;
    *n = (size_t)PyTuple_Size(tuple);
    int64_t *made = malloc((*n + 1) * sizeof *made);
    if (!made) PyErr_NoMemory();
    for (size_t i = 0; made && i < *n; i++) {
        made[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, (Py_ssize_t)i));
        if (made[i] == -1 && PyErr_Occurred()) {
            free(made);
            made = NULL;
        }
    }
    Py_DECREF(tuple);
    return made;
}

static PyObject *list_of(const int64_t *numbers, size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong((uint64_t)numbers[i]);
        if (!number || PyList_SetItem(list, (Py_ssize_t)i, number)) Py_CLEAR(list);
    }
    return list;
}

PyObject *counts_of_parts(const int64_t *by_class, size_t n_columns, const uint64_t *largest,
                          size_t n_parts) {
    size_t n = 1; /* columns in use */
    for (size_t i = 0; i < n_parts; i++)
        if (largest[i] && number_class(largest[i] - 1) >= n) n = number_class(largest[i] - 1) + 1;
    PyObject *rows = PyList_New((Py_ssize_t)n_parts);
    for (size_t i = 0; rows && i < n_parts; i++) {
        PyObject *row = list_of(by_class + n_columns * i, n);
        if (!row || PyList_SetItem(rows, (Py_ssize_t)i, row)) Py_CLEAR(rows);
    }
    PyObject *sizes = rows ? list_of((const int64_t *)largest, n_parts) : NULL;
    if (sizes) return Py_BuildValue("NN", rows, sizes);
    Py_XDECREF(rows);
    return NULL;
}

int counts_buffer(PyObject *o, Py_buffer *v, size_t n) {
    if (PyObject_GetBuffer(o, v, PyBUF_WRITABLE)) return 0;
    if ((size_t)v->len != n * sizeof(int64_t) || (uintptr_t)v->buf % sizeof(int64_t)) {
        PyBuffer_Release(v);
        PyErr_SetString(PyExc_AssertionError, "counts of the wrong size");
        return 0;
    }
    return 1;
}
