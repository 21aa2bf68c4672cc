/* Times of ops by events of the device. An event is recorded in the stream between two ops, so a
 * list is launched op by op and not as its graph, and waited for: who measures pays for it, and
 * nobody else does. Events know only the time between two of them, in a float of milliseconds; so
 * the device's clock is a chain of short distances, from the last event known to the next, and
 * keeps its digits however long it runs. */
#include "plan.h"

#include <string.h>

static const cuda_driver *driver_of(const cs_plugin_stream *stream) {
  return stream->sdk.device->driver;
}

void cuda_profile_finish(cs_plugin_stream *stream) {
  const cs_host *host = stream->sdk.host;
  for (uint32_t i = 0; i < stream->n_events; i++)
    driver_of(stream)->EventDestroy(stream->events[i]);
  host->deallocate(host->context, stream->events);
  stream->events = NULL;
  stream->n_events = 0;
}

static cs_status want_events(cs_plugin_stream *stream, uint32_t n, cs_error *error) {
  const cs_host *host = stream->sdk.host;
  if (n <= stream->n_events) return CS_OK;
  CUevent *events = host->allocate(host->context, n * sizeof *events, 16);
  if (!events) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to time ops");
  if (stream->n_events) memcpy(events, stream->events, stream->n_events * sizeof *events);
  host->deallocate(host->context, stream->events);
  stream->events = events;
  while (stream->n_events < n) {
    const CUresult code =
        driver_of(stream)->EventCreate(&events[stream->n_events], CU_EVENT_DEFAULT);
    if (code != CUDA_SUCCESS) return cuda_error(driver_of(stream), error, code, "cuEventCreate");
    stream->n_events++;
  }
  return CS_OK;
}

/* Launches each op between its two events and waits for the last. */
static cs_status run_and_wait(cs_plugin_stream *stream, uint32_t n_ops, const cuda_plan *plan,
                              cs_error *error) {
  const cuda_driver *driver = driver_of(stream);
  uint64_t step = 0;
  CUresult code = driver->EventRecord(stream->events[0], stream->stream);
  for (uint32_t i = 0; i < n_ops && code == CUDA_SUCCESS; i++) {
    const uint64_t first = step;
    while (step < plan->n_steps && plan->steps[step].op_index == i)
      step++;
    const cs_status status =
        cuda_plan_launch_some(stream->sdk.device, plan, first, step, stream->stream, error);
    if (status != CS_OK) return status;
    code = driver->EventRecord(stream->events[i + 1], stream->stream);
  }
  if (code == CUDA_SUCCESS) code = driver->EventSynchronize(stream->events[n_ops]);
  return code == CUDA_SUCCESS ? CS_OK : cuda_error(driver, error, code, "cuEventRecord");
}

static int64_t distance_ns(const cuda_driver *driver, CUevent from, CUevent to) {
  float ms = 0;
  return driver->EventElapsedTime(&ms, from, to) == CUDA_SUCCESS ? (int64_t)((double)ms * 1e6) : 0;
}

/* The time of the list's first event; the last one becomes the clock's. */
static uint64_t tell_time(cs_plugin_stream *stream, uint32_t last, uint64_t list_ns) {
  cs_plugin_device *device = stream->sdk.device;
  pthread_mutex_lock(&device->clock_mutex);
  if (device->clock_event)
    device->clock_ns +=
        (uint64_t)distance_ns(device->driver, device->clock_event, stream->events[0]);
  else
    device->clock_ns = UINT64_C(1) << 40; /* far from 0: a list of another stream began earlier */
  const uint64_t begin_ns = device->clock_ns;
  device->clock_ns += list_ns;
  const CUevent swapped = device->clock_event;
  device->clock_event = stream->events[last];
  if (swapped)
    stream->events[last] = swapped;
  else
    stream->events[last] = stream->events[--stream->n_events];
  pthread_mutex_unlock(&device->clock_mutex);
  return begin_ns;
}

cs_status cuda_profile_run(cs_plugin_stream *stream, const cs_sdk_ops *ops, const cuda_plan *plan,
                           cs_error *error) {
  const uint32_t n = ops->n_ops;
  const cs_host *host = stream->sdk.host;
  uint64_t *took_ns = host->allocate(host->context, (n + 1) * sizeof *took_ns, 16);
  if (!took_ns) return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory to time ops");
  cs_status status = want_events(stream, n + 2, error);
  if (status == CS_OK) status = run_and_wait(stream, n, plan, error);
  if (status == CS_OK) {
    uint64_t list_ns = 0;
    for (uint32_t i = 0; i < n; i++) {
      const int64_t ns = distance_ns(driver_of(stream), stream->events[i], stream->events[i + 1]);
      took_ns[i] = ns > 0 ? (uint64_t)ns : 0;
      list_ns += took_ns[i];
    }
    uint64_t at = tell_time(stream, n, list_ns);
    if (at < stream->last_end_ns) at = stream->last_end_ns; /* of a rounding */
    for (uint32_t i = 0; i < n; i++, at = stream->last_end_ns) {
      stream->last_end_ns = at + took_ns[i];
      cs_sdk_op_log_add(stream->sdk.log, ops->ops[i].id, at, stream->last_end_ns);
    }
  }
  host->deallocate(host->context, took_ns);
  return status;
}
