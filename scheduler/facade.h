/* What the opaque handles of consort.h hold; for the files of this folder only. */
#ifndef SCHEDULER_FACADE_H
#define SCHEDULER_FACADE_H

#include "consort/consort.h"
#include "core/device.h"
#include "core/runtime.h"
#include "models/gguf.h"
#include "models/model.h"
#include "models/tokenizer.h"
#include "scheduler/offer.h"

struct consort_runtime {
  cs_runtime *core; /* one reference */
};

/* Either a whole model or a vocabulary alone. */
struct consort_model {
  cs_model *model;               /* NULL for a vocabulary alone; else one reference */
  cs_model *vocabulary;          /* the other way round */
  const cs_tokenizer *tokenizer; /* NULL where the file has none; borrowed from one of the two */
  char source[4096];             /* its path, or "shape:NAME:FORMAT:SEED" */
  char tokenizer_name[32];       /* "llama"; empty where there is none */
  char **tensor_names;           /* of the file's tensors, one allocation; NULL without a file */
};

/* What is known of one plugin before it is shown. */
typedef struct cs_device_use {
  uint32_t number; /* within the plugin */
  uint32_t n_sessions;
  uint64_t n_kv_blocks_used;
} cs_device_use;

typedef struct cs_plugin_record {
  cs_plugin_status status;
  cs_device_properties *devices; /* status.n_devices of them */
  cs_device_use *uses;           /* likewise; NULL: numbers from 0, and no use is known */
} cs_plugin_record;

/* *plugins is one allocation with copies of everything: n_plugins of them. offers: one for each
 * device in order; NULL: all are offered. */
cs_status cs_plugin_records_lay_out(const cs_plugin_record *records, uint32_t n_plugins,
                                    const cs_offer_device *offers, consort_plugin_info **plugins,
                                    cs_error *error);

#endif
