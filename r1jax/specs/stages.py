"""The fields of each stage. A config's stages are dicts of these fields, with "stage" saying which one it is."""

import math
from dataclasses import dataclass
from typing import Literal

from r1jax.specs.claims import AnyClaim
from r1jax.specs.fields import (
    Count,
    InnerShare,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Share,
    TemplateName,
    TopP,
    option,
)
from r1jax.specs.policy import AnyInit, RecordsSpec, SourceSpec
from r1jax.specs.rewards import AnyReward, AskSpec, FilterSpec
from r1jax.specs.rollout import EngineSpec, EvalSpec
from r1jax.specs.tasks import AnyTask, TestSetSpec
from r1jax.specs.training import (
    MeshSpec,
    OptimizerSpec,
    RewardModelOptimizerSpec,
    RolloutMeshSpec,
    SupervisedOptimizerSpec,
)

_TEMPLATE = "How a conversation is rendered (r1jax.text.templates); 'tokenizer': by the model's own template."
_INIT = "The policy that it starts from."


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What every stage has."""

    seed: Seed = option(0, "Of everything random; by default the config's own `seed`.")


@dataclass(frozen=True, kw_only=True)
class MeshStageSpec(StageSpec):
    """A stage that computes on devices."""

    mesh: MeshSpec = option(factory=MeshSpec, explanation="The devices: {'fsdp': 4, 'tensor': 2}.", how=True)


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(MeshStageSpec):
    """A stage that trains a model."""

    init: AnyInit = option(explanation=_INIT)
    bias_rate: NotNegative = option(0.0, "Step of the router's selection bias (V3 Sec. 4.2: 0.001; 0 leaves it).")
    checkpoint_every: Count = option(100, "Updates between checkpoints.", unit="updates", how=True)
    keep_checkpoints: Count = option(2, "How many of the latest checkpoints stay on disk.", how=True)
    loggers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = option(
        (), "Packages that get the metrics too, besides metrics.jsonl and TensorBoard.", how=True
    )


@dataclass(frozen=True, kw_only=True)
class DoctorSpec:
    """Signs that a run goes wrong without an error, and what is done about them."""

    phases: Count = option(5, "Phases in a row that a sign must be there before it is said.", unit="phases")
    stop: bool = option(False, "The run stops there, after a checkpoint; False: it is said on stderr, once.")
    min_length_share: Share = option(0.2, "Mean length of a phase over the highest so far; less is a sign.")
    min_entropy: NotNegative = option(1e-3, "Less entropy of the policy is a sign.", unit="nats")
    max_sampler_difference: Positive = option(
        0.1, "More mean difference between log-probs of sampler and trainer is a sign.", unit="nats"
    )
    max_sampler_kl: Positive = option(
        0.01, "More KL between sampler and trainer, by k3, is a sign: few tokens far apart show in it.", unit="nats"
    )
    max_error_share: Share = option(0.1, "More completions that a reward fails on are a sign.")


@dataclass(frozen=True, kw_only=True)
class RlSpec(TrainingSpec):
    """GRPO with rule rewards and reward models (R1 Sec. 2, 3)."""

    stage: Literal["rl"] = "rl"
    tasks: tuple[AnyTask, ...] = option(explanation="Where the problems come from; drawn by weight.")
    rewards: tuple[AnyReward, ...] = option(explanation="What is paid for.")
    template: TemplateName = option("r1_zero", _TEMPLATE)
    rollout_mesh: RolloutMeshSpec | None = option(
        None, "The sampler's mesh, on a copy of the weights; None: the trainer's own arrays.", how=True
    )
    offload: tuple[Literal["optimizer", "reference"], ...] = option(
        (), "Parts of the state kept on the host.", how=True
    )

    questions_per_phase: Count = option(32, "Questions of a phase (R1 Sec. B.1: 512, in 16 updates of 32).")
    group_size: Count = option(16, "Outputs of each question (R1 Sec. B.1).")
    updates_per_phase: Count = option(1, "Updates of a phase (R1 Sec. B.1: 16).", unit="updates")
    num_updates: Count = option(100, "Updates in all (R1 Sec. B.1: 10,400); can be raised.", unit="updates", how=True)
    temperature: Positive = option(1.0, "Of sampling and of the loss (R1 Sec. B.1: 1.0; 0.7 in stage 2).")
    max_prompt_tokens: Count = option(1024, "Longer training prompts are passed over and counted.", unit="tokens")
    max_new_tokens: Count | tuple[tuple[int, ...], ...] = option(
        1024,
        "Of a response; or pairs [[0, 32768], [8200, 65536]]: from which update on how many (R1 Sec. B.1).",
        unit="tokens",
    )
    max_refills: Natural = option(0, "How often groups with equal rewards are replaced by new ones (DAPO Sec. 3.2).")
    refill_reward: str | None = option(None, "Name of the reward that decides on refills; None: those trained on.")
    partial_rollouts: NotNegative = option(
        0.0,
        "Questions sampled at a time beyond those of a phase, as a share of it; it ends when enough are done, and the "
        "others go on in the next one under the new weights (Kimi k1.5 Sec. 2.6.2).",
    )
    overlap: bool = option(
        False, "The next phase is sampled, from the weights before the update, while that goes on; needs first_device."
    )
    engine: EngineSpec = option(factory=EngineSpec, explanation="The sampler.", how=True)

    advantage: Literal["std", "mean", "leave_one_out"] = option(
        "std", "(r - mean) / std (R1 Eq. 3), r - mean (Dr. GRPO), or r - mean of the others (RLOO)."
    )
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = option(
        "sum_then_normalize", "Rewards are summed first, or each is normalised in its group first (GDPO)."
    )
    aggregation: Literal["sequence", "token", "constant"] = option(
        "sequence",
        "Loss as a mean over outputs of means over tokens (DSM Eq. 3), over all tokens (DAPO), or by a constant.",
    )
    aggregation_constant: Count | None = option(None, "The 'constant' (Dr. GRPO: the length cap).", unit="tokens")
    clip_low: NotNegative = option(10.0, "The ratio is clipped below at 1 - this (R1 Sec. B.1: 10).")
    clip_high: NotNegative = option(10.0, "The ratio is clipped above at 1 + this (R1 Sec. B.1: 10).")
    dual_clip: Positive | None = option(None, "Bound, above 1, where the advantage is negative; None: none.")
    kl_coef: NotNegative = option(0.001, "Weight of the KL to the reference (R1 Sec. B.1); 0: no reference is kept.")
    kl_estimator: Literal["k1", "k2", "k3", "k3_is"] = option("k3", "Estimator of the KL (R1 Eq. 2: k3).")
    ratio_level: Literal["token", "sequence"] = option("token", "Of each token (DSM Eq. 3), or of a sequence (GSPO).")
    importance_cap: Positive | None = option(None, "Cap of the sampler's importance weight (TIS); None: no weight.")
    replay_routing: bool = option(
        False, "The policy is trained with the experts that the sampler took (R3); needs engine.record_routing."
    )
    mask_truncated: bool = option(False, "Outputs that were cut off are not learned from (DAPO Sec. 3.4).")
    truncated_in_baseline: bool = option(
        True, "Masked outputs count in their group's mean and deviation (as in DAPO and TRL)."
    )
    mtp_weight: NotNegative = option(
        0.0, "λ of multi-token prediction on the rollouts, which trains its layers alone; 0: they stay as they are."
    )
    balance_weight: NotNegative = option(0.0, "α of the sequence-wise balance loss (V3 Eq. 17); 0: not computed.")
    reference_every: Count = option(400, "Until the reference is renewed (R1 Sec. B.1).", unit="updates")
    row_length: Count | None = option(
        None, "Of a packed row, which holds a prompt once; None: longest prompt and response.", unit="tokens"
    )
    rows_per_microbatch: Count = option(8, "Rows whose gradient is computed at a time.", unit="rows", how=True)
    optimizer: OptimizerSpec = option(factory=OptimizerSpec, explanation="The optimizer.")
    eval: EvalSpec = option(factory=EvalSpec, explanation="Held-out evaluation.", how=True)
    doctor: DoctorSpec = option(factory=DoctorSpec, explanation="Signs that a run goes wrong.", how=True)
    log_tokens: bool = option(
        False, "Each token and its log-probability go to completions/ too; the report colours by it.", how=True
    )

    def __post_init__(self):
        if self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group needs at least 2 outputs to compare")
        phased = {name: getattr(self, name) for name in ("questions_per_phase", "num_updates", "reference_every")}
        for name, value in (phased | {"eval.every": self.eval.every}).items():
            if value % self.updates_per_phase:
                raise ValueError(f"{name}={value} is no multiple of updates_per_phase={self.updates_per_phase}")
        self._check_caps()
        if (self.aggregation == "constant") != (self.aggregation_constant is not None):
            raise ValueError("aggregation_constant goes with aggregation='constant', and that needs it")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip} must be more than 1")
        if self.replay_routing and not self.engine.record_routing:
            raise ValueError("replay_routing=True needs engine.record_routing=True: there is nothing to replay")
        self.optimizer.check_steps(self.num_updates)
        if "reference" in self.offload and not self.kl_coef:
            raise ValueError("offload names 'reference', and with kl_coef=0 there is none")
        self._check_off_policy()
        self._check_joining()

    def _check_off_policy(self):
        """What trains on tokens of older weights weighs them, and decides on all groups of a phase at once."""
        off = {f"partial_rollouts={self.partial_rollouts:g}": self.partial_rollouts > 0, "overlap=True": self.overlap}
        for name in (name for name, is_on in off.items() if is_on):
            if self.importance_cap is None:
                raise ValueError(f"{name} trains on tokens of older weights, which needs an importance_cap")
            if self.max_refills:
                raise ValueError(f"{name} does not go with max_refills={self.max_refills}: take one of the two")
        if self.overlap and (self.rollout_mesh is None or self.rollout_mesh.first_device is None):
            raise ValueError("overlap=True needs rollout_mesh.first_device: the sampler has to have devices of its own")

    def _check_caps(self):
        caps, phase = self.caps, self.updates_per_phase
        if any(len(cap) != 2 for cap in caps):
            raise ValueError(f"max_new_tokens={caps}: entries must be pairs of whole numbers, (from_update, tokens)")
        if any(first % phase for first, _ in caps):
            raise ValueError(f"max_new_tokens={caps}: starts must be multiples of updates_per_phase={phase}")
        if not caps or caps[0][0] != 0 or list(caps) != sorted(caps) or min(tokens for _, tokens in caps) < 1:
            raise ValueError(f"max_new_tokens={caps}: entries (from_update, tokens), in order, the first from update 0")
        if self.row_length is not None and self.longest > self.row_length + 1:
            raise ValueError(
                f"row_length={self.row_length} does not hold max_prompt_tokens={self.max_prompt_tokens} "
                f"and {self.longest - self.max_prompt_tokens} new tokens"
            )

    def _check_joining(self):
        """A task or reward may not join within a phase, or never; some must be there at the start."""
        for key in ("tasks", "rewards"):
            entries = getattr(self, key)
            if not entries:
                raise ValueError(f"{key} needs at least one")
            for index, entry in enumerate(entries):
                start, where = entry.from_update, f"{key}[{index}].from_update={entry.from_update}"
                if start % self.updates_per_phase:
                    raise ValueError(f"{where} is no multiple of updates_per_phase={self.updates_per_phase}")
                if start >= self.num_updates:
                    raise ValueError(f"{where} is never reached with num_updates={self.num_updates}")
            if min(entry.from_update for entry in entries) > 0:
                raise ValueError(f"{key}: none takes part from update 0")
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards: all weights are 0, so there is nothing to learn from")

    @property
    def questions_in_flight(self) -> int:
        """Questions that are sampled at a time."""
        return self.questions_per_phase + math.ceil(round(self.questions_per_phase * self.partial_rollouts, 6))

    @property
    def caps(self) -> tuple[tuple[int, ...], ...]:
        """``max_new_tokens`` as pairs (from_update, tokens)."""
        return ((0, self.max_new_tokens),) if isinstance(self.max_new_tokens, int) else self.max_new_tokens

    def cap_at(self, updates: int) -> int:
        """The length cap in force after so many updates: the last entry reached."""
        return [tokens for first, tokens in self.caps if first <= updates][-1]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest response."""
        return self.max_prompt_tokens + max(tokens for _, tokens in self.caps)

    @property
    def tokens_per_row(self) -> int:
        """``row_length``, or what holds the longest sequence."""
        return self.row_length or self.longest


