"""An 8 B Llama in bf16 by transformers on PyTorch, for scripts/gpu-check: one JSON object a line, a line a stage.

Random weights made on the GPU. Prefill of 2,048 tokens with scaled dot product attention; decode with a static cache, compiled
by generate() as the library does by itself for that cache.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM


def make_model(small: bool) -> LlamaForCausalLM:
    sizes = ({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
             if small else {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                            "num_key_value_heads": 8})
    config = LlamaConfig(vocab_size=128256, max_position_embeddings=8192, rope_theta=500000.0, attn_implementation="sdpa",
                         torch_dtype="bfloat16", **sizes)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    for name, module in model.named_modules():
        if name.endswith("rotary_emb"):  # its frequencies are a buffer that to_empty left undefined
            frequencies = 1.0 / config.rope_theta ** (torch.arange(0, module.inv_freq.numel() * 2, 2, device="cuda").float()
                                                      / (module.inv_freq.numel() * 2))
            module.inv_freq.copy_(frequencies)
    return model.eval()


def seconds(work: object, repetitions: int) -> float:
    """The shortest of so many runs."""
    best = float("inf")
    for _ in range(repetitions):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


def tell(stage: str, tokens_per_s: float, settings: str) -> None:
    print(json.dumps({"stage": stage, "tokens_per_s": tokens_per_s, "settings": settings}), flush=True)


def main() -> None:
    small = "--small" in sys.argv[1:]
    n_prompt, n_output = (64, 8) if small else (2048, 64)
    model = make_model(small)
    prompt = torch.randint(0, 1000, (1, n_prompt), device="cuda")
    with torch.inference_mode():
        def prefill() -> None:
            model(prompt, use_cache=True, logits_to_keep=1)

        prefill()
        tell("prefill", n_prompt / seconds(prefill, 3), "eager, sdpa")

        def decode(config: GenerationConfig) -> None:
            model.generate(prompt[:, :1], generation_config=config)

        for settings, cache in (("eager, dynamic cache", None), ("static cache, compiled", "static")):
            config = GenerationConfig(max_new_tokens=n_output + 1, min_new_tokens=n_output + 1, do_sample=False,
                                      cache_implementation=cache, pad_token_id=0)
            decode(config)
            tell("decode", (n_output + 1) / seconds(lambda c=config: decode(c), 2), settings)


main()
