"""Folders as Hugging Face lays them out: which file says what, kept as they were, errors that name file and key."""

import json

import pytest

from r1jax.text.tokenizer import Tokenizer
from r1jax.text.train_tokenizer import train_tokenizer
from tests.text.bpe import DEEPSEEK, LLAMA3, QWEN, make_bpe

TEXTS = ["", "The answer is 42.\n\n", "中文 🙂 \x00\x7f\ufeff", " <think>\nhm </think>", "a  b\r\n\tc 12345"]


def added(text):
    """A token as tokenizer_config.json spells it out."""
    return {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": True, "special": True}


@pytest.fixture
def make_folder(tmp_path):
    """folder(inner, **{file name without suffix: values}) with what is given and no more."""

    def make(inner, **files):
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / "tokenizer.json").write_text(inner.to_str(), encoding="utf-8")
        for name, values in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
        return tmp_path

    return make


def test_deepseeks_folder(make_folder):
    inner = make_bpe(*DEEPSEEK, adds=DEEPSEEK[0])
    config = {
        "add_bos_token": True,
        "bos_token": added(DEEPSEEK[0]),
        "eos_token": added(DEEPSEEK[1]),
        "pad_token": added(DEEPSEEK[1]),
        "chat_template": "{{ bos_token }}",
        "tokenizer_class": "LlamaTokenizerFast",
    }
    generation = {"bos_token_id": 0, "eos_token_id": inner.token_to_id(DEEPSEEK[1]), "temperature": 0.6}
    tokenizer = Tokenizer.load(make_folder(inner, tokenizer_config=config, generation_config=generation))
    ids = [inner.token_to_id(text) for text in DEEPSEEK]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (ids[0], ids[1], ids[1])
    assert (tokenizer.stop_ids, tokenizer.adds_bos, tokenizer.chat_template) == ((ids[1],), True, "{{ bos_token }}")
    assert inner.encode("a").ids[0] == ids[0], "the file's post-processor adds BOS"
    assert tokenizer.encode("a") == inner.encode("a").ids[1:]


def test_llamas_folder_stops_at_every_end_and_its_post_processor_says_that_it_adds_bos(make_folder):
    inner = make_bpe(*LLAMA3, adds=LLAMA3[0])
    begin, end, _, _, turn = [inner.token_to_id(text) for text in LLAMA3]
    special = {"bos_token": LLAMA3[0], "eos_token": {"content": "<|eot_id|>"}}
    folder = make_folder(inner, special_tokens_map=special, generation_config={"eos_token_id": [end, turn]})
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (begin, turn, turn)
    assert (tokenizer.stop_ids, tokenizer.adds_bos) == ((turn, end), True)


def test_qwens_folder_has_no_bos_though_its_generation_config_names_one(make_folder):
    inner = make_bpe(*QWEN)
    text, turn = inner.token_to_id("<|endoftext|>"), inner.token_to_id("<|im_end|>")
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    generation = {"bos_token_id": text, "eos_token_id": [turn, text], "pad_token_id": text}
    tokenizer = Tokenizer.load(make_folder(inner, tokenizer_config=config, generation_config=generation))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.adds_bos) == (None, turn, text, False)
    assert tokenizer.stop_ids == (turn, text)


def test_the_end_is_sought_in_four_files_in_order(make_folder):
    inner = make_bpe("<1>", "<2>", "<3>", "<4>")
    files = {
        "tokenizer_config": {"eos_token": "<1>"},
        "special_tokens_map": {"eos_token": "<2>"},
        "generation_config": {"eos_token_id": inner.token_to_id("<3>")},
        "config": {"eos_token_id": [inner.token_to_id("<4>")]},
    }
    for wanted in ("<1>", "<2>", "<3>", "<4>"):
        tokenizer = Tokenizer.load(make_folder(inner, **files))
        assert tokenizer.token_text(tokenizer.eos_id) == wanted
        files.pop(next(iter(files)))
    with pytest.raises(ValueError, match=r"no eos_token in tokenizer_config\.json or .* no eos_token_id in"):
        Tokenizer.load(make_folder(inner, tokenizer_config={"eos_token": None}))


