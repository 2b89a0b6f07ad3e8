"""Conversations as token ids and loss masks: with SmolLM2's tokenizer and with BPEs like DeepSeek's, Llama's and Qwen's."""

import pytest

from r1jax.hf.gguf import find_smollm2, gguf_tokenizer, read_gguf
from r1jax.text.chat import (
    encode_conversation,
    encode_prompt,
    render,
    response_form,
    stop_ids,
    stops_at,
    tokenizer_for,
    with_template,
)
from r1jax.text.templates import write_jinja
from r1jax.text.tokenizer import Tokenizer
from tests.text.bpe import DEEPSEEK, LLAMA3, QWEN, make_bpe

BEGIN, END, USER, ASSISTANT = DEEPSEEK[:4]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "6*7?"},
    {"role": "assistant", "content": "<think>\nhm, wait\n</think>\n\nThe answer is 42."},
    {"role": "user", "content": "你好 🙂\nand 2+2?"},
    {"role": "assistant", "content": "<think>\n2+2 = 4\n</think>\n\nSo 4."},
]


@pytest.fixture(scope="module")
def tokenizers():
    deepseek = make_bpe(*DEEPSEEK, adds=BEGIN)
    llama3 = make_bpe(*LLAMA3, adds=LLAMA3[0])
    ids = [llama3.token_to_id(text) for text in LLAMA3]
    return {
        "r1": Tokenizer(deepseek, eos_id=deepseek.token_to_id(END), bos_id=deepseek.token_to_id(BEGIN), adds_bos=True),
        "llama3": Tokenizer(llama3, eos_id=ids[1], bos_id=ids[0], stop_ids=(ids[1], ids[4]), adds_bos=True),
        "qwen2.5": Tokenizer.from_tokenizers(make_bpe(*QWEN), eos="<|endoftext|>"),
        "chatml": gguf_tokenizer(read_gguf(find_smollm2())[0]),
    }


def masked(tokenizer, ids, mask):
    """The text of each run of trained tokens."""
    runs, before = [], 0
    for token, flag in zip(ids, mask, strict=True):
        if flag and not before:
            runs.append([])
        if flag:
            runs[-1].append(token)
        before = flag
    return [tokenizer.decode(run) for run in runs]


def test_r1_prompt_has_one_begin_token_though_the_tokenizer_would_add_another(tokenizers):
    tokenizer = tokenizers["r1"]
    ids = encode_prompt(TURNS[:2], tokenizer, template="r1")
    assert tokenizer.decode(ids) == f"{BEGIN}Be brief.{USER}6*7?{ASSISTANT}<think>\n"
    assert ids[0] == tokenizer.bos_id and ids.count(tokenizer.bos_id) == 1
    assert ids[-2:] == [tokenizer.token_id("<think>"), *tokenizer.encode("\n")]


def test_the_begin_token_of_templates_without_special_tokens_is_the_tokenizers(tokenizers):
    question = TURNS[1:2]
    for template in ("plain", "r1_zero"):
        ids = encode_prompt(question, tokenizers["r1"], template=template)
        assert ids == [tokenizers["r1"].bos_id, *tokenizers["r1"].encode(render(question, template=template))]
        smollm2 = tokenizers["chatml"]  # it has a BOS and was trained without
        assert smollm2.bos_id is not None
        assert encode_prompt(question, smollm2, template=template) == smollm2.encode(
            render(question, template=template)
        )


def test_r1_conversation_trains_the_last_turn_with_its_thought(tokenizers):
    tokenizer = tokenizers["r1"]
    ids, mask = encode_conversation(TURNS, tokenizer, template="r1")
    history = f"{BEGIN}Be brief.{USER}6*7?{ASSISTANT}\n\nThe answer is 42.{END}{USER}你好 🙂\nand 2+2?{ASSISTANT}"
    assert tokenizer.decode(ids) == f"{history}<think>\n2+2 = 4\n</think>\n\nSo 4.{END}"
    assert masked(tokenizer, ids, mask) == [f"2+2 = 4\n</think>\n\nSo 4.{END}"]
    ids, mask = encode_conversation(TURNS, tokenizer, template="r1", train="all")
    assert masked(tokenizer, ids, mask) == [f"\n\nThe answer is 42.{END}", f"2+2 = 4\n</think>\n\nSo 4.{END}"]


