"""llama.cpp as a process that is asked for timings, so that it stays loaded while another program is measured in between.

    python3 tools/llama_peer.py FILE --threads 2 --context 1024

prints "ready NAME" and then answers each line "pp N" (a prompt of N tokens) or "tg N" (N tokens one after another, from an empty
context) with the seconds it took, or with "failed WHY" and status 1. It runs in a Python that has llama-cpp-python; status 3 says
that this one has not. tools/compare_llama.py starts it.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

NO_PEER = 3
STEP_TOKENS = 512  # llama.cpp's own default of tokens a prefill step
VOCABULARY = 1000  # ids below this are in every model


class Peer:
    def __init__(self, llama_cpp: Any, path: str, n_threads: int, n_context: int) -> None:
        self.lib = llama_cpp
        self.lib.llama_backend_init()
        model_options = self.lib.llama_model_default_params()
        model_options.n_gpu_layers = 0
        self.model = self.lib.llama_model_load_from_file(path.encode(), model_options)
        if not self.model:
            raise RuntimeError(f"{path}: llama.cpp does not open it")
        options = self.lib.llama_context_default_params()
        options.n_ctx = n_context
        options.n_batch = options.n_ubatch = STEP_TOKENS
        options.n_threads = options.n_threads_batch = n_threads
        self.context = self.lib.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError(f"{path}: llama.cpp makes no context of {n_context} tokens")

    def decode(self, ids: list[int]) -> None:
        tokens = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))) != 0:
            raise RuntimeError("llama_decode failed")

    def seconds(self, test: str, n: int) -> float:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        ids = [(i * 7919 + 13) % VOCABULARY for i in range(n)]
        step = STEP_TOKENS if test == "pp" else 1
        begin = time.perf_counter()
        for first in range(0, n, step):
            self.decode(ids[first:first + step])
        self.lib.llama_synchronize(self.context)
        return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    options = parser.parse_args()
    try:
        import llama_cpp
    except ImportError:
        return NO_PEER
    try:
        peer = Peer(llama_cpp, options.file, options.threads, options.context)
        print("ready llama.cpp of llama-cpp-python", llama_cpp.__version__, flush=True)
        for line in sys.stdin:
            test, n = line.split()
            print(peer.seconds(test, int(n)), flush=True)
    except RuntimeError as error:
        print("failed", error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
