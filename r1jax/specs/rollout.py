"""How is sampled, and how a policy is evaluated along the way."""

from dataclasses import dataclass
from typing import Literal

from r1jax.specs.fields import Count, Positive, Seed, TopP, option


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """The sampler (``r1jax.rollout.engine``). Tokens depend on none of this but ``dtype``."""

    prompt_bucket: Count = option(32, "Prompts are padded to a multiple of this.", unit="tokens")
    segment: Count = option(32, "Decode steps between two looks at which sequences are done.", unit="steps")
    slots: Count | None = option(None, "Sequences sampled at a time; None: all, as far as cache_gb allows.")
    cache: Literal["auto", "dense", "paged"] = option("auto", "Of keys and values; 'auto': pages on TPUs, else dense.")
    cache_gb: Positive | None = option(
        None, "Of keys and values, on each part of the batch; None: what slots need.", unit="GB"
    )
    page_size: Count = option(128, "Tokens a page, a multiple of 128.", unit="tokens")
    prefill_tokens: Count = option(16_384, "Prompt tokens prefilled at a time, padding included.", unit="tokens")
    drafts: Literal["none", "ngram", "mtp"] = option(
        "none", "Guesses of the next tokens, which change the speed alone: from n-grams of the text, or one by MTP."
    )
    num_drafts: Count = option(4, "Guesses that a decode step checks with 'ngram'.", unit="tokens")
    dtype: Literal["float32", "bfloat16"] | None = option(
        None, "Type that the sampler computes in, its weights and its cache have; None: the model's."
    )
    record_routing: bool = option(False, "Completions carry the experts that each of their tokens went to.")

    def __post_init__(self):
        if self.page_size % 128:
            raise ValueError(f"page_size={self.page_size} must be a multiple of 128, as the kernels need it")

    @property
    def drafts_per_step(self) -> int:
        """Guesses that a decode step checks."""
        return {"none": 0, "ngram": self.num_drafts, "mtp": 1}[self.drafts]

    @property
    def num_mtp_layers(self) -> int:
        """Depths of MTP that have a cache."""
        return int(self.drafts == "mtp")


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """Held-out evaluation along the way (few samples) and at both ends (many)."""

    every: Count = option(20, "Updates between evaluations along the way.", unit="updates")
    problems: Count | None = option(None, "Of an evaluation along the way; None: at most 64, what is held out.")
    samples: Count = option(4, "Of each problem, along the way.")
    final_problems: Count | None = option(None, "Of the first and the last one; None: at most 64, what is held out.")
    final_samples: Count = option(16, "Of each problem, first and last (R1 Fig. 1: cons@16).")
    problems_per_batch: Count = option(64, "Problems that are sampled at a time.")
    temperature: Positive = option(0.6, "Of the samples (R1 Sec. D.1).")
    top_p: TopP | None = option(0.95, "Of the samples (R1 Sec. D.1); None: all tokens.")
    seed: Seed = option(20_000, "Of the samples; the same in every evaluation.")

    def __post_init__(self):
        if self.problems is not None and self.final_problems is not None and self.problems > self.final_problems:
            raise ValueError(f"problems={self.problems} exceeds final_problems={self.final_problems}")
