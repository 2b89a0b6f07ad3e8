"""math-verify, in a worker process, for what is not ours to read.

It decides only where the reference itself is beyond our reader, and only between texts with the same letters and
numbers: its parser makes ``A`` and ``a`` one name, drops units and primes, and its comparison stops at 15 digits.
"""

import functools
import logging
import re
from collections import Counter
from typing import Any

_COMMANDS = {"π": "pi", "≤": "le", "≥": "ge", "∞": "infty", "∪": "cup", "*": "cdot"}
_LATEX = str.maketrans({sign: f"\\{name} " for sign, name in _COMMANDS.items()})


def math_verify(gold: str, answer: str) -> bool:
    """math-verify's judgement of two normalised texts with the same letters and numbers; False for any other two."""
    if _atoms(gold) != _atoms(answer):
        return False
    parse, verify = _library()
    trees = [parse(f"${text.translate(_LATEX)}$") for text in (gold, answer)]
    return all(trees) and bool(verify(*trees))


def _atoms(text: str) -> Counter[str]:
    return Counter(re.findall(r"\\[A-Za-z]+|[A-Z]{2,}|[A-Za-z]|\d+(?:\.\d+)?|'", text))


@functools.cache
def _library() -> tuple[Any, Any]:
    from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it warns that its own timeout is off
    config = LatexExtractionConfig(
        normalization_config=LatexNormalizationConfig(basic_latex=True, malformed_operators=True, boxed="none")
    )
    options = {"fallback_mode": "no_fallback", "extraction_mode": "first_match", "parsing_timeout": None}
    return functools.partial(parse, extraction_config=[config], **options), functools.partial(
        verify, timeout_seconds=None
    )
