"""What goes wrong in a run without an error, said while it runs: signs in the metrics of its latest phases.

Each sign is said once, in one line with what to look at, and again only after it was gone.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from r1jax.processes import is_first
from r1jax.specs.stages import DoctorSpec


class UnhealthyRunError(RuntimeError):
    """A sign was there for as many phases as the config allows, and it says that the run then stops."""


class Doctor:
    """Looks at the metrics of each phase.

    Args:
      spec: the bounds, and for how many phases in a row a sign must be there.
      group_size: completions of a question.
      memory: that of the doctor of the run that goes on.
    """

    def __init__(self, spec: DoctorSpec, *, group_size: int, memory: dict[str, Any] | None = None):
        self._spec, self._group_size = spec, group_size
        self.memory: dict[str, Any] = memory or {"phases": {}, "longest": 0.0}
        """Signs -> phases in a row, and the highest mean length of a phase; plain JSON, which a checkpoint keeps."""
        self.verdict = ""  # why the run is to stop, if the spec says ``stop``

    def examine(self, updates: int, row: Mapping[str, float]) -> None:
        """Looks at the metrics of a phase that ended after so many ``updates``; what is wrong is said on stderr."""
        self.memory["longest"] = max(self.memory["longest"], row["completions/mean_length"])
        signs = dict(self._signs(row))
        self.memory["phases"] = {name: self.memory["phases"].get(name, 0) + 1 for name in signs}
        for name, words in signs.items():
            phases = self.memory["phases"][name]
            text = f"update {updates}: for {phases} phases {words}"
            if self._spec.stop and phases >= self._spec.phases:
                self.verdict = self.verdict or text
            if phases == self._spec.phases and is_first():
                print(f"warning: {text}", file=sys.stderr, flush=True)

    def _signs(self, row: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """(name, what is the matter and what to look at) of each sign that a phase's metrics show."""
        spec = self._spec
        if "reward" not in row:
            yield (
                "no reward",
                "no completion had a reward; see the errors in completions/, and which tasks the rewards are for",
            )
        elif row["frac_reward_zero_std"] == 1.0:
            right, wrong = row["frac_groups_all_right"], row["frac_groups_all_wrong"]
            yield (
                "no signal",
                "the rewards were equal in all groups, so nothing is learned "
                f"({right:.0%} of the groups all right, {wrong:.0%} all wrong); look at completions/, then at the difficulty "
                "of the problems, max_new_tokens and the rewards",
            )
        if row["completions/clipped_ratio"] == 1.0:
            yield (
                "cut off",
                "all completions were cut off; raise max_new_tokens, or see whether the policy writes its stop token",
            )
        if row["completions/mean_length"] < spec.min_length_share * self.memory["longest"]:
            length = row["completions/mean_length"]
            yield (
                "length",
                f"completions had {length:.3g} tokens where they had {self.memory['longest']:.3g}; see whether a reward pays for short "
                "ones, and aggregation",
            )
        if row.get("entropy", spec.min_entropy) < spec.min_entropy:
            yield (
                "entropy",
                f"the entropy was below {spec.min_entropy:g} nats ({row['entropy']:.2g}); all samples of a question are alike: "
                "lower the learning rate, or raise clip_high, kl_coef or temperature",
            )
        is_of_one_policy = not row.get("sampling/staleness/mean")  # else the policies differ, as they should
        for name, metric, what, most in (
            ("sampler", "sampling/sampling_logp_difference/mean", "differed by", spec.max_sampler_difference),
            ("sampler kl", "sampling/mismatch_kl", "had a KL of", spec.max_sampler_kl),
        ):
            if (value := row.get(metric, 0.0)) > most and is_of_one_policy:
                yield (
                    name,
                    f"log-probs of sampler and trainer {what} {value:.2g} nats a token, more than {most:g}; see their dtypes "
                    "and kernels, and sampling/from_... for the depth of context, or set importance_cap or replay_routing",
                )
        completions = row["num_questions_sampled"] * self._group_size
        for name, count in row.items():
            if name.startswith("rewards/") and name.endswith("/errors") and count > spec.max_error_share * completions:
                reward = name.removeprefix("rewards/").removesuffix("/errors")
                yield (
                    name,
                    f"reward {reward} failed on more than {spec.max_error_share:.0%} of the completions "
                    f"({count / completions:.0%}); the messages are in completions/ under 'errors'",
                )
