/* The library takes column-major matrices, where out is (n_out, n), the weight (n_in, n_out) to be
 * transposed, and x (n_in, n): rows of ours are columns of its. The choice of an algorithm costs
 * more than a small matmul, so it is remembered by shape. One mutex guards handle and memory; a
 * call under it only enqueues. */
#include "blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "blas_api.h"

#define N_REMEMBERED 256

typedef struct shape_key {
  uint32_t dtype, n, n_out, n_in;
  uint64_t weight_stride, x_stride, residual_stride, out_stride;
  uint32_t has_bias, has_residual;
  uint32_t align[4]; /* of weight, x, residual and out, in bytes */
} shape_key;

typedef struct remembered {
  shape_key key; /* n is 0 in an empty one */
  bool found;
  blas_algorithm algorithm;
} remembered;

struct cuda_blas {
  cs_plugin_device *device;
  pthread_mutex_t mutex;
  bool tried, ready;
  void *library, *handle;
  blas_api api;
  uint32_t next; /* of remembered, to be overwritten */
  remembered remembered[N_REMEMBERED];
};

/* Descriptors of one call. */
typedef struct descriptors {
  void *desc, *weight, *x, *residual, *out;
} descriptors;

cuda_blas *cuda_blas_create(cs_plugin_device *device) {
  const cs_host *host = device->sdk.host;
  cuda_blas *blas = host->allocate(host->context, sizeof *blas, 16);
  if (!blas) return NULL;
  memset(blas, 0, sizeof *blas);
  blas->device = device;
  if (pthread_mutex_init(&blas->mutex, NULL) == 0) return blas;
  host->deallocate(host->context, blas);
  return NULL;
}

/* The library stays loaded: it keeps threads and memory of its own. */
void cuda_blas_destroy(cuda_blas *blas) {
  if (!blas) return;
  if (blas->handle && cuda_enter(blas->device, NULL) == CS_OK) {
    blas->api.Destroy(blas->handle);
    cuda_leave(blas->device);
  }
  pthread_mutex_destroy(&blas->mutex);
  blas->device->sdk.host->deallocate(blas->device->sdk.host->context, blas);
}

/* ---- loading ---- */

static void tell(const cuda_blas *blas, const char *what, int code) {
  const cs_host *host = blas->device->sdk.host;
  char line[160];
  if (code)
    snprintf(line, sizeof line, "cuda: own matmul kernels, not cuBLASLt: %s (%d)", what, code);
  else
    snprintf(line, sizeof line, "cuda: own matmul kernels, not cuBLASLt: %s", what);
  if (host->log) host->log(host->context, CS_LOG_INFO, line);
}

