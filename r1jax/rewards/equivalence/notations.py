"""Notations with a reading of their own: Chinese numbers, dates and times of day, chemical formulas, bases, labelled parts.

Each reader gives a value to compare, or None for a text of another kind.
"""

import re
from collections.abc import Sequence

_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_DIGIT = "[一二两三四五六七八九]"
_BELOW_10000 = rf"(?:{_DIGIT}千)?(?:零?{_DIGIT}百)?(?:零?{_DIGIT}?十)?(?:(?:(?<![千百十])|(?<=十)|零){_DIGIT})?"
_WHOLE = rf"(?=[一二两三四五六七八九十])(?:{_BELOW_10000}亿)?零?(?:{_BELOW_10000}万)?零?{_BELOW_10000}|零"
_DECIMAL = rf"(?:{_WHOLE})(?:点[零〇一二三四五六七八九]+)?"
_COUNTER = "[个名人只条张本种次件元天岁组对项位块页间辆棵米]"
_CHINESE_NUMBER = re.compile(
    rf"(?<![\u4e00-\u9fff\d])(?P<sign>负?)(?:百分之(?P<percent>{_DECIMAL})|(?P<bottom>{_WHOLE})分之(?P<top>{_WHOLE})"
    rf"|(?P<plain>{_DECIMAL})(?={_COUNTER}?(?![\u4e00-\u9fff])|折)|(?P<rebate>{_DIGIT}{{2}})(?=折))(?!{_DIGIT}|[分〇零十百千万亿点])"
)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?:,? ?(?P<year>\d{4}))?"
_DATES = [
    re.compile(pattern)
    for pattern in (
        rf"{_MONTH} {_DAY}{_YEAR}", rf"(?:the )?{_DAY} (?:of )?{_MONTH}{_YEAR}",
        r"(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?P<day>\d{1,2})[日号]", r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)",
    )
]  # fmt: skip
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))? ?(?P<half>[ap])\.? ?m\.?|(?P<late>上午|凌晨|早上|下午|晚上|中午)?"
    r"(?P<hour2>\d{1,2})(?::(?P<minute2>[0-5]\d)|[点时](?:(?P<minute3>[0-5]?\d)分)?(?P<thirty>半)?整?)"
)
_WEEKDAYS = "一monday 二tuesday 三wednesday 四thursday 五friday 六saturday 日sunday 天sunday".split()
_SPECIES = re.compile(r"(?=.*[A-Z])\d*(?:(?:[A-Z][a-z]?|[()\[\]])\d*)+(?:\^\d*[-+])?(?:\((?:s|l|g|aq)\))?")
_ARROW = r"\\to|\\rightleftharpoons"
_BASES = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True))
_BASED = re.compile(
    r"\(?(-?[0-9A-F]+)\)?(?:_\{?\(?(?:«?base »?)?«?(\w+)»?\)?\}?| ?\(?«?(?:in )?base ?»? ?«?(\w+)»?\)?|\((\d+)\))"
)
_SYNONYMS = {"maximum": "max", "最大": "max", "minimum": "min", "最小": "min"}
_NUMBERED = re.compile(r"(?:^|[,;.\s]+)(?:«?(?:part|question) ?»?)?\(([1-9a-e]|i{1,3}|iv|v)\)\s*")
_NAMED_PART = re.compile(
    r"«?\s*\\?([A-Za-z]{3}[A-Za-z ]*?|[\u4e00-\u9fff]{2,12}?)(?: value|值)?(?:\s*:)?»?\s*(?:[:=]|«?(?:is|of|为|是|等于)»?|(?<=[a-z»]) |»)\s*«?"
    r"([^A-Za-z\u4e00-\u9fff«»=:].*?)»?"
)


def chinese_numbers(text: str) -> str:
    """A text with 二十四, 负五, 三分之二, 百分之三十, 八五折 in digits, where they are numbers and no part of a word."""

    def written(match: re.Match[str]) -> str:
        sign, parts = "-" if match["sign"] else "", match.groupdict()
        if parts["top"]:
            return rf"{sign}\frac{{{_number(parts['top'])}}}{{{_number(parts['bottom'])}}}"
        if parts["rebate"]:
            return "".join(str(_DIGITS[digit]) for digit in parts["rebate"])
        return f"{sign}{_number(parts['percent'])}%" if parts["percent"] else sign + _number(parts["plain"])

    return _CHINESE_NUMBER.sub(written, text)


