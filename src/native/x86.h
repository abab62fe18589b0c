// Vector instructions of x86-64 that a kernel may use, if the processor that runs it has them.

#pragma once

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#define VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#endif
