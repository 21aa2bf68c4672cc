/* The tables of management that the driver fills. */
#ifndef LEVEL_ZERO_DRIVER_SYSMAN_H
#define LEVEL_ZERO_DRIVER_SYSMAN_H

#include "driver.h"

#include <level_zero/zes_api.h>
#include <level_zero/zes_ddi.h>

void test_fill_sysman_device(zes_device_dditable_t *table);
void test_fill_sysman_memory(zes_memory_dditable_t *table);
void test_fill_sysman_temperature(zes_temperature_dditable_t *table);
void test_fill_sysman_power(zes_power_dditable_t *table);

#endif
