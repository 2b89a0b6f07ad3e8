"""Documents as packed batches: the prompt that sampling sees, the mask, documents that are too long."""

import numpy as np
import pytest

from r1jax.data.documents import encode_document, fit_documents, make_document_iterator
from r1jax.specs.reader import read
from r1jax.specs.stages import SupervisedSpec
from r1jax.text.chat import encode_prompt
from r1jax.text.tokenizer import Tokenizer
from tests.text.bpe import DEEPSEEK, make_bpe

MESSAGES = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "6*7?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n42"},
]


def make_spec(**values):
    needed = {"init": {"kind": "hf", "path": "model"}, "data": {"path": "data"}, "num_updates": 1, "template": "plain"}
    return read(SupervisedSpec, needed | values)


@pytest.fixture(scope="module")
def tokenizer():
    inner = make_bpe(*DEEPSEEK)
    ids = [inner.token_to_id(text) for text in DEEPSEEK]
    return Tokenizer(inner, eos_id=ids[1], bos_id=ids[0], adds_bos=True)


def test_a_document_is_the_prompt_of_sampling_then_the_completion_and_its_end(tokenizer):
    document = encode_document(("6*7?", " 42"), tokenizer, make_spec())
    prompt = encode_prompt([{"role": "user", "content": "6*7?"}], tokenizer, template="plain")
    assert prompt[0] == tokenizer.bos_id
    ids = [*prompt, *tokenizer.encode(" 42"), tokenizer.eos_id]
    np.testing.assert_array_equal(document["tokens"], ids[:-1])
    np.testing.assert_array_equal(document["targets"], ids[1:])
    trained = len(ids) - len(prompt)
    np.testing.assert_array_equal(document["mask"], [0.0] * (len(prompt) - 1) + [1.0] * trained)
    assert {name: value.dtype for name, value in document.items()} == {
        "tokens": np.int32, "targets": np.int32, "mask": np.float32,
    }  # fmt: skip
    whole = encode_document(("6*7?", " 42"), tokenizer, make_spec(loss_on_prompt=True))
    assert whole["mask"].all() and len(whole["mask"]) == len(ids) - 1


def test_messages_train_the_last_turn_or_all(tokenizer):
    def trained(**options):
        document = encode_document(MESSAGES, tokenizer, make_spec(template="r1", **options))
        return tokenizer.decode(document["targets"][document["mask"] > 0])

    end = DEEPSEEK[1]
    assert trained() == f"hm\n</think>\n\n42{end}"
    assert trained(train="all") == f"hello{end}hm\n</think>\n\n42{end}"


def document(*mask):
    return {"tokens": np.arange(len(mask)), "mask": np.array(mask, np.float32)}


def test_documents_longer_than_a_row_are_cut_or_dropped_and_counted():
    documents = [document(0, 1, 1, 1), document(0, 1), document(0, 0, 1, 1, 1)]
    cut, count = fit_documents(documents, length=3, too_long="cut")
    assert count == 2 and [list(d["tokens"]) for d in cut] == [[0, 1, 2], [0, 1], [0, 1, 2]]
    assert [list(d["mask"]) for d in cut] == [[0, 1, 1], [0, 1], [0, 0, 1]]
    dropped, count = fit_documents(documents, length=3, too_long="drop")
    assert count == 2 and [list(d["tokens"]) for d in dropped] == [[0, 1]]
    with pytest.raises(ValueError, match="a document has 5 tokens and a row holds 4: make row_length larger"):
        fit_documents(documents, length=4, too_long="raise")
    assert fit_documents(documents, length=5, too_long="raise")[1] == 0
    for too_long, long in (("drop", [document(0, 1, 1)]), ("cut", [document(0, 0, 1)])):
        with pytest.raises(ValueError, match=f"too_long='{too_long}' leaves nothing to train on: 1 documents exceed"):
            fit_documents(long, length=2, too_long=too_long)


def iterator(tokenizer, **options):
    def source(index):
        return f"{index}?", " 42" * (1 + 5 * (index % 3 == 2))

    spec = make_spec(documents_per_update=3, row_length=20, rows_per_microbatch=2, **options)
    return make_document_iterator(source, spec, tokenizer=tokenizer)


def test_batches_are_packed_and_say_how_many_were_too_long(tokenizer):
    batch = next(iterator(tokenizer, too_long="drop"))
    assert batch["num_too_long"] == 1 and batch["tokens"].shape == (2, 20)
    assert batch["segment_ids"].max(axis=1).sum() == 2
    assert batch["mask"].sum() == 2 * (len(tokenizer.encode(" 42")) + 1)
    batch = next(iterator(tokenizer, too_long="cut"))
    assert batch["num_too_long"] == 1 and batch["segment_ids"].max(axis=1).sum() == 3
    with pytest.raises(ValueError, match="a document has 22 tokens and a row holds 20"):
        next(iterator(tokenizer))


def test_a_restored_position_gives_the_batches_that_were_to_come(tokenizer):
    first = iterator(tokenizer, too_long="cut")
    next(first)
    state = first.get_state()
    expected = [next(first) for _ in range(2)]
    second = iterator(tokenizer, too_long="cut")
    second.set_state(state)
    for want in expected:
        got = next(second)
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
