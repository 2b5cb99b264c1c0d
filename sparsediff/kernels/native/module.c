/* The Python side of the compiled kernels: buffers in, buffers out, the interpreter
 * lock released in between. What the functions mean is said in ../reference.py. */
#include "integers.h"
#include "python.h"

/* (word_bits, kind, shift, base, target) -> (members, steps, largest |step|) */
static PyObject *py_survey(PyObject *module, PyObject *args) {
    int word_bits, kind, shift;
    PyObject *base, *target;
    Py_buffer vb, vt;
    Layout layout;
    size_t n_words;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiiOO", &word_bits, &kind, &shift, &base, &target)) return NULL;
    if (!layout_of_one_tier(&layout, word_bits, kind, shift) ||
        !word_buffers(base, target, &layout, &vb, &vt, &n_words))
        return NULL;
    const size_t n = (size_t)layout.n_classes * sizeof(int64_t);
    PyObject *members = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)n);
    PyObject *steps = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(N_SYMBOLS * n));
    uint64_t largest = 0;
    if (members && steps) {
        void *m = PyByteArray_AsString(members), *s = PyByteArray_AsString(steps);
        Py_BEGIN_ALLOW_THREADS
        memset(m, 0, n);
        memset(s, 0, N_SYMBOLS * n);
        loops->survey[width_index(&layout)](&layout, vb.buf, vt.buf, n_words, m, s, &largest);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&vb);
    PyBuffer_Release(&vt);
    if (members && steps)
        return Py_BuildValue("NNK", members, steps, (unsigned long long)largest);
    Py_XDECREF(members);
    Py_XDECREF(steps);
    return NULL;
}

/* (word_bits, kind, base, target, counts, to which is added) -> largest |step| */
static PyObject *py_count_steps(PyObject *module, PyObject *args) {
    int word_bits, kind;
    PyObject *base, *target, *counts, *result = NULL;
    Py_buffer vb, vt, vc;
    Layout layout;
    size_t n_words;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiOOO", &word_bits, &kind, &base, &target, &counts)) return NULL;
    if (!layout_of_one_tier(&layout, word_bits, kind, word_bits - 1) ||
        !word_buffers(base, target, &layout, &vb, &vt, &n_words))
        return NULL;
    if (counts_buffer(counts, &vc, N_SYMBOLS)) {
        int64_t members = 0;
        uint64_t largest;
        Py_BEGIN_ALLOW_THREADS
        loops->survey[width_index(&layout)](&layout, vb.buf, vt.buf, n_words, &members, vc.buf,
                                            &largest);
        Py_END_ALLOW_THREADS
        result = PyLong_FromUnsignedLongLong(largest);
        PyBuffer_Release(&vc);
    }
    PyBuffer_Release(&vb);
    PyBuffer_Release(&vt);
    return result;
}

/* (word_bytes, base, target) -> positions that differ, words there of the base, of the target */
static PyObject *py_differences(PyObject *module, PyObject *args) {
    int word;
    PyObject *base, *target, *made[3] = {NULL, NULL, NULL};
    Py_buffer v[2];
    Layout layout;
    size_t n_words;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOO", &word, &base, &target)) return NULL;
    if (!layout_of_one_tier(&layout, 8 * word, KIND_UNSIGNED, 8 * word - 1) ||
        !word_buffers(base, target, &layout, &v[0], &v[1], &n_words))
        return NULL;
    const int fits = n_words <= INT32_MAX;
    uint64_t *masks = fits ? malloc((n_words + MOST_BLOCK) / 8) : NULL;
    size_t n = 0;
    if (!fits) PyErr_SetString(PyExc_AssertionError, "too many words for positions of 32 bits");
    if (fits && !masks) PyErr_NoMemory();
    if (masks) {
        Py_BEGIN_ALLOW_THREADS
        n = loops->differing[width_index(&layout)](v[0].buf, v[1].buf, n_words, masks);
        Py_END_ALLOW_THREADS
        for (int i = 0; i < 3 && !PyErr_Occurred(); i++)
            made[i] = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(n * (i ? (size_t)word : 4)));
    }
    const int good = !PyErr_Occurred();
    if (good) {
        int32_t *positions = (int32_t *)PyByteArray_AsString(made[0]);
        uint8_t *picked[2];
        for (int i = 0; i < 2; i++) picked[i] = (uint8_t *)PyByteArray_AsString(made[i + 1]);
        Py_BEGIN_ALLOW_THREADS
        positions_of(masks, n, positions);
        for (int i = 0; i < 2; i++) pick(v[i].buf, (size_t)word, positions, n, picked[i]);
        Py_END_ALLOW_THREADS
    }
    free(masks);
    for (int i = 0; i < 2; i++) PyBuffer_Release(&v[i]);
    if (good) return Py_BuildValue("NNN", made[0], made[1], made[2]);
    for (int i = 0; i < 3; i++) Py_XDECREF(made[i]);
    return NULL;
}