def _number(text: str) -> str:
    whole, _, decimals = text.partition("点")
    total = 0
    for power, section in zip((8, 4, 0), re.fullmatch("(?:(.*)亿)?(?:(.*)万)?(.*)", whole).groups(""), strict=True):  # type: ignore[union-attr]
        for digit, unit in re.findall(r"([零一二两三四五六七八九]?)([千百十]?)", section):
            total += (_DIGITS[digit or "一"] if digit or unit else 0) * 10 ** (power + " 十百千".index(unit or " "))
    return f"{total}." + "".join(str(_DIGITS[digit]) for digit in decimals) if decimals else str(total)


def moment(text: str) -> tuple[str | int | None, ...] | None:
    """A date, a weekday, or a time of day in minutes; "3:45" alone, which may be either half of the day, is none."""
    text = re.sub(r"[«»]", " ", text).strip().casefold()
    text = re.sub(r" +|(?<=[\u4e00-\u9fff]) *(?=\d)|(?<=\d) *(?=[\u4e00-\u9fff:])", lambda gap: gap.group()[:1], text)
    compact = text.replace(" ", "")
    for date in _DATES:
        match = date.fullmatch(compact) if "[日号]" in date.pattern else date.fullmatch(text)
        if match:
            month = match["month"] if match["month"].isdigit() else _MONTHS.index(match["month"][:3]) + 1
            return "date", match["year"], int(month), int(match["day"])
    day = re.fullmatch("(?:星期|周|礼拜)([一二三四五六日天])", compact)
    for index, names in enumerate(_WEEKDAYS):
        if compact == names[1:] or (day and day[1] == names[0]):
            return "day", min(index, 6)
    if compact in ("noon", "12noon", "正午", "midnight", "12midnight", "午夜"):
        return "clock", 0 if compact.endswith(("midnight", "午夜")) else 720
    clock = _CLOCK.fullmatch(compact)
    if clock is None:
        return None
    late, hour, minute = clock["late"], int(clock["hour"] or clock["hour2"]), clock["minute"] or clock["minute2"]
    minutes = 30 if clock["thirty"] else int(minute or clock["minute3"] or 0)
    is_sure = clock["half"] or late or 12 < hour < 24 or (clock["hour2"] or "")[:1] == "0"
    if not is_sure or ("时" in compact and not late) or hour > (12 if clock["half"] else 23):
        return None
    if hour == 12 and late not in (None, "中午", "下午"):
        return None
    if hour < 12 and (clock["half"] == "p" or late in ("下午", "晚上") or (late == "中午" and hour < 3)):
        hour += 12
    return "clock", (0 if hour == 12 and clock["half"] == "a" else hour) * 60 + minutes


def reaction(text: str) -> list[list[str]] | None:
    """The species of a chemical formula or equation, sorted on each side of the arrow."""
    plain = re.sub(r"[\s«»]|\\mathrm", "", text)
    sides = [
        [re.sub(r"_(?=\{?\d)|[{}]", "", one) for one in re.split(r"(?<=[\w)}+-])\+(?=[\dA-Z(\[])(?!\})", side)]
        for side in re.split(_ARROW, plain)
    ]
    sides = [[re.sub(r"(?<=[A-Za-z)])(?=[-+]$)", "^", one) for one in side] for side in sides]
    arrows = [[arrow] for arrow in re.findall(_ARROW, plain)]
    return [*map(sorted, sides), *arrows] if all(_SPECIES.fullmatch(one) for side in sides for one in side) else None


def in_base(text: str) -> tuple[str, str] | None:
    """The digits and the base of ``1011_2``, ``(1011)_{two}``, ``1011(2)``, ``1011 base 2``."""
    match = _BASED.fullmatch(text.strip("«»"))
    if match is None:
        return None
    base = match[2] or match[3] or match[4]
    base = str(_BASES.get(base.lower(), base))
    is_number = base.isdigit() and int(max(match[1].strip("-")), 16) < int(base)
    return (match[1], base) if is_number else None


def parts(text: str, items: Sequence[str] | None) -> dict[str, str] | None:
    """The parts of ``(1) 4; (2) 9`` or of ``maximum 5, minimum -3`` by their labels, which must differ."""
    _, *numbered = _NUMBERED.split(text)
    if len(numbered) > 2 and _NUMBERED.match(text):
        pairs = list(zip(numbered[::2], numbered[1::2], strict=True))
    else:
        matches = [_NAMED_PART.fullmatch(item.strip()) for item in items or []]
        if len(matches) < 2 or not all(matches):
            return None
        pairs = [(match[1].strip().casefold().removeprefix("the "), match[2]) for match in matches if match]
    found = {_SYNONYMS.get(label, label): value.strip(" ,;.»") for label, value in pairs}
    return found if len(found) == len(pairs) and all(found.values()) else None
