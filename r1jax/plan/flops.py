"""FLOPs of the model by count: a multiply and an add are two, and nothing but matmuls counts.

*Model* FLOPs are what the result needs: attention's causal half, a token's own experts, three times the forward pass in
training, and no recomputation. That is also MaxText's count of DeepSeek-V3 (2.81e11 a token at 8,192 tokens a
sequence), so figures of the two compare. *Hardware* FLOPs are all that our programs execute: see ``hardware_train``.
"""

from typing import NamedTuple

from r1jax.models.config import ModelConfig


class Forward(NamedTuple):
    """FLOPs of one forward pass by part."""

    projections: float  # of attention, but MLA's keys and values
    keys: float  # MLA's keys and values from the latent
    scores: float  # scores and their products with values
    ffn: float  # dense layers', the shared experts, routers
    experts: float
    head: float

    @property
    def total(self) -> float:
        return sum(self)


def forward_flops(
    config: ModelConfig, *, tokens: float, pairs: float, head_tokens: float, is_absorbed: bool = False
) -> Forward:
    """One pass over ``tokens``, of which queries see keys in ``pairs``, and ``head_tokens`` get logits.

    ``is_absorbed``: MLA's decode form, which compares with the latent itself (spec A.3.2).
    """
    c, layers = config, config.num_layers
    if c.attention == "mla":
        qk, latent = c.nope_head_dim + c.rope_head_dim, c.kv_lora_rank
        query = c.q_lora_rank * (c.model_dim + c.num_heads * qk) if c.q_lora_rank else c.model_dim * c.num_heads * qk
        projections = query + c.model_dim * (latent + c.rope_head_dim) + c.num_heads * c.value_head_dim * c.model_dim
        keys = latent * c.num_heads * (c.nope_head_dim + c.value_head_dim)
        per_pair = c.num_heads * ((2 * latent + c.rope_head_dim) if is_absorbed else (qk + c.value_head_dim))
    else:
        projections = 2 * c.model_dim * (c.num_heads + c.num_kv_heads) * c.head_dim
        keys, per_pair = 0, 2 * c.num_heads * c.head_dim
    moe = c.num_moe_layers
    shared = 3 * c.num_shared_experts * c.model_dim * c.expert_ffn_dim + c.model_dim * c.num_experts
    ffn = (layers - moe) * 3 * c.model_dim * c.ffn_dim + moe * shared
    return Forward(
        projections=2.0 * tokens * layers * projections,
        keys=2.0 * tokens * layers * keys,
        scores=2.0 * pairs * layers * per_pair,
        ffn=2.0 * tokens * ffn,
        experts=2.0 * tokens * moe * c.num_experts_per_token * 3 * c.model_dim * c.expert_ffn_dim,
        head=2.0 * head_tokens * c.vocab_size * c.model_dim,
    )


def slowest_part(*, length: int, num_parts: int, segment_length: float) -> float:
    """Scores of the device that has most of them, over the mean, where a row is cut into ``num_parts``.

    A device has the first half of its part and the second half of the mirrored one: for one segment a row that is
    balanced. Of shorter segments the half that ends one sees up to twice the mean; the other is taken to be of the
    mean.
    """
    if num_parts == 1 or segment_length >= length:
        return 1.0
    return (3 - min(1.0, length / num_parts / 2 / segment_length)) / 2


def hardware_train(forward: Forward, *, remat: str, num_sequence_parts: int = 1, slowest: float = 1.0) -> float:
    """Executed FLOPs of forward and backward passes, of the device with most to do times the number of devices.

    Of a matmul the backward pass is two; of flash attention's two it is seven halves of what the forward pass was (each
    of its two kernels makes the scores again); of the head three, which makes the logits again. ``remat`` "dots"
    computes the experts' kernels once more, "full" the layers but for attention itself, "everything" that too. Parts of
    a sequence on several devices each make all keys and values of MLA, forward, again and backward. slowest: see
    ``slowest_part``.
    """
    keys = forward.keys * (num_sequence_parts - 1)
    scores = forward.scores * slowest
    matmuls = forward.projections + forward.keys + keys + forward.ffn + forward.experts
    again = {"none": 0.0, "dots": forward.experts, "full": matmuls, "everything": matmuls + scores}[remat]
    return 3 * matmuls + (1 + 3.5) * scores + 4 * forward.head + again