@dataclass(frozen=True, kw_only=True)
class SupervisedSpec(TrainingSpec):
    """Next-token training on documents: pretraining of the mini base, cold start, SFT, distillation (R1 Sec. B.3, B.4)."""

    stage: Literal["supervised"] = "supervised"
    data: SourceSpec = option(explanation="The documents: conversations of a path, or a function of index and seed.")
    template: TemplateName = option("r1", _TEMPLATE)
    loss_on_prompt: bool = option(False, "The prompt's tokens are trained on too.")
    train: Literal["last", "all"] = option("last", "Which assistant turns are trained on.")
    aggregation: Literal["token", "sequence"] = option("token", "The loss is a mean over tokens, or documents.")
    documents_per_update: Count = option(64, "Documents of an update (R1 Sec. B.4.2: batch 64).")
    row_length: Count = option(4096, "Tokens of a packed row (R1 Sec. B.4.2: 32,768).", unit="tokens")
    too_long: Literal["raise", "cut", "drop"] = option("raise", "What becomes of a document longer than a row.")
    rows_per_microbatch: Count = option(8, "Rows whose gradient is computed at a time.", unit="rows", how=True)
    num_updates: Count | None = option(None, "Of the whole run; None: by num_epochs.", unit="updates", how=True)
    num_epochs: Count | None = option(None, "Of the whole run (R1 Sec. B.4.2: 2).", unit="epochs", how=True)
    optimizer: SupervisedOptimizerSpec = option(factory=SupervisedOptimizerSpec, explanation="The optimizer.")
    mtp_weight: NotNegative = option(
        0.0, "λ of multi-token prediction (V3 Eq. 25; Sec. 4.2: 0.3, then 0.1); 0: its layers stay as they are."
    )
    balance_weight: NotNegative = option(0.0, "α of the sequence-wise balance loss (V3 Eq. 17); 0: not computed.")
    offload: tuple[Literal["optimizer"], ...] = option((), "Parts of the state kept on the host.", how=True)
    log_every: Count = option(10, "Updates between rows of metrics.", unit="updates", how=True)

    def __post_init__(self):
        if (self.num_updates is None) == (self.num_epochs is None):
            raise ValueError("num_updates or num_epochs must be there, one of the two")
        if self.num_updates is not None:
            self.optimizer.check_steps(self.num_updates)


