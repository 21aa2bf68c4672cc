"""Trains the demo model: a byte-pair vocabulary and a small Llama on one text file, on one CPU thread.

    python3 train.py --text FILE --out FOLDER

The first nine tenths of the text train, the last tenth is held out and only measured. The learning rate rises, stays, and
falls linearly to zero over the last `--decay-steps`. Before the fall, words are split with BPE dropout; during it they
are split as inference splits them, and the windows are `--context` tokens instead of half of that. Matrices
are trained with Muon (orthogonalised momentum, Jordan et al. 2024), embeddings and norms with AdamW.

`FOLDER/last.pt` and `FOLDER/best.pt` (lowest held-out loss) are replaced at each evaluation; `export.py` turns either into GGUF.
A file named `FOLDER/decay` makes the fall begin at once: such a run equals one started with `--steps` as printed then.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import bpe


@dataclass(frozen=True)
class Config:
    """Sizes of a Llama with tied embeddings."""

    vocab: int = 1024
    context: int = 512
    embd: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 448
    rms_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.embd // self.heads


class Dropout(nn.Module):
    """Dropout with masks drawn as random bytes, which costs a third of drawing floats; the rate is rounded to 1/256."""

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.threshold, self.rng = round(rate * 256), rng

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.threshold == 0:
            return x
        noise = torch.frombuffer(bytearray(self.rng.bytes(x.numel())), dtype=torch.uint8).view(x.shape)
        return x * (noise >= self.threshold).to(x.dtype) * (256 / (256 - self.threshold))


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        return x * (torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight)


class Linear(nn.Linear):
    """A product without bias; while training its operands are rounded to BF16, which AVX-512 multiplies twice as fast."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) -> (..., n_out)"""
        return multiply(x, self.weight.T) if self.training else x @ self.weight.T


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of float32 tensors with operands and result rounded to BF16."""
    return torch.matmul(a.bfloat16(), b.bfloat16()).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (2i, 2i+1) of x (batch, n, heads, head_dim) by angles (n, 1, head_dim / 2)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Layer(nn.Module):
    """One transformer layer; the names are those of GGUF's tensors."""

    def __init__(self, config: Config, dropout: Dropout) -> None:
        super().__init__()
        self.config, self.dropout = config, dropout
        width, kv_width = config.embd, config.kv_heads * config.head_dim
        self.attn_norm = RmsNorm(width, config.rms_eps)
        self.attn_q = Linear(width, width)
        self.attn_k = Linear(width, kv_width)
        self.attn_v = Linear(width, kv_width)
        self.attn_output = Linear(width, width)
        self.ffn_norm = RmsNorm(width, config.rms_eps)
        self.ffn_gate = Linear(width, config.ffn)
        self.ffn_up = Linear(width, config.ffn)
        self.ffn_down = Linear(config.ffn, width)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """(batch, n, embd) -> (batch, n, embd); mask (n, n) is -inf above the diagonal."""
        batch, n, width = x.shape
        heads, kv_heads, head_dim = self.config.heads, self.config.kv_heads, self.config.head_dim
        group = heads // kv_heads
        q = rotate(self.attn_q(x).view(batch, n, heads, head_dim), cos, sin) * head_dim ** -0.5
        k = rotate(self.attn_k(x).view(batch, n, kv_heads, head_dim), cos, sin)
        v = self.attn_v(x).view(batch, n, kv_heads, head_dim)
        # The query heads of a group are stacked as rows, so that keys and values need no copies.
        q = q.view(batch, n, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, group * n, head_dim)
        product = multiply if self.training else torch.matmul
        scores = product(q, k.permute(0, 2, 3, 1)).view(batch, kv_heads, group, n, n).add_(mask)
        out = product(torch.softmax(scores, -1).view(batch, kv_heads, group * n, n), v.transpose(1, 2))
        out = out.view(batch, heads, n, head_dim).transpose(1, 2).reshape(batch, n, width)
        return self.attn_output(out)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attend(self.attn_norm(x), cos, sin, mask))
        normed = self.ffn_norm(x)
        hidden = functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed)
        return x + self.dropout(self.ffn_down(self.dropout(hidden)))


