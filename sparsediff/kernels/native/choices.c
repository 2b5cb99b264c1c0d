/* The Python side of tables.h: which tiers and which tables a bucket is coded with. */
#include "python.h"
#include "tables.h"

static int is_aligned(const Py_buffer *v, Py_ssize_t size) {
    return v->len == size && !((uintptr_t)v->buf % sizeof(int64_t));
}

static PyObject *chosen(const TierChoice *c) {
    PyObject *bounds = PyList_New(c->n_tiers), *marks = PyList_New(c->n_tiers);
    for (int k = 0; bounds && marks && k < c->n_tiers; k++) {
        PyObject *bound = PyLong_FromLong(c->bounds[k]);
        if (!bound) break;
        PyList_SetItem(bounds, k, bound);
        PyList_SetItem(marks, k, PyBool_FromLong(c->marks_unchanged[k]));
    }
    if (!PyErr_Occurred())
        return Py_BuildValue("NNd", bounds, marks, (double)c->bits / 8);
    Py_XDECREF(bounds);
    Py_XDECREF(marks);
    return NULL;
}

PyObject *py_choose_tiers(PyObject *module, PyObject *args) {
    Py_buffer members, steps;
    TierChoice c;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*d", &members, &steps, &c.scale)) return NULL;
    const Py_ssize_t n = members.len / (Py_ssize_t)sizeof(int64_t);
    if (n > MAX_CLASSES || !is_aligned(&members, n * (Py_ssize_t)sizeof(int64_t)) ||
        !is_aligned(&steps, N_SYMBOLS * members.len))
        PyErr_SetString(PyExc_AssertionError, "counts of the wrong size");
    else {
        enum status status = OK;
        c.members = members.buf;
        c.steps = steps.buf;
        c.n_classes = (int)n;
        int is_sound;
        prepare_logarithms();
        Py_BEGIN_ALLOW_THREADS
        is_sound = survey_is_sound(&c);
        if (is_sound) status = choose_tiers(&c);
        Py_END_ALLOW_THREADS
        if (!is_sound)
            PyErr_SetString(PyExc_AssertionError, "counts do not fit each other");
        else
            result = status == OK ? chosen(&c) : failed(status);
    }
    PyBuffer_Release(&members);
    PyBuffer_Release(&steps);
    return result;
}

static int tier_from(TierSymbols *t, PyObject *row) {
    char *gaps, *steps;
    Py_ssize_t n_gaps, n_steps;
    unsigned long long n_members;
    if (!PyArg_ParseTuple(row, "Ky#y#", &n_members, &gaps, &n_gaps, &steps, &n_steps)) return 0;
    const uint64_t unchanged = n_members - (uint64_t)n_steps;
    *t = (TierSymbols){.n_members = n_members,
                       .n_marked = (uint64_t)n_gaps,
                       .gap_symbols = (uint8_t *)gaps,
                       .step_symbols = (uint8_t *)steps,
                       .n_gap_symbols = (size_t)n_gaps,
                       .n_step_symbols = (size_t)n_steps};
    if (n_steps > 0 && n_members <= MAX_WORDS && (uint64_t)n_steps <= n_members &&
        (uint64_t)n_gaps == ((uint64_t)n_steps < unchanged ? (uint64_t)n_steps : unchanged))
        return 1;
    PyErr_SetString(PyExc_AssertionError, "symbols do not fit their tier");
    return 0;
}

static PyObject *heads_and_tables(const TierSymbols *tiers, Py_ssize_t n, const void *tables,
                                  size_t n_tables) {
    PyObject *heads = PyList_New(n);
    for (Py_ssize_t i = 0; heads && i < n; i++) {
        PyObject *head = PyBytes_FromStringAndSize((const char *)tiers[i].head,
                                                   (Py_ssize_t)tiers[i].head_size);
        if (!head) Py_CLEAR(heads);
        else PyList_SetItem(heads, i, head);
    }
    const Py_ssize_t size = (Py_ssize_t)(n_tables * N_SYMBOLS * sizeof(uint32_t));
    return heads ? Py_BuildValue("Ny#", heads, (const char *)tables, size) : NULL;
}

PyObject *py_tier_tables(PyObject *module, PyObject *args) {
    PyObject *rows, *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "O", &rows)) return NULL;
    PyObject *held = PySequence_Tuple(rows);
    const Py_ssize_t n = held ? PyTuple_Size(held) : 0;
    TierSymbols *tiers = malloc(((size_t)n + 1) * sizeof *tiers);
    uint32_t(*tables)[N_SYMBOLS] = malloc((2 * (size_t)n + 1) * sizeof *tables);
    if (held && (!tiers || !tables))
        PyErr_NoMemory();
    else if (held) {
        Py_ssize_t i = 0;
        while (i < n && tier_from(&tiers[i], PyTuple_GetItem(held, i))) i++;
        if (i == n) {
            size_t n_tables;
            prepare_logarithms();
            Py_BEGIN_ALLOW_THREADS
            n_tables = tier_tables(tiers, (size_t)n, tables);
            Py_END_ALLOW_THREADS
            result = heads_and_tables(tiers, n, tables, n_tables);
        }
    }
    free(tiers);
    free(tables);
    Py_XDECREF(held);
    return result;
}

PyObject *py_geometric(PyObject *module, PyObject *args) {
    unsigned long long n_marked, n_members;
    uint32_t table[N_SYMBOLS];
    (void)module;
    if (!PyArg_ParseTuple(args, "KK", &n_marked, &n_members)) return NULL;
    if (n_marked < 1 || n_marked > n_members || n_members > MAX_WORDS) {
        PyErr_SetString(PyExc_AssertionError, "no such marks");
        return NULL;
    }
    geometric_table(n_marked, n_members, table);
    return PyBytes_FromStringAndSize((const char *)table, sizeof table);
}

/* (data, start, whether a frequency is that of both signs of a step) -> (table, end) */
PyObject *py_load_table(PyObject *module, PyObject *args) {
    Py_buffer data;
    Py_ssize_t start;
    int is_symmetric;
    uint32_t table[N_SYMBOLS];
    (void)module;
    if (!PyArg_ParseTuple(args, "y*np", &data, &start, &is_symmetric)) return NULL;
    size_t at = (size_t)start;
    PyObject *result = NULL;
    if (start < 0 || start > data.len)
        PyErr_SetString(PyExc_AssertionError, "no such start");
    else {
        const enum status status =
            load_table(data.buf, (size_t)data.len, &at, is_symmetric, table);
        result = status == OK ? Py_BuildValue("y#n", (const char *)table,
                                              (Py_ssize_t)sizeof table, (Py_ssize_t)at)
                              : failed(status);
    }
    PyBuffer_Release(&data);
    return result;
}
