import base64
import json
import pickle
import zlib

import pytest

from r1jax.tasks.sources import code_fields
from r1jax.tasks.sources.code_fields import decode_tests

CASES = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}, {"input": "", "output": "小", "testtype": "stdin"}]


def packed(value, protocol=4):
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_json_is_read_as_it_is():
    assert decode_tests(json.dumps(CASES)) == CASES


@pytest.mark.parametrize("protocol", range(6))
def test_the_published_form_is_read_without_unpickling(protocol, monkeypatch):
    text = packed(json.dumps(CASES * 20_000, ensure_ascii=False), protocol)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "Unpickler", None)
    assert decode_tests(text) == CASES * 20_000


@pytest.mark.parametrize("value", [Hostile(), [json.dumps(CASES)], (json.dumps(CASES), Hostile()), b"[]", None, len])
def test_anything_but_one_text_is_refused(value, capsys):
    with pytest.raises(ValueError, match="must be the pickle of one text and nothing else: instruction"):
        decode_tests(packed(value))
    assert capsys.readouterr().out == ""


def test_a_text_hidden_behind_another_is_refused():
    two = pickle.dumps("[]", 0)[:-1] + pickle.dumps("[1]", 0)
    with pytest.raises(ValueError, match="it has 2 texts"):
        decode_tests(base64.b64encode(zlib.compress(two)).decode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "no JSON"),
        ("not base64!", "neither JSON nor base64 of zlib"),
        (base64.b64encode(b"plain").decode(), "neither JSON nor base64 of zlib"),
        (base64.b64encode(zlib.compress(b"x" * 100)[:-9]).decode(), "cut off"),
        (base64.b64encode(zlib.compress(pickle.dumps("[]" * 999)[:-5])).decode(), "must be the pickle of one text"),
        (packed("{}"), "must be a list of test cases; it is a dict"),
        (packed('[{"input": "1"}]'), "test case 1 must have the texts 'input' and 'output'"),
        (packed('[{"input": "1", "output": "1", "testtype": "file"}]'), "test case 1 is of type 'file'"),
    ],
)
def test_bad_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        decode_tests(text)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(code_fields, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        decode_tests(packed("x" * 10**6))
