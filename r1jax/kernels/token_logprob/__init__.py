"""Log-probability and entropy of given tokens, without the [B, T, V] logits."""

import jax

from r1jax.kernels.dispatch import choose_implementation
from r1jax.kernels.token_logprob import pallas_tpu, reference, xla

IMPLEMENTATIONS = {
    "reference": reference.token_logprob,
    "xla": xla.token_logprob,
    "pallas_tpu": pallas_tpu.token_logprob,
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

    Products take x's type, sums and softmax are float32. ``temperature``, a float or scalar array > 0, gets no
    gradient; the sampler divides by the same one. Targets lie in [0, V).

    ``implementation`` and ``interpret``: see ``choose_implementation``. There are "reference", "xla" (blocks of the
    vocabulary; "auto" off TPUs) and "pallas_tpu". Raises ValueError as it does, and for shapes and types that the
    kernel does not take.
    """
    function, interpreted = choose_implementation(
        "token_logprob", implementation, IMPLEMENTATIONS, default="xla", interpret=interpret
    )
    return function(x_XD, w_VD, targets_X, temperature=temperature, **interpreted)


__all__ = ["token_logprob"]
