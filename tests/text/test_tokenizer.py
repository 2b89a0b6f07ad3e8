import pickle

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from r1jax.text.tokenizer import Tokenizer
from tests.text.bpe import DEEPSEEK, QWEN, make_bpe


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


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_and_characters_stay_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text
    odd = [*tokenizer.encode("中")[:2], 258, 258, *ids]
    assert "".join(tokenizer.pieces(odd)) == tokenizer.decode(odd)


def test_a_space_that_begins_a_token_is_in_its_piece():
    inner = tokenizers.Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "<e>": 2}, unk_token="<e>"))
    inner.decoder = decoders.Metaspace()  # leaves out the space that begins a text
    assert Tokenizer.from_tokenizers(inner, eos="<e>").pieces([0, 1, 1]) == ["a", " b", " b"]


def test_a_character_of_several_tokens_is_the_piece_of_its_last(tokenizer):
    assert tokenizer.pieces(tokenizer.encode("a中b")) == ["a", "", "", "中", "b"]


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
    assert sorted(p.name for p in (tmp_path / "tokenizer").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert (loaded.eos_id, loaded.bos_id, loaded.pad_id, loaded.vocab_size) == (256, None, 256, 258)
    assert (loaded.stop_ids, loaded.adds_bos, loaded.chat_template) == ((256,), False, None)
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_all_that_a_tokenizer_knows_survives_the_disk(tmp_path):
    inner = byte_level("<b>", "<e>", "<p>", "<turn>")
    tokenizer = Tokenizer(
        inner, eos_id=257, bos_id=256, pad_id=258, stop_ids=(259, 257), adds_bos=True, chat_template="{{ '中' }}"
    )
    tokenizer.save(tmp_path)
    for loaded in (tokenizer, Tokenizer.load(tmp_path)):
        assert (loaded.eos_id, loaded.bos_id, loaded.pad_id, loaded.stop_ids) == (257, 256, 258, (257, 259))
        assert (loaded.adds_bos, loaded.chat_template) == (True, "{{ '中' }}")
    with pytest.raises(ValueError, match="stop_ids=999"):
        Tokenizer(inner, eos_id=257, stop_ids=(999,))
    with pytest.raises(ValueError, match="without a bos_id"):
        Tokenizer(inner, eos_id=257, adds_bos=True)


def test_a_models_vocabulary_may_be_larger_but_not_smaller(tokenizer):
    tokenizer.check_fits(258)
    tokenizer.check_fits(512)
    with pytest.raises(ValueError, match="the model has 257 token ids and the tokenizer 258: '<｜User｜>'"):
        tokenizer.check_fits(257)


def test_special_tokens_are_told_from_text(tokenizer):
    assert tokenizer.is_special(257) and not tokenizer.is_special(0) and not tokenizer.is_special(999)
    assert tokenizer.token_text(257) == "<｜User｜>"
    with pytest.raises(KeyError, match="999"):
        tokenizer.token_text(999)


def test_special_tokens_are_renamed_as_deepseek_did_for_its_students():
    qwen = make_bpe(*QWEN, adds="<|im_start|>")
    before = Tokenizer.from_tokenizers(qwen, eos="<|endoftext|>")
    begin, end, user, assistant = DEEPSEEK[:4]
    renamed = dict(zip(QWEN[:4], (end, user, assistant, begin), strict=True))
    after = before.with_special_tokens(renamed, eos=end, bos=begin, chat_template="x")
    assert after.vocab_size == before.vocab_size
    assert after.encode(f"{begin}hi{user}{end}") == before.encode(f"{QWEN[3]}hi{QWEN[1]}{QWEN[0]}")
    assert after.encode("<|im_start|>") != before.encode("<|im_start|>") and len(after.encode("<|im_start|>")) > 1
    assert [after.token_text(i) for i in (after.eos_id, after.bos_id)] == [end, begin]
    assert after.adds_bos and after.chat_template == "x"
    with pytest.raises(ValueError, match="'<no>' is no special token"):
        before.with_special_tokens({"<no>": "<yes>"}, eos="<|endoftext|>")
    with pytest.raises(ValueError, match="cannot rename '<|im_end|>' to 'a'".replace("|", r"\|")):
        before.with_special_tokens({"<|im_end|>": "a"}, eos="<|endoftext|>")
    with pytest.raises(ValueError, match="cannot rename two tokens to the same text"):
        before.with_special_tokens({"<|im_end|>": "<new>", "<|im_start|>": "<new>"}, eos="<|endoftext|>")


def test_goes_to_another_process(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a<eos>") == tokenizer.encode("a<eos>")
