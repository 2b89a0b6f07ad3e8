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


def test_without_a_generation_config_the_models_config_says_what_stops(make_folder, tmp_path_factory):
    """As transformers does; the ends are kept where the folder is saved again without the model."""
    inner = make_bpe("<1>", "<2>", "<3>")
    ids = [inner.token_to_id(text) for text in ("<1>", "<2>", "<3>")]
    for given, stops in (
        ({"tokenizer_config": {"eos_token": "<1>"}, "config": {"eos_token_id": ids[1:]}}, ids),
        ({"config": {"eos_token_id": ids[1]}}, ids[1:2]),
        ({"generation_config": {"eos_token_id": ids[1]}, "config": {"eos_token_id": ids[2]}}, ids[1:2]),
    ):
        tokenizer = Tokenizer.load(make_folder(inner, **given))
        copy = tmp_path_factory.mktemp("copy")
        tokenizer.save(copy)
        assert tokenizer.stop_ids == Tokenizer.load(copy).stop_ids == tuple(stops)


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
    with pytest.raises(FileNotFoundError, match=r"nowhere: tokenizer\.json is missing$"):
        Tokenizer.load(tmp_path / "nowhere")
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(FileNotFoundError, match=r"missing; of tokenizer\.model, transformers' AutoTokenizer makes one"):
        Tokenizer.load(tmp_path)


def decoder_of(inner, *tokens):
    """added_tokens_decoder with these tokens after the last id."""
    first = inner.get_vocab_size()
    fields = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {str(first + i): {"content": t, "special": t.startswith("<|")} | fields for i, t in enumerate(tokens)}


EXTRA = ("<think>", "</think>", "<|tool|>", *(f"<|spare_{i}|>" for i in range(9)))


def test_tokens_that_only_the_config_adds(make_folder, tmp_path_factory):
    inner = make_bpe(*QWEN)
    first = inner.get_vocab_size()
    config = {"eos_token": "<|tool|>", "added_tokens_decoder": decoder_of(inner, *EXTRA)}
    tokenizer = Tokenizer.load(make_folder(inner, tokenizer_config=config))
    assert [tokenizer.encode(text) for text in EXTRA] == [[first + i] for i in range(len(EXTRA))]
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (first + 2, first + 12)
    assert [tokenizer.is_special(first + i) for i in (0, 2)] == [False, True]
    copy = tmp_path_factory.mktemp("copy")
    tokenizer.save(copy)
    assert Tokenizer.load(copy).encode("a<think>") == tokenizer.encode("a<think>")
    tokenizer.with_chat_template("x", eos="<|tool|>").save(copy / "other")
    assert Tokenizer.load(copy / "other").encode("a<think>") == tokenizer.encode("a<think>")


def test_tokens_that_other_files_add_or_mark(make_folder):
    inner = make_bpe(*QWEN)
    first, word = inner.get_vocab_size(), inner.token_to_id("answer")
    added = {"added_tokens": {"<|b|>": first + 1, "<a>": first}, "tokenizer_config": {"eos_token": "<|im_end|>"}}
    tokenizer = Tokenizer.load(make_folder(inner, **added))
    assert [tokenizer.encode(text) for text in ("<a>", "<|b|>")] == [[first], [first + 1]]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        for values in (["<a>", {"content": "<|b|>"}], {"x": "<a>", "y": "<|b|>"}):
            config = {"eos_token": "<|im_end|>", key: values}
            for files in ({"tokenizer_config": config}, {"special_tokens_map": config}):
                tokenizer = Tokenizer.load(make_folder(inner, **files))
                assert [tokenizer.encode(text) for text in ("<a>", "<|b|>")] == [[first], [first + 1]]
                assert tokenizer.is_special(first)
    tokenizer = Tokenizer.load(make_folder(inner, tokenizer_config={"eos_token": "answer"}))
    assert tokenizer.encode("The answers")[-2:-1] == [word] and tokenizer.is_special(word)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (
            {"400": {"content": "<new>"}},
            r"added_tokens_decoder gives '<new>' the id 400, and tokenizer\.json makes it 301",
        ),
        (
            {"300": {"content": "answer"}},
            r"added_tokens_decoder gives 'answer' the id 300, and tokenizer\.json makes it",
        ),
        ({"x": {"content": "<new>"}}, r"added_tokens_decoder must give each id a token, got 'x'"),
        ({"301": "<new>"}, r"added_tokens_decoder must give each id a token, got '301': '<new>'"),
        (["<new>"], r"added_tokens_decoder must give each id a token, got None: \['<new>'\]"),
    ],
)
def test_added_tokens_that_cannot_be(make_folder, decoder, words):
    inner = make_bpe("<e>")
    assert inner.get_vocab_size() == 301
    config = {"eos_token": "<e>", "added_tokens_decoder": decoder}
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: " + words):
        Tokenizer.load(make_folder(inner, tokenizer_config=config))


def test_special_tokens_in_text_are_always_one_id(make_folder):
    config = {"eos_token": "<e>", "split_special_tokens": True}
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: split_special_tokens=true is not supported"):
        Tokenizer.load(make_folder(make_bpe("<e>"), tokenizer_config=config))


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def same_ids(ours, theirs):
    texts = [*TEXTS, *(f"a{special} b{special}{special}" for special in theirs.all_special_tokens)]
    return [ours.encode(t) for t in texts] == [theirs.encode(t, add_special_tokens=False) for t in texts]


@pytest.mark.oracle
@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": decoder_of(make_bpe(*QWEN), *EXTRA)}},
        {"added_tokens": {text: 306 + i for i, text in enumerate(EXTRA)}},
        {"special_tokens_map": {"additional_special_tokens": list(EXTRA)}},
        {"tokenizer_config": {"extra_special_tokens": list(EXTRA)}},
        {"tokenizer_config": {"unk_token": "answer"}},
    ],
    ids=["added_tokens_decoder", "added_tokens.json", "additional_special_tokens", "extra_special_tokens", "a role"],
)
def test_transformers_adds_the_same_tokens(transformers, make_folder, files):
    config = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    files["tokenizer_config"] = config | files.get("tokenizer_config", {})
    folder = make_folder(make_bpe(*QWEN), **files)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), Tokenizer.load(folder)
    text = "The answer<think> 6*7 </think><|tool|>" + "".join(EXTRA)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert len(theirs) == ours.vocab_size
    for skip in (False, True):
        assert ours.decode(ours.encode(text), skip_special_tokens=skip) == theirs.decode(
            ours.encode(text), skip_special_tokens=skip
        )


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
