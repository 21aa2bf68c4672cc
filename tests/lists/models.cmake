foreach(name models_gguf_test models_model_test models_forward_test models_tokenizer_test
             models_sampler_test models_kv_pool_test)
  consort_add_unit_test(${name} consort_models)
endforeach()