@pytest.mark.parametrize(
    ("content", "text", "trained"),
    [
        ("2+2\n</think>\n\n4", "<think>\n2+2\n</think>\n\n4", "2+2\n</think>\n\n4"),
        (" <think> 2+2 </think> 4", "<think>\n 2+2 </think> 4", " 2+2 </think> 4"),
        ("4", "4", "4"),
        ("<think>4", "<think>4", "<think>4"),
    ],
)
def test_r1_writes_the_opening_tag_once_and_only_for_an_answer_with_a_thought(tokenizers, content, text, trained):
    messages = [TURNS[1], {"role": "assistant", "content": content}]
    ids, mask = encode_conversation(messages, tokenizers["r1"], template="r1")
    assert tokenizers["r1"].decode(ids) == f"{BEGIN}{USER}6*7?{ASSISTANT}{text}{END}"
    assert masked(tokenizers["r1"], ids, mask) == [f"{trained}{END}"]


@pytest.mark.parametrize(("template", "end", "gap"), [("chatml", "<|im_end|>", "\n"), ("qwen2.5", "<|im_end|>", "\n"),
                                                      ("llama3", "<|eot_id|>", ""), ("v3", END, "")])  # fmt: skip
@pytest.mark.parametrize("train", ["last", "all"])
def test_ids_are_those_of_the_whole_text(tokenizers, template, end, gap, train):
    tokenizer = tokenizers.get(template, tokenizers["r1"])
    ids, mask = encode_conversation(TURNS, tokenizer, template=template, train=train)
    text = render(TURNS, template=template, add_generation_prompt=False)
    assert ids == tokenizer.encode(text) and tokenizer.decode(ids) == text and text.endswith(f"So 4.{end}{gap}")
    contents = [message["content"] for message in TURNS if message["role"] == "assistant"]
    assert masked(tokenizer, ids, mask) == [f"{content}{end}" for content in contents[-1 if train == "last" else 0 :]]


@pytest.mark.parametrize("template", ["r1", "v3", "chatml", "qwen2.5", "llama3", "plain", "r1_zero"])
@pytest.mark.parametrize("content", ["a</think> 4", " <think> a </think> <answer> 4 </answer>", "\n\n</think>", ""])
def test_training_sees_the_prompt_of_sampling(tokenizers, template, content):
    tokenizer = tokenizers.get(template, tokenizers["r1"])
    prompt = TURNS[1:2] if template in ("plain", "r1_zero") else TURNS[:4]
    ids, mask = encode_conversation([*prompt, {"role": "assistant", "content": content}], tokenizer, template=template)
    if template != "r1" or "</think>" in content:
        assert ids[: mask.index(1)] == encode_prompt(prompt, tokenizer, template=template)
    last = max(place for place, flag in enumerate(mask) if flag)
    assert ids[last] in stop_ids(tokenizer, template)


def test_plain_documents_end_with_the_tokenizers_end_token(tokenizers):
    messages = [TURNS[1], {"role": "assistant", "content": " <think> 42 </think>"}]
    ids, mask = encode_conversation(messages, tokenizers["r1"], template="plain")
    assert tokenizers["r1"].decode(ids) == f"{BEGIN}User: 6*7?. Assistant: <think> 42 </think>{END}"
    assert masked(tokenizers["r1"], ids, mask) == [f" <think> 42 </think>{END}"]


