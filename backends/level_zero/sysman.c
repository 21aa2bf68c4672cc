/* What the device says of itself through sysman, which most drivers switch on only with
 * ZES_ENABLE_SYSMAN=1. Every figure may be missing: no component, no right to read it, or a loader
 * without the calls. The handles of sysman are those of the devices, as the specification has it
 * for that variable. */
#include "sysman.h"

#include <stdio.h>

#define MAX_COMPONENTS 16

/* Handles of one kind of component; 0: none, or it is off. */
#define COMPONENTS(name, handles)                                                                  \
  uint32_t n = 0;                                                                                  \
  if (!api->name || api->name(device, &n, NULL) != ZE_RESULT_SUCCESS) return false;                \
  if (n > MAX_COMPONENTS) n = MAX_COMPONENTS;                                                      \
  if (n == 0 || api->name(device, &n, handles) != ZE_RESULT_SUCCESS) return false

static bool read_memory(const level_zero_sysman_api *api, zes_device_handle_t device,
                        uint64_t *free_bytes) {
  zes_mem_handle_t memories[MAX_COMPONENTS];
  COMPONENTS(zesDeviceEnumMemoryModules, memories);
  *free_bytes = 0;
  bool any = false;
  for (uint32_t i = 0; i < n && api->zesMemoryGetState; i++) {
    zes_mem_state_t state = {.stype = ZES_STRUCTURE_TYPE_MEM_STATE};
    if (api->zesMemoryGetState(memories[i], &state) != ZE_RESULT_SUCCESS) continue;
    *free_bytes += state.free;
    any = true;
  }
  return any;
}

/* The hottest sensor. */
static bool read_temperature(const level_zero_sysman_api *api, zes_device_handle_t device,
                             double *celsius) {
  zes_temp_handle_t sensors[MAX_COMPONENTS];
  COMPONENTS(zesDeviceEnumTemperatureSensors, sensors);
  bool any = false;
  for (uint32_t i = 0; i < n && api->zesTemperatureGetState; i++) {
    double value = 0;
    if (api->zesTemperatureGetState(sensors[i], &value) != ZE_RESULT_SUCCESS) continue;
    if (!any || value > *celsius) *celsius = value;
    any = true;
  }
  return any;
}

/* The first domain is the device's own: those of its parts would count twice. */
static bool read_energy(const level_zero_sysman_api *api, zes_device_handle_t device,
                        level_zero_figures *out) {
  zes_pwr_handle_t domains[MAX_COMPONENTS];
  COMPONENTS(zesDeviceEnumPowerDomains, domains);
  zes_power_energy_counter_t counter = {0};
  if (!api->zesPowerGetEnergyCounter ||
      api->zesPowerGetEnergyCounter(domains[0], &counter) != ZE_RESULT_SUCCESS)
    return false;
  out->energy_uj = counter.energy;
  out->energy_us = counter.timestamp;
  return true;
}

void level_zero_figures_read(const level_zero_sysman_api *api, ze_device_handle_t device,
                             level_zero_figures *out) {
  const zes_device_handle_t handle = (zes_device_handle_t)device;
  *out = (level_zero_figures){0};
  out->has_memory = read_memory(api, handle, &out->free_bytes);
  out->has_temperature = read_temperature(api, handle, &out->celsius);
  out->has_energy = read_energy(api, handle, out);
}

/* Appends to a line of `bytes`. */
static void append(char *line, size_t bytes, int *length, const char *format, double value) {
  if (*length >= 0 && (size_t)*length < bytes) {
    const int n = snprintf(line + *length, bytes - (size_t)*length, format, value);
    *length = n < 0 ? n : *length + n;
  }
}

void level_zero_figures_tell(const level_zero_figures *now, const level_zero_figures *before,
                             char *line, size_t bytes) {
  int length = snprintf(line, bytes, "level_zero: sysman:");
  const int nothing = length;
  if (now->has_memory)
    append(line, bytes, &length, " %.2f GiB free", (double)now->free_bytes / (1u << 30));
  if (now->has_temperature) append(line, bytes, &length, " %.1f C", now->celsius);
  if (before && before->has_energy && now->has_energy && now->energy_us > before->energy_us)
    append(line, bytes, &length, " %.1f W on average",
           (double)(now->energy_uj - before->energy_uj) /
               (double)(now->energy_us - before->energy_us));
  if (length == nothing)
    snprintf(line + nothing, bytes - (size_t)nothing,
             " no figures (the driver gives them with ZES_ENABLE_SYSMAN=1, if at all)");
}