@dataclass(frozen=True, kw_only=True)
class RewardModelSpec(TrainingSpec):
    """A policy with a scalar head learns which response is better, or whether one is safe (R1 Sec. 3.1, B.2)."""

    stage: Literal["reward_model"] = "reward_model"
    kind: Literal["helpful", "safety"] = option(explanation="Pairs (Bradley-Terry) or labels (binary cross entropy).")
    data: SourceSpec = option(explanation="The preferences or labels.")
    template: TemplateName = option("r1", _TEMPLATE)
    max_tokens: Count = option(8192, "Longer examples are left out and counted (R1 Sec. B.2).", unit="tokens")
    length_bucket: Count = option(64, "Rows are padded to a multiple of this.", unit="tokens")
    examples_per_update: Count = option(256, "Examples of an update (R1 Sec. B.2).")
    examples_per_microbatch: Count = option(16, "Examples whose gradient is computed at a time.", how=True)
    epochs: Count = option(1, "How often each example is learned from (R1 Sec. B.2).", unit="epochs")
    heldout_fraction: InnerShare = option(0.1, "Share of the prompts that is held out, by a hash.")
    optimizer: RewardModelOptimizerSpec = option(factory=RewardModelOptimizerSpec, explanation="The optimizer.")
    log_every: Count = option(10, "Updates between rows of metrics.", unit="updates", how=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(MeshStageSpec):
    """A policy on held-out problems of several tasks (R1 Sec. D.1)."""

    stage: Literal["evaluate"] = "evaluate"
    init: AnyInit = option(explanation=_INIT)
    tasks: tuple[AnyTask, ...] = option(explanation="Where the problems come from; each is evaluated by itself.")
    rewards: tuple[AnyReward, ...] = option((), "What is logged of each sample; weights play no part.")
    template: TemplateName = option("r1", _TEMPLATE)
    problems: Count = option(explanation="Held-out problems of each task.")
    samples: Count = option(16, "Of each problem (R1 Sec. D.1: 4 to 64).")
    cons_at: tuple[Count, ...] = option((), "Sizes of the majority votes; those up to `samples`.")
    max_prompt_tokens: Count = option(4096, "A longer prompt is an error.", unit="tokens")
    max_new_tokens: Count = option(32_768, "Of a response (R1 Sec. D.1).", unit="tokens")
    temperature: Positive = option(0.6, "Of the samples (R1 Sec. D.1).")
    top_p: TopP | None = option(0.95, "Of the samples (R1 Sec. D.1); None: all tokens.")
    problems_per_batch: Count = option(64, "Problems that are sampled at a time.")
    engine: EngineSpec = option(factory=EngineSpec, explanation="The sampler.", how=True)

    def __post_init__(self):
        if not self.tasks:
            raise ValueError("tasks needs at least one")
        if too_large := [size for size in self.cons_at if size > self.samples]:
            raise ValueError(f"cons_at: {too_large[0]} is more than samples={self.samples}")


@dataclass(frozen=True, kw_only=True)
class RejectSpec(MeshStageSpec):
    """Answers of a policy, sampled, filtered, rewritten, and written as a set (R1 Sec. B.3.2, B.3.3)."""

    stage: Literal["reject"] = "reject"
    init: AnyInit = option(explanation=_INIT)
    tasks: tuple[AnyTask, ...] = option(explanation="Where the problems come from; drawn by weight.")
    rewards: tuple[AnyReward, ...] = option(explanation="What filters may look at, and what is written down.")
    template: TemplateName = option("r1", _TEMPLATE)
    num_prompts: Count = option(explanation="Prompts that are sampled.")
    first_prompt: Natural = option(0, "Number of the first of them.")
    prompts_per_batch: Count = option(32, "Prompts that are sampled at a time.")
    samples_per_prompt: Count = option(4, "Answers of each prompt.")
    keep_per_prompt: Count = option(1, "Answers of a prompt that are kept, the first ones.")
    temperature: Positive = option(1.0, "Of the samples (R1 Sec. B.3.2).")
    top_p: TopP | None = option(None, "Of the samples; None: all tokens.")
    max_prompt_tokens: Count = option(1024, "Longer prompts are passed over and counted.", unit="tokens")
    max_new_tokens: Count = option(1024, "Of an answer.", unit="tokens")
    engine: EngineSpec = option(factory=EngineSpec, explanation="The sampler.", how=True)
    filters: tuple[FilterSpec, ...] = option((), "What drops a sample, in order.")
    judge: AskSpec | None = option(None, "A model that grades answers (R1 Listing 4).")
    rewrite: AskSpec | None = option(None, "A model that rewrites what is kept (R1 Sec. B.3.2).")
    others: tuple[RecordsSpec, ...] = option((), "Conversations from elsewhere that join the set (R1 Table 5).")
    decontaminate: tuple[TestSetSpec, ...] = option((), "Test sets that share no n-gram (R1 Sec. D.1).")
    ngram: Count = option(10, "Words in a row that count as shared (R1 Sec. D.1).", unit="words")
    domains: dict[str, str] = option(factory=dict, explanation="Task -> its row of the table; else its name.")
    format: Literal["jsonl", "parquet"] = option("jsonl", "Of the set's files.")
    records_per_shard: Count = option(10_000, "Records of a file.", how=True)

    def __post_init__(self):
        if not self.tasks:
            raise ValueError("tasks needs at least one")
        if self.num_prompts % self.prompts_per_batch:
            raise ValueError(
                f"num_prompts={self.num_prompts} is no multiple of prompts_per_batch={self.prompts_per_batch}"
            )


@dataclass(frozen=True, kw_only=True)
class PreferencesSpec(MeshStageSpec):
    """A judge compares two responses to each prompt, and the clear cases become pairs (R1 Sec. 3.1)."""

    stage: Literal["preferences"] = "preferences"
    candidates: SourceSpec = option(explanation='Records {"messages": [...], "responses": [two texts]}.')
    judge: AskSpec = option(explanation="Who compares.")
    queries: Count = option(4, "How often each pair is judged, in random order (R1 Sec. 3.1).")
    threshold: NotNegative = option(1.0, "A pair is kept where the mean verdict, at most 2, exceeds it (R1 Sec. 3.1).")
    candidates_per_batch: Count = option(64, "Pairs that are judged at a time.")

    def __post_init__(self):
        if self.threshold >= 2:
            raise ValueError(f"threshold={self.threshold} must be in [0, 2): verdicts are at most 2")
        if self.judge.tasks is not None:
            raise ValueError("judge.tasks: candidates are of no task")


@dataclass(frozen=True, kw_only=True)
class ClaimsSpec(StageSpec):
    """Which of the paper's claims held, from what earlier stages wrote."""

    stage: Literal["claims"] = "claims"
    claims: tuple[AnyClaim, ...] = option(explanation="The claims, a row each.")
    note: str = option("", "What a reader must know; printed above the claims.")

    def __post_init__(self):
        if not self.claims:
            raise ValueError("claims needs at least one")


STAGES: dict[str, type] = {
    "supervised": SupervisedSpec,
    "rl": RlSpec,
    "reject": RejectSpec,
    "preferences": PreferencesSpec,
    "reward_model": RewardModelSpec,
    "evaluate": EvaluateSpec,
    "claims": ClaimsSpec,
}
"""The "stage" of a config -> its spec; the module of that name in ``r1jax.stages`` runs it."""
