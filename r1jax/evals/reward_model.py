"""How good a reward model is on held-out examples: accuracy, margin, calibration, and how much length sways it.

Pure numpy. Rewards are logits: sigmoid(r_chosen - r_rejected) is the probability that a pair is ordered so, sigmoid(r)
that a response is safe. Names that TRL's RewardTrainer has are its own: accuracy, margin, min_reward, mean_reward,
max_reward.
"""

import numpy as np

NUM_BINS = 10


def pair_metrics(rewards_B2: np.ndarray) -> dict[str, float]:
    """TRL's metrics of pairs, (chosen, rejected) each. An equal pair is no success."""
    margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
    return {"accuracy": float(np.mean(margins_B > 0)), "margin": float(np.mean(margins_B)), **_range(rewards_B2)}


def point_metrics(rewards_B: np.ndarray, labels_B: np.ndarray) -> dict[str, float]:
    """Accuracy at probability 1/2, in all and by class, and the margin: mean reward of the safe less that of the
    unsafe.

    What needs a class of which there is no example is left out.
    """
    labels_B = labels_B.astype(bool)
    is_right_B = (rewards_B > 0) == labels_B
    metrics = {"accuracy": float(np.mean(is_right_B)), **_range(rewards_B)}
    for name, of_class in (("safe", labels_B), ("unsafe", ~labels_B)):
        if of_class.any():
            metrics[f"accuracy_{name}"] = float(np.mean(is_right_B[of_class]))
    if labels_B.any() and not labels_B.all():
        metrics["margin"] = float(np.mean(rewards_B[labels_B]) - np.mean(rewards_B[~labels_B]))
    return metrics


def pair_calibration(rewards_B2: np.ndarray) -> float:
    """Expected calibration error of pairs: the more likely order's probability against how often it is right."""
    margins_B = np.asarray(rewards_B2[:, 0] - rewards_B2[:, 1], np.float64)
    # a tie is right in half of the cases
    return calibration_error(_sigmoid(np.abs(margins_B)), np.where(margins_B == 0, 0.5, margins_B > 0))


def point_calibration(rewards_B: np.ndarray, labels_B: np.ndarray) -> float:
    """Expected calibration error of the probability that a response is safe."""
    return calibration_error(_sigmoid(rewards_B), labels_B)


def calibration_error(probabilities_B: np.ndarray, outcomes_B: np.ndarray) -> float:
    """Sum over bins of equal width of (share of examples) x |mean probability - mean outcome| (Guo et al. 2017, Eq. 5).

    Both are in [0, 1]; a probability of 1 belongs to the last bin.
    """
    probabilities_B = np.asarray(probabilities_B, np.float64)
    gaps_B = probabilities_B - np.asarray(outcomes_B, np.float64)
    bins_B = np.minimum((probabilities_B * NUM_BINS).astype(int), NUM_BINS - 1)
    return float(np.abs(np.bincount(bins_B, weights=gaps_B)).sum() / len(gaps_B))


def length_bias(rewards_BK: np.ndarray, lengths_BK: np.ndarray) -> dict[str, float]:
    """How much length sways the rewards of responses, K to a prompt: the chosen one first if there are two.

    "length/correlation" is Pearson's, of reward and length, over all responses (0 where either never varies). Of pairs
    of different lengths also "length/prefers_longer", how often the longer response gets the higher reward;
    "length/longer_is_chosen", how often it should; "length/bias", the first less the second.
    """
    rewards, lengths = (np.asarray(array, np.float64) for array in (rewards_BK, lengths_BK))
    varies = rewards.std() > 0 and lengths.std() > 0
    metrics = {"length/correlation": float(np.corrcoef(rewards.ravel(), lengths.ravel())[0, 1]) if varies else 0.0}
    if rewards.ndim == 2 and rewards.shape[1] == 2:
        longer = np.sign(lengths[:, 0] - lengths[:, 1])
        differs = longer != 0
        if differs.any():
            preferred = np.sign(rewards[:, 0] - rewards[:, 1])
            metrics["length/prefers_longer"] = float(np.mean(preferred[differs] == longer[differs]))
            metrics["length/longer_is_chosen"] = float(np.mean(longer[differs] > 0))
            metrics["length/bias"] = metrics["length/prefers_longer"] - metrics["length/longer_is_chosen"]
    return metrics


def _range(rewards: np.ndarray) -> dict[str, float]:
    """TRL's minimum, mean and maximum of all rewards."""
    return {f"{name}_reward": float(getattr(rewards, name)()) for name in ("min", "mean", "max")}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits, np.float64))
