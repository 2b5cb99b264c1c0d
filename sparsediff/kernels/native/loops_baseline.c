/* The loops for any machine. */
#define LOOPS loops_baseline
#define LOOPS_NAME "baseline"
#include "loops.inc.h"
