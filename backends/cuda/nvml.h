/* What NVIDIA's management library (libnvidia-ml.so.1, part of the driver) says of a device. It is
 * loaded where it is there; each figure may be missing. */
#ifndef CUDA_NVML_H
#define CUDA_NVML_H

#include <stdbool.h>

#include "consort/plugin.h"

typedef struct cuda_nvml cuda_nvml;

/* Finds the device by its uuid ("GPU-..." or "MIG-...") and logs its figures in one line; NULL
 * without the library or the device, which is logged too. */
cuda_nvml *cuda_nvml_open(const cs_host *host, const char *uuid);
/* Logs the figures again, with the power drawn on average in between. NULL is fine. */
void cuda_nvml_close(cuda_nvml *nvml);

/* Whether some GPU is in MIG mode: then the driver lists it only by way of its instances. */
bool cuda_nvml_finds_mig(void);

#endif
