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

/* Either a whole model, whose tokenizer is the model's own, or a vocabulary alone. */
struct consort_model {
  cs_model *model;               /* NULL for a vocabulary-only file; else one reference */
  const cs_tokenizer *tokenizer; /* NULL where the file has none; borrowed from one of the two */
  cs_gguf *vocabulary_file;      /* owned with the next one; NULL for a whole model */
  cs_tokenizer *vocabulary;
};

#endif
