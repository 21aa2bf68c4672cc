/* A semaphore belongs to the device that made it; carrying a value to another device is the
 * bridge's work, because no plugin knows another's. */
#include <stdlib.h>

#include "core/device_private.h"
#include "core/error.h"

cs_status cs_semaphore_create(cs_device *device, uint64_t initial, cs_semaphore **out,
                              cs_error *error) {
  *out = NULL;
  cs_status status = cs_device_enter(device, error);
  if (status != CS_OK) return status;
  cs_semaphore *semaphore = calloc(1, sizeof *semaphore);
  if (!semaphore) return cs_error_set(error, CS_OUT_OF_MEMORY, "no memory for a semaphore");
  atomic_init(&semaphore->refs, 1);
  semaphore->device = device;
  status = device->tables->semaphore.semaphore_create(device->handle, initial, &semaphore->handle,
                                                      error);
  if (status == CS_OK && !semaphore->handle) status = CS_FAILED;
  if (status != CS_OK) {
    free(semaphore);
    return cs_device_result(device, status, error, "does not make a semaphore");
  }
  cs_device_retain(device);
  semaphore->record =
      cs_record_create(device->runtime->validator, CS_RECORD_SEMAPHORE, semaphore, device->name);
  *out = semaphore;
  return CS_OK;
}

void cs_semaphore_retain(cs_semaphore *semaphore) {
  atomic_fetch_add(&semaphore->refs, 1);
}

void cs_semaphore_release(cs_semaphore *semaphore) {
  if (!semaphore || !cs_handle_may_destroy(semaphore->record)) return;
  if (atomic_fetch_sub(&semaphore->refs, 1) != 1) return;
  cs_device *device = semaphore->device;
  device->tables->semaphore.semaphore_destroy(semaphore->handle);
  cs_handle_free(semaphore, semaphore->record);
  cs_device_release(device);
}

cs_device *cs_semaphore_device(const cs_semaphore *semaphore) {
  return semaphore->device;
}

static cs_status enter(cs_semaphore *semaphore, cs_error *error) {
  const cs_status status = cs_handle_check(semaphore->record, error);
  return status == CS_OK ? cs_device_enter(semaphore->device, error) : status;
}

/* What a question to the plugin told: a value was reached, or the timeline failed. */
static void tell_books(cs_semaphore *semaphore, cs_status status, uint64_t value) {
  if (!semaphore->record || status == CS_TIMEOUT) return;
  cs_record_reached(semaphore->record, status == CS_OK ? value : UINT64_MAX);
}

cs_status cs_semaphore_query(cs_semaphore *semaphore, uint64_t *value, cs_error *error) {
  cs_device *device = semaphore->device;
  cs_status status = enter(semaphore, error);
  if (status != CS_OK) return status;
  *value = 0;
  status = device->tables->semaphore.semaphore_query(semaphore->handle, value, error);
  tell_books(semaphore, status, *value);
  return cs_device_result(device, status, error, "a semaphore failed");
}

cs_status cs_semaphore_wait(cs_semaphore *semaphore, uint64_t value, uint64_t timeout_us,
                            cs_error *error) {
  cs_device *device = semaphore->device;
  cs_status status = enter(semaphore, error);
  if (status != CS_OK) return status;
  status = device->tables->semaphore.semaphore_wait(semaphore->handle, value,
                                                    cs_wait_limit_us(timeout_us), error);
  tell_books(semaphore, status, value);
  return cs_device_result(device, status, error, "work is not done");
}

cs_status cs_semaphore_signal(cs_semaphore *semaphore, uint64_t value, cs_error *error) {
  cs_device *device = semaphore->device;
  cs_status status = enter(semaphore, error);
  if (status != CS_OK) return status;
  status = device->tables->semaphore.semaphore_signal(semaphore->handle, value, error);
  return cs_device_result(device, status, error, "a semaphore is not signalled");
}

cs_status cs_semaphore_fail(cs_semaphore *semaphore, const cs_error *reason, cs_error *error) {
  cs_device *device = semaphore->device;
  cs_status status = enter(semaphore, error);
  if (status != CS_OK) return status;
  cs_error stored = CS_ERROR_INIT;
  if (!reason || reason->code == CS_OK) {
    cs_error_set(&stored, CS_FAILED, "failed without a reason");
  } else {
    stored = *reason;
    stored.struct_size = sizeof stored;
    if (stored.code == CS_TIMEOUT) stored.code = CS_FAILED; /* a wait says that for "not yet" */
  }
  status = device->tables->semaphore.semaphore_fail(semaphore->handle, &stored, error);
  return cs_device_result(device, status, error, "a semaphore is not failed");
}

cs_status cs_semaphore_bridge(cs_semaphore *from, uint64_t from_value, cs_semaphore *to,
                              uint64_t to_value, uint64_t deadline_us, cs_error *error) {
  cs_status status = cs_handle_check(from->record, error);
  if (status == CS_OK) status = cs_handle_check(to->record, error);
  if (status != CS_OK) return status;
  if (from->record) cs_record_forwards(from->record, from_value, to->record, to_value);
  return cs_bridge_forward(from->device->runtime->bridge, from, from_value, to, to_value,
                           deadline_us, error);
}
