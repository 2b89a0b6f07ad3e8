"""Text and figures as a page shows them. Everything that a model or a config wrote gets into a page through `fill`."""

import base64
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

# As r1jax.rewards.reflection counts them: spec E's list (R1v2 C.2) and its Chinese equivalents. A test holds them equal.
_ENGLISH = "wait|mistake|however|but|retry|error|verify|wrong|evaluate|check"
_CHINESE = "等一下|等等|失误|然而|不过|但是|可是|再试|重试|错误|验证|验算|不对|错|评估|检查|核对"
REFLECTION = rf"(?<![A-Za-z])(?:{_ENGLISH})(?![A-Za-z])|{_CHINESE}"  # completions.js marks with it
_REFLECTION = re.compile(REFLECTION, re.IGNORECASE)

_INVISIBLE = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_BROKEN = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


def fill(template: str, **values: Any) -> Markup:
    """A template of this folder, filled in: what is no `Markup` is escaped, and nothing stays hidden."""
    return Markup(visible(PAGES.get_template(template).render(values)))


def visible(text: str) -> str:
    """`text` with nothing hidden: control characters as pictures, direction marks by code, broken ones as U+FFFD."""
    text = _BROKEN.sub("\ufffd", text.translate(_PICTURES))
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def as_json(value: Any) -> Markup:
    """JSON that may stand in a script: in ASCII, and without a `<`, so that no text in it ends the script.

    Numbers that are not finite, which JSON does not know, become null.
    """
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def code(*names: str) -> dict[str, Any]:
    """The scripts of a page (files of this folder), and the digests by which its policy allows them and no others."""
    texts = [(Path(__file__).parent / name).read_text("utf-8") for name in names]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    return {"scripts": [Markup(text) for text in texts], "digests": digests}


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one move, so that a reader never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def count_marked(text: str) -> int:
    """How many reflection words the page marks in a text."""
    return len(_REFLECTION.findall(text))


def clip(text: str, limit: int = 1600) -> str:
    """`text` cut in the middle to about `limit` characters, saying how many are left out."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[-tail:]}"


def show(value: float) -> str:
    """A figure for people: three digits, thousands separated; "–" if there is none."""
    if not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}"
    if abs(value) >= 1e7 or abs(value) < 1e-3:
        return f"{value:.2e}"
    digits = next(digits for limit, digits in ((1000, 0), (10, 1), (1, 2), (0, 3)) if abs(value) >= limit)
    return f"{value:,.{digits}f}"


def show_interval(value: float, low: float, high: float) -> Markup:
    """A figure and the interval that it lies in, if there is one."""
    interval = f' <span class="quiet">({low:.3f}–{high:.3f})</span>' if math.isfinite(low + high) else ""
    return Markup(f"{show(value)}{interval}")


def duration(seconds: float) -> str:
    """Seconds as a person says them; "–" if unknown."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def setting(value: Any) -> str:
    """One leaf of a config, cut to a readable length."""
    return clip(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 300)


PAGES = jinja2.Environment(
    # Line breaks and indentation are for the reader of a template: none gets into a page.
    loader=jinja2.FunctionLoader(lambda name: re.sub(r"\n\s*", "", (Path(__file__).parent / name).read_text("utf-8"))),
    autoescape=True,
)
PAGES.filters |= {"clip": clip, "zip": zip, "json": as_json, "show": show, "duration": duration, "setting": setting}
