"""transformers' ``generate`` on torch, for ``r1jax.bench rollout``.

    python experiments/peers/transformers_generate.py --gguf SmolLM2.gguf --dtype float32

Requests and replies as r1jax_generate.py has them. sdpa attention, dynamic cache, eager; temperature 1, the whole
vocabulary, no end token. Requests are sampled in batches of ``slots``, each as long as its longest.
"""

import argparse
import time
from pathlib import Path

import torch
import transformers
from turns import serve


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.gguf.parent,
        gguf_file=options.gguf.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=getattr(torch, options.dtype),
        attn_implementation="sdpa",
    ).eval()
    model.generation_config.eos_token_id = None

    def generate(request: dict) -> dict:
        prompts, lengths = request["prompts"], request["lengths"]
        slots, made = request["slots"] or len(prompts), []
        begin = time.perf_counter()
        for first in range(0, len(prompts), slots):
            tokens = torch.tensor(prompts[first : first + slots])
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max(lengths[first : first + slots]),
                pad_token_id=0,
            )
            made += [out.shape[1] - tokens.shape[1]] * len(tokens)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "lengths": [min(pair) for pair in zip(made, lengths, strict=True)]}

    serve(generate)


if __name__ == "__main__":
    main()
