"""Takes the golden logits of tests/data/golden from the `transformers` library; not run by the tests.

    python3 golden.py OUT         needs torch and transformers (4.56.2 with torch 2.3.1 made those checked in)

For each case of hf_models.py: float32, eager attention, the 512 tokens of hf_models.tokens, the rows ROWS of the logits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import hf_models
import numpy as np

# Before and past the windows, the trained context and the chunks of a prefill.
ROWS = [0, 1, 15, 16, 39, 40, 47, 48, 63, 127, 128, 129, 200, 255, 256, 300, 383, 400, 447, 480, 500, 510, 511]


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for of in hf_models.CASES:
        with tempfile.TemporaryDirectory() as folder:
            hf_models.write_folder(of, Path(folder))
            model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(torch.tensor([hf_models.tokens()])).logits[0].numpy()
        assert logits.shape == (hf_models.N_TOKENS, hf_models.N_VOCAB) and np.isfinite(logits).all()
        np.save(out / f"{of.name}.npy", logits[ROWS])
        print(f"{of.name:16} RMS {np.sqrt(np.mean(logits**2)):.3f}")


if __name__ == "__main__":
    main()
