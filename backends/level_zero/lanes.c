/* The order between a stream's lists and queue. Within a lane barriers keep the order; from one
 * lane to the next an event does: the lane left signals it when all its work is done, the lane
 * entered waits for it before anything else. So whatever lane was used last ends last, and waiting
 * for it is waiting for all: by an event on a list, by a fence on the queue. Both are used again
 * after such a wait. */
#include "level_zero.h"

#include <string.h>

/* ---- creating ---- */

static cs_status create_immediate(const cs_plugin_device *device, uint32_t ordinal,
                                  ze_command_list_handle_t *out, cs_error *error) {
  const ze_command_queue_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC,
                                        .ordinal = ordinal,
                                        .mode = ZE_COMMAND_QUEUE_MODE_ASYNCHRONOUS,
                                        .priority = ZE_COMMAND_QUEUE_PRIORITY_NORMAL};
  LEVEL_ZERO_CREATE(device->root, zeCommandListCreateImmediate, device->context,
                    device->found.device, &desc, out);
  return CS_OK;
}

static cs_status create_queues(const cs_plugin_device *device, level_zero_lanes *lanes,
                               cs_error *error) {
  cs_status status =
      create_immediate(device, device->compute_ordinal, &lanes->lists[LANE_COMPUTE], error);
  if (status == CS_OK && device->copy_ordinal != LEVEL_ZERO_NO_ORDINAL)
    status = create_immediate(device, device->copy_ordinal, &lanes->lists[LANE_COPY], error);
  if (status != CS_OK) return status;
  const ze_command_queue_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC,
                                        .ordinal = device->compute_ordinal,
                                        .mode = ZE_COMMAND_QUEUE_MODE_ASYNCHRONOUS,
                                        .priority = ZE_COMMAND_QUEUE_PRIORITY_NORMAL};
  LEVEL_ZERO_CREATE(device->root, zeCommandQueueCreate, device->context, device->found.device,
                    &desc, &lanes->queue);
  return CS_OK;
}

/* A list for the queue that only signals an event, or only waits for one. */
static cs_status record_barrier(const cs_plugin_device *device, ze_event_handle_t signal,
                                ze_event_handle_t await, ze_command_list_handle_t *out,
                                cs_error *error) {
  const level_zero_api *api = &device->root->api;
  const ze_command_list_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_COMMAND_LIST_DESC,
                                       .commandQueueGroupOrdinal = device->compute_ordinal};
  LEVEL_ZERO_CREATE(device->root, zeCommandListCreate, device->context, device->found.device, &desc,
                    out);
  LEVEL_ZERO_TRY(api, zeCommandListAppendBarrier, *out, signal, await ? 1 : 0,
                 await ? &await : NULL);
  LEVEL_ZERO_TRY(api, zeCommandListClose, *out);
  return CS_OK;
}

static cs_status create_events(const cs_plugin_device *device, level_zero_lanes *lanes,
                               cs_error *error) {
  ze_device_handle_t handle = device->found.device;
  const ze_event_pool_desc_t pool = {.stype = ZE_STRUCTURE_TYPE_EVENT_POOL_DESC,
                                     .flags = ZE_EVENT_POOL_FLAG_HOST_VISIBLE,
                                     .count = LEVEL_ZERO_EVENTS};
  LEVEL_ZERO_CREATE(device->root, zeEventPoolCreate, device->context, &pool, 1, &handle,
                    &lanes->pool);
  for (uint32_t i = 0; i < LEVEL_ZERO_EVENTS; i++) {
    const ze_event_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_EVENT_DESC,
                                  .index = i,
                                  .signal = ZE_EVENT_SCOPE_FLAG_HOST,
                                  .wait = ZE_EVENT_SCOPE_FLAG_HOST};
    LEVEL_ZERO_CREATE(device->root, zeEventCreate, lanes->pool, &desc, &lanes->events[i]);
    cs_status status = record_barrier(device, lanes->events[i], NULL, &lanes->signals[i], error);
    if (status == CS_OK)
      status = record_barrier(device, NULL, lanes->events[i], &lanes->awaits[i], error);
    if (status != CS_OK) return status;
  }
  return CS_OK;
}

static cs_status create_fences(const cs_plugin_device *device, level_zero_lanes *lanes,
                               cs_error *error) {
  const ze_fence_desc_t desc = {.stype = ZE_STRUCTURE_TYPE_FENCE_DESC};
  for (uint32_t i = 0; i < LEVEL_ZERO_EVENTS; i++)
    LEVEL_ZERO_CREATE(device->root, zeFenceCreate, lanes->queue, &desc, &lanes->fences[i]);
  return CS_OK;
}

cs_status level_zero_lanes_create(const cs_plugin_device *device, level_zero_lanes *out,
                                  cs_error *error) {
  *out = (level_zero_lanes){.root = device->root, .last = LANE_IDLE};
  cs_status status = create_queues(device, out, error);
  if (status == CS_OK) status = create_fences(device, out, error);
  if (status == CS_OK) status = create_events(device, out, error);
  if (status != CS_OK) level_zero_lanes_destroy(out);
  return status;
}

