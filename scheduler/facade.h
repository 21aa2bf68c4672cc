/* What the opaque handles of consort.h hold; for the files of this folder only. */
#ifndef SCHEDULER_FACADE_H
#define SCHEDULER_FACADE_H

#include "consort/consort.h"
#include "core/runtime.h"
#include "models/gguf.h"
#include "models/model.h"
#include "models/tokenizer.h"

struct consort_runtime {
  cs_runtime *core; /* one reference */
};

/* Either a whole model or a vocabulary alone. */
struct consort_model {
  cs_model *model;               /* NULL for a vocabulary alone; else one reference */
  cs_model *vocabulary;          /* the other way round */
  const cs_tokenizer *tokenizer; /* NULL where the file has none; borrowed from one of the two */
  char tokenizer_name[32];       /* "llama"; empty where there is none */
  char **tensor_names;           /* of the file's tensors, one allocation; NULL without a file */
};

#endif
