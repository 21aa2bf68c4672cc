/* The backend's kernels, compiled for the CPU. */
#include "emulate.h"

#include "kernels/kernels.cu"
