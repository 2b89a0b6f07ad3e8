"""From logits to tokens: temperature, filters, penalties and masks; and the random numbers that decide.

Each request has a key of its own, and token n of it is drawn with ``uniforms(key, n)``. So its tokens depend on its
seed alone, not on the slot that it is in, nor on the requests next to it.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

MAX_STOP_IDS = 8
_BLOCK = 256  # vocabulary entries a block of the two-level inverse CDF


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of a request are drawn: one after the other, each of these changes the distribution further.

    Raises ValueError for a value that is out of its range.
    """

    repetition_penalty: float = 1.0
    """Logits of tokens that the prompt or the answer has are divided by this where positive, else multiplied."""
    presence_penalty: float = 0.0
    """Taken off the logits of the tokens that the answer has."""
    frequency_penalty: float = 0.0
    """Taken off them once for each time that the answer has them."""
    temperature: float = 1.0
    """Divides the logits; 0: the likeliest token."""
    top_k: int = 0
    """Only the so many likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Only the fewest likeliest tokens, of these, whose mass reaches this."""
    min_p: float = 0.0
    """Only tokens at least so likely as this share of the likeliest one's probability."""

    def __post_init__(self):
        least = {"temperature": 0.0, "top_k": 0, "min_p": 0.0, "presence_penalty": -2.0, "frequency_penalty": -2.0}
        most = {"top_p": 1.0, "min_p": 1.0, "presence_penalty": 2.0, "frequency_penalty": 2.0}
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            low, high = least.get(name, -np.inf), most.get(name, np.inf)
            if not low <= value <= high or not np.isfinite(value):
                words = f"at least {low:g}" if high == np.inf else f"in [{low:g}, {high:g}]"
                raise ValueError(f"{name} must be {words}, got {value}")
        for name in ("top_p", "repetition_penalty"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def features(self) -> frozenset[str]:
        """What a program needs beyond plain sampling at a temperature: "greedy", "filter", "penalty"."""
        needed = {
            "greedy": self.temperature == 0,
            "filter": self.top_k > 0 or self.top_p < 1 or self.min_p > 0,
            "penalty": self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0,
        }
        return frozenset(name for name, is_needed in needed.items() if is_needed)


SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(Sampling))