def test_stop_ids_are_the_tokenizers_and_the_templates(tokenizers):
    qwen, llama3 = tokenizers["qwen2.5"], tokenizers["llama3"]
    assert stop_ids(qwen, "plain") == (qwen.token_id("<|endoftext|>"),)
    assert stop_ids(qwen, "qwen2.5") == (qwen.token_id("<|endoftext|>"), qwen.token_id("<|im_end|>"))
    assert stop_ids(llama3, "tokenizer") == (llama3.token_id("<|end_of_text|>"), llama3.token_id("<|eot_id|>"))


@pytest.fixture
def own(tokenizers):
    """The tokenizers with their own jinja text: SmolLM2's from its file, R1's format for the DeepSeek-like one."""
    return {
        "chatml": tokenizers["chatml"],
        "r1": tokenizers["r1"].with_chat_template(write_jinja("r1"), eos=END),
    }


@pytest.mark.parametrize("name", ["chatml", "r1"])
def test_the_tokenizers_own_template_gives_the_same_ids_and_masks(own, name):
    for messages in (TURNS, TURNS[1:3], [TURNS[1], {"role": "assistant", "content": "42"}]):
        assert encode_prompt(messages[:-1], own[name], template="tokenizer") == encode_prompt(
            messages[:-1], own[name], template=name
        )
        assert encode_conversation(messages, own[name], template="tokenizer") == encode_conversation(
            messages, own[name], template=name
        )


def test_an_own_template_without_an_end_token_gets_the_tokenizers(tokenizers):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = tokenizers["qwen2.5"].with_chat_template(source, eos="<|endoftext|>")
    ids, mask = encode_conversation(TURNS[1:3], tokenizer, template="tokenizer")
    assert tokenizer.decode(ids) == f"user: 6*7?\nassistant: {TURNS[2]['content']}<|endoftext|>\n"
    assert masked(tokenizer, ids, mask) == [f"{TURNS[2]['content']}<|endoftext|>"]
    spaced = tokenizer.with_chat_template(
        source.replace("}}\n{% endfor", "}}\n<|im_end|>\n{% endfor"), eos="<|im_end|>"
    )
    ids, mask = encode_conversation(TURNS[1:3], spaced, template="tokenizer")
    assert masked(tokenizer, ids, mask) == [f"{TURNS[2]['content']}\n<|im_end|>"]
    silent = tokenizer.with_chat_template("{{ messages[0].content }}", eos="<|endoftext|>")
    with pytest.raises(ValueError, match="does not write the last answer"):
        encode_conversation(TURNS[1:3], silent, template="tokenizer")
    with pytest.raises(ValueError, match="last turn alone"):
        encode_conversation(TURNS, tokenizer, template="tokenizer", train="all")


