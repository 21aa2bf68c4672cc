/* What CONSORT_FAKE_CUDA asks for: a list of key=number, separated by commas. */
#ifndef CUDA_DRIVER_SETTING_H
#define CUDA_DRIVER_SETTING_H

#include <cstdlib>
#include <cstring>

static inline long setting(const char *key, long otherwise) {
  const char *at = getenv("CONSORT_FAKE_CUDA");
  const size_t length = strlen(key);
  for (; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : nullptr)
    if (strncmp(at, key, length) == 0 && at[length] == '=') return atol(at + length + 1);
  return otherwise;
}

#endif
