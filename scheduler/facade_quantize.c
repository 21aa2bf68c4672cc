/* Rewriting a model's weights, as libconsort offers it. */
#include <unistd.h>

#include "core/error.h"
#include "models/quantize.h"
#include "scheduler/facade.h"
#include "scheduler/structs.h"

static int forward(void *user, const cs_quantized_tensor *tensor) {
  const consort_quantize_options *options = user;
  const consort_quantized_tensor told = {.struct_size = sizeof told,
                                         .name = tensor->name,
                                         .from = tensor->from,
                                         .to = tensor->to,
                                         .n_elements = tensor->n_elements,
                                         .bytes = tensor->bytes,
                                         .nmse = tensor->nmse,
                                         .rmse = tensor->rmse,
                                         .done_bytes = tensor->done_bytes,
                                         .total_bytes = tensor->total_bytes};
  return options->progress ? options->progress(options->progress_user, &told) : 0;
}

static void forward_notice(void *user, const char *line) {
  const consort_quantize_options *options = user;
  if (options->notice) options->notice(options->progress_user, line);
}

cs_status consort_quantize(const char *from, const char *to,
                           const consort_quantize_options *options, cs_error *error) {
  consort_quantize_options own;
  const cs_status status = cs_struct_read(&own, sizeof own, options, "quantize options", error);
  if (status != CS_OK) return status;
  if (!own.type) return cs_error_set(error, CS_INVALID_ARGUMENT, "quantize options: no type");
  const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
  const cs_quantize_options inner = {.type = own.type,
                                     .n_threads = own.n_threads ? own.n_threads
                                                  : n_cores > 0 ? (uint32_t)n_cores
                                                                : 1,
                                     .progress = forward,
                                     .notice = forward_notice,
                                     .user = &own};
  return cs_quantize(from, to, &inner, error);
}