def sample_tokens(
    logits_BTV: jax.Array, uniform_BT: jax.Array, settings: Mapping[str, jax.Array], *, features: frozenset[str]
) -> dict[str, jax.Array]:
    """A token for each position, and how likely it was: arrays [B, T].

    settings: fields of ``Sampling`` as arrays [B]; with the feature "mask" also "allowed_BV", tokens that may come, and
    with "penalty" "in_text_BV" (prompt or answer has it) and "num_in_answer_BV". Only what ``features`` name is read,
    and "temperature".

    "token" int32; "logp" float32, its log-probability under temperature alone, over the whole vocabulary (temperature 1
    where it is 0); with features also "sampled_logp", that under the distribution that it was drawn from. "is_valid":
    the distribution has no NaN and is not empty. A token of probability zero is never drawn.
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    temperature_B11 = settings["temperature"][:, None, None]
    divisor_B11 = jnp.where(temperature_B11 > 0, temperature_B11, 1.0) if "greedy" in features else temperature_B11
    logp_BTV = jax.nn.log_softmax(logits_BTV / divisor_B11)
    drawn_BTV = logp_BTV
    if features & {"penalty", "mask"}:
        drawn_BTV = jax.nn.log_softmax(_changed(logits_BTV, settings, features) / divisor_B11)
    probs_BTV = jnp.exp(drawn_BTV)
    if "filter" in features:
        probs_BTV = jnp.where(probs_BTV >= _threshold(probs_BTV, settings), probs_BTV, 0.0)
    token_BT = _draw(probs_BTV, uniform_BT)
    if "greedy" in features:
        token_BT = jnp.where(temperature_B11[..., 0] > 0, token_BT, jnp.argmax(drawn_BTV, axis=-1).astype(jnp.int32))

    def of_token(array_BTV):
        return jnp.take_along_axis(array_BTV, token_BT[..., None], axis=-1)[..., 0]

    logp_BT = of_token(logp_BTV)
    drawn_BT = of_token(drawn_BTV) if features else logp_BT
    sampled = {"token": token_BT, "logp": logp_BT, "is_valid": jnp.isfinite(drawn_BT)}
    if features:
        sampled_BT = drawn_BT - jnp.log(jnp.sum(probs_BTV, axis=-1))
        is_greedy_BT = jnp.broadcast_to(temperature_B11[..., 0] == 0, sampled_BT.shape)
        sampled["sampled_logp"] = jnp.where(is_greedy_BT, 0.0, sampled_BT)
    return sampled


def _changed(logits_BTV, settings, features):
    """Logits after penalties (as in the CTRL paper and in OpenAI's API) and the mask."""
    if "penalty" in features:
        repetition_B11 = settings["repetition_penalty"][:, None, None]
        scaled_BTV = jnp.where(logits_BTV > 0, logits_BTV / repetition_B11, logits_BTV * repetition_B11)
        logits_BTV = jnp.where(settings["in_text_BV"][:, None], scaled_BTV, logits_BTV)
        count_B1V = settings["num_in_answer_BV"][:, None].astype(jnp.float32)
        logits_BTV -= settings["presence_penalty"][:, None, None] * (count_B1V > 0)
        logits_BTV -= settings["frequency_penalty"][:, None, None] * count_B1V
    if "mask" in features:
        logits_BTV = jnp.where(settings["allowed_BV"][:, None], logits_BTV, -jnp.inf)
    return logits_BTV


def _threshold(probs_BTV, settings):
    """[B, T, 1]: the least probability that top-k, top-p and min-p keep."""
    top_k_B11, top_p_B11 = settings["top_k"][:, None, None], settings["top_p"][:, None, None]
    wanted_B11 = jnp.where(top_k_B11 > 0, top_k_B11, probs_BTV.shape[-1]).astype(jnp.float32)
    of_k_BT1 = _largest_that_reaches(probs_BTV, jnp.ones_like(probs_BTV), wanted_B11)
    kept_BTV = jnp.where(probs_BTV >= of_k_BT1, probs_BTV, 0.0)
    of_p_BT1 = _largest_that_reaches(probs_BTV, kept_BTV, top_p_B11 * kept_BTV.sum(-1, keepdims=True))
    of_p_BT1 = jnp.where(top_p_B11 < 1, of_p_BT1, 0.0)
    of_min_BT1 = settings["min_p"][:, None, None] * probs_BTV.max(-1, keepdims=True)
    return jnp.maximum(jnp.maximum(of_k_BT1, of_p_BT1), of_min_BT1)


def _largest_that_reaches(probs_BTV, mass_BTV, wanted_BT1):
    """[B, T, 1]: the largest t such that the mass of the entries with probability at least t is at least wanted.

    By bisection on the bits of float32, which order as the numbers do: 30 passes over the vocabulary and no sort.
    """
    shape = (*probs_BTV.shape[:-1], 1)
    bounds = jnp.zeros(shape, jnp.int32), jnp.full(shape, jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32) + 1)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        value = jax.lax.bitcast_convert_type(middle, jnp.float32)
        reaches = jnp.sum(jnp.where(probs_BTV >= value, mass_BTV, 0.0), axis=-1, keepdims=True) >= wanted_BT1
        return jnp.where(reaches, middle, low), jnp.where(reaches, high, middle)

    low, _ = jax.lax.fori_loop(0, 30, halve, bounds)
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def _draw(probs_BTV: jax.Array, uniform_BT: jax.Array) -> jax.Array:
    """The inverse CDF in two levels: sums of blocks, then within one block.

    Two passes over the probabilities and one random number a token; ``jax.random.categorical`` draws V of them.
    """
    vocab_size = probs_BTV.shape[-1]
    num_blocks = -(-vocab_size // _BLOCK)
    padding = [(0, 0)] * (probs_BTV.ndim - 1) + [(0, num_blocks * _BLOCK - vocab_size)]
    probs_BTkV = jnp.pad(probs_BTV, padding).reshape(*uniform_BT.shape, num_blocks, _BLOCK)
    block_BT, rest_BT = _inverse_cdf(probs_BTkV.sum(-1), uniform_BT)
    within_BTV = jnp.take_along_axis(probs_BTkV, block_BT[..., None, None], axis=-2)[..., 0, :]
    offset_BT, _ = _inverse_cdf(within_BTV, rest_BT)
    return (block_BT * _BLOCK + offset_BT).astype(jnp.int32)


def _inverse_cdf(mass_XM: jax.Array, uniform_X: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index, uniform number within it) of the entry where uniform · total falls, never one of zero mass."""
    cumulative_XM = jnp.cumsum(mass_XM, axis=-1)
    target_X = uniform_X * cumulative_XM[..., -1]
    is_past_XM = (cumulative_XM > target_X[..., None]) & (mass_XM > 0)
    last_X = mass_XM.shape[-1] - 1 - jnp.argmax(mass_XM[..., ::-1] > 0, axis=-1)
    index_X = jnp.where(is_past_XM.any(-1), jnp.argmax(is_past_XM, axis=-1), last_X)
    chosen_X = jnp.take_along_axis(mass_XM, index_X[..., None], axis=-1)[..., 0]
    before_X = jnp.take_along_axis(cumulative_XM, index_X[..., None], axis=-1)[..., 0] - chosen_X
    return index_X, jnp.clip((target_X - before_X) / jnp.maximum(chosen_X, 1e-38), 0.0, 1.0 - 1e-7)


def key_of(seed: int) -> np.ndarray:
    """[2] uint32, the key of a request: of a seed of any size. Raises ValueError for a negative one."""
    if seed < 0:
        raise ValueError(f"a seed must be at least 0, got {seed}")
    return np.random.SeedSequence(seed).generate_state(2, np.uint32)


def keys_of_rows(key: jax.Array, num_rows: int) -> np.ndarray:
    """[N, 2] uint32: a key for each row of a call, which depends on (key, row) alone."""
    return np.asarray(_bits_of_rows(key, np.arange(num_rows)))


@jax.jit
def _bits_of_rows(key, row_N):
    return jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (2,), jnp.uint32))(row_N)


def uniforms(key_B2: jax.Array, number_BT: jax.Array) -> jax.Array:
    """[B, T] uniform numbers in [0, 1) that depend on (key, number of the token) alone."""

    def of_row(key_2, number_T):
        key = jax.random.wrap_key_data(key_2, impl="threefry2x32")
        return jax.vmap(lambda number: jax.random.uniform(jax.random.fold_in(key, number)))(number_T)

    return jax.vmap(of_row)(key_B2, number_BT)
