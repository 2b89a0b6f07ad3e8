"""What is paid for, and who judges."""

from dataclasses import dataclass
from typing import Any, Literal

from r1jax.specs.fields import Count, Names, Natural, NotNegative, PathText, Positive, TemplateName, TopP, option
from r1jax.specs.policy import AnyInit
from r1jax.specs.rollout import EngineSpec


@dataclass(frozen=True, kw_only=True)
class RewardSpec:
    """What every reward of a list has."""

    name: str | None = option(None, "Its name in metrics; None: that of the function.")
    weight: float = option(1.0, "Its share of the sum; 0.0 only logs it (R1 Eqs. 4, 8-10: all 1).")
    tasks: Names | None = option(None, "Names of the tasks that it applies to; None: all.")
    from_update: Natural = option(0, "Updates after which it applies.", unit="updates")


@dataclass(frozen=True, kw_only=True)
class FunctionReward(RewardSpec):
    """A function of completions and columns: f(prompts, completions, **columns) -> list[float | None]."""

    function: str = option(explanation="'module:function', of this package or next to the config file.")
    options: dict[str, Any] = option(factory=dict, explanation="Its keyword arguments, the same for every completion.")
    cache: bool | None = option(
        None, "Equal completions of a problem are scored once; None: only by functions of this package."
    )
    timeout: Positive = option(600.0, "Of a call; its completions then have no reward.", unit="seconds", how=True)


@dataclass(frozen=True, kw_only=True)
class ModelReward(RewardSpec):
    """The reward of a trained reward model (R1 Sec. 3.1)."""

    kind: Literal["reward_model"] = "reward_model"
    path: PathText = option(explanation="The work directory of the stage that trained it.")
    name: str = option(explanation="Its name in metrics.")
    rows_per_batch: Count = option(16, "Responses that it scores at a time.", unit="rows", how=True)


AnyReward = FunctionReward | ModelReward


@dataclass(frozen=True, kw_only=True)
class EndpointSpec:
    """A model behind an OpenAI-compatible address."""

    kind: Literal["endpoint"] = "endpoint"
    url: str = option(explanation="Up to and without '/chat/completions', such as 'http://127.0.0.1:8000/v1'.")
    model: str = option(explanation="The server's name of the model.")
    temperature: NotNegative | None = option(None, "Of the answers; None: the server's own.")
    top_p: TopP | None = option(None, "Of the answers; None: the server's own.")
    max_tokens: Count | None = option(None, "Of an answer; None: the server's own.", unit="tokens")
    timeout: Positive = option(120.0, "Of an attempt to connect, and of each wait.", unit="seconds", how=True)
    retries: Natural = option(4, "Further attempts after a failure that may pass.", how=True)
    backoff: NotNegative = option(1.0, "Before the second attempt, doubled each time.", unit="seconds", how=True)
    workers: Count = option(8, "Conversations at the same time.", how=True)
    key_variable: str | None = option(None, "The environment variable that holds the key; None sends none.", how=True)

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url={self.url!r} must begin with http:// or https://")
        if not self.model:
            raise ValueError("model='' must be the server's name of the model")


@dataclass(frozen=True, kw_only=True)
class PolicyChatSpec:
    """A policy of one's own, loaded next to the one that samples."""

    kind: Literal["policy"] = "policy"
    init: AnyInit = option(explanation="The model.")
    template: TemplateName = option("r1", "How a conversation is rendered.")
    temperature: Positive = option(0.6, "Of its answers (R1 Sec. D.1).")
    top_p: TopP | None = option(0.95, "Of its answers (R1 Sec. D.1); None: all tokens.")
    max_prompt_tokens: Count = option(4096, "Longer prompts are not asked.", unit="tokens")
    max_new_tokens: Count = option(4096, "Longer answers are cut off, which is no answer.", unit="tokens")
    engine: EngineSpec = option(factory=EngineSpec, explanation="How it samples.", how=True)


AnyChat = EndpointSpec | PolicyChatSpec


@dataclass(frozen=True, kw_only=True)
class FilterSpec:
    """A function of one sample that gives a reason to drop it, or None."""

    function: str = option(explanation="'module:function'.")
    options: dict[str, Any] = option(factory=dict, explanation="Its keyword arguments.")
    tasks: Names | None = option(None, "Names of the tasks whose samples it sees; None: all.")


@dataclass(frozen=True, kw_only=True)
class AskSpec(FilterSpec):
    """A judge or a rewriter: a function of samples, ``chat`` and ``seed``."""

    chat: AnyChat | None = option(None, "The model that it asks; None: none.")
