"""LiveCodeBench's test cases: a JSON list, published as it is or as base64 of zlib of a pickled text of it.

Unpickling runs whatever the file says, so nothing is unpickled here: the pickle's instructions are listed, and only the
few that write down one text are accepted.
"""

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

MAX_BYTES = 2**30
_TEXT = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_HARMLESS = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})


def decode_tests(text: str) -> list[dict[str, Any]]:
    """The test cases, each a dict with "input", "output" and "testtype" ("stdin" or "functional").

    Raises:
        ValueError: neither JSON nor base64 of zlib of a pickle of one text; more than a GiB unpacked; no list of such
            dicts.
    """
    content = text if text.lstrip().startswith("[") else _unpacked(text)
    try:
        cases = json.loads(content)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(cases, list):
        raise ValueError(f"must be a list of test cases; it is a {type(cases).__name__}")
    for number, case in enumerate(cases, 1):
        if not isinstance(case, dict) or not all(isinstance(case.get(key), str) for key in ("input", "output")):
            raise ValueError(f"test case {number} must have the texts 'input' and 'output'")
        if case.get("testtype") not in ("stdin", "functional"):
            raise ValueError(f"test case {number} is of type {case.get('testtype')!r}, not 'stdin' or 'functional'")
    return cases


def _unpacked(text: str) -> str:
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(packed, MAX_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"neither JSON nor base64 of zlib: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"is cut off, or larger than {MAX_BYTES} bytes unpacked")
    return _pickled_text(content)


def _pickled_text(content: bytes) -> str:
    texts = []
    try:
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name in _TEXT:
                texts.append(argument)
            elif instruction.name not in _HARMLESS:
                raise ValueError(f"instruction {instruction.name}")
    except ValueError as error:
        raise ValueError(f"must be the pickle of one text and nothing else: {error}") from error
    if len(texts) != 1:
        raise ValueError(f"must be the pickle of one text and nothing else: it has {len(texts)} texts")
    return texts[0]
