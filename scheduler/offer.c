/* An ordinal names a place in the node's gres.conf, an index a place in what a driver shows. They
 * agree where one plugin has the node's chips and nothing hides any; everything else here is about
 * where they do not, and then fails closed: what cannot be told is not offered. */
#include "scheduler/offer.h"

#include <stdio.h>
#include <string.h>

#include "core/device_spec.h"
#include "core/error.h"

#define MAP_VARIABLE "CONSORT_SLURM_DEVICES"
#define LIST_BYTES   48

typedef struct chooser {
  const cs_allocation *allocation;
  const cs_environment *environment;
  cs_offer_device *devices;
  size_t n_devices;
  char given[LIST_BYTES + 24]; /* "SLURM_STEP_GPUS=0,2" */
} chooser;

#define SAY(device, what, ...)                                                                     \
  do {                                                                                             \
    (device)->verdict = (what);                                                                    \
    snprintf((device)->reason, sizeof(device)->reason, __VA_ARGS__);                               \
  } while (0)

static const char *value_of(const chooser *c, const cs_offer_device *device) {
  if (!device->visible_devices || !device->visible_devices[0]) return NULL;
  return c->environment->get(c->environment->user, device->visible_devices);
}

static bool same_plugin(const cs_offer_device *a, const cs_offer_device *b) {
  return strcmp(a->plugin, b->plugin) == 0;
}

/* Accelerators of the plugin of `device`, before it and in all. */
static uint32_t rank_of(const chooser *c, const cs_offer_device *device, uint32_t *n_in_plugin) {
  uint32_t rank = 0;
  *n_in_plugin = 0;
  for (size_t i = 0; i < c->n_devices; i++) {
    const cs_offer_device *const other = &c->devices[i];
    if (other->on_processors || !same_plugin(other, device)) continue;
    if (other == device) rank = *n_in_plugin;
    ++*n_in_plugin;
  }
  return rank;
}

static bool has_ordinal(const cs_allocation *allocation, uint32_t ordinal) {
  for (uint32_t i = 0; i < allocation->n_ordinals; i++)
    if (allocation->ordinals[i] == ordinal) return true;
  return false;
}

static uint32_t largest_ordinal(const cs_allocation *allocation) {
  uint32_t largest = 0;
  for (uint32_t i = 0; i < allocation->n_ordinals; i++)
    if (allocation->ordinals[i] > largest) largest = allocation->ordinals[i];
  return largest;
}

static void choose_processors(const cs_allocation *allocation, cs_offer_device *device) {
  if (allocation->n_processors > 0)
    SAY(device, CS_OFFER_YES, "the job has processors: SLURM_CPUS_ON_NODE=%u",
        allocation->n_processors);
  else
    SAY(device, CS_OFFER_YES, "a job always has processors");
}

/* ---- by the operator's list ---- */

static cs_offer_device *find_named(const chooser *c, const char *name) {
  cs_device_spec spec;
  if (cs_device_spec_parse(name, &spec, NULL)) return NULL;
  for (size_t i = 0; i < c->n_devices; i++) {
    cs_offer_device *const device = &c->devices[i];
    if (strcmp(device->plugin, spec.name) != 0) continue;
    if (spec.uuid ? device->uuid && strcmp(device->uuid, spec.uuid) == 0
                  : device->index == spec.index)
      return device;
  }
  return NULL;
}

static cs_status choose_mapped(const chooser *c, cs_error *error) {
  const cs_allocation *const allocation = c->allocation;
  for (size_t i = 0; i < c->n_devices; i++)
    if (!c->devices[i].on_processors)
      SAY(&c->devices[i], CS_OFFER_NO, "%s is another device of " MAP_VARIABLE, c->given);
  for (uint32_t i = 0; i < allocation->n_ordinals; i++) {
    const uint32_t ordinal = allocation->ordinals[i];
    if (ordinal >= allocation->n_map)
      return cs_error_set(error, CS_INVALID_ARGUMENT,
                          MAP_VARIABLE " names %u devices, %s asks for number %u",
                          allocation->n_map, c->given, ordinal);
    const char *const name = allocation->map[ordinal];
    cs_offer_device *const device = find_named(c, name);
    if (!device)
      return cs_error_set(error, CS_INVALID_ARGUMENT,
                          MAP_VARIABLE ": %s (number %u) is not there or hidden", name, ordinal);
    cs_device_spec spec;
    if (!cs_device_spec_parse(name, &spec, NULL) && !spec.uuid && value_of(c, device))
      return cs_error_set(error, CS_INVALID_ARGUMENT,
                          MAP_VARIABLE ": %s has no certain number while %s is set: unset that, or "
                                       "name it by UUID",
                          name, device->visible_devices);
    SAY(device, CS_OFFER_YES, "%s: number %u of " MAP_VARIABLE, c->given, ordinal);
  }
  return CS_OK;
}

/* ---- by numbers ---- */

/* A list that the driver obeys says which devices these are, if it is the batch system's own. */
static cs_status choose_masked(const chooser *c, cs_offer_device *device, const char *value,
                               cs_error *error) {
  const uint32_t n_given = c->allocation->n_given;
  uint32_t n_visible;
  const cs_status status =
      cs_allocation_count_visible(device->visible_devices, value, &n_visible, error);
  if (status) return status;
  if (n_visible > n_given)
    return cs_error_set(error, CS_INVALID_ARGUMENT,
                        "%s leaves %u devices, the job was given %u (%s): unset it",
                        device->visible_devices, n_visible, n_given, c->given);
  if (n_visible == 0)
    SAY(device, CS_OFFER_NO, "%s hides every device", device->visible_devices);
  else
    SAY(device, CS_OFFER_YES, "%s leaves it, numbered anew from 0", device->visible_devices);
  return CS_OK;
}

