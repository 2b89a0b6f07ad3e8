"""TRL's GRPOTrainer with transformers' ``generate`` on the CPU, for ``r1jax.bench grpo_step``.

    python experiments/peers/trl_grpo.py --gguf SmolLM2.gguf --dtype float32 --questions 8 --samples 8 --prompt-tokens 64
        --new-tokens 64 --kl-coef 0.001 --rows-per-microbatch 16

Request: {}, for one step; reply: its seconds, {"generate", "logprobs", "update", "step"}; "update" is what is left of the
step. One update follows each phase, so TRL computes no old log-probs: "logprobs" is the reference's pass.

loss_type "grpo", no gradient checkpointing, the whole vocabulary, fused AdamW, learning rate 1e-6. With bfloat16 weights
and optimizer are bfloat16: for speed alone, such an update is lost in rounding.
"""

import argparse
import functools
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import datasets
import torch
import transformers
import trl
from turns import Turns


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    for name in ("questions", "samples", "prompt-tokens", "new-tokens", "rows-per-microbatch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--kl-coef", type=float, required=True)
    options = parser.parse_args()
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(options, Path(folder))
    trainer.add_callback(StepTimer(trainer, turns))
    trainer.train()


def make_trainer(options: argparse.Namespace, folder: Path) -> trl.GRPOTrainer:
    """A trainer of these sizes. ``folder`` gets the weights as TRL reads them, and is not needed afterwards."""
    gguf = {"pretrained_model_name_or_path": options.gguf.parent, "gguf_file": options.gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**gguf)
    dense = transformers.GgufConfig(dequantize=True)
    transformers.AutoModelForCausalLM.from_pretrained(**gguf, quantization_config=dense).save_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": options.dtype, "attn_implementation": "sdpa"},
        per_device_train_batch_size=options.rows_per_microbatch,
        gradient_accumulation_steps=options.questions * options.samples // options.rows_per_microbatch,
        num_generations=options.samples,
        max_completion_length=options.new_tokens,
        generation_kwargs={"min_new_tokens": options.new_tokens},
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=options.kl_coef,
        loss_type="grpo",
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        learning_rate=1e-6,
        max_steps=1_000_000,  # until no more requests come
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return trl.GRPOTrainer(
        model=str(folder),
        args=config,
        reward_funcs=reward,
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": make_prompts(tokenizer, 64, options.prompt_tokens)}),
    )


def reward(completion_ids: list[list[int]], **_) -> list[float]:
    """Something that differs in a group, so that there is a gradient."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def make_prompts(tokenizer, count: int, length: int) -> list[str]:
    """Texts of ``length`` tokens each."""
    text = "time year people way day man thing woman life child world school state family"
    words = [f" {word}" for word in text.split()]
    draw = random.Random(0)
    prompts = ["".join(draw.choices(words, k=length)) for _ in range(count)]
    assert all(len(ids) == length for ids in tokenizer(prompts)["input_ids"])
    return prompts


class StepTimer(transformers.TrainerCallback):
    """Waits for a request before a step and replies with the step's seconds."""

    def __init__(self, trainer: trl.GRPOTrainer, turns: Turns):
        self._turns, self._seconds = turns, Counter()
        for name, part in (("_generate", "generate"), ("_get_per_token_logps_and_entropies", "logprobs")):
            setattr(trainer, name, self._timed(getattr(trainer, name), part))

    def _timed(self, function, part: str):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            if not torch.is_grad_enabled() or part == "generate":  # with gradients it is the update's forward pass
                self._seconds[part] += time.perf_counter() - begin
            return result

        return timed

    def on_step_begin(self, args, state, control, **_):
        """Waits; ends the process where no request comes."""
        if self._turns.receive() is None:
            os._exit(0)
        self._seconds, self._begin = Counter(), time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        """Replies."""
        step = time.perf_counter() - self._begin
        spent = {name: self._seconds[name] for name in ("generate", "logprobs")}
        self._turns.reply(spent | {"update": step - sum(spent.values()), "step": step})


if __name__ == "__main__":
    main()
