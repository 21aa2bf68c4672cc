/* Lists the devices, asks the planner, places the two stages by hand, streams the tokens, and tells
 * what the transfer between the stages cost.
 *
 *     ./placement model.gguf "Once upon a time" opencl:0 cpu:0 */
#include <stdio.h>

#include <consort/consort.h>

static void list_devices(consort_runtime *runtime) {
  consort_plugin_info *plugins;
  size_t n_plugins;
  if (consort_runtime_plugins(runtime, &plugins, &n_plugins, NULL) != CS_OK) return;
  for (size_t i = 0; i < n_plugins; i++) {
    if (plugins[i].failure) fprintf(stderr, "%s: %s\n", plugins[i].name, plugins[i].failure);
    for (uint32_t j = 0; j < plugins[i].n_devices; j++)
      fprintf(stderr, "%s: %s\n", plugins[i].devices[j].name, plugins[i].devices[j].description);
  }
  consort_free(plugins);
}

static void show_plan(consort_runtime *runtime, const consort_model *model) {
  const consort_plan_options options = {
      .struct_size = sizeof options, .n_prompt_tokens = 16, .n_output_tokens = 64};
  consort_plan *plan;
  if (consort_plan_create(runtime, model, &options, &plan, NULL) != CS_OK) return;
  fprintf(stderr, "the planner would choose: %s\n", consort_plan_reason(plan));
  consort_plan_destroy(plan);
}

/* Tokens come as whole characters; a non-zero return would end the generation. */
static int print_token(void *user, int32_t token, const char *text, size_t text_bytes) {
  (void)user;
  (void)token;
  fwrite(text, 1, text_bytes, stdout);
  return fflush(stdout);
}

static cs_status generate(consort_session *session, const char *prompt, cs_error *error) {
  const consort_generate_options options = {
      .struct_size = sizeof options, .n_tokens = 64, .on_token = print_token};
  consort_generate_result result = {.struct_size = sizeof result};
  const cs_status status = consort_generate(session, prompt, &options, &result, error);
  if (status == CS_OK) {
    printf("\n");
    fprintf(stderr, "prefill on %s, decode on %s: first token after %.1f ms, then %.2f ms each\n",
            consort_session_prefill(session), consort_session_decode(session), result.ttft_ms,
            result.tpot_ms);
    fprintf(stderr, "KV moved: %llu bytes in %llu pieces, %s; %.2f ms of it exposed\n",
            (unsigned long long)result.kv_bytes, (unsigned long long)result.kv_pieces,
            result.kv_verified ? "verified" : "nothing to verify", result.kv_exposed_ms);
  }
  consort_free(result.tokens);
  consort_free(result.text);
  return status;
}

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "usage: placement MODEL PROMPT PREFILL DECODE\n"), 2;
  const consort_session_options options = {
      .struct_size = sizeof options, .n_context = 512, .prefill = argv[3], .decode = argv[4]};
  cs_error error = CS_ERROR_INIT;
  consort_runtime *runtime = NULL;
  consort_model *model = NULL;
  consort_session *session = NULL;
  cs_status status = consort_runtime_create(NULL, &runtime, &error);
  if (status == CS_OK) status = consort_model_open(runtime, argv[1], &model, &error);
  if (status == CS_OK) {
    list_devices(runtime);
    show_plan(runtime, model);
    status = consort_session_create(runtime, model, &options, &session, &error);
  }
  if (status == CS_OK) status = generate(session, argv[2], &error);
  if (status != CS_OK) fprintf(stderr, "placement: %s\n", error.message);

  consort_session_destroy(session);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return status != CS_OK;
}
