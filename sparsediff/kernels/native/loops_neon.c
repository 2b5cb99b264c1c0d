/* The loops for 64-bit ARM, whose processors all have these instructions. */
#if defined(__aarch64__)
#define LOOPS loops_neon
#define LOOPS_NAME "neon"
#define LOOPS_NEON
#include "loops.inc.h"
#endif
