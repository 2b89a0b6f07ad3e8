"""The table of plots: which metrics share axes, under which title and unit. Both pages read it."""

import dataclasses
import re
from collections.abc import Collection, Iterator


@dataclasses.dataclass(frozen=True)
class Line:
    """One metric of a panel. A `*` in the name stands for one path part and goes into the label."""

    metric: str
    label: str
    low: str = ""  # metric with the lower edge of the band
    high: str = ""

    def matches(self, names: Collection[str]) -> Iterator["Line"]:
        """Yields this line for each of `names` that it fits, stars filled in."""
        if "*" not in self.metric:
            if self.metric in names:
                yield self
            return
        pattern = re.compile(re.escape(self.metric).replace(r"\*", "([^/]+)"))
        for name in sorted(names, key=_natural):
            match = pattern.fullmatch(name)
            if match and not name.endswith(("_low", "_high")):
                part = match[1]
                yield Line(
                    name, self.label.replace("*", part), self.low.replace("*", part), self.high.replace("*", part)
                )


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot: title, unit of the vertical axis, lines, and a sentence on how to read it."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    note: str = ""
    low: float | None = None  # fixed end of the vertical axis
    high: float | None = None
    stacked: bool = False
    is_exact: bool = False  # a schedule, not a measurement: drawn as it is
    across: str = "update"  # the horizontal axis
    is_along_the_way: bool = False  # of held-out evaluations only those along the way, where there are such
    is_compared: bool = True  # has plots of its own, one a line, where runs are compared


@dataclasses.dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _held_out(name: str, label: str) -> Line:
    return Line(f"eval/{name}", label, f"eval/{name}_low", f"eval/{name}_high")


