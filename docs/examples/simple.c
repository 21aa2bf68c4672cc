/* Goes on from a prompt, on the devices that the planner chooses.
 *
 *     cc simple.c $(pkg-config --cflags --libs consort) -o simple
 *     ./simple model.gguf "Once upon a time" */
#include <stdio.h>

#include <consort/consort.h>

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: simple MODEL PROMPT\n"), 2;
  cs_error error = CS_ERROR_INIT;
  consort_runtime *runtime = NULL;
  consort_model *model = NULL;
  consort_session *session = NULL;
  consort_generate_result result = {.struct_size = sizeof result};
  const int failed = consort_runtime_create(NULL, &runtime, &error) ||
                     consort_model_open(runtime, argv[1], &model, &error) ||
                     consort_session_create(runtime, model, NULL, &session, &error) ||
                     consort_generate(session, argv[2], NULL, &result, &error);
  if (failed)
    fprintf(stderr, "simple: %s\n", error.message);
  else
    printf("%s\n", result.text);

  consort_free(result.tokens);
  consort_free(result.text);
  consort_session_destroy(session);
  consort_model_close(model);
  consort_runtime_destroy(runtime);
  return failed != 0;
}