static bool bind(cuda_blas *blas) {
#define BLAS_ENTRY(name, arguments)                                                                \
  if (!(*(void **)&blas->api.name = dlsym(blas->library, "cublasLt" #name))) return false;
  BLAS_CALLS(BLAS_ENTRY)
#undef BLAS_ENTRY
  return true;
}

static bool load(cuda_blas *blas) {
  static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
  for (size_t i = 0; i < sizeof names / sizeof names[0] && !blas->library; i++)
    blas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!blas->library) {
    tell(blas, "libcublasLt.so.13 is not found", 0);
    return false;
  }
  if (!bind(blas)) {
    tell(blas, "a call is missing in the library", 0);
    return false;
  }
  if (cuda_enter(blas->device, NULL) != CS_OK) return false;
  const int code = blas->api.Create(&blas->handle);
  cuda_leave(blas->device);
  if (code == BLAS_SUCCESS) return true;
  blas->handle = NULL;
  tell(blas, "cublasLtCreate failed", code);
  return false;
}

bool cuda_blas_ready(cuda_blas *blas) {
  if (!blas) return false;
  pthread_mutex_lock(&blas->mutex);
  if (!blas->tried) {
    blas->tried = true;
    blas->ready = load(blas);
  }
  const bool ready = blas->ready;
  pthread_mutex_unlock(&blas->mutex);
  return ready;
}

/* ---- calls, under the mutex ---- */

static void destroy_descriptors(const blas_api *api, const descriptors *d) {
  if (d->desc) api->MatmulDescDestroy(d->desc);
  void *const layouts[] = {d->weight, d->x, d->residual, d->out};
  for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
    if (layouts[i]) api->MatrixLayoutDestroy(layouts[i]);
}

static int set_epilogue(const blas_api *api, void *desc, const cuda_blas_call *call) {
  const int transpose = BLAS_TRANSPOSE, epilogue = BLAS_EPILOGUE_BIAS;
  int code = api->MatmulDescSetAttribute(desc, BLAS_DESC_TRANSPOSE_A, &transpose, sizeof transpose);
  if (code == BLAS_SUCCESS && call->bias)
    code = api->MatmulDescSetAttribute(desc, BLAS_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (code == BLAS_SUCCESS && call->bias)
    code = api->MatmulDescSetAttribute(desc, BLAS_DESC_BIAS, &call->bias, sizeof call->bias);
  return code;
}

/* What e4m3 is multiplied with. Sums stay in full float32: fast accumulation is off unless asked.
 */
static int set_scales(const blas_api *api, void *desc, const cuda_blas_call *call) {
  if (call->dtype != CS_DTYPE_F8_E4M3) return BLAS_SUCCESS;
  const int code = api->MatmulDescSetAttribute(desc, BLAS_DESC_SCALE_A, &call->weight_scale,
                                               sizeof call->weight_scale);
  if (code != BLAS_SUCCESS) return code;
  return api->MatmulDescSetAttribute(desc, BLAS_DESC_SCALE_B, &call->x_scale, sizeof call->x_scale);
}

static int make_descriptors(const blas_api *api, const cuda_blas_call *call, descriptors *d) {
  const int type = call->dtype == CS_DTYPE_F16    ? BLAS_F16
                   : call->dtype == CS_DTYPE_BF16 ? BLAS_BF16
                                                  : BLAS_F8_E4M3;
  const uint64_t c_stride = call->residual ? call->residual_stride : call->out_stride;
  *d = (descriptors){0};
  int code = api->MatmulDescCreate(&d->desc, BLAS_COMPUTE_F32, BLAS_F32);
  if (code == BLAS_SUCCESS) code = set_epilogue(api, d->desc, call);
  if (code == BLAS_SUCCESS) code = set_scales(api, d->desc, call);
  if (code == BLAS_SUCCESS)
    code = api->MatrixLayoutCreate(&d->weight, type, call->n_in, call->n_out,
                                   (int64_t)call->weight_stride);
  if (code == BLAS_SUCCESS)
    code = api->MatrixLayoutCreate(&d->x, type, call->n_in, call->n, (int64_t)call->x_stride);
  if (code == BLAS_SUCCESS)
    code = api->MatrixLayoutCreate(&d->residual, BLAS_F32, call->n_out, call->n, (int64_t)c_stride);
  if (code == BLAS_SUCCESS)
    code =
        api->MatrixLayoutCreate(&d->out, BLAS_F32, call->n_out, call->n, (int64_t)call->out_stride);
  if (code != BLAS_SUCCESS) destroy_descriptors(api, d);
  return code;
}

/* The largest power of two up to 256 that an address is a multiple of. */
static uint32_t alignment(const void *address) {
  uint32_t bytes = 256;
  while ((uintptr_t)address % bytes != 0)
    bytes /= 2;
  return bytes;
}

static shape_key key_of(const cuda_blas_call *call) {
  const void *const c = call->residual ? call->residual : call->out;
  return (shape_key){
      .dtype = call->dtype,
      .n = call->n,
      .n_out = call->n_out,
      .n_in = call->n_in,
      .weight_stride = call->weight_stride,
      .x_stride = call->x_stride,
      .residual_stride = call->residual ? call->residual_stride : 0,
      .out_stride = call->out_stride,
      .has_bias = call->bias != NULL,
      .has_residual = call->residual != NULL,
      .align = {alignment(call->weight), alignment(call->x), alignment(c), alignment(call->out)}};
}

static int ask(cuda_blas *blas, const cuda_blas_call *call, const shape_key *key,
               blas_heuristic *out) {
  const blas_api *api = &blas->api;
  const uint64_t workspace = CUDA_BLAS_WORKSPACE_BYTES;
  descriptors d;
  void *preference = NULL;
  int n = 0, code = make_descriptors(api, call, &d);
  if (code != BLAS_SUCCESS) return code;
  code = api->MatmulPreferenceCreate(&preference);
  if (code == BLAS_SUCCESS)
    code = api->MatmulPreferenceSetAttribute(preference, BLAS_PREFER_WORKSPACE, &workspace,
                                             sizeof workspace);
  for (int i = 0; i < 4 && code == BLAS_SUCCESS; i++)
    code = api->MatmulPreferenceSetAttribute(preference, BLAS_PREFER_ALIGN_A + i, &key->align[i],
                                             sizeof key->align[i]);
  if (code == BLAS_SUCCESS)
    code = api->MatmulAlgoGetHeuristic(blas->handle, d.desc, d.weight, d.x, d.residual, d.out,
                                       preference, 1, out, &n);
  if (preference) api->MatmulPreferenceDestroy(preference);
  destroy_descriptors(api, &d);
  if (code == BLAS_SUCCESS && n > 0) code = out->state;
  return n > 0 && out->workspace_bytes <= workspace ? code : -1;
}

static const remembered *find(const cuda_blas *blas, const shape_key *key) {
  for (uint32_t i = 0; i < N_REMEMBERED; i++)
    if (memcmp(&blas->remembered[i].key, key, sizeof *key) == 0) return &blas->remembered[i];
  return NULL;
}

bool cuda_blas_choose(cuda_blas *blas, cuda_blas_call *call) {
  const shape_key key = key_of(call);
  pthread_mutex_lock(&blas->mutex);
  const remembered *known = find(blas, &key);
  if (!known && cuda_enter(blas->device, NULL) == CS_OK) {
    blas_heuristic best = {0};
    remembered *slot = &blas->remembered[blas->next++ % N_REMEMBERED];
    slot->found = ask(blas, call, &key, &best) == BLAS_SUCCESS;
    slot->algorithm = best.algorithm;
    slot->key = key;
    known = slot;
    cuda_leave(blas->device);
  }
  const bool found = known && known->found && blas->ready;
  if (found) memcpy(call->algorithm, &known->algorithm, sizeof call->algorithm);
  pthread_mutex_unlock(&blas->mutex);
  return found;
}

static int enqueue(cuda_blas *blas, const cuda_blas_call *call, CUstream stream) {
  const float one = 1, residual_factor = call->residual ? 1 : 0;
  blas_algorithm algorithm;
  descriptors d;
  int code = make_descriptors(&blas->api, call, &d);
  if (code != BLAS_SUCCESS) return code;
  memcpy(&algorithm, call->algorithm, sizeof algorithm);
  code = blas->api.Matmul(blas->handle, d.desc, &one, call->weight, d.weight, call->x, d.x,
                          &residual_factor, call->residual ? call->residual : call->out, d.residual,
                          call->out, d.out, &algorithm, call->workspace, CUDA_BLAS_WORKSPACE_BYTES,
                          stream);
  destroy_descriptors(&blas->api, &d);
  return code;
}

bool cuda_blas_run(cuda_blas *blas, const cuda_blas_call *call, CUstream stream) {
  pthread_mutex_lock(&blas->mutex);
  if (blas->ready) {
    const int code = enqueue(blas, call, stream);
    if (code != BLAS_SUCCESS) {
      blas->ready = false;
      tell(blas, "cublasLtMatmul failed", code);
    }
  }
  const bool done = blas->ready;
  pthread_mutex_unlock(&blas->mutex);
  return done;
}
