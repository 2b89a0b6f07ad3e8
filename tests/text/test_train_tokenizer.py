"""The mini tokenizer: whole words, frequent numbers, exact round trips, saved and loaded."""

import pytest

from r1jax.tasks.mini.corpus import corpus_text
from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import train_tokenizer


def train():
    documents = [corpus_text(index, seed=0, mixture={"careful": 1.0}) for index in range(1000)]
    return train_tokenizer([f"User: {prompt}. Assistant:{text}" for prompt, text in documents], vocab_size=512)


@pytest.fixture(scope="module")
def tokenizer():
    return train()


def pieces(tokenizer, text):
    return [tokenizer.decode([item]) for item in tokenizer.encode(text)]


def test_words_and_tags_are_single_tokens(tokenizer):
    text = " <think> 17 + 8 vs 9 wrong retry 再试 </think> <answer>"
    expected = " <think>| 17| +| 8| vs| 9| wrong| retry| 再试| </think>| <answer>"
    assert pieces(tokenizer, text) == expected.split("|")


def test_frequent_numbers_are_single_tokens(tokenizer):
    text = " 17 + 8 = 25 vs 9, 3 make 20."
    assert pieces(tokenizer, text) == [" 17", " +", " 8", " =", " 25", " vs", " 9", ",", " 3", " make", " 20", "."]
    assert tokenizer.decode(tokenizer.encode("2026 1234567")) == "2026 1234567"


@pytest.mark.parametrize(
    "text", ["", "a\n\n\tb  c ", "naïve 等等 ０１２ 🙂 \x00", "<think></think><|x|>", " 7 7  7\r\n"]
)
def test_round_trip_is_exact(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_text_round_trips_though_its_bytes_were_never_seen():
    seen_nothing = train_tokenizer(["a"], vocab_size=300)
    characters = [chr(code) for code in (*range(0x300), 0x200B, 0xFEFF, 0xFFFD, 0x10FFFF)]
    characters += [chr(code) for code in (*range(0x4E00, 0x9FFF, 97), *range(0x1F300, 0x1FAFF, 31))]
    for text in (
        "".join(characters),
        "".join(reversed(characters)),
        "👩‍👩‍👧 e\u0301 \x1b[0m 中文\r\n\n \t",
        *characters,
    ):
        ids = seen_nothing.encode(text)
        assert seen_nothing.decode(ids) == text and max(ids, default=0) < seen_nothing.vocab_size


def test_special_tokens_and_size(tokenizer):
    assert tokenizer.vocab_size <= 512
    assert (tokenizer.eos_id, tokenizer.pad_id) == (tokenizer.token_id("<|endoftext|>"), tokenizer.token_id("<|pad|>"))
    assert tokenizer.eos_id != tokenizer.pad_id


def test_training_is_deterministic_and_survives_the_disk(tokenizer, tmp_path):
    train().save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    text = "User: Which two of 17, 8, 10, 3 make 18. Assistant: <think> 等等"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.eos_id == tokenizer.eos_id


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size=100: must be >= 258"):
        train_tokenizer(["a"], vocab_size=100)
    with pytest.raises(ValueError, match="special_tokens is empty"):
        train_tokenizer(["a"], vocab_size=300, special_tokens=())
