/* The Python side of the compiled kernels: buffers in, buffers out, the interpreter
 * lock released in between. What the functions mean is said in ../reference.py. */
#include "python.h"
#include "rans.h"

static PyObject *py_survey(PyObject *module, PyObject *args) {
    int word_bits, kind, shift;
    PyObject *base, *target, *members, *steps;
    Py_buffer vb, vt, vm, vs;
    Layout layout;
    size_t n_words;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiiOOOO", &word_bits, &kind, &shift, &base, &target, &members,
                          &steps))
        return NULL;
    if (!layout_of_one_tier(&layout, word_bits, kind, shift) ||
        !word_buffers(base, target, &layout, &vb, &vt, &n_words))
        return NULL;
    PyObject *result = NULL;
    if (counts_buffer(members, &vm, (size_t)layout.n_classes)) {
        if (counts_buffer(steps, &vs, (size_t)layout.n_classes * N_SYMBOLS)) {
            uint64_t largest;
            Py_BEGIN_ALLOW_THREADS
            loops->survey[width_index(&layout)](&layout, vb.buf, vt.buf, n_words, vm.buf, vs.buf,
                                                &largest);
            Py_END_ALLOW_THREADS
            result = PyLong_FromUnsignedLongLong(largest);
            PyBuffer_Release(&vs);
        }
        PyBuffer_Release(&vm);
    }
    PyBuffer_Release(&vb);
    PyBuffer_Release(&vt);
    return result;
}

static int are_ends(const Py_buffer *ends, size_t n_words) {
    const int64_t *end = ends->buf;
    int64_t last = 0;
    for (size_t i = 0; i < (size_t)ends->len / sizeof *end; i++) {
        if (end[i] < last) return 0;
        last = end[i];
    }
    return last == (int64_t)n_words;
}

static PyObject *py_count_parts(PyObject *module, PyObject *args) {
    int word_bits, kind;
    PyObject *base, *target, *ends, *by_class, *largest, *result = NULL;
    Py_buffer vb, vt, ve, vc, vl;
    Layout layout;
    size_t n_words;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiOOOOO", &word_bits, &kind, &base, &target, &ends, &by_class,
                          &largest))
        return NULL;
    if (!layout_of_one_tier(&layout, word_bits, kind, word_bits - 1) ||
        !word_buffers(base, target, &layout, &vb, &vt, &n_words))
        return NULL;
    if (!PyObject_GetBuffer(ends, &ve, PyBUF_SIMPLE)) {
        const size_t n_parts = (size_t)ve.len / sizeof(int64_t);
        if (counts_buffer(largest, &vl, n_parts)) {
            if (!PyObject_GetBuffer(by_class, &vc, PyBUF_WRITABLE)) {
                if ((uintptr_t)ve.buf % sizeof(int64_t) || (uintptr_t)vc.buf % sizeof(int64_t) ||
                    !are_ends(&ve, n_words))
                    PyErr_SetString(PyExc_AssertionError, "parts do not fit the words");
                else {
                    const size_t n_columns =
                        n_parts ? (size_t)vc.len / sizeof(int64_t) / n_parts : 0;
                    Py_BEGIN_ALLOW_THREADS
                    count_parts(loops, &layout, vb.buf, vt.buf, ve.buf, n_parts, vc.buf,
                                n_columns, vl.buf);
                    Py_END_ALLOW_THREADS
                    result = Py_NewRef(Py_None);
                }
                PyBuffer_Release(&vc);
            }
            PyBuffer_Release(&vl);
        }
        PyBuffer_Release(&ve);
    }
    PyBuffer_Release(&vb);
    PyBuffer_Release(&vt);
    return result;
}

#define MAX_RUNS (2 * MAX_TIERS)

/* Runs with copies of their tables, which nobody can change meanwhile. */
typedef struct {
    size_t n;
    Run run[MAX_RUNS];
    uint32_t table[MAX_RUNS][N_SYMBOLS];
} Runs;

