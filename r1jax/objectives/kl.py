"""Estimates of KL(policy || reference) from the log-probs of sampled tokens (R1 Eq. 2; DSM Eq. 4; Schulman 2020).

With d = log ref - log policy at a token drawn from the policy. As a *value* k1 and k3 are unbiased and k2 is not; as
a term of the loss, where it is the *gradient* that acts, they differ in another way (tests/objectives/test_kl.py
has the golden numbers):

| kind  | formula                        | expected gradient on-policy                                |
|-------|--------------------------------|------------------------------------------------------------|
| k1    | -d                             | 0: does nothing                                            |
| k2    | d^2 / 2                        | that of KL(policy || reference)                            |
| k3    | e^d - d - 1                    | that of KL(reference || policy), the forward KL            |
| k3_is | policy / old x (e^d - d - 1)   | that of KL(policy || reference), also off-policy from old  |

R1 uses k3. Deviation: d and log(policy / old) are clamped to +-20 nats, beyond which the gradient is 0.
"""

import jax
import jax.numpy as jnp

from r1jax.objectives.sums import check_shapes

_MAX_LOG_RATIO = 20.0  # nats


def clamp_log_ratio(log_ratio: jax.Array) -> jax.Array:
    """Keeps exp finite: a log-ratio in nats, clamped to +-20."""
    return jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def kl_estimate(logp: jax.Array, ref_logp: jax.Array, *, kind: str, old_logp: jax.Array | None = None) -> jax.Array:
    """The estimate at each token, in nats: arrays of one shape -> float32 of that shape, see the module's table.

    logp: log-probs of the sampled tokens under the policy that is differentiated; ref_logp, old_logp: under the
    reference, and the policy that sampled them ("k3_is" alone needs it); constants to the gradient.

    Raises ValueError for an unknown kind, shapes that differ or a missing `old_logp`.
    """
    check_shapes(jnp.ndim(logp), logp=logp, ref_logp=ref_logp, old_logp=old_logp)
    logp = jnp.asarray(logp, jnp.float32)
    delta = clamp_log_ratio(jax.lax.stop_gradient(ref_logp) - logp)
    if kind == "k1":
        return -delta
    if kind == "k2":
        return 0.5 * jnp.square(delta)
    k3 = jnp.expm1(delta) - delta
    if kind == "k3":
        return k3
    if kind != "k3_is":
        raise ValueError(f"KL estimator must be one of k1, k2, k3, k3_is, got {kind!r}")
    if old_logp is None:
        raise ValueError("KL estimator 'k3_is' needs old_logp")
    return jnp.exp(clamp_log_ratio(logp - jax.lax.stop_gradient(old_logp))) * k3
