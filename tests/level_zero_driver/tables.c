/* The loader asks for every table by a function of its own and refuses a driver that lacks one,
 * those for tools and management included. What this driver does not serve stays zero, which the
 * loader accepts.
 */
#include "driver.h"
#include "sysman.h"

#include <level_zero/zet_api.h>
#include <level_zero/zet_ddi.h>
#include <string.h>

#define NOTHING(table) ((void)(table))

#define TABLE(prefix, name, type, fill)                                                            \
  ZE_DLLEXPORT ze_result_t ZE_APICALL prefix##Get##name##ProcAddrTable(ze_api_version_t version,   \
                                                                       type *table) {              \
    if (!table) return ZE_RESULT_ERROR_INVALID_NULL_POINTER;                                       \
    if (ZE_MAJOR_VERSION(version) != 1) return ZE_RESULT_ERROR_UNSUPPORTED_VERSION;                \
    memset(table, 0, sizeof *table);                                                               \
    fill(table);                                                                                   \
    return ZE_RESULT_SUCCESS;                                                                      \
  }

static ze_result_t ZE_APICALL init(ze_init_flags_t flags) {
  (void)flags;
  return test_start();
}

static void fill_global(ze_global_dditable_t *table) {
  table->pfnInit = init;
}

TABLE(ze, Global, ze_global_dditable_t, fill_global)
TABLE(ze, Driver, ze_driver_dditable_t, test_fill_driver)
TABLE(ze, Device, ze_device_dditable_t, test_fill_device)
TABLE(ze, Context, ze_context_dditable_t, test_fill_context)
TABLE(ze, CommandQueue, ze_command_queue_dditable_t, test_fill_queue)
TABLE(ze, CommandList, ze_command_list_dditable_t, test_fill_list)
TABLE(ze, Fence, ze_fence_dditable_t, test_fill_fence)
TABLE(ze, EventPool, ze_event_pool_dditable_t, test_fill_event_pool)
TABLE(ze, Event, ze_event_dditable_t, test_fill_event)
TABLE(ze, Module, ze_module_dditable_t, test_fill_module)
TABLE(ze, ModuleBuildLog, ze_module_build_log_dditable_t, test_fill_build_log)
TABLE(ze, Kernel, ze_kernel_dditable_t, test_fill_kernel)
TABLE(ze, Mem, ze_mem_dditable_t, test_fill_mem)
TABLE(ze, DeviceExp, ze_device_exp_dditable_t, NOTHING)
TABLE(ze, Image, ze_image_dditable_t, NOTHING)
TABLE(ze, ImageExp, ze_image_exp_dditable_t, NOTHING)
TABLE(ze, EventExp, ze_event_exp_dditable_t, NOTHING)
TABLE(ze, KernelExp, ze_kernel_exp_dditable_t, NOTHING)
TABLE(ze, Sampler, ze_sampler_dditable_t, NOTHING)
TABLE(ze, PhysicalMem, ze_physical_mem_dditable_t, NOTHING)
TABLE(ze, VirtualMem, ze_virtual_mem_dditable_t, NOTHING)
TABLE(ze, FabricVertexExp, ze_fabric_vertex_exp_dditable_t, NOTHING)
TABLE(ze, FabricEdgeExp, ze_fabric_edge_exp_dditable_t, NOTHING)
TABLE(zet, CommandList, zet_command_list_dditable_t, NOTHING)
TABLE(zet, Context, zet_context_dditable_t, NOTHING)
TABLE(zet, Debug, zet_debug_dditable_t, NOTHING)
TABLE(zet, Device, zet_device_dditable_t, NOTHING)
TABLE(zet, Kernel, zet_kernel_dditable_t, NOTHING)
TABLE(zet, Metric, zet_metric_dditable_t, NOTHING)
TABLE(zet, MetricGroup, zet_metric_group_dditable_t, NOTHING)
TABLE(zet, MetricGroupExp, zet_metric_group_exp_dditable_t, NOTHING)
TABLE(zet, MetricQuery, zet_metric_query_dditable_t, NOTHING)
TABLE(zet, MetricQueryPool, zet_metric_query_pool_dditable_t, NOTHING)
TABLE(zet, MetricStreamer, zet_metric_streamer_dditable_t, NOTHING)
TABLE(zet, Module, zet_module_dditable_t, NOTHING)
TABLE(zet, TracerExp, zet_tracer_exp_dditable_t, NOTHING)
TABLE(zes, Device, zes_device_dditable_t, test_fill_sysman_device)
TABLE(zes, Diagnostics, zes_diagnostics_dditable_t, NOTHING)
TABLE(zes, Driver, zes_driver_dditable_t, NOTHING)
TABLE(zes, Engine, zes_engine_dditable_t, NOTHING)
TABLE(zes, FabricPort, zes_fabric_port_dditable_t, NOTHING)
TABLE(zes, Fan, zes_fan_dditable_t, NOTHING)
TABLE(zes, Firmware, zes_firmware_dditable_t, NOTHING)
TABLE(zes, Frequency, zes_frequency_dditable_t, NOTHING)
TABLE(zes, Led, zes_led_dditable_t, NOTHING)
TABLE(zes, Memory, zes_memory_dditable_t, test_fill_sysman_memory)
TABLE(zes, PerformanceFactor, zes_performance_factor_dditable_t, NOTHING)
TABLE(zes, Power, zes_power_dditable_t, test_fill_sysman_power)
TABLE(zes, Psu, zes_psu_dditable_t, NOTHING)
TABLE(zes, Ras, zes_ras_dditable_t, NOTHING)
TABLE(zes, Scheduler, zes_scheduler_dditable_t, NOTHING)
TABLE(zes, Standby, zes_standby_dditable_t, NOTHING)
TABLE(zes, Temperature, zes_temperature_dditable_t, test_fill_sysman_temperature)
