"""The model that a judge or rewriter asks: specs, and a policy of our own that answers."""

import numpy as np
import pytest

from r1jax.policies.chat import AskedByFirst, PolicyChat, check_chat, make_chat
from r1jax.rollout.records import Completion
from r1jax.sharding import make_mesh
from r1jax.text.comparison import parse_comparison
from r1jax.text.endpoint import Endpoint
from r1jax.text.sample import ChatError, Rejection
from r1jax.text.templates import TEMPLATES
from r1jax.text.train_tokenizer import train_tokenizer
from tests.tiny import POLICY

ENDPOINT = {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}
OWN = {
    "kind": "policy", "init": POLICY, "template": "plain", "temperature": 1.0, "top_p": None, "max_prompt_tokens": 30,
    "max_new_tokens": 4, "engine": {"prompt_bucket": 32, "segment": 4},
}  # fmt: skip


def test_an_endpoint():
    check_chat(ENDPOINT | {"workers": 2}, where="here")
    assert make_chat(ENDPOINT | {"workers": 2}, mesh=make_mesh()) == AskedByFirst(
        Endpoint(ENDPOINT["url"], "m", workers=2)
    )
    assert make_chat(None, mesh=make_mesh()) is None


def test_what_the_first_process_is_told_is_told_to_all():
    def chat(conversations, *, seed):
        if not seed:
            raise ChatError("no key")
        return ["yes", ChatError("cut off")]

    text, error = AskedByFirst(chat)([[], []], seed=1)
    assert text == "yes" and isinstance(error, ChatError) and str(error) == "cut off"
    with pytest.raises(ChatError, match="no key"):
        AskedByFirst(chat)([[], []], seed=0)


def test_a_policy_answers_by_seed_and_what_is_cut_off_or_too_long_is_told():
    check_chat(OWN, where="here")
    chat = make_chat(OWN, mesh=make_mesh())
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

    chat = PolicyChat(Engine(), ({}, {}), tokenizer, "r1", 1.0, None, 100, 20)
    (answer,) = chat([[{"role": "user", "content": "which?"}]], seed=0)
    assert answer == "<think>\nso [[A>>B]]"
    with pytest.raises(Rejection):
        parse_comparison(answer)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "people"}, "here: kind='people' must be 'endpoint' or 'policy'"),
        (ENDPOINT | {"timeuot": 3}, r"here: unknown key timeuot \(near it: timeout\)"),
        (ENDPOINT | {"timeout": 0}, "timeout=0 must be positive"),
        (OWN | {"temperature": 0}, "here: temperature=0: must be positive"),
        (OWN | {"max_new_tokens": 0}, "max_new_tokens=0"),
        (OWN | {"template": "nothing"}, "nothing"),
        (OWN | {"engine": {"segment": 4}}, "here.engine: missing key prompt_bucket"),
        (
            OWN | {"engine": OWN["engine"] | {"cache": "pages"}},
            r"cache='pages' must be one of \['auto', 'dense', 'paged'\]",
        ),
        (OWN | {"engine": OWN["engine"] | {"page_size": 192}}, "here.engine: page_size=192 must be a multiple of 128"),
        (OWN | {"engine": OWN["engine"] | {"page_size": None}}, "here.engine: page_size=None must be a whole number"),
        (
            OWN | {"engine": OWN["engine"] | {"max_rows": 0}},
            "here.engine: max_rows=0 must be a whole number of at least 1",
        ),
        (OWN | {"engine": OWN["engine"] | {"pagesize": 128}}, r"unknown key pagesize \(near it: page_size\)"),
    ],
)
def test_a_bad_spec_is_named(spec, words):
    with pytest.raises(ValueError, match=words):
        check_chat(spec, where="here")
