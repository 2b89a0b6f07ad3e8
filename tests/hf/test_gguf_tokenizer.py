"""The tokenizer of the real SmolLM2, and what is refused."""

import itertools
import random

import pytest

from r1jax.hf.gguf import find_smollm2, gguf_tokenizer, read_gguf


@pytest.fixture(scope="module")
def smollm2_metadata():
    return read_gguf(find_smollm2())[0]


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2_metadata):
    return gguf_tokenizer(smollm2_metadata)


TEXTS = [
    "12345",
    "x  12",
    "Q: 3.14 + 27 = ½ of 二十, x1y22  333\t4\n 5",
    "def f(x):\n\treturn [i ** 2 for i in range(10)]  # it's  fine\r\n\n\n    pass",
    "中文，标点 and English 混合 2026年",
    "👩‍👩‍👧 🙂 naïve e\u0301 \u00a0\ufeff\x00\x7f",
    "   \n\n\t \n  indented   ",
    "we'll don't I've 'tis O'Neil's",
    "<|im_start|>user\nhi 42<|im_end|>\n<|endoftext|>",
    "<think> 7 + 8 = 15 </think> <answer> 15 </answer>",
]


def random_texts(count):
    rng = random.Random(0)
    ranges = [
        (0x20, 0x7E),
        (0x20, 0x7E),
        (0x30, 0x39),
        (0x09, 0x0D),
        (0xA0, 0x2FF),
        (0x4E00, 0x9FFF),
        (0x1F300, 0x1F6FF),
    ]
    return ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(40)) for _ in range(count)]


def test_smollm2_tokenizer_splits_digits(smollm2_tokenizer):
    encode = smollm2_tokenizer.encode
    assert encode("12345") == [33, 34, 35, 36, 37]
    assert encode("x  12") == [104, 256, 33, 34]  # the whitespace run stays whole before a digit
    assert encode("中文") == [28589, 29184]
    assert encode("<|im_start|>user\nhi<|im_end|>") == [1, 4093, 198, 6004, 2]
    ids = (smollm2_tokenizer.bos_id, smollm2_tokenizer.eos_id, smollm2_tokenizer.pad_id, smollm2_tokenizer.vocab_size)
    assert ids == (1, 2, 2, 49152)


def test_smollm2_tokenizer_round_trip(smollm2_tokenizer):
    for text in TEXTS + random_texts(200):
        assert smollm2_tokenizer.decode(smollm2_tokenizer.encode(text)) == text


@pytest.mark.oracle
def test_smollm2_token_ids_are_those_of_llama_cpp(smollm2_metadata, smollm2_tokenizer):
    """An independent BPE in plain Python, after llama.cpp's pair of regular expressions for `smollm`."""
    regex = pytest.importorskip("regex")
    digits = regex.compile(r"\p{N}")
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's symbols for bytes
    symbol = {byte: chr(byte) for byte in visible}
    symbol |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in visible)}
    rank = {tuple(m.split(" ")): i for i, m in enumerate(smollm2_metadata["tokenizer.ggml.merges"])}
    ids = {token: i for i, token in enumerate(smollm2_metadata["tokenizer.ggml.tokens"])}

    def encode(text):
        result, start = [], 0
        pieces = []
        for match in digits.finditer(text):
            pieces += [text[start : match.start()], match.group()]
            start = match.end()
        for piece in [*pieces, text[start:]]:
            for word in words.findall(piece):
                parts = [symbol[byte] for byte in word.encode()]
                while len(parts) > 1:
                    pairs = list(itertools.pairwise(parts))
                    best = min(range(len(pairs)), key=lambda i: rank.get(pairs[i], len(rank)))
                    if pairs[best] not in rank:
                        break
                    parts[best : best + 2] = ["".join(pairs[best])]
                result += [ids[part] for part in parts]
        return result

    for text in [text for text in TEXTS if "<|" not in text] + random_texts(200):
        assert smollm2_tokenizer.encode(text) == encode(text), repr(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.pre": "llama-bpe"}, "tokenizer.ggml.pre='llama-bpe' is not supported"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model='llama' is not supported"),
        ({"tokenizer.ggml.eos_token_id": 50_000}, "eos_id=50000 is not in"),
        ({"tokenizer.ggml.add_space_prefix": True}, "tokenizer.ggml.add_space_prefix=True is not supported"),
    ],
)
def test_what_is_not_supported_is_named(smollm2_metadata, changes, message):
    with pytest.raises(ValueError, match=message):
        gguf_tokenizer(smollm2_metadata | changes)


def test_the_ends_of_a_turn_and_of_a_message_stop_too(smollm2_metadata):
    """llama.cpp stops at all three."""
    ends = {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 5}
    assert gguf_tokenizer(smollm2_metadata).stop_ids == (2,)
    assert gguf_tokenizer(smollm2_metadata | ends).stop_ids == (2, 0, 5)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"no 'tokenizer\.ggml\.model'"):
        gguf_tokenizer({})
