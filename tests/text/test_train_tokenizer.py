"""The mini tokenizer: whole words and single digits, exact round trips, saved and loaded."""

import pytest

from r1jax.tasks.mini_corpus import corpus_text
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    documents = (corpus_text(index, seed=0) for index in range(2000))
    return train_tokenizer([f"User: {prompt}. Assistant:{text}" for prompt, text in documents], vocab_size=448)


def pieces(tokenizer, text):
    return [tokenizer.decode([item]) for item in tokenizer.encode(text)]


def test_words_tags_and_digits_are_single_tokens(tokenizer):
    text = " <think> 27 + 58 = 85 vs 71 wrong retry 再试 </think> <answer>"
    expected = " <think>| 2|7| +| 5|8| =| 8|5| vs| 7|1| wrong| retry| 再试| </think>| <answer>"
    assert pieces(tokenizer, text) == expected.split("|")


def test_digits_never_merge(tokenizer):
    assert pieces(tokenizer, "2026") == ["2", "0", "2", "6"]


@pytest.mark.parametrize(
    "text", ["", "a\n\n\tb  c ", "naïve 等等 ０１２ 🙂 \x00", "<think></think><|x|>", " 7 7  7\r\n"]
)
def test_round_trip_is_exact(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_and_size(tokenizer):
    assert tokenizer.vocab_size <= 448
    assert (tokenizer.eos_id, tokenizer.pad_id) == (tokenizer.token_id("<|endoftext|>"), tokenizer.token_id("<|pad|>"))
    assert tokenizer.eos_id != tokenizer.pad_id


def test_training_is_deterministic_and_survives_the_disk(tokenizer, tmp_path):
    documents = [corpus_text(index, seed=0) for index in range(2000)]
    again = train_tokenizer([f"User: {prompt}. Assistant:{text}" for prompt, text in documents], vocab_size=448)
    again.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    text = "User: Which two of 27, 38, 13, 44 make 71. Assistant: <think> 等等"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.eos_id == tokenizer.eos_id


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size=100: must be >= 258"):
        train_tokenizer(["a"], vocab_size=100)
    with pytest.raises(ValueError, match="special_tokens is empty"):
        train_tokenizer(["a"], vocab_size=300, special_tokens=())
