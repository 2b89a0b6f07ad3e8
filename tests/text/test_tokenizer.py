import json
import pickle

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from r1jax.text.tokenizer import Tokenizer


def byte_level(*special: str) -> tokenizers.Tokenizer:
    """256 byte tokens (ids 0-255, in sorted order of their symbols), no merges, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    return inner


@pytest.fixture
def tokenizer():
    return Tokenizer.from_tokenizers(byte_level("<eos>", "<｜User｜>"), eos="<eos>")


TEXTS = [
    "",
    "plain words, and punctuation!",
    "def f(x):\n\treturn x  ** 2\r\n\n\n",
    "12345 + 0.678 = ½ 一二三 ٣",
    "中文，标点。混合 mixed 文本",
    "👩‍👩‍👧 🙂 e\u0301 \u00a0\ufeff\x00",
    "   leading, trailing   ",
    "a<eos>b<｜User｜> c <eos",
    "did n't , cleaned up ? no .",
]


@pytest.mark.parametrize("text", TEXTS)
def test_decode_gives_back_exactly_what_was_encoded(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_one_id_and_none_is_added(tokenizer):
    assert tokenizer.encode("!<eos><｜User｜>!") == [0, 256, 257, 0]
    assert tokenizer.encode("") == []
    assert tokenizer.decode([0, 256, 257, 0], skip_special_tokens=True) == "!!"


def test_ids(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (258, 256, None, 256)
    assert tokenizer.token_id("<｜User｜>") == 257
    with pytest.raises(KeyError, match="<none>"):
        tokenizer.token_id("<none>")


def test_a_padding_token_of_its_own_and_a_begin_token():
    tokenizer = Tokenizer.from_tokenizers(byte_level("<b>", "<e>", "<p>"), eos="<e>", bos="<b>", pad="<p>")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (256, 257, 258)


def test_absent_tokens_are_named():
    with pytest.raises(ValueError, match="pad token '<pad>'"):
        Tokenizer.from_tokenizers(byte_level("<eos>"), eos="<eos>", pad="<pad>")
    with pytest.raises(ValueError, match="bos_id=999"):
        Tokenizer(byte_level("<eos>"), eos_id=256, bos_id=999)


def test_ids_that_have_no_text(tokenizer):
    assert tokenizer.decode([0, 258, 1]) == '!\ufffd"'
    assert tokenizer.decode(tokenizer.encode("中")[:2]) == "\ufffd"
    with pytest.raises(ValueError, match="-1"):
        tokenizer.decode([0, -1])


def test_a_file_that_truncates_and_pads_does_not_make_us_do_so():
    inner = byte_level("<eos>")
    inner.enable_truncation(max_length=3)
    inner.enable_padding(length=8, pad_id=256, pad_token="<eos>")
    assert Tokenizer(inner, eos_id=256).encode("!!!!!") == [0, 0, 0, 0, 0]
    assert len(inner.encode("!").ids) == 8, "the caller's object was changed"


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert sorted(p.name for p in (tmp_path / "tokenizer").iterdir()) == ["tokenizer.json", "tokenizer_meta.json"]
    assert (loaded.eos_id, loaded.bos_id, loaded.pad_id, loaded.vocab_size) == (256, None, 256, 258)
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_goes_to_another_process(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a<eos>") == tokenizer.encode("a<eos>")


def test_bad_folders_are_named(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path / "nowhere")
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_meta.json").write_text(json.dumps({"eos_id": 256}))
    with pytest.raises(ValueError, match=r"tokenizer_meta\.json does not give"):
        Tokenizer.load(tmp_path)