/* Args: (word_bits, kind, *rest). */
static PyObject *py_rebuild(PyObject *module, PyObject *args) {
    const Py_ssize_t n = PyTuple_Size(args);
    PyObject *layout = PyTuple_GetSlice(args, 0, 2), *rest = PyTuple_GetSlice(args, 2, n);
    PyObject *result = NULL;
    int word_bits, kind;
    (void)module;
    if (layout && rest && PyArg_ParseTuple(layout, "ii", &word_bits, &kind))
        result = rebuild(word_bits, kind, NULL, rest);
    Py_XDECREF(layout);
    Py_XDECREF(rest);
    return result;
}

/* (data, stride): of every stride-th byte */
static PyObject *py_literals(PyObject *module, PyObject *args) {
    Py_buffer data;
    Py_ssize_t stride;
    size_t n_literals = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*n", &data, &stride)) return NULL;
    int ok = stride > 0 && (size_t)data.len <= MAX_LITERALS;
    if (!ok)
        PyErr_SetString(PyExc_AssertionError, "too many bytes to look for literals");
    else {
        Py_BEGIN_ALLOW_THREADS
        ok = count_literals(data.buf, (size_t)data.len, (size_t)stride, &n_literals);
        Py_END_ALLOW_THREADS
        if (!ok) PyErr_NoMemory();
    }
    PyBuffer_Release(&data);
    return ok ? PyLong_FromSize_t(n_literals) : NULL;
}

/* How many bytes: memory that nothing was written to yet. */
static PyObject *py_room(PyObject *module, PyObject *args) {
    Py_ssize_t size;
    (void)module;
    if (!PyArg_ParseTuple(args, "n", &size)) return NULL;
    if (size >= 0) return PyByteArray_FromStringAndSize(NULL, size);
    PyErr_SetString(PyExc_AssertionError, "no such room");
    return NULL;
}

/* (word_bytes, target, base or None, starts of runs, size of each, in words) -> planes */
static PyObject *py_planes(PyObject *module, PyObject *args) {
    int word;
    PyObject *target, *base, *starts, *made = NULL;
    Py_ssize_t size;
    Py_buffer v[2];
    size_t n_runs = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "iOOOn", &word, &target, &base, &starts, &size)) return NULL;
    if (PyObject_GetBuffer(target, &v[0], PyBUF_SIMPLE)) return NULL;
    if (PyObject_GetBuffer(base == Py_None ? target : base, &v[1], PyBUF_SIMPLE)) {
        PyBuffer_Release(&v[0]);
        return NULL;
    }
    int64_t *start = integers_from(starts, &n_runs);
    if (start) {
        int fits = word >= 1 && word <= 8 && size >= 0 && v[0].len == v[1].len;
        const int64_t n = fits ? v[0].len / word : 0;
        for (size_t i = 0; fits && i < n_runs; i++)
            fits = start[i] >= 0 && start[i] <= n && size <= n - start[i];
        if (!fits)
            PyErr_SetString(PyExc_AssertionError, "runs out of range");
        else
            made = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)n_runs * size * word);
    }
    if (made) {
        const size_t n = (size_t)size, w = (size_t)word;
        uint8_t *planes = (uint8_t *)PyByteArray_AsString(made);
        Py_BEGIN_ALLOW_THREADS
        for (size_t i = 0; i < n_runs; i++)
            to_planes((const uint8_t *)v[0].buf + w * (size_t)start[i],
                      base == Py_None ? NULL : (const uint8_t *)v[1].buf + w * (size_t)start[i],
                      n, w, planes + n * i, n * n_runs);
        Py_END_ALLOW_THREADS
    }
    free(start);
    PyBuffer_Release(&v[0]);
    PyBuffer_Release(&v[1]);
    return made;
}