static Runs *runs_from(PyObject *sizes, const Py_buffer *tables, uint8_t *symbols,
                       size_t n_symbols) {
    PyObject *tuple = PySequence_Tuple(sizes);
    if (!tuple) return NULL;
    const size_t n = (size_t)PyTuple_Size(tuple);
    Runs *runs = NULL;
    if (n > MAX_RUNS || (size_t)tables->len != n * sizeof runs->table[0])
        PyErr_SetString(PyExc_AssertionError, "one table for each run, and not too many");
    else if (!(runs = malloc(sizeof *runs)))
        PyErr_NoMemory();
    size_t at = 0;
    if (runs) {
        runs->n = n;
        memcpy(runs->table, tables->buf, (size_t)tables->len);
        for (size_t i = 0; i < n; i++) {
            const size_t size = PyLong_AsSize_t(PyTuple_GetItem(tuple, (Py_ssize_t)i));
            if (PyErr_Occurred()) break;
            if (size > n_symbols - at || !rans_table_is_valid(runs->table[i])) {
                PyErr_SetString(PyExc_AssertionError, "run or table out of range");
                break;
            }
            runs->run[i] = (Run){symbols + at, size, runs->table[i]};
            at += size;
        }
        if (!PyErr_Occurred() && at != n_symbols)
            PyErr_SetString(PyExc_AssertionError, "runs do not add up");
        if (PyErr_Occurred()) {
            free(runs);
            runs = NULL;
        }
    }
    Py_DECREF(tuple);
    return runs;
}

static int lanes_are_few(Py_ssize_t lanes) {
    if (lanes >= 1 && lanes <= 1 << 16) return 1;
    PyErr_SetString(PyExc_AssertionError, "number of lanes out of range");
    return 0;
}

static PyObject *py_rans_encode(PyObject *module, PyObject *args) {
    Py_buffer symbols, tables;
    PyObject *sizes, *result = NULL;
    Py_ssize_t lanes;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*Oy*n", &symbols, &sizes, &tables, &lanes)) return NULL;
    Runs *runs = runs_from(sizes, &tables, symbols.buf, (size_t)symbols.len);
    if (runs && lanes_are_few(lanes)) {
        const size_t limit = rans_limit((size_t)symbols.len, (size_t)lanes);
        uint8_t *out = malloc(limit);
        enum status status = out ? OK : NO_MEMORY;
        size_t size = 0;
        Py_BEGIN_ALLOW_THREADS
        if (out) status = rans_encode(loops, runs->run, runs->n, (size_t)lanes, out, limit, &size);
        Py_END_ALLOW_THREADS
        result = status == OK ? PyBytes_FromStringAndSize((char *)out + limit - size,
                                                          (Py_ssize_t)size)
                              : failed(status);
        free(out);
    }
    free(runs);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&tables);
    return result;
}

static PyObject *py_rans_decode(PyObject *module, PyObject *args) {
    Py_buffer data, tables, symbols;
    PyObject *sizes, *result = NULL;
    Py_ssize_t lanes;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*Oy*nw*", &data, &sizes, &tables, &lanes, &symbols)) return NULL;
    Runs *runs = runs_from(sizes, &tables, symbols.buf, (size_t)symbols.len);
    if (runs && lanes_are_few(lanes)) {
        enum status status;
        Py_BEGIN_ALLOW_THREADS
        status = rans_decode(loops, data.buf, (size_t)data.len, runs->run, runs->n,
                             (size_t)lanes);
        Py_END_ALLOW_THREADS
        result = status == OK ? Py_NewRef(Py_None) : failed(status);
    }
    free(runs);
    PyBuffer_Release(&data);
    PyBuffer_Release(&tables);
    PyBuffer_Release(&symbols);
    return result;
}

static PyObject *py_histogram(PyObject *module, PyObject *args) {
    Py_buffer data, counts;
    PyObject *out;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*O", &data, &out)) return NULL;
    const int ok = counts_buffer(out, &counts, N_SYMBOLS);
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        histogram(data.buf, (size_t)data.len, counts.buf);
        Py_END_ALLOW_THREADS
        PyBuffer_Release(&counts);
    }
    PyBuffer_Release(&data);
    return ok ? Py_NewRef(Py_None) : NULL;
}

