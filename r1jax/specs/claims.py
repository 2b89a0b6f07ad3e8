"""The claims of the paper that can be checked: a spec a kind, whose fields are what ``r1jax.evals.claim_kinds`` reads."""

from dataclasses import dataclass
from typing import Annotated, Literal

from r1jax.specs.fields import Bound, Count, NotNegative, PathText, option

Paths = Annotated[tuple[PathText, ...], Bound(bool, "must name work directories")]
Text = Annotated[str, Bound(lambda text: bool(text.strip()), "must be a text")]
LevelCount = Annotated[int, Bound(lambda value: value >= 3, "must be at least 3")]
_RUNS = "RL stages, one a seed."


@dataclass(frozen=True, kw_only=True)
class ClaimSpec:
    """What every claim has."""

    claim: Text = option(explanation="The claim.")
    paper: Text = option(explanation="The paper's figures and where they stand.")


@dataclass(frozen=True, kw_only=True)
class TeachesClaim(ClaimSpec):
    """Pure RL teaches reasoning."""

    kind: Literal["teaches"] = "teaches"
    paths: Paths = option(explanation=_RUNS)
    metrics: tuple[str, ...] = option(("pass@1", "cons@16"), "Held-out figures, all of which must rise.")


@dataclass(frozen=True, kw_only=True)
class LengthensClaim(ClaimSpec):
    """Responses lengthen and reflection words rise."""

    kind: Literal["lengthens"] = "lengthens"
    paths: Paths = option(explanation=_RUNS)
    phases: Count = option(5, "Phases at either end that are compared.")
    length: str = option("completions/mean_length", "The metric of length.")
    reflection: str = option("reflection/per_completion", "The metric of reflection.")


@dataclass(frozen=True, kw_only=True)
class LanguageRepairedClaim(ClaimSpec):
    """A language reward repairs mixing at a small cost."""

    kind: Literal["language_repaired"] = "language_repaired"
    with_paths: Paths = option(explanation="RL stages with the reward, one a seed.")
    without_paths: Paths = option(explanation="The same without it.")
    consistency: str = option("rewards/language/mean", "The metric that the reward repairs.")
    score: str = option("pass@1", "The metric that it may cost.")
    task: str | None = option(None, "Of evaluate stages: the task that is compared.")
    max_cost: NotNegative = option(0.05, "The largest cost that is small.")
    phases: Count = option(5, "Phases whose mean stands for a metric that only training logs.")

    def __post_init__(self):
        check_pairs(self, "with_paths", "without_paths")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the stage table."""

    name: str = option(explanation="Its heading.")
    task: str = option(explanation="The evaluated task.")
    metric: str = option(explanation="The figure of that task.")


COLUMNS = (
    Column(name="reasoning", task="pair_sum", metric="pass@1"),
    Column(name="language consistency", task="pair_sum", metric="rewards/language/mean"),
    Column(name="well-formed", task="pair_sum", metric="format"),
    Column(name="helpfulness", task="helpful", metric="rewards/helpfulness/mean"),
    Column(name="safety", task="safety", metric="rewards/safety/mean"),
)
"""What spec D.3's benchmarks are in the mini world."""
ORDERINGS = (
    ("helpfulness", "R1", ">", "Dev3"),
    ("helpfulness", "R1", ">", "Zero"),
    ("safety", "R1", ">", "Dev3"),
    ("safety", "R1", ">", "Zero"),
    ("language consistency", "R1", ">", "Zero"),
    ("reasoning", "R1", ">=", "Dev1"),
)