/* (planes, which of their words comes first, words, whether these change by XOR) */
static PyObject *py_from_planes(PyObject *module, PyObject *args) {
    Py_buffer planes, words;
    Py_ssize_t first;
    int word, is_xor;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*niw*p", &planes, &first, &word, &words, &is_xor)) return NULL;
    const int fits = word >= 1 && word <= 8 && first >= 0 && words.len % word == 0 &&
                     planes.len % word == 0 && first <= planes.len / word &&
                     words.len / word <= planes.len / word - first;
    if (fits) {
        const size_t w = (size_t)word;
        Py_BEGIN_ALLOW_THREADS
        from_planes((const uint8_t *)planes.buf + first, (size_t)planes.len / w, words.buf,
                    (size_t)words.len / w, w, is_xor);
        Py_END_ALLOW_THREADS
    } else
        PyErr_SetString(PyExc_AssertionError, "words beyond the planes");
    PyBuffer_Release(&planes);
    PyBuffer_Release(&words);
    return fits ? Py_NewRef(Py_None) : NULL;
}

/* (text, low, high) -> (values, ends of lists), or None if the text is not of such integers */
static PyObject *py_read_integers(PyObject *module, PyObject *args) {
    Py_buffer text;
    long long low;
    unsigned long long high;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*LK", &text, &low, &high)) return NULL;
    const size_t size = (size_t)text.len, room = integers_room(text.buf, size);
    int64_t *numbers[2] = {malloc(room * sizeof(int64_t)), malloc(room * sizeof(int64_t))};
    size_t n[2];
    PyObject *result = NULL;
    if (numbers[0] && numbers[1]) {
        int is_good = 0;
        Py_BEGIN_ALLOW_THREADS
        is_good = low <= 0 && integers_read(text.buf, size, low, high, numbers[0], &n[0],
                                            numbers[1], &n[1]);
        Py_END_ALLOW_THREADS
        const Py_ssize_t width = sizeof(int64_t);
        result = is_good ? Py_BuildValue("y#y#", numbers[0], (Py_ssize_t)n[0] * width, numbers[1],
                                         (Py_ssize_t)n[1] * width)
                         : Py_NewRef(Py_None);
    } else
        PyErr_NoMemory();
    free(numbers[0]);
    free(numbers[1]);
    PyBuffer_Release(&text);
    return result;
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
    {"room", py_room, METH_VARARGS, "room(n_bytes) -> not filled"},
    {"survey", py_survey, METH_VARARGS,
     "survey(word_bits, kind, shift, base, target) -> members, steps, largest |step|"},
    {"count_steps", py_count_steps, METH_VARARGS,
     "count_steps(word_bits, kind, base, target, counts) -> largest |step|"},
    {"count_parts", py_count_parts, METH_VARARGS,
     "count_parts(word_bits, kind, base, target, ends) -> by_class, largest"},
    {"differences", py_differences, METH_VARARGS,
     "differences(word_bytes, base, target) -> positions, base words, target words"},
    {"choose_tiers", py_choose_tiers, METH_VARARGS,
     "choose_tiers(members, steps, scale) -> bounds, marks_unchanged, estimate"},
    {"choose_by_sample", py_choose_by_sample, METH_VARARGS,
     "choose_by_sample(word_bits, kind, shift, base, target, stride, size); see passes.c"},
    {"read_integers", py_read_integers, METH_VARARGS,
     "read_integers(text, low, high) -> values, ends of lists"},
    {"literals", py_literals, METH_VARARGS, "literals(data, stride) -> how many"},
    {"planes", py_planes, METH_VARARGS,
     "planes(word_bytes, target, base, starts, size) -> planes"},
    {"from_planes", py_from_planes, METH_VARARGS,
     "from_planes(planes, first, word_bytes, words, is_xor)"},
    {"take_in", py_take_in, METH_VARARGS, "take_in(*args); see python.h"},
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
