/* Ready semaphores: a timeline and the device it belongs to, so that a stream of another device can
 * be told apart from one of this. */
#include "semaphore.h"

static cs_status semaphore_create(cs_plugin_device *device, uint64_t initial,
                                  cs_plugin_semaphore **out, cs_error *error) {
  *out = NULL;
  const cs_host *host = cs_sdk_device_of(device)->host;
  cs_plugin_semaphore *semaphore = host->allocate(host->context, sizeof *semaphore, 16);
  if (!semaphore) goto err_none;
  semaphore->host = host;
  semaphore->device = device;
  semaphore->timeline = cs_sdk_timeline_create(host, initial);
  if (!semaphore->timeline) goto err_free;
  *out = semaphore;
  return CS_OK;

err_free:
  host->deallocate(host->context, semaphore);
err_none:
  return cs_sdk_error(error, CS_OUT_OF_MEMORY, 0, "no memory for a semaphore");
}

static void semaphore_destroy(cs_plugin_semaphore *semaphore) {
  if (!semaphore) return;
  cs_sdk_timeline_destroy(semaphore->timeline);
  semaphore->host->deallocate(semaphore->host->context, semaphore);
}

static cs_status semaphore_query(cs_plugin_semaphore *semaphore, uint64_t *value, cs_error *error) {
  return cs_sdk_timeline_query(semaphore->timeline, value, error);
}

static cs_status semaphore_wait(cs_plugin_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                                cs_error *error) {
  return cs_sdk_timeline_wait(semaphore->timeline, value, timeout_us, error);
}

static cs_status semaphore_signal(cs_plugin_semaphore *semaphore, uint64_t value, cs_error *error) {
  (void)error;
  return cs_sdk_timeline_signal(semaphore->timeline, value);
}

static cs_status semaphore_fail(cs_plugin_semaphore *semaphore, const cs_error *reason,
                                cs_error *error) {
  (void)error;
  return cs_sdk_timeline_fail(semaphore->timeline, reason);
}

const cs_semaphore_table cs_sdk_semaphore_table = {.struct_size = sizeof(cs_semaphore_table),
                                                   .semaphore_create = semaphore_create,
                                                   .semaphore_destroy = semaphore_destroy,
                                                   .semaphore_query = semaphore_query,
                                                   .semaphore_wait = semaphore_wait,
                                                   .semaphore_signal = semaphore_signal,
                                                   .semaphore_fail = semaphore_fail};