@dataclass(frozen=True, kw_only=True)
class StageTableClaim(ClaimSpec):
    """Each stage is good at something else (R1 Table 3)."""

    kind: Literal["stage_table"] = "stage_table"
    paths: dict[str, PathText] = option(explanation="Evaluate stages by name, in the table's order.")
    columns: tuple[Column, ...] = option(COLUMNS, "The figures.")
    orderings: tuple[tuple[str, ...], ...] = option(ORDERINGS, "What must hold: [column, stage, '>' or '>=', stage].")

    def __post_init__(self):
        if not self.paths:
            raise ValueError("paths must name work directories")
        names = [column.name for column in self.columns]
        for index, ordering in enumerate(self.orderings):
            if len(ordering) != 4 or ordering[2] not in (">", ">="):
                raise ValueError(
                    f"orderings[{index}]: must be [column, stage, '>' or '>=', stage], got {list(ordering)}"
                )
            for what, known in ((ordering[0], names), (ordering[1], self.paths), (ordering[3], self.paths)):
                if what not in known:
                    raise ValueError(f"orderings[{index}]: there is no {what!r}; there are {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class DistilsClaim(ClaimSpec):
    """Distilling beats RL on the small model (R1 Sec. F.1)."""

    kind: Literal["distils"] = "distils"
    distilled_paths: Paths = option(explanation="Distilled students, evaluated.")
    rl_paths: Paths = option(explanation="Students trained by RL alone, evaluated; as many.")
    task: str | None = option(None, "Of evaluate stages: the task that is compared.")
    metric: str = option("pass@1", "The figure that is compared.")
    distilled_trained_paths: tuple[PathText, ...] = option((), "Where the distilled ones were trained, for their cost.")
    rl_trained_paths: tuple[PathText, ...] = option((), "Where the others were trained, for their cost.")

    def __post_init__(self):
        check_pairs(self, "distilled_paths", "rl_paths")


@dataclass(frozen=True, kw_only=True)
class ExposureHacksClaim(ClaimSpec):
    """Too long on a preference model hacks it (R1 Fig. 6)."""

    kind: Literal["exposure_hacks"] = "exposure_hacks"
    long_path: PathText = option(explanation="The RL stage that saw the model all the way.")
    short_path: PathText = option(explanation="The one that saw it at the end.")
    model: str = option(explanation="The metric of the model's score.")
    true: str = option("rewards/helpfulness/mean", "The metric of the true score.")
    reasoning: str = option("rewards/accuracy/mean", "The metric of reasoning.")
    phases: LevelCount = option(5, "Phases at either end that are compared.")
    long_evaluated_path: PathText | None = option(None, "The evaluate stage of the long one.")
    short_evaluated_path: PathText | None = option(None, "The evaluate stage of the short one.")
    general_task: str = option("helpful", "The evaluated task of the true score.")
    reasoning_task: str = option("pair_sum", "The evaluated task of reasoning.")
    score: str = option("pass@1", "The evaluated figure of reasoning.")

    def __post_init__(self):
        if (self.long_evaluated_path is None) != (self.short_evaluated_path is None):
            raise ValueError("long_evaluated_path and short_evaluated_path: needs both, or none")


@dataclass(frozen=True, kw_only=True)
class VotesClaim(ClaimSpec):
    """Majority voting adds (R1 Sec. 2.3)."""

    kind: Literal["votes"] = "votes"
    path: PathText = option(explanation="An evaluate stage whose cons_at has all of `sizes`.")
    task: str = option(explanation="The evaluated task.")
    sizes: tuple[Count, ...] = option((1, 2, 4, 8, 16), "Sizes of the votes.")


AnyClaim = (
    TeachesClaim
    | LengthensClaim
    | LanguageRepairedClaim
    | StageTableClaim
    | DistilsClaim
    | ExposureHacksClaim
    | VotesClaim
)


def check_pairs(spec: ClaimSpec, first: str, second: str) -> None:
    """Raises ValueError unless two lists of runs, which are compared in pairs of a seed, are as long as each other."""
    counts = [len(getattr(spec, name)) for name in (first, second)]
    if counts[0] != counts[1]:
        raise ValueError(f"{first} and {second} are compared in pairs, but they are {counts[0]} and {counts[1]}")
