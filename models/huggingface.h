/* A folder as the transformers library saves a model: config.json and safetensors files. */
#ifndef MODELS_HUGGINGFACE_H
#define MODELS_HUGGINGFACE_H

#include "models/gguf.h"

/* Opens `folder` as if it were a GGUF file: the configuration under GGUF's keys, the tensors under
 * its names, borrowed from the mapped files. Two things differ from a converted file: the rows of
 * query and key keep the library's order (cs_gguf_has_split_heads), and the experts of a layer are
 * one tensor in parts. Errors name the file, the field and the reason. */
cs_status cs_huggingface_open(const char *folder, cs_gguf **out, cs_error *error);

/* The configuration alone: "general.architecture" (or the folder's own name for a model that is not
 * served), and what else is known. A folder without config.json opens empty. */
cs_status cs_huggingface_open_vocabulary(const char *folder, cs_gguf **out, cs_error *error);

#endif
