"""The model that a judge or rewriter asks: specs, and a policy of our own that answers."""

import pytest

from r1jax.sharding import make_mesh
from r1jax.stages.chat_model import check_chat, make_chat
from r1jax.text.endpoint import Endpoint
from r1jax.text.sample import ChatError
from tests.tiny import POLICY

ENDPOINT = {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}
OWN = {
    "kind": "policy", "init": POLICY, "template": "plain", "temperature": 1.0, "top_p": None, "max_prompt_tokens": 30,
    "max_new_tokens": 4, "engine": {"prompt_bucket": 32, "segment": 4},
}  # fmt: skip


def test_an_endpoint():
    check_chat(ENDPOINT | {"workers": 2}, where="here")
    assert make_chat(ENDPOINT | {"workers": 2}, mesh=make_mesh()) == Endpoint(ENDPOINT["url"], "m", workers=2)
    assert make_chat(None, mesh=make_mesh()) is None


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
    ],
)
def test_a_bad_spec_is_named(spec, words):
    with pytest.raises(ValueError, match=words):
        check_chat(spec, where="here")