class Llama(nn.Module):
    def __init__(self, config: Config, dropout: Dropout) -> None:
        super().__init__()
        self.config, self.dropout = config, dropout
        self.token_embd = nn.Embedding(config.vocab, config.embd)
        self.blk = nn.ModuleList(Layer(config, dropout) for _ in range(config.layers))
        self.output_norm = RmsNorm(config.embd, config.rms_eps)
        nn.init.normal_(self.token_embd.weight, std=config.embd ** -0.5)
        for name, weight in self.blk.named_parameters():
            if weight.dim() == 2:
                is_residual_output = "attn_output" in name or "ffn_down" in name
                depth_scale = (2 * config.layers) ** -0.5 if is_residual_output else 1.0
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * depth_scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, n) -> logits (batch, n, vocab)."""
        n, head_dim = tokens.shape[1], self.config.head_dim
        rates = self.config.rope_base ** (-torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.outer(torch.arange(n).float(), rates)[:, None, :]
        mask = torch.full((n, n), -math.inf).triu(1)
        x = self.dropout(self.token_embd(tokens))
        for layer in self.blk:
            x = layer(x, angles.cos(), angles.sin(), mask)
        product = multiply if self.training else torch.matmul
        return product(self.output_norm(x), self.token_embd.weight.T)


def orthogonalise(g: Tensor) -> Tensor:
    """Moves the singular values of g (rows, columns) close to 1: five steps of a quintic Newton-Schulz iteration."""
    x = (g / (g.norm() + 1e-7)).bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if is_tall else x).float()


class Muon:
    """Nesterov momentum, orthogonalised, with decoupled weight decay."""

    def __init__(self, weights: list[nn.Parameter], weight_decay: float) -> None:
        self.weights, self.weight_decay, self.momentum = weights, weight_decay, 0.95
        self.velocity = [torch.zeros_like(w) for w in weights]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for weight, velocity in zip(self.weights, self.velocity):
            velocity.lerp_(weight.grad, 1 - self.momentum)
            update = orthogonalise(weight.grad.lerp(velocity, self.momentum))
            scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.mul_(1 - lr * self.weight_decay).add_(update, alpha=-lr * scale)


class Corpus:
    """Windows over a text: each begins with BOS, half of them at the start of a speech, with the space that a prompt gets."""

    def __init__(self, text: str, vocabulary: bpe.Vocabulary, rng: np.random.Generator) -> None:
        self.vocabulary, self.rng = vocabulary, rng
        chunks = bpe.split_chunks(bpe.escape(text))
        index = {chunk: i for i, chunk in enumerate(dict.fromkeys(chunks))}
        self.distinct = list(index)
        self.sequence = np.array([index[chunk] for chunk in chunks])
        self.speeches = np.array([i for i in range(1, len(chunks)) if chunks[i - 1].endswith("\n\n")])
        self.variants: list[list[np.ndarray]] = []

    def prepare(self, bpe_dropout: float, n_variants: int = 16) -> None:
        """Draws the ways in which each distinct chunk may be split."""
        n = n_variants if bpe_dropout else 1
        self.variants = [[np.array(self.vocabulary.encode_chunk(chunk, bpe_dropout, self.rng)) for _ in range(n)]
                         for chunk in self.distinct]

    def draw(self) -> None:
        """Splits the whole text anew."""
        choice = self.rng.integers(len(self.variants[0]), size=len(self.sequence))
        parts = [self.variants[chunk][way] for chunk, way in zip(self.sequence, choice)]
        self.starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        self.tokens = np.concatenate(parts)

    def window(self, n_tokens: int) -> np.ndarray:
        """int64 (n_tokens + 1): BOS and what follows."""
        if self.rng.random() < 0.5:
            chunk = int(self.rng.choice(self.speeches))
            head = self.vocabulary.encode_chunk(bpe.SPACE + self.distinct[self.sequence[chunk]])
            at = self.starts[chunk + 1]
        else:
            head, at = [], self.starts[self.rng.integers(len(self.sequence))]
        at = min(at, len(self.tokens) - n_tokens)
        whole = np.concatenate(([bpe.BOS], head, self.tokens[at:at + n_tokens])).astype(np.int64)
        return whole[:n_tokens + 1]

    def batch(self, n_windows: int, n_tokens: int) -> Tensor:
        return torch.from_numpy(np.stack([self.window(n_tokens) for _ in range(n_windows)]))


@torch.no_grad()
def held_out_bits_per_byte(model: Llama, tokens: list[int], n_bytes: int) -> float:
    """Windows of `context` tokens that do not overlap, each begun with BOS; every held-out token is scored once."""
    model.eval()
    step, nats = model.config.context - 1, 0.0
    for at in range(0, len(tokens), step):
        window = torch.tensor([[bpe.BOS] + tokens[at:at + step]])
        nats += functional.cross_entropy(model(window[:, :-1])[0], window[0, 1:], reduction="sum").item()
    model.train()
    return nats / math.log(2) / n_bytes


class Optimizer:
    """Muon for the matrices of the layers; AdamW for embeddings and norms, their gradient clipped to norm 1."""

    def __init__(self, model: Llama, args: argparse.Namespace) -> None:
        self.args, self.embeddings = args, model.token_embd.weight
        self.norms = [w for w in model.parameters() if w.dim() == 1]
        self.muon = Muon([w for w in model.blk.parameters() if w.dim() == 2], args.weight_decay)
        self.adam = torch.optim.AdamW([{"params": [self.embeddings], "weight_decay": args.weight_decay},
                                       {"params": self.norms, "weight_decay": 0.0}], betas=(0.9, 0.98))

    def step(self, share: float) -> None:
        """Applies the gradients at `share` of the full learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.args.adam_lr * share
        nn.utils.clip_grad_norm_([self.embeddings, *self.norms], 1.0)
        self.adam.step()
        self.muon.step(self.args.muon_lr * share)


