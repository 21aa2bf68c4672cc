/* The module of every kernel that does not depend on a weight or cache format at compile time. */
#include "common.cl"
#include "elementwise.cl"
#include "gather.cl"
#ifdef VARIANT_CPU
#include "rows_cpu.cl"
#else
#include "rows_gpu.cl"
#endif
#include "kv.cl"
#include "moe.cl"
