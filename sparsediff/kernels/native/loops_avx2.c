/* The loops for x86-64 with AVX2 and BMI2; used only where the processor has them. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#endif
#define LOOPS loops_avx2
#define LOOPS_NAME "avx2"
#define LOOPS_AVX2
#include "loops.inc.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
