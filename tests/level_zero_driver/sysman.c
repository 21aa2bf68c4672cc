/* Figures of management: one memory, one sensor, one power domain a device, with made-up values
 * that a test can know again. Asked for with ZES_ENABLE_SYSMAN=1, as Intel's driver wants it; else
 * every call says that the feature is off. */
#include <stdlib.h>
#include <string.h>

#include "sysman.h"

#define CELSIUS      47.5
#define FREE_SHARE   4 /* a quarter of the memory is free */
#define MICROJOULES  12500000
#define MICROSECONDS 1000000
#define MODULE       ((zes_mem_handle_t)(void *)&components[0])
#define SENSOR       ((zes_temp_handle_t)(void *)&components[1])
#define POWER_DOMAIN ((zes_pwr_handle_t)(void *)&components[2])
#define ONE_OF(handle)                                                                             \
  do {                                                                                             \
    if (!is_on()) return ZE_RESULT_ERROR_UNSUPPORTED_FEATURE;                                      \
    if (*count > 0 && out) out[0] = (handle);                                                      \
    *count = 1;                                                                                    \
    return ZE_RESULT_SUCCESS;                                                                      \
  } while (0)

static char components[3];

static bool is_on(void) {
  const char *value = getenv("ZES_ENABLE_SYSMAN");
  return value && strcmp(value, "1") == 0;
}

static ze_result_t ZE_APICALL memories(zes_device_handle_t device, uint32_t *count,
                                       zes_mem_handle_t *out) {
  (void)device;
  ONE_OF(MODULE);
}

static ze_result_t ZE_APICALL sensors(zes_device_handle_t device, uint32_t *count,
                                      zes_temp_handle_t *out) {
  (void)device;
  ONE_OF(SENSOR);
}

static ze_result_t ZE_APICALL power_domains(zes_device_handle_t device, uint32_t *count,
                                            zes_pwr_handle_t *out) {
  (void)device;
  ONE_OF(POWER_DOMAIN);
}

static ze_result_t ZE_APICALL memory_state(zes_mem_handle_t memory, zes_mem_state_t *out) {
  if (memory != MODULE) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  out->health = ZES_MEM_HEALTH_OK;
  out->size = test_gpu.memory_bytes;
  out->free = test_gpu.memory_bytes / FREE_SHARE;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL sensor_properties(zes_temp_handle_t sensor,
                                                zes_temp_properties_t *out) {
  if (sensor != SENSOR) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  out->type = ZES_TEMP_SENSORS_GLOBAL;
  return ZE_RESULT_SUCCESS;
}

static ze_result_t ZE_APICALL sensor_state(zes_temp_handle_t sensor, double *celsius) {
  if (sensor != SENSOR) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  *celsius = CELSIUS;
  return ZE_RESULT_SUCCESS;
}

/* 12.5 W: each reading is a second after the last one. */
static ze_result_t ZE_APICALL energy(zes_pwr_handle_t domain, zes_power_energy_counter_t *out) {
  static uint64_t n_read;
  if (domain != POWER_DOMAIN) return ZE_RESULT_ERROR_INVALID_NULL_HANDLE;
  pthread_mutex_lock(&test_mutex);
  n_read++;
  out->energy = n_read * MICROJOULES;
  out->timestamp = n_read * MICROSECONDS;
  pthread_mutex_unlock(&test_mutex);
  return ZE_RESULT_SUCCESS;
}

void test_fill_sysman_device(zes_device_dditable_t *table) {
  table->pfnEnumMemoryModules = memories;
  table->pfnEnumTemperatureSensors = sensors;
  table->pfnEnumPowerDomains = power_domains;
}

void test_fill_sysman_memory(zes_memory_dditable_t *table) {
  table->pfnGetState = memory_state;
}

void test_fill_sysman_temperature(zes_temperature_dditable_t *table) {
  table->pfnGetProperties = sensor_properties;
  table->pfnGetState = sensor_state;
}

void test_fill_sysman_power(zes_power_dditable_t *table) {
  table->pfnGetEnergyCounter = energy;
}
