"""The model that a judge or rewriter asks: specs, and a policy of our own that answers."""

import numpy as np
import pytest

from r1jax.policies.chat import ask_policy, asked_by_first, make_chat
from r1jax.rollout.records import Completion
from r1jax.sharding import make_mesh
from r1jax.specs.reader import read
from r1jax.specs.rewards import AnyChat, PolicyChatSpec
from r1jax.text.comparison import parse_comparison
from r1jax.text.sample import ChatError, Rejection
from r1jax.text.templates import TEMPLATES
from r1jax.text.train_tokenizer import train_tokenizer
from tests.tiny import POLICY

pytestmark = pytest.mark.usefixtures("quick_compilation")

ENDPOINT = {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}
POLICY_CHAT = {
    "kind": "policy", "init": POLICY, "template": "plain", "temperature": 1.0, "top_p": None, "max_prompt_tokens": 30,
    "max_new_tokens": 4, "engine": {"segment": 4},
}  # fmt: skip


def test_an_endpoint():
    spec = read(AnyChat, ENDPOINT | {"key_variable": "NO_SUCH_KEY"})
    chat = make_chat(spec, mesh=make_mesh())
    assert chat is not None
    with pytest.raises(ChatError, match=r"http://127\.0\.0\.1:1/v1: .*NO_SUCH_KEY"):
        chat([[{"role": "user", "content": "?"}]], seed=0)
    assert make_chat(None, mesh=make_mesh()) is None


def test_what_the_first_process_is_told_is_told_to_all():
    def chat(conversations, *, seed):
        if not seed:
            raise ChatError("no key")
        return ["yes", ChatError("cut off")]

    text, error = asked_by_first(chat)([[], []], seed=1)
    assert text == "yes" and isinstance(error, ChatError) and str(error) == "cut off"
    with pytest.raises(ChatError, match="no key"):
        asked_by_first(chat)([[], []], seed=0)


def test_a_policy_answers_by_seed_and_what_is_cut_off_or_too_long_is_told():
    chat = make_chat(read(AnyChat, POLICY_CHAT), mesh=make_mesh())
    assert chat is not None
    asked = [[{"role": "user", "content": text}] for text in ("a", "a" * 200, *"bcdefgh" * 8)]
    answers = chat(asked, seed=1)
    assert "a prompt of" in str(answers[1]) and "max_prompt_tokens=30" in str(answers[1])
    texts = [answer for answer in answers if isinstance(answer, str)]
    cut = [answer for answer in answers if isinstance(answer, ChatError) and "cut off after 4" in str(answer)]
    assert len(answers) == 58 and len(texts) + len(cut) == 57 and cut
    again, other = chat(asked, seed=1), chat(asked, seed=2)
    assert list(map(str, again)) == list(map(str, answers))
    assert not texts or list(map(str, other)) != list(map(str, answers))
    assert isinstance(chat(asked[1:2], seed=0)[0], ChatError)


def test_a_thought_that_the_prompt_opened_is_seen_to_be_one():
    """A judge's thought that ends without </think> must not be read as its verdict."""
    tokenizer = train_tokenizer(["[[A>>B]]"], vocab_size=300, special_tokens=("<e>", *TEMPLATES["r1"].tokens))

    class Engine:
        def generate(self, params, buffers, prompts, **settings):
            ids = np.array([*tokenizer.encode("so [[A>>B]]"), tokenizer.eos_id], np.int32)
            return [[Completion(ids, np.zeros(len(ids), np.float32), "stop")] for _ in prompts]

    spec = read(PolicyChatSpec, {"init": POLICY, "template": "r1", "max_prompt_tokens": 100})
    asked = [[{"role": "user", "content": "which?"}]]
    (answer,) = ask_policy(spec, Engine(), ({}, {}), tokenizer, asked, seed=0)
    assert answer == "<think>\nso [[A>>B]]"
    with pytest.raises(Rejection):
        parse_comparison(answer)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "people"}, r"chat\.kind='people' must be one of 'endpoint', 'policy'"),
        (ENDPOINT | {"timeuot": 3}, r"'chat\.timeuot'; near it: timeout"),
        (ENDPOINT | {"url": "127.0.0.1/v1"}, r"chat\.url='127.0.0.1/v1' must begin with http"),
        (ENDPOINT | {"model": ""}, r"chat\.model='' must be the server's name"),
        (POLICY_CHAT | {"temperature": 0}, r"chat\.temperature=0 must be more than 0"),
        (POLICY_CHAT | {"engine": {"page_size": 192}}, r"chat\.engine\.page_size=192 must be a multiple of 128"),
    ],
)
def test_a_bad_spec_is_named(spec, words):
    with pytest.raises(ValueError, match=words):
        read(AnyChat, spec, "chat")