def test_a_template_is_a_text_or_the_default_of_a_list_or_a_file_of_its_own(make_folder):
    inner = make_bpe("<e>")
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    folder = make_folder(inner, tokenizer_config={"eos_token": "<e>", "chat_template": named})
    assert Tokenizer.load(folder).chat_template == "d"
    (folder / "chat_template.jinja").write_text("f")
    assert Tokenizer.load(folder).chat_template == "f"
    folder = make_folder(inner, tokenizer_config={"eos_token": "<e>", "chat_template": named[:1]})
    with pytest.raises(ValueError, match="without the name 'default', it has"):
        Tokenizer.load(folder)


def test_a_folder_is_given_back_as_it_was(make_folder, tmp_path_factory):
    inner = make_bpe(*QWEN, adds="<|im_start|>")
    inner.enable_truncation(max_length=3)
    config = {"eos_token": "<|im_end|>", "chat_template": "中{{ x }}", "made_up": [1, {"a": None}]}
    folder = make_folder(inner, tokenizer_config=config, generation_config={"eos_token_id": 270, "top_p": 0.95})
    (folder / "merges.txt").write_bytes(b"#version\r\na b\n")
    (folder / "config.json").write_text("{}")
    copy = tmp_path_factory.mktemp("copy")
    Tokenizer.load(folder).save(copy)
    kept = ["generation_config.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in copy.iterdir()) == kept
    for name in kept:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json is not a tokenizer"),
        ("tokenizer.json", b"\xff", r"tokenizer\.json is not UTF-8"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is not JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds no JSON object but '\[\]'"),
        ("tokenizer_config.json", '{"eos_token": "<x>"}', r"tokenizer_config\.json: eos_token '<x>' is not in the voc"),
        ("tokenizer_config.json", '{"eos_token": 3}', r"tokenizer_config\.json: eos_token 3 is not in"),
        (
            "tokenizer_config.json",
            '{"eos_token": "<e>", "bos_token": "<x>"}',
            r"tokenizer_config\.json: bos_token '<x>'",
        ),
        (
            "tokenizer_config.json",
            '{"eos_token": "<e>", "chat_template": 3}',
            r"tokenizer_config\.json: chat_template is",
        ),
        (
            "generation_config.json",
            '{"eos_token_id": [9999]}',
            r"generation_config\.json: eos_token_id \[9999\] is not",
        ),
        ("generation_config.json", '{"eos_token_id": "<e>"}', r"generation_config\.json: eos_token_id '<e>' is not"),
    ],
)
def test_bad_files_are_named_with_their_key(make_folder, file, text, words):
    folder = make_folder(make_bpe("<e>"), special_tokens_map={"eos_token": "<e>"})
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words):
        Tokenizer.load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: tokenizer\.json is missing"):
        Tokenizer.load(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def same_ids(ours, theirs):
    texts = [*TEXTS, *(f"a{special} b{special}{special}" for special in theirs.all_special_tokens)]
    return [ours.encode(t) for t in texts] == [theirs.encode(t, add_special_tokens=False) for t in texts]


@pytest.mark.oracle
def test_transformers_loads_what_we_save(transformers, tmp_path):
    trained = train_tokenizer(TEXTS, vocab_size=300, special_tokens=("<|endoftext|>", "<|pad|>", *DEEPSEEK))
    inner = make_bpe(*DEEPSEEK)
    ours = [trained, Tokenizer(inner, eos_id=inner.token_to_id(DEEPSEEK[1]), chat_template="{{ messages[0].content }}")]
    for place, tokenizer in enumerate(ours):
        tokenizer.save(tmp_path / str(place))
        theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / str(place)))
        assert same_ids(tokenizer, theirs)
        assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (
            tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id,
        )  # fmt: skip
        assert theirs.chat_template == tokenizer.chat_template
        assert [theirs.decode(tokenizer.encode(t)) for t in TEXTS] == TEXTS


@pytest.mark.oracle
@pytest.mark.parametrize("adds", [None, DEEPSEEK[0]])
def test_we_load_what_transformers_saves_and_it_loads_what_we_give_back(transformers, tmp_path, adds):
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=make_bpe(*DEEPSEEK, adds=adds),
        bos_token=DEEPSEEK[0],
        eos_token=DEEPSEEK[1],
        pad_token="</think>",
    )
    theirs.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = Tokenizer.load(tmp_path / "theirs")
    assert same_ids(ours, theirs)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert (ours.chat_template, ours.adds_bos) == (theirs.chat_template, adds is not None)
    ours.save(tmp_path / "ours")
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "ours"))
    assert again.get_vocab() == theirs.get_vocab() and again.chat_template == theirs.chat_template
    assert again.encode("a b") == theirs.encode("a b")