/* Args: (word_bits, kind, *rest). */
static PyObject *go_through(PyObject *args, PyObject *(*go)(int, int, PyObject *)) {
    const Py_ssize_t n = PyTuple_Size(args);
    PyObject *layout = PyTuple_GetSlice(args, 0, 2), *rest = PyTuple_GetSlice(args, 2, n);
    PyObject *result = NULL;
    int word_bits, kind;
    if (layout && rest && PyArg_ParseTuple(layout, "ii", &word_bits, &kind))
        result = go(word_bits, kind, rest);
    Py_XDECREF(layout);
    Py_XDECREF(rest);
    return result;
}

static PyObject *count_in(int word_bits, int kind, PyObject *args) {
    return take_in(word_bits, kind, NULL, args);
}

static PyObject *copy(int word_bits, int kind, PyObject *args) {
    return rebuild(word_bits, kind, NULL, args);
}

static PyObject *py_take_in(PyObject *module, PyObject *args) {
    (void)module;
    return go_through(args, count_in);
}

static PyObject *py_rebuild(PyObject *module, PyObject *args) {
    (void)module;
    return go_through(args, copy);
}

static PyObject *py_literals(PyObject *module, PyObject *args) {
    Py_buffer data;
    size_t n_literals = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    int ok = (size_t)data.len <= MAX_LITERALS;
    if (!ok)
        PyErr_SetString(PyExc_AssertionError, "too many bytes to look for literals");
    else {
        Py_BEGIN_ALLOW_THREADS
        ok = count_literals(data.buf, (size_t)data.len, &n_literals);
        Py_END_ALLOW_THREADS
        if (!ok) PyErr_NoMemory();
    }
    PyBuffer_Release(&data);
    return ok ? PyLong_FromSize_t(n_literals) : NULL;
}

/* The instruction set of that name, or the best that this processor has, from now on. */
static PyObject *py_use(PyObject *module, PyObject *args) {
    const char *name = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "|z", &name)) return NULL;
    for (const Loops *const *each = all_loops; *each; each++)
        if (is_supported(*each) && (!name || !strcmp(name, (*each)->name))) {
            loops = *each;
            return PyUnicode_FromString(loops->name);
        }
    PyErr_SetString(PyExc_LookupError, "this processor has no such instructions");
    return NULL;
}

static PyMethodDef functions[] = {
    {"survey", py_survey, METH_VARARGS,
     "survey(word_bits, kind, shift, base, target, members, steps) -> largest |step|"},
    {"count_parts", py_count_parts, METH_VARARGS,
     "count_parts(word_bits, kind, base, target, ends, by_class, largest)"},
    {"choose_tiers", py_choose_tiers, METH_VARARGS,
     "choose_tiers(members, steps, scale, log2) -> bounds, marks_unchanged, estimate"},
    {"tier_tables", py_tier_tables, METH_VARARGS,
     "tier_tables([(n_members, gap_symbols, step_symbols), ...], microbits) -> heads, tables"},
    {"geometric", py_geometric, METH_VARARGS, "geometric(n_marked, n_members) -> table"},
    {"literals", py_literals, METH_VARARGS, "literals(data) -> how many"},
    {"histogram", py_histogram, METH_VARARGS, "histogram(data, counts)"},
    {"rans_encode", py_rans_encode, METH_VARARGS,
     "rans_encode(symbols, sizes, tables, lanes) -> bytes"},
    {"rans_decode", py_rans_decode, METH_VARARGS,
     "rans_decode(data, sizes, tables, lanes, symbols)"},
    {"take_in", py_take_in, METH_VARARGS, "take_in(word_bits, kind, *args); see python.h"},
    {"rebuild", py_rebuild, METH_VARARGS, "rebuild(word_bits, kind, *args); see python.h"},
    {"use", py_use, METH_VARARGS, "use(name=None) -> name of the instructions in use"},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, const char *name, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    const int failed_to = !type || PyModule_AddObjectRef(module, name, type);
    Py_XDECREF(type);
    return failed_to ? -1 : 0;
}

static int exec_module(PyObject *module) {
    return add_type(module, "Diff", &diff_spec) || add_type(module, "Patch", &patch_spec) ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_native", "Compiled kernels.", 0, functions, module_slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module_def); }
