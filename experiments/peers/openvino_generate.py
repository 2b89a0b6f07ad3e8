"""OpenVINO GenAI's continuous batching on the CPU, for ``r1jax.bench rollout``.

    python experiments/peers/openvino_generate.py --gguf SmolLM2.gguf --slots 64

Requests and replies as r1jax_generate.py has them; ``slots`` is fixed at the start. It keeps the file's 4-bit weights
and chooses its own precision to compute in and to cache: there is no --dtype. Temperature 1, the whole vocabulary, no
end token.
"""

import argparse
import time

import numpy as np
import openvino as ov
import openvino_genai as genai
from turns import serve


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--slots", type=int, default=64, help="requests at a time")
    parser.add_argument("--cache-gb", type=int, default=2)
    options = parser.parse_args()
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size = options.slots, options.cache_gb
    pipeline = genai.ContinuousBatchingPipeline(options.gguf, scheduler, "CPU")

    def settings(length: int) -> genai.GenerationConfig:
        return genai.GenerationConfig(
            do_sample=True, temperature=1.0, top_p=1.0, ignore_eos=True, max_new_tokens=length, min_new_tokens=length
        )

    def generate(request: dict) -> dict:
        tensors = [ov.Tensor(np.asarray([prompt], np.int64)) for prompt in request["prompts"]]
        begin = time.perf_counter()
        results = pipeline.generate(tensors, [settings(length) for length in request["lengths"]])
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "lengths": [len(result.m_generation_ids[0]) for result in results]}

    serve(generate)


if __name__ == "__main__":
    main()
