"""The table of plots: which metrics share axes, under which title and unit. Both pages read it."""

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any


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
    band: str = ""  # what the bands are, where there are any
    low: float | None = None  # fixed end of the vertical axis
    high: float | None = None
    stacked: bool = False
    is_exact: bool = False  # a schedule, not a measurement: drawn as it is
    across: str = "update"  # the horizontal axis
    is_along_the_way: bool = False  # of held-out evaluations only those along the way, where there are such
    is_compared: bool = True  # each line has a plot where runs are compared


@dataclasses.dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _panel(title: str, unit: str, lines: dict[str, str], note: str = "", **options: Any) -> Panel:
    """A panel of lines {metric: label}; each has a band where its "<metric>_low" and "<metric>_high" were logged."""
    return Panel(
        title, unit, tuple(Line(m, label, f"{m}_low", f"{m}_high") for m, label in lines.items()), note, **options
    )


def _share(title: str, of: str, lines: dict[str, str], note: str = "", **options: Any) -> Panel:
    """A panel of shares, whose axis goes from 0 to 1."""
    return _panel(title, f"share of {of}", lines, note, low=0.0, high=1.0, **options)


def _section(title: str, *panels: Panel) -> Section:
    return Section(title, panels)


SECTIONS = (
    _section(
        "Learning",
        _share(
            "Held-out score",
            "problems",
            {"eval/pass@1": "pass@1", "eval/cons@*": "cons@*"},
            "Task metric, apart from the reward.",
            band="Bands: 95 % bootstrap intervals over problems.",
        ),
        _panel(
            "Reward",
            "reward",
            {"reward": "mean", "reward_std": "spread", "reward_std_in_groups": "spread within groups"},
            "Weighted sum that is trained on, over the phase's completions. Spread: standard deviation.",
        ),
        _share(
            "Held-out pass@k",
            "problems",
            {"eval/pass@*": "pass@*"},
            "At least one of k samples right, unbiased estimate, of the same problems and samples.",
            band="Band: 95 % bootstrap interval over problems.",
            is_along_the_way=True,
        ),
        _share("Right answers while training", "completions", {"correct": "right"}),
        _panel("Reward parts", "mean, unweighted", {"rewards/*/mean": "*"}),
        _panel(
            "Groups without a signal",
            "share of groups",
            {"frac_reward_zero_std": "all rewards equal"},
            "A group whose rewards are equal has zero advantage and teaches nothing.",
            low=0.0,
        ),
        _panel("Loss", "loss", {"loss": "training"}),
        _panel(
            "Failed verifiers",
            "completions",
            {
                "rewards/*/errors": "*",
                "rewards/*/timeouts": "*, out of time",
                "eval/rewards/*/errors": "*, held-out",
                "eval/rewards/*/timeouts": "*, held-out, out of time",
            },
            "What a reward failed on has no reward and is not learned from.",
            low=0.0,
        ),
        _share("Held-out format", "completions", {"eval/format": "well formed"}),
        _panel(
            "Auxiliary losses",
            "loss, unweighted",
            {"mtp_loss": "multi-token prediction", "moe/balance_loss": "expert balance"},
        ),
    ),
    _section(
        "Reward model",
        _share(
            "Judged right",
            "the update's examples",
            {"accuracy": "all", "accuracy_safe": "safe", "accuracy_unsafe": "unsafe"},
        ),
        _panel("Margin", "logits", {"margin": "better less worse"}),
        Panel(
            "Rewards",
            "logits",
            (Line("mean_reward", "mean", "min_reward", "max_reward"),),
            band="Band: lowest to highest.",
        ),
    ),
    _section(
        "Data made",
        _share("Kept", "samples", {"kept_share": "kept"}),
        _panel("Dropped", "samples of a batch, by reason", {"rejected/*": "*"}, low=0.0),
        _panel(
            "Prompts and documents left out", "count", {"prompts/too_long": "prompts", "data/too_long": "documents"}
        ),
    ),
    _section(
        "Behaviour",
        Panel(
            "Response length",
            "tokens",
            (
                Line("completions/mean_length", "mean", "completions/min_length", "completions/max_length"),
                Line("completions/median_length", "median"),
                Line("eval/mean_length", "held-out mean"),
            ),
            band="Band: shortest to longest completion.",
            low=0.0,
        ),
        _panel(
            "Truncated",
            "share of completions",
            {"completions/clipped_ratio": "stopped by the length limit", "eval/clipped_ratio": "held-out"},
            low=0.0,
        ),
        _panel(
            "Reflection words per 1,000 tokens",
            "words",
            {"reflection/per_1k_tokens": "words"},
            "wait, mistake, however, but, retry, error, verify, wrong, evaluate, check (R1v2 C.2), and Chinese equivalents.",
            low=0.0,
        ),
        _panel("Reflection words per completion", "words", {"reflection/per_completion": "words"}, low=0.0),
        _panel(
            "Language",
            "share",
            {
                "language/chinese_share": "Chinese among letters",
                "language/mixed_share": "completions with both languages",
            },
            low=0.0,
        ),
    ),
    _section(
        "Optimisation",
        _panel("KL to the reference", "nats per token", {"kl": "KL"}),
        _panel("Entropy", "nats per token", {"entropy": "entropy"}, low=0.0),
        _panel(
            "Clipped ratios",
            "share of tokens",
            {"clip_ratio/region_mean": "either side", "clip_ratio/low_mean": "low", "clip_ratio/high_mean": "high"},
            low=0.0,
        ),
        _panel(
            "Sampler against trainer",
            "nats",
            {"sampling/sampling_logp_difference/mean": "mean", "sampling/sampling_logp_difference/max": "largest"},
            "Log-probability difference on the same tokens; float error if the two agree.",
            low=0.0,
        ),
        _panel(
            "Ratio to the sampling policy",
            "ratio",
            {"ratio/mean": "mean", "ratio/max": "largest"},
            "Of each token, new over old probability; 1 in the first update of a phase.",
        ),
        _panel("Gradient norm", "norm before clipping", {"grad_norm": "gradient"}, low=0.0),
        _panel("Update norm", "norm", {"update_norm": "update"}, low=0.0),
        _panel("Parameter norm", "norm", {"param_norm": "parameters"}),
        _panel("Learning rate", "per update", {"learning_rate": "learning rate"}, low=0.0, is_exact=True),
        _panel(
            "Expert load",
            "busiest expert / mean",
            {"moe/load_max_over_mean": "load"},
            "Of the worst layer; 1 is perfect balance.",
        ),
        _panel("Expert load by layer", "busiest expert / mean", {"moe/load/*": "*"}, is_compared=False),
    ),
    _section(
        "Speed",
        _panel(
            "Where the time goes",
            "seconds",
            {
                "time/generate": "generation",
                "time/rewards": "rewards",
                "time/logprobs": "log-probs",
                "time/update": "update",
                "time/eval": "evaluation",
                "time/other": "other",
            },
            "Of one step: rollouts of a phase and its updates; an evaluation comes on top.",
            low=0.0,
            stacked=True,
        ),
        _panel("Time in rewards", "seconds", {"rewards/*/seconds": "*"}, "Of a phase, while it is sampled.", low=0.0),
        _panel("Throughput", "tokens / s", {"tokens_per_second": "tokens", "tokens_per_second/*": "*"}, low=0.0),
    ),
)

# Metrics drawn as part of another panel, or known and not worth a plot.
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
