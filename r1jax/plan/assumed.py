"""What no config says, and a plan has to assume; its table names it."""

import dataclasses

from r1jax.specs.rollout import EngineSpec


@dataclasses.dataclass(frozen=True)
class Assumed:
    """One set of assumptions."""

    mean_new_tokens: int = 8192
    """Tokens of a sampled response on average; R1-Zero's grow from 500 to 14,200 (R1 Fig. 1)."""
    length_sigma: float = 1.0  # standard deviation of the logarithm of those lengths, before they are cut at the cap
    acceptance: float | None = None
    """How often a draft is the token that is sampled. None: V3's MTP is taken at 0.8 (V3 Sec. 5.4.3 has 0.85 to 0.9), n-grams
    at 0."""
    mean_prompt_tokens: int = 256
    mean_document_tokens: int = 8192  # tokens of a conversation of SFT on average
    num_documents: int = 804_745  # of the SFT set, where the data is not there (R1 Table 5)
    num_helpful: int = 66_000
    num_safety: int = 106_000  # examples of the reward models, where the data is not there (spec B.7)
    mean_reward_tokens: int = 2048  # tokens of a prompt with the answer that is judged, on average

    def tokens_per_step(self, engine: EngineSpec) -> float:
        """Of a slot: one, and the drafts that are accepted in a row."""
        rate = {"mtp": 0.8}.get(engine.drafts, 0.0) if self.acceptance is None else self.acceptance
        return sum(rate**number for number in range(engine.drafts_per_step + 1))
