/* Figures of management: free memory, temperature, power. */
#ifndef LEVEL_ZERO_SYSMAN_H
#define LEVEL_ZERO_SYSMAN_H

#include <level_zero/zes_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Members are NULL where the loader has no such call. */
#define LEVEL_ZERO_SYSMAN_FUNCTIONS(X)                                                             \
  X(zesDeviceEnumMemoryModules)                                                                    \
  X(zesMemoryGetState)                                                                             \
  X(zesDeviceEnumTemperatureSensors)                                                               \
  X(zesTemperatureGetState)                                                                        \
  X(zesDeviceEnumPowerDomains)                                                                     \
  X(zesPowerGetEnergyCounter)

#define LEVEL_ZERO_SYSMAN_MEMBER(name) __typeof__(&name) name;
typedef struct level_zero_sysman_api {
  LEVEL_ZERO_SYSMAN_FUNCTIONS(LEVEL_ZERO_SYSMAN_MEMBER)
} level_zero_sysman_api;
#undef LEVEL_ZERO_SYSMAN_MEMBER

/* What could be read; the others are absent. */
typedef struct level_zero_figures {
  bool has_memory, has_temperature, has_energy;
  uint64_t free_bytes;
  double celsius;
  uint64_t energy_uj; /* used up to energy_us, from an unknown beginning */
  uint64_t energy_us;
} level_zero_figures;

void level_zero_figures_read(const level_zero_sysman_api *api, ze_device_handle_t device,
                             level_zero_figures *out);

/* One line of what is there, or that nothing is. The power is the average since `before`, if not
 * NULL. */
void level_zero_figures_tell(const level_zero_figures *now, const level_zero_figures *before,
                             char *line, size_t bytes);

#endif
