"""Notations with a reading of their own: Chinese numbers, dates and times, chemical formulas, bases, labelled parts."""

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime

NUMBERS = re.findall(
    r"\w+", "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_DIGITS = str.maketrans("零〇一二两三四五六七八九", "001223456789")
_DIGIT = "[一二两三四五六七八九]"
_SMALL = rf"(?:{_DIGIT}千)?(?:零?{_DIGIT}百)?(?:零?{_DIGIT}?十)?(?:(?:(?<![千百十])|(?<=十)|零){_DIGIT})?"
_WHOLE = rf"(?=[一二两三四五六七八九十])(?:{_SMALL}亿)?零?(?:{_SMALL}万)?零?{_SMALL}|零"
_DECIMAL = rf"(?:{_WHOLE})(?:点[零〇一二三四五六七八九]+)?"
CHINESE_NUMBER = re.compile(
    rf"(?<![\u4e00-\u9fff\d])(负?)(?:百分之({_DECIMAL})|({_WHOLE})分之({_WHOLE})|({_DECIMAL})"
    rf"(?=(?:小时|分钟|公里|公斤|厘米|[个名人只条张本种次件元天岁组对项位块页间辆棵米克秒])?(?![\u4e00-\u9fff])|折))(?!{_DIGIT}|[分〇零十百千万亿点])"
)
_CLOCK = re.compile(r"(?:(上午|凌晨|早上)|(下午|晚上))?(\d+)([:点时])(?:(\d+)(?:分钟?)?|(半)|整)?")
_FORMATS = [
    (kind, ("" if kind == "year" else "%Y") + form)
    for kind, forms in (
        ("time", "%I:%M%p %I%p %H:%M"), ("date", "%B%d %b%d %d%B %d%b %m月%d日 %m月%d号"),
        ("year", "%B%d%Y %b%d%Y %d%B%Y %d%b%Y %Y年%m月%d日 %Y年%m月%d号 %Y-%m-%d"),
    )
    for form in forms.split()
]  # fmt: skip
_MAY_BE_MOMENT = re.compile(r"(?=.*\d)(?=.*(?:[月:]|[ap]m|[a-z]{3}|\d{4}-))[^\\]{3,20}")
_SPECIES = re.compile(r"(?=.*[A-Z])\d*(?:(?:[A-Z][a-z]?|[()\[\]])\d*)+(?:\^\d*[-+])?(?:\((?:s|l|g|aq)\))?")
_BASED = re.compile(r"\(?(-?[0-9A-F]+)\)?(?:_\{?\(?(?:base ?)?(\w+)\)?\}?| ?\(?(?:in )?base ?(\w+)\)?|\((\d+)\))")
_NUMBERED = re.compile(r"(?:^|[,;.\s]+)«?(?:part|question)? ?»?\(([1-9a-e]|i{1,3}|iv|v)\)\s*»?\s*")
_NAMED = re.compile(
    r"«?\s*\\?([A-Za-z]{3}[A-Za-z ]*?|[\u4e00-\u9fff]{2,12}?)(?: value|值)?(?:\s*:)?»?\s*"
    r"(?:[:=]|«?(?:is|of|为|是|等于)»?|(?<=[a-z»]) |»)\s*«?([^A-Za-z\u4e00-\u9fff«»=:].*?)»?"
)
_LABELS = {"maximum": "max", "最大": "max", "minimum": "min", "最小": "min"}


def in_digits(match: re.Match[str]) -> str:
    """A Chinese number, where it is no part of a word: 二十四, 负五, 三分之二, 百分之三十."""
    sign, percent, bottom, top, plain = match.groups()
    value = rf"\frac{{{_number(top)}}}{{{_number(bottom)}}}" if top else _number(percent or plain)
    return ("-" if sign else "") + value + ("%" if percent else "")


def _number(text: str) -> str:
    whole, point, decimals = text.translate(_DIGITS).partition("点")
    total = section = 0
    for digit, unit in re.findall(r"(\d?)([十百千万亿]?)", whole):
        if unit in ("万", "亿"):
            total, section = total + (section + int(digit or 0)) * 10 ** (4 if unit == "万" else 8), 0
        else:
            section += (int(digit) if digit else bool(unit)) * 10 ** " 十百千".index(unit or " ")
    return f"{total + section}{point and '.'}{decimals}"


def moment(text: str) -> tuple[str, datetime] | None:
    """A date or a time of day; "3:45" alone, which may be either half of the day, is none."""
    compact = re.sub(r"[\s«»,.]", "", text).casefold()
    compact = re.sub(r"^the(?=\d)|(?<=\d)(?:st|nd|rd|th)|(?<=[\dhtd])of(?=[a-z])", "", compact)
    compact = {"noon": "12pm", "midnight": "12am"}.get(compact, compact)
    clock = _CLOCK.fullmatch(compact)
    if clock:
        morning, evening, hour, sign, minute, half = clock.groups()
        if not (morning or evening or (sign != "时" and re.fullmatch(r"0\d?|1[3-9]|2\d", hour))):
            return None
        compact = f"{hour}:{'30' if half else minute or '00'}{'am' if morning else 'pm' if evening else ''}"
    for kind, form in _FORMATS if _MAY_BE_MOMENT.fullmatch(compact) else ():
        with contextlib.suppress(ValueError):
            return kind, datetime.strptime(compact if kind == "year" else f"2000{compact}", form)
    return None


def reaction(text: str) -> list[list[str]] | None:
    """The species of a chemical formula or equation, sorted on each side, and its arrows."""
    plain = re.sub(r"[\s«»{}↑↓]|\\(?:mathrm|uparrow|downarrow)|_(?=\{?\d)", "", text)
    plain = re.sub(r"(?<=[\w)])(?<!\^\d)([-+])(?=\+|=|\\|$)", r"^\1", plain)  # Na+
    sides = [
        re.split(r"(?<=[\w)+-])\+(?=[\dA-Z(\[])", side) for side in re.split(r"(\\to|\\rightleftharpoons|=)", plain)
    ]
    return [*map(sorted, sides)] if all(_SPECIES.fullmatch(one) for side in sides[::2] for one in side) else None


def in_base(text: str) -> tuple[str, str] | None:
    """The digits and the base of ``1011_2``, ``(1011)_{two}``, ``1011(2)``, ``1011 base 2``."""
    match = _BASED.fullmatch(re.sub("[«»]", "", text))
    base = (match[2] or match[3] or match[4]).lower() if match else ""
    base = str(NUMBERS.index(base)) if base in NUMBERS else base
    is_number = match and base.isdigit() and int(max(match[1].strip("-")), 16) < int(base)
    return (match[1], base) if match and is_number else None


def parts(text: str, items: Sequence[str]) -> dict[str, str] | None:
    """The parts of ``(1) 4; (2) 9`` or of ``maximum 5, minimum -3`` by their labels, which must differ."""
    _, *pieces = _NUMBERED.split(text)
    if len(pieces) < 4 or not _NUMBERED.match(text):
        matches = [_NAMED.fullmatch(item.strip()) for item in items]
        pieces = [piece for match in matches if match for piece in match.groups()] if all(matches) else []
    labels = [_LABELS.get(label, label) for label in (piece.strip().casefold() for piece in pieces[::2])]
    found = {label: value.strip(" ,;.»") for label, value in zip(labels, pieces[1::2], strict=True)}
    return found if len(found) == len(labels) > 1 and all(found.values()) else None
