"""Log-probability and entropy of given tokens, without the [B, T, V] logits.

JAX has no kernel to compare with; tokamax's linear_softmax_cross_entropy_loss (0.0.12) has the sum of the log-probabilities, the same
(a test), but neither entropy, temperature nor the log-probability of each token, which GRPO needs. Its blocks are cut along
the rows' width too, so each product reads both of its blocks: at V3's shape ("v3") 22.3 GB forward at its default blocks, which a
v5p's compiler refuses for want of VMEM, 29.7 GB at 1024 × 512 × 1024, which it takes; 14.9 GB here. Value and gradient, compiled
for a v5p: temporaries and results are 5.7 GB here (weights' gradient in float32, then rounded) and 5.8 GB there. Modelled and compiled, not
timed on a TPU.
"""

import jax

from r1jax.kernels.implementation import choose
from r1jax.kernels.token_logprob import reference, sharded, xla

IMPLEMENTATIONS = {
    "reference": reference.token_logprob,
    "xla": xla.token_logprob,
    "pallas_tpu": sharded.token_logprob,
}


def token_logprob(
    x_XD: jax.Array,
    w_VD: jax.Array,
    targets_X: jax.Array,
    *,
    temperature=1.0,
    implementation: str = "auto",
    interpret=False,
) -> tuple[jax.Array, jax.Array]:
    """(log π(target), entropy), each [X] float32 in nats, of softmax(x·wᵀ / temperature).

    Products take x's type, sums and softmax are float32. ``temperature``, a float or scalar array > 0, gets no gradient;
    the sampler divides by the same one. Targets lie in [0, V).

    ``implementation``: "reference", "xla" (blocks of the vocabulary), "pallas_tpu" (on a mesh: ``sharded``), or "auto" for
    the kernel on TPUs and "xla" elsewhere. ``interpret`` runs the kernel anywhere, slowly: True or ``pltpu.InterpretParams``. Raises
    ValueError for an unknown implementation, one that cannot run here, and shapes and types that the kernel does not take.
    """
    function, options = choose("token_logprob", implementation, IMPLEMENTATIONS, default="xla", interpret=interpret)
    return function(x_XD, w_VD, targets_X, temperature=temperature, **options)


__all__ = ["token_logprob"]
