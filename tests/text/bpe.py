"""Byte-level BPE tokenizers made on the spot, split as tiktoken's and DeepSeek's are: punctuation merges with newlines."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

SPLIT = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [
    "The answer is 42.\n\nSo <think>\nhm, wait: 6*7 = 42\n</think>\n\n",
    " User: hi. Assistant: hello </think>\n <answer> 4 </answer>",
] * 4
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|box_start|>", "<|box_end|>")


def make_bpe(*special: str, adds: str | None = None) -> tokenizers.Tokenizer:
    """A trained tokenizer; the special tokens come last, as in the real ones. Its post-processor adds `adds` in front."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    thoughts = [text for text in special if "think>" in text]  # plain added tokens in the real tokenizers
    inner.add_special_tokens([text for text in special if text not in thoughts])
    inner.add_tokens(thoughts)
    if adds is not None:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{adds} $A", pair=f"{adds} $A {adds} $B", special_tokens=[(adds, inner.token_to_id(adds))]
        )
    return inner
