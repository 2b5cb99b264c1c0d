/* The Python side of tables.h: which tiers a bucket is coded with. */
#include "python.h"

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

PyObject *choice_of(TierChoice *c) {
    enum status status = OK;
    int is_sound;
    prepare_logarithms();
    Py_BEGIN_ALLOW_THREADS
    is_sound = survey_is_sound(c);
    if (is_sound) status = choose_tiers(c);
    Py_END_ALLOW_THREADS
    if (is_sound) return status == OK ? chosen(c) : failed(status);
    PyErr_SetString(PyExc_AssertionError, "counts do not fit each other");
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
        c.members = members.buf;
        c.steps = steps.buf;
        c.n_classes = (int)n;
        result = choice_of(&c);
    }
    PyBuffer_Release(&members);
    PyBuffer_Release(&steps);
    return result;
}
