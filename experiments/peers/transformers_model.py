"""The peer of ``r1jax.bench model``: forward and backward of transformers' Llama on torch, and torch's matmul peak.

    python experiments/peers/transformers_model.py --shape '{"vocab_size": ...}' --batch 8 --length 512 --dtype float32

Random weights, mean next-token loss as transformers computes it, eager mode, sdpa attention, no checkpointing. Prints one JSON line
{"seconds": [...], "peak_gflops": ...}. Needs torch and transformers (Python 3.11).
"""

import argparse
import json
import time

import torch
import transformers


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=json.loads, required=True, help="fields of r1jax's ModelConfig, GQA and dense")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    model = make_model(options.shape).to(dtype)
    tokens = torch.randint(0, options.shape["vocab_size"], (options.batch, options.length))

    def step() -> float:
        begin = time.perf_counter()
        model.zero_grad()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        return time.perf_counter() - begin

    step()
    seconds = [step() for _ in range(options.repeats)]
    print(json.dumps({"seconds": seconds, "peak_gflops": matmul_peak(dtype) / 1e9}))


def make_model(shape: dict) -> transformers.LlamaForCausalLM:
    """transformers' Llama of a dense ModelConfig's shape, with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["model_dim"],
        intermediate_size=shape["ffn_dim"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
        tie_word_embeddings=shape["tie_embeddings"],
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config).train()


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of a square matmul, the best of five."""
    a = torch.ones(size, size, dtype=dtype)
    a @ a
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