READS_FIELD = """{%- for m in messages %}
    {%- if m.role == 'assistant' and m.reasoning_content is string and loop.last %}
        {{- '<|im_start|>assistant\n<think>\n' + m.reasoning_content.strip('\n') + '\n</think>\n\n' + m.content + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
"""A template that reads `reasoning_content`, as Qwen3's does; `thinking` in its place is gpt-oss's."""
APART = [
    TURNS[0],
    TURNS[1],
    {"role": "assistant", "reasoning_content": "hm, wait", "content": "The answer is 42."},
    TURNS[3],
    {"role": "assistant", "reasoning_content": "\n2+2 = 4\n", "content": "So 4."},
]
"""`TURNS` with the thoughts in a field of their own."""


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize(("template", "train"), [("r1", "last"), ("r1", "all"), ("tokenizer", "last")])
def test_a_thought_apart_is_the_beginning_of_the_answer_where_tags_are_read(own, template, train, field):
    apart = [{field if key == "reasoning_content" else key: text for key, text in turn.items()} for turn in APART]
    expected = encode_conversation(TURNS, own["r1"], template=template, train=train)
    assert encode_conversation(apart, own["r1"], template=template, train=train) == expected
    assert encode_prompt(apart[:4], own["r1"], template=template) == encode_prompt(
        TURNS[:4], own["r1"], template=template
    )


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_a_thought_apart_is_written_where_the_own_template_reads_it(tokenizers, name):
    source = READS_FIELD.replace("reasoning_content", name)
    tokenizer = tokenizers["qwen2.5"].with_chat_template(source, eos="<|im_end|>")
    for field in ("reasoning_content", "thinking", "reasoning"):
        apart = [{field if key == "reasoning_content" else key: text for key, text in turn.items()} for turn in APART]
        ids, mask = encode_conversation(apart, tokenizer, template="tokenizer")
        assert masked(tokenizer, ids, mask) == ["<think>\n2+2 = 4\n</think>\n\nSo 4.<|im_end|>"]
        assert ids[: mask.index(1)] == encode_prompt(apart[:4], tokenizer, template="tokenizer")
    opened = source.replace("{{- '<|im_start|>assistant\n' }}", "{{- '<|im_start|>assistant\n<think>\n' }}")
    tokenizer = tokenizer.with_chat_template(opened, eos="<|im_end|>")
    ids, mask = encode_conversation(APART, tokenizer, template="tokenizer")
    assert masked(tokenizer, ids, mask) == ["2+2 = 4\n</think>\n\nSo 4.<|im_end|>"]
    never = tokenizer.with_chat_template(source.replace("loop.last", "false"), eos="<|im_end|>")
    with pytest.raises(ValueError, match="'tokenizer': it does not write the last answer's 'reasoning_content'"):
        encode_conversation(APART, never, template="tokenizer")


@pytest.mark.parametrize("template", ["v3", "chatml", "qwen2.5", "llama3", "plain", "tokenizer"])
def test_what_a_template_would_leave_out_is_refused(tokenizers, template):
    tokenizer = tokenizers["chatml"]
    last = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    words = f"'{template}': it does not write 'reasoning_content' of a message; say it in its content"
    with pytest.raises(ValueError, match=words):
        encode_conversation([TURNS[1], last], tokenizer, template=template)
    with pytest.raises(ValueError, match=words):
        render([TURNS[1], last, TURNS[1]], template=template, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=f"'{template}': it does not write 'tool_calls' of a message"):
        render([{**TURNS[1], "tool_calls": [{"name": "f"}]}], template=template, tokenizer=tokenizer)
    variable = "{% set thinking = false %}{% for m in messages %}{{ m.content }}{% endfor %}"  # as in DeepSeek-V3.1's
    with pytest.raises(ValueError, match="'tokenizer': it does not write 'thinking' of a message"):
        render(
            [TURNS[1] | {"thinking": "a"}],
            template="tokenizer",
            tokenizer=tokenizer.with_chat_template(variable, eos="<|im_end|>"),
        )
    nothing = {
        "reasoning_content": None,
        "tool_calls": [],
        "reasoning": "",
        "index": 3,
    }  # metadata is no part of the text
    assert render([{**TURNS[1], **nothing}], template=template, tokenizer=tokenizer) == render(
        TURNS[1:2], template=template, tokenizer=tokenizer
    )


def test_thoughts_that_cannot_be(tokenizers):
    for last, words in (
        (
            {"reasoning_content": "a", "content": "b</think>c"},
            "'r1': a message has a thought apart and another in its con",
        ),
        ({"reasoning_content": ["a"], "content": "c"}, r"'r1': the thought of a message must be text, got \['a'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            encode_conversation([TURNS[1], {"role": "assistant", **last}], tokenizers["r1"], template="r1")
    with pytest.raises(ValueError, match="'r1': it does not write 'thinking' of a message"):
        render([{**TURNS[1], "thinking": "a"}], template="r1")


@pytest.mark.oracle
@pytest.mark.parametrize("source", [READS_FIELD, READS_FIELD.replace("reasoning_content", "thinking")])
@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_transformers_writes_the_same_thoughts(tokenizers, tmp_path, source, field):
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizers["qwen2.5"].with_chat_template(source, eos="<|im_end|>")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    apart = [{field if key == "reasoning_content" else key: text for key, text in turn.items()} for turn in APART]
    ids, _ = encode_conversation(apart, tokenizer, template="tokenizer")
    assert ids == theirs.apply_chat_template(apart, return_dict=False)


def test_how_a_response_is_read(own, tokenizers):
    assert response_form("plain", tokenizers["r1"]) == ("r1_zero", "tags")
    assert response_form("r1", tokenizers["r1"]) == ("r1", "tags_or_boxed")
    assert response_form("tokenizer", own["r1"]) == ("r1", "tags_or_boxed")
    assert response_form("tokenizer", own["chatml"]) == ("r1_zero", "tags_or_boxed")


def test_a_model_trained_under_r1_leaves_a_tokenizer_that_says_so(tokenizers):
    assert tokenizer_for(tokenizers["chatml"], "plain") is tokenizers["chatml"]
    inner = make_bpe("<|endoftext|>", *DEEPSEEK)
    left = tokenizer_for(Tokenizer.from_tokenizers(inner, eos="<|endoftext|>"), "r1")
    assert (left.chat_template, left.token_text(left.eos_id)) == (write_jinja("r1"), END)
    assert [left.token_text(stop) for stop in left.stop_ids] == [END, "<|endoftext|>"]
    assert tokenizer_for(left, "r1") is left


@pytest.mark.parametrize(
    ("template", "of"), [("plain", "llama3"), ("v3", "r1"), ("r1", "r1"), ("llama3", "llama3"), ("qwen2.5", "qwen2.5")]
)
def test_a_folder_tells_other_programs_of_any_template(tokenizers, template, of):
    told = with_template(tokenizers[of], template)
    messages = [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "42"}]
    prompt = encode_prompt(messages[:1], told, template=template)
    whole, _ = encode_conversation(messages, told, template=template)
    for shown, ids, is_open in ((messages[:1], prompt, True), (messages, whole, False)):
        assert told.encode(render(shown, template="tokenizer", tokenizer=told, add_generation_prompt=is_open)) == ids
    assert told.eos_id in whole[-2:]
    assert with_template(told, template) is told and with_template(told, "tokenizer") is told


def test_errors_name_what_is_wrong(tokenizers):
    missing = f"'r1': the tokenizer has no special token {BEGIN}, {END}, {USER}, {ASSISTANT}"
    for act in (encode_prompt, tokenizer_for):
        with pytest.raises(ValueError, match=missing):
            act(TURNS[:2], tokenizers["chatml"], template="r1") if act is encode_prompt else act(
                tokenizers["chatml"], "r1"
            )
    with pytest.raises(ValueError, match="'chatml': the last message of a conversation must be the assistant's"):
        encode_conversation(TURNS[:2], tokenizers["chatml"], template="chatml")
    with pytest.raises(ValueError, match="content of the last message must be text, got None"):
        encode_conversation([TURNS[1], {"role": "assistant", "content": None}], tokenizers["chatml"], template="chatml")
    with pytest.raises(ValueError, match="train='first': must be one of last, all"):
        encode_conversation(TURNS, tokenizers["chatml"], template="chatml", train="first")


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["chatml", "r1"])
def test_transformers_gives_the_same_prompt_ids(own, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    own[name].save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for messages in (TURNS[:2], TURNS[:4]):
        got = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert encode_prompt(messages, own[name], template="tokenizer") == got


def test_a_stop_string_may_span_tokens_and_end_within_one(tokenizers):
    tokenizer = tokenizers["chatml"]
    ids = tokenizer.encode("One. Two.\n\nThree: 4, five.\n\nSix")
    for strings in (["Three: 4"], ["o.\n"], ["never", "wo."], ["Six"]):
        count = stops_at(strings, tokenizer)(ids)
        with_it, without = (tokenizer.decode(ids[:n]) for n in (count, count - 1))
        assert any(string in with_it for string in strings) and not any(string in without for string in strings)
    assert stops_at(["Seven"], tokenizer)(ids) is None and stops_at([], tokenizer)(ids) is None