void level_zero_lanes_destroy(level_zero_lanes *lanes) {
  const level_zero_api *api = &lanes->root->api;
  level_zero_destroy_begin(lanes->root);
  for (uint32_t i = 0; i < 2; i++)
    if (lanes->lists[i]) api->zeCommandListDestroy(lanes->lists[i]);
  for (uint32_t i = 0; i < LEVEL_ZERO_EVENTS; i++)
    if (lanes->fences[i]) api->zeFenceDestroy(lanes->fences[i]);
  if (lanes->queue) api->zeCommandQueueDestroy(lanes->queue);
  for (uint32_t i = 0; i < LEVEL_ZERO_EVENTS; i++) {
    if (lanes->signals[i]) api->zeCommandListDestroy(lanes->signals[i]);
    if (lanes->awaits[i]) api->zeCommandListDestroy(lanes->awaits[i]);
    if (lanes->events[i]) api->zeEventDestroy(lanes->events[i]);
  }
  if (lanes->pool) api->zeEventPoolDestroy(lanes->pool);
  level_zero_destroy_end(lanes->root);
}

/* ---- order ---- */

/* Every submission has a fence, so that the last one stands for all before it. */
static cs_status submit(level_zero_lanes *lanes, ze_command_list_handle_t list, cs_error *error) {
  const ze_fence_handle_t fence = lanes->fences[lanes->n_fences];
  LEVEL_ZERO_TRY(&lanes->root->api, zeCommandQueueExecuteCommandLists, lanes->queue, 1, &list,
                 fence);
  lanes->n_fences++;
  return CS_OK;
}

/* All work of the last lane is done: the event says so. */
static cs_status signal_event(level_zero_lanes *lanes, uint32_t index, cs_error *error) {
  if (lanes->last == LANE_REPLAY) return submit(lanes, lanes->signals[index], error);
  LEVEL_ZERO_TRY(&lanes->root->api, zeCommandListAppendBarrier, lanes->lists[lanes->last],
                 lanes->events[index], 0, NULL);
  return CS_OK;
}

static cs_status await_event(level_zero_lanes *lanes, level_zero_lane lane, uint32_t index,
                             cs_error *error) {
  if (lane == LANE_REPLAY) return submit(lanes, lanes->awaits[index], error);
  LEVEL_ZERO_TRY(&lanes->root->api, zeCommandListAppendBarrier, lanes->lists[lane], NULL, 1,
                 &lanes->events[index]);
  return CS_OK;
}

/* Entering takes an event and a submission, and so do a replay, waiting and, where that took too
 * long, waiting once more at the end. */
bool level_zero_lanes_full(const level_zero_lanes *lanes) {
  return lanes->n_events + 3 > LEVEL_ZERO_EVENTS || lanes->n_fences + 3 > LEVEL_ZERO_EVENTS;
}

cs_status level_zero_lanes_enter(level_zero_lanes *lanes, level_zero_lane lane, cs_error *error) {
  if (lane == lanes->last) return CS_OK;
  if (lanes->last != LANE_IDLE) {
    const uint32_t index = lanes->n_events++;
    cs_status status = signal_event(lanes, index, error);
    if (status == CS_OK) status = await_event(lanes, lane, index, error);
    if (status != CS_OK) return status;
  }
  lanes->last = lane;
  return CS_OK;
}

cs_status level_zero_lanes_replay(level_zero_lanes *lanes, ze_command_list_handle_t list,
                                  cs_error *error) {
  return submit(lanes, list, error);
}

/* The host waits for the lane used last. */
static cs_status await_last(level_zero_lanes *lanes, uint64_t timeout_ns, cs_error *error) {
  const level_zero_api *api = &lanes->root->api;
  if (lanes->last == LANE_REPLAY) {
    if (lanes->n_fences > 0)
      LEVEL_ZERO_TRY(api, zeFenceHostSynchronize, lanes->fences[lanes->n_fences - 1], timeout_ns);
    return CS_OK;
  }
  const uint32_t index = lanes->n_events;
  const cs_status status = signal_event(lanes, index, error);
  if (status != CS_OK) return status;
  lanes->n_events++;
  LEVEL_ZERO_TRY(api, zeEventHostSynchronize, lanes->events[index], timeout_ns);
  return CS_OK;
}

cs_status level_zero_lanes_wait(level_zero_lanes *lanes, uint64_t timeout_ns, cs_error *error) {
  const level_zero_api *api = &lanes->root->api;
  if (lanes->last == LANE_IDLE) return CS_OK;
  const cs_status status = await_last(lanes, timeout_ns, error);
  if (status != CS_OK) return status;
  for (uint32_t i = 0; i < lanes->n_events; i++)
    LEVEL_ZERO_TRY(api, zeEventHostReset, lanes->events[i]);
  for (uint32_t i = 0; i < lanes->n_fences; i++)
    LEVEL_ZERO_TRY(api, zeFenceReset, lanes->fences[i]);
  lanes->n_events = lanes->n_fences = 0;
  lanes->last = LANE_IDLE;
  return CS_OK;
}
