// What the Python modules have in common: buffers of arrays, work without the GIL, and what the processor can do.

#pragma once

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000  // one build serves every CPython from 3.11
#endif
#include <Python.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>

#include "x86.h"

namespace udq {

// A buffer of a Python object, released by the destructor.
struct Buffer : Py_buffer {
    Buffer() : Py_buffer{} {}
    ~Buffer() {
        if (obj) PyBuffer_Release(this);
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    template <class T> T *as() const { return static_cast<T *>(buf); }
    int64_t bytes() const { return len; }
};

// Runs `work` without the GIL; returns false, with MemoryError set, if memory did not suffice.
template <class Work> bool unlocked(const Work &work) {
    bool enough = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        work();
    } catch (const std::bad_alloc &) {
        enough = false;
    }
    Py_END_ALLOW_THREADS;
    if (!enough) PyErr_NoMemory();
    return enough;
}

// Whether this processor can run a kernel.
inline bool has(const char *name) {
#if X86
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl");
    if (!std::strcmp(name, "avx512-vbmi")) return avx512 && __builtin_cpu_supports("avx512vbmi");
    if (!std::strcmp(name, "avx512-vnni")) return avx512 && __builtin_cpu_supports("avx512vnni");
    if (!std::strcmp(name, "avx2")) return __builtin_cpu_supports("avx2");
#endif
    return !std::strcmp(name, "portable");
}

// A list of those names of kernels that this processor can run.
inline PyObject *runnable(std::initializer_list<const char *> names) {
    PyObject *list = PyList_New(0);
    for (const char *name : names) {
        PyObject *text = list && has(name) ? PyUnicode_FromString(name) : nullptr;
        if (text && PyList_Append(list, text)) Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

}  // namespace udq