SECTIONS = (
    Section(
        "Learning",
        (
            Panel(
                "Held-out score",
                "share of problems",
                (_held_out("pass@1", "pass@1"), _held_out("cons@*", "cons@*")),
                "Task metric, apart from the reward. Bands: 95 % bootstrap intervals over problems.",
                low=0.0,
                high=1.0,
            ),
            Panel(
                "Reward",
                "reward",
                (
                    Line("reward", "mean"),
                    Line("reward_std", "spread"),
                    Line("reward_std_in_groups", "spread within groups"),
                ),
                "Weighted sum that is trained on, over the phase's completions. Spread: standard deviation.",
            ),
            Panel(
                "Held-out pass@k",
                "share of problems",
                (Line("eval/pass@*", "pass@*"),),
                "At least one of k samples right, unbiased estimate, of the same problems and samples.",
                low=0.0,
                high=1.0,
                is_along_the_way=True,
            ),
            Panel(
                "Right answers while training", "share of completions", (Line("correct", "right"),), low=0.0, high=1.0
            ),
            Panel("Reward parts", "mean, unweighted", (Line("rewards/*/mean", "*"),)),
            Panel(
                "Groups without a signal",
                "share of groups",
                (Line("frac_reward_zero_std", "all rewards equal"),),
                "A group whose rewards are equal has zero advantage and teaches nothing.",
                low=0.0,
            ),
            Panel("Loss", "loss", (Line("loss", "training"),)),
            Panel(
                "Failed verifiers",
                "completions",
                (
                    Line("rewards/*/errors", "*"),
                    Line("rewards/*/timeouts", "*, out of time"),
                    Line("eval/rewards/*/errors", "*, held-out"),
                    Line("eval/rewards/*/timeouts", "*, held-out, out of time"),
                ),
                "What a reward failed on has no reward and is not learned from.",
                low=0.0,
            ),
            Panel("Held-out format", "share of completions", (Line("eval/format", "well formed"),), low=0.0, high=1.0),
            Panel(
                "Auxiliary losses",
                "loss, unweighted",
                (Line("mtp_loss", "multi-token prediction"), Line("moe/balance_loss", "expert balance")),
            ),
        ),
    ),
    Section(
        "Reward model",
        (
            Panel(
                "Judged right",
                "share of the update's examples",
                (
                    Line("accuracy", "all"),
                    Line("accuracy_safe", "safe"),
                    Line("accuracy_unsafe", "unsafe"),
                ),
                low=0.0,
                high=1.0,
            ),
            Panel("Margin", "logits", (Line("margin", "better less worse"),)),
            Panel(
                "Rewards",
                "logits",
                (Line("mean_reward", "mean", "min_reward", "max_reward"),),
                "Band: lowest to highest.",
            ),
        ),
    ),
    Section(
        "Data made",
        (
            Panel("Kept", "share of samples", (Line("kept_share", "kept"),), low=0.0, high=1.0),
            Panel("Dropped", "samples of a batch, by reason", (Line("rejected/*", "*"),), low=0.0),
            Panel(
                "Prompts and documents left out",
                "count",
                (Line("prompts/too_long", "prompts"), Line("data/too_long", "documents")),
            ),
        ),
    ),
    Section(
        "Behaviour",
        (
            Panel(
                "Response length",
                "tokens",
                (
                    Line("completions/mean_length", "mean", "completions/min_length", "completions/max_length"),
                    Line("completions/median_length", "median"),
                    Line("eval/mean_length", "held-out mean"),
                ),
                "Band: shortest to longest completion.",
                low=0.0,
            ),
            Panel(
                "Truncated",
                "share of completions",
                (
                    Line("completions/clipped_ratio", "stopped by the length limit"),
                    Line("eval/clipped_ratio", "held-out"),
                ),
                low=0.0,
            ),
            Panel(
                "Reflection words per 1,000 tokens",
                "words",
                (Line("reflection/per_1k_tokens", "words"),),
                "wait, mistake, however, but, retry, error, verify, wrong, evaluate, check (R1v2 C.2), and Chinese equivalents.",
                low=0.0,
            ),
            Panel("Reflection words per completion", "words", (Line("reflection/per_completion", "words"),), low=0.0),
            Panel(
                "Language",
                "share",
                (
                    Line("language/chinese_share", "Chinese among letters"),
                    Line("language/mixed_share", "completions with both languages"),
                ),
                low=0.0,
            ),
        ),
    ),
    Section(
        "Optimisation",
        (
            Panel("KL to the reference", "nats per token", (Line("kl", "KL"),)),
            Panel("Entropy", "nats per token", (Line("entropy", "entropy"),), low=0.0),
            Panel(
                "Clipped ratios",
                "share of tokens",
                (
                    Line("clip_ratio/region_mean", "either side"),
                    Line("clip_ratio/low_mean", "low"),
                    Line("clip_ratio/high_mean", "high"),
                ),
                low=0.0,
            ),
            Panel(
                "Sampler against trainer",
                "nats",
                (
                    Line("sampling/sampling_logp_difference/mean", "mean"),
                    Line("sampling/sampling_logp_difference/max", "largest"),
                ),
                "Log-probability difference on the same tokens; float error if the two agree.",
                low=0.0,
            ),
            Panel(
                "Ratio to the sampling policy",
                "ratio",
                (Line("ratio/mean", "mean"), Line("ratio/max", "largest")),
                "Of each token, new over old probability; 1 in the first update of a phase.",
            ),
            Panel("Gradient norm", "norm before clipping", (Line("grad_norm", "gradient"),), low=0.0),
            Panel("Update norm", "norm", (Line("update_norm", "update"),), low=0.0),
            Panel("Parameter norm", "norm", (Line("param_norm", "parameters"),)),
            Panel("Learning rate", "per update", (Line("learning_rate", "learning rate"),), low=0.0, is_exact=True),
            Panel(
                "Expert load",
                "busiest expert / mean",
                (Line("moe/load_max_over_mean", "load"),),
                "Of the worst layer; 1 is perfect balance.",
            ),
            Panel("Expert load by layer", "busiest expert / mean", (Line("moe/load/*", "*"),), is_compared=False),
        ),
    ),
    Section(
        "Speed",
        (
            Panel(
                "Where the time goes",
                "seconds",
                (
                    Line("time/generate", "generation"),
                    Line("time/rewards", "rewards"),
                    Line("time/logprobs", "log-probs"),
                    Line("time/update", "update"),
                    Line("time/eval", "evaluation"),
                    Line("time/other", "other"),
                ),
                "Of one step: rollouts of a phase and its updates; an evaluation comes on top.",
                low=0.0,
                stacked=True,
            ),
            Panel(
                "Time in rewards",
                "seconds",
                (Line("rewards/*/seconds", "*"),),
                "Of a phase; beside the sampler.",
                low=0.0,
            ),
            Panel(
                "Throughput",
                "tokens / s",
                (Line("tokens_per_second", "tokens"), Line("tokens_per_second/*", "*")),
                low=0.0,
            ),
        ),
    ),
)

# Metrics drawn as part of another panel, or known and not worth a plot of their own.
_QUIET = re.compile(r".*_(low|high)|completions/(min|max)_length|(min|max)_reward|rewards/[^/]+/std|time/step|finite")


def resolve(names: Collection[str]) -> list[Section]:
    """The sections with what `names` can fill, stars resolved; unknown metrics come last, a panel each."""
    used: set[str] = set()
    sections = []
    for section in SECTIONS:
        panels = []
        for panel in section.panels:
            lines = [line for spec in panel.lines for line in spec.matches(names)]
            lines = [line for i, line in enumerate(lines) if line.metric not in {other.metric for other in lines[:i]}]
            used.update(line.metric for line in lines)
            if lines:
                panels.append(dataclasses.replace(panel, lines=tuple(lines)))
        if panels:
            sections.append(Section(section.title, tuple(panels)))
    rest = sorted((name for name in names if name not in used and not _QUIET.fullmatch(name)), key=_natural)
    if rest:
        sections.append(Section("Other metrics", tuple(Panel(name, "value", (Line(name, name),)) for name in rest)))
    return sections


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts pass@4 before pass@16."""
    return [(len(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
