"""Log-probability and entropy of given tokens, without the [B, T, V] logits."""

import jax

from r1jax.kernels.token_logprob import reference, xla

IMPLEMENTATIONS = {"reference": reference.token_logprob, "xla": xla.token_logprob}


def token_logprob(
    x_XD: jax.Array, w_VD: jax.Array, targets_X: jax.Array, *, temperature=1.0, implementation: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """(log π(target), entropy), each [X] float32 in nats, of softmax(x·wᵀ / temperature).

    Products take x's type, sums and softmax are float32. ``temperature``, a float or scalar array > 0, gets no gradient;
    the sampler divides by the same one. Targets lie in [0, V).

    ``implementation``: "xla" (blocks of the vocabulary, the default) or "reference". Raises ValueError for another.
    """
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"token_logprob has no implementation {name!r}; choose from {sorted(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name](x_XD, w_VD, targets_X, temperature=temperature)


__all__ = ["token_logprob"]