class Progress:
    """Measures the held-out text, prints a line, and keeps the last and the best checkpoint."""

    def __init__(self, args: argparse.Namespace, pieces: list[str], held_out_text: str) -> None:
        self.args, self.pieces, self.best = args, pieces, math.inf
        self.held_out, self.n_bytes = bpe.Vocabulary(pieces).encode(held_out_text), len(held_out_text.encode())

    def report(self, model: Llama, step: int, mean_loss: float) -> None:
        bits = held_out_bits_per_byte(model, self.held_out, self.n_bytes)
        cpu_minutes = time.process_time() / 60
        print(f"step {step} train {mean_loss:.4f} nats/token held-out {bits:.4f} bits/byte cpu {cpu_minutes:.1f} min", flush=True)
        record = {**vars(self.args), "step": step, "cpu_minutes": round(cpu_minutes, 2), "held_out_bits_per_byte": bits}
        self._save("last.pt", model, record)
        if bits < self.best:
            self.best = bits
            self._save("best.pt", model, record)

    def _save(self, name: str, model: Llama, record: dict[str, object]) -> None:
        path = self.args.out / name
        temporary = path.with_suffix(".tmp")
        torch.save({"config": asdict(model.config), "weights": model.state_dict(), "pieces": self.pieces,
                    "record": {key: str(value) for key, value in record.items()}}, temporary)
        temporary.replace(path)


def learning_rate_share(step: int, args: argparse.Namespace) -> float:
    return min(1.0, (step + 1) / args.warmup_steps, (args.steps - step) / args.decay_steps)


def accumulate_gradients(model: Llama, corpus: Corpus, n_tokens: int, args: argparse.Namespace) -> float:
    """One batch of windows of `n_tokens`; returns its mean loss in nats a token."""
    model.zero_grad(set_to_none=True)
    n_micro, loss_sum = args.batch_tokens // args.micro_tokens, 0.0
    for _ in range(n_micro):
        window = corpus.batch(args.micro_tokens // n_tokens, n_tokens)
        logits = model(window[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()) / n_micro
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    text = args.text.read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    pieces = bpe.learn_pieces(bpe.escape(text[:cut]), args.vocab - bpe.FIRST_PIECE)
    vocabulary = bpe.Vocabulary(pieces)
    corpus = Corpus(text[:cut], vocabulary, rng)
    model = Llama(Config(vocab=len(vocabulary), context=args.context, embd=args.embd, layers=args.layers, heads=args.heads,
                         kv_heads=args.kv_heads, ffn=args.ffn), Dropout(args.dropout, rng))
    optimizer, progress = Optimizer(model, args), Progress(args, pieces, text[cut:])
    print(json.dumps({"parameters": sum(w.numel() for w in model.parameters()), **vars(args)}, default=str), flush=True)
    step, mean_loss, is_decaying = 0, 0.0, None
    while step < args.steps:
        if (args.out / "decay").exists() and step < args.steps - args.decay_steps:
            args.steps = step + args.decay_steps
            print(f"decay begins: same as --steps {args.steps}", flush=True)
        was_decaying, is_decaying = is_decaying, step >= args.steps - args.decay_steps
        if is_decaying != was_decaying:
            corpus.prepare(0.0 if is_decaying else args.bpe_dropout)
        if is_decaying != was_decaying or (not is_decaying and step % 100 == 0):
            corpus.draw()
        loss = accumulate_gradients(model, corpus, args.context if is_decaying else args.context // 2, args)
        optimizer.step(learning_rate_share(step, args))
        mean_loss = 0.98 * mean_loss + 0.02 * loss if step else loss
        step += 1
        if step % args.eval_every == 0 or step == args.steps:
            progress.report(model, step, mean_loss)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text; its last tenth is held out")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--embd", type=int, default=192)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--ffn", type=int, default=448)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--bpe-dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--warmup-steps", type=int, default=50)
    parser.add_argument("--decay-steps", type=int, default=1200)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--micro-tokens", type=int, default=2048)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--eval-every", type=int, default=100)
    args = parser.parse_args()
    if not args.text.is_file():
        parser.error(f"--text {args.text}: no such file")
    if args.batch_tokens % args.micro_tokens or args.micro_tokens % args.context:
        parser.error("--batch-tokens must be a multiple of --micro-tokens, and that of --context")
    if args.embd % args.heads or args.heads % args.kv_heads:
        parser.error("--embd must be a multiple of --heads, and that of --kv-heads")
    args.out.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    sys.exit(train(parse_arguments()))