static void choose_numbered(const chooser *c, cs_offer_device *device) {
  const cs_allocation *const allocation = c->allocation;
  uint32_t n_in_plugin;
  const uint32_t rank = rank_of(c, device, &n_in_plugin);
  if (allocation->n_ordinals == 0)
    SAY(device, CS_OFFER_UNCLEAR,
        "%s, but no variable says which: ask for them with --gres, not --gpus-per-task", c->given);
  else if (largest_ordinal(allocation) < n_in_plugin && has_ordinal(allocation, rank))
    SAY(device, CS_OFFER_YES, "%s", c->given);
  else if (largest_ordinal(allocation) < n_in_plugin)
    SAY(device, CS_OFFER_NO, "%s does not name it", c->given);
  else if (n_in_plugin <= allocation->n_ordinals)
    SAY(device, CS_OFFER_YES, "%s, and the driver shows no others", c->given);
  else
    SAY(device, CS_OFFER_UNCLEAR,
        "%s, but the driver shows %u devices: list the node's in " MAP_VARIABLE, c->given,
        n_in_plugin);
}

/* The first variable of a driver that is set and belongs to a device here. */
static const char *governing_variable(const chooser *c) {
  for (size_t i = 0; i < c->n_devices; i++)
    if (!c->devices[i].on_processors && value_of(c, &c->devices[i]))
      return c->devices[i].visible_devices;
  return NULL;
}

/* Devices of different plugins cannot all be what the same ordinals mean. */
static void withdraw_ambiguous(const chooser *c) {
  const cs_offer_device *first = NULL, *second = NULL;
  for (size_t i = 0; i < c->n_devices; i++) {
    const cs_offer_device *const device = &c->devices[i];
    if (device->on_processors || device->verdict != CS_OFFER_YES) continue;
    if (!first)
      first = device;
    else if (!second && !same_plugin(first, device))
      second = device;
  }
  if (!second) return;
  for (size_t i = 0; i < c->n_devices; i++) {
    cs_offer_device *const device = &c->devices[i];
    if (!device->on_processors && device->verdict == CS_OFFER_YES)
      SAY(device, CS_OFFER_UNCLEAR,
          "%s may mean %.32s:%u or %.32s:%u: list the node's devices in " MAP_VARIABLE, c->given,
          first->plugin, first->index, second->plugin, second->index);
  }
}

static cs_status choose_by_numbers(const chooser *c, cs_error *error) {
  const char *const governing = governing_variable(c);
  for (size_t i = 0; i < c->n_devices; i++) {
    cs_offer_device *const device = &c->devices[i];
    if (device->on_processors) continue;
    const char *const value = value_of(c, device);
    const cs_status status = value ? choose_masked(c, device, value, error) : CS_OK;
    if (status) return status;
    if (value) continue;
    if (governing)
      SAY(device, CS_OFFER_UNCLEAR, "%s says which devices are the job's, and not of this plugin",
          governing);
    else
      choose_numbered(c, device);
  }
  withdraw_ambiguous(c);
  return CS_OK;
}

/* ---- all ---- */

static void print_given(const cs_allocation *allocation, char *out, size_t bytes) {
  char list[LIST_BYTES];
  cs_allocation_print(allocation, list, sizeof list);
  if (allocation->ordinals_from)
    snprintf(out, bytes, "%s=%s", allocation->ordinals_from, list);
  else
    snprintf(out, bytes, "SLURM_GPUS_ON_NODE=%u", allocation->n_given);
}

static void append_shards(const chooser *c) {
  for (size_t i = 0; i < c->n_devices && c->allocation->n_shards > 0; i++) {
    cs_offer_device *const device = &c->devices[i];
    if (device->on_processors || device->verdict != CS_OFFER_YES) continue;
    const size_t used = strlen(device->reason);
    snprintf(device->reason + used, sizeof device->reason - used,
             ", shared: SLURM_SHARDS_ON_NODE=%u", c->allocation->n_shards);
  }
}

cs_status cs_offer_choose(const cs_allocation *allocation, const cs_environment *environment,
                          cs_offer_device *devices, size_t n_devices, cs_error *error) {
  chooser c = {.allocation = allocation,
               .environment = environment,
               .devices = devices,
               .n_devices = n_devices};
  print_given(allocation, c.given, sizeof c.given);
  for (size_t i = 0; i < n_devices; i++) {
    if (!allocation->in_job)
      SAY(&devices[i], CS_OFFER_YES, "no Slurm job: every device");
    else if (devices[i].on_processors)
      choose_processors(allocation, &devices[i]);
    else
      SAY(&devices[i], CS_OFFER_NO, "the job was given no such device: no %s",
          allocation->in_step ? "SLURM_STEP_GPUS" : "SLURM_JOB_GPUS");
  }
  if (!allocation->in_job || allocation->n_given == 0) return CS_OK;
  const bool mapped = allocation->n_map > 0 && allocation->n_ordinals > 0;
  const cs_status status = mapped ? choose_mapped(&c, error) : choose_by_numbers(&c, error);
  if (!status) append_shards(&c);
  return status;
}
