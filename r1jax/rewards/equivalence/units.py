"""Units of measurement behind a value (or, for money, before it): which are the same, and by what factor."""

import dataclasses
import functools
import re
from fractions import Fraction

# Names = size and unit that they are worth; a new dimension is worth itself. Names before "|" take prefixes.
_DEFINITIONS = """
m meter metre 米 | =; g gram 克 | =; s second 秒 | sec =; A ampere amp 安 | =; K kelvin | =; mol mole | =; eV | =; cal calorie | =
| 公里 = 1000 m; | in inch inches 英寸 = 0.0254 m; | ft foot feet 英尺 = 12 in; | yd yard = 3 ft; | mi mile 英里 = 5280 ft
| min minute 分钟 分 = 60 s; | h hr hour 小时 时 = 3600 s; | day 天 日 = 24 h; | week 周 星期 = 7 day
| month 个月 月 =; | yr year 年 = 12 month; | ha hectare 公顷 = 10000 m^2; | acre = 4840 yd^2; | 亩 =
| 公斤 = 1000 g; | 斤 = 500 g; | tonne 吨 = 1000 kg; | ton =; | lb pound 磅 = 453.59237 g; | oz ounce = 1/16 lb
L l liter litre 升 | = 1/1000 m^3; | gal gallon = 231 in^3; | qt quart = 1/4 gal; | pt pint = 1/8 gal; | cup = 1/16 gal
| tbsp tablespoon = 1/16 cup; | tsp teaspoon = 1/3 tbsp; | mph = mi/h; | kph kmph = km/h; Hz hertz 赫兹 | = s^-1
N newton 牛 牛顿 | = kg m/s^2; J joule 焦 焦耳 | = N m; W watt 瓦 瓦特 | = J/s; Pa pascal 帕 | = N/m^2; | bar = 100000 Pa
C coulomb 库仑 | = A s; V volt 伏 伏特 | = J/C; F farad | = C/V; Ω ohm 欧 欧姆 | = V/A; T tesla | = N/A m; H henry | = V s/A
Wb weber | = V s; atm | =; | mmHg =; | kWh = 3600000 J; bit | =; B byte | = 8 bit; | unit 单位 =; share =; | % percent pct = 0.01 share
| USD dollar 美元 =; | ¢ cent = 0.01 USD; | EUR euro 欧元 =; | GBP =; | INR rupee 卢比 =; | CNY RMB yuan 元 块 人民币 =; | 角 毛 = 0.1 CNY
| ° degree deg 度 =; | arcminute = 1/60 °; | arcsecond = 1/3600 °; | rad radian 弧度 =; | °C 摄氏度 =; | °F =
"""
_PREFIXES = {
    "n nano": Fraction(1, 10**9), "μ µ u micro": Fraction(1, 10**6), "m milli 毫": Fraction(1, 1000), "c centi 厘": Fraction(1, 100),
    "d deci 分": Fraction(1, 10), "k kilo 千": Fraction(1000), "M mega": Fraction(10**6), "G giga": Fraction(10**9),
    "p": Fraction(1, 10**12),
}  # fmt: skip
# Words that change the value that they stand behind, or that offer another one.
_NOT_UNITS = frozenset(re.findall(r"\w+", """
hundred hundreds thousand thousands million millions billion billions trillion dozen dozens half halves third
thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth
tenths eleventh elevenths twelfth twelfths twentieth twentieths hundredth hundredths thousandth thousandths millionth
millionths lakh lakhs crore crores negative reciprocal inverse fewer incorrect nope squared cubed
factorial root pi minus plus times double twice triple and or not more less most least base mod modulo choose
over under by to from divided multiplied power approximately about nor but maybe either infinity undefined none
is are be than sin cos tan log exp sqrt max min gcd lcm true false yes no wrong correct if when where for
all with without something number numbers anything real reals integer integers score scores remainder am pm sometimes
roughly perhaps probably possibly guess unlikely impossible invalid unsure uncertain around almost nearly tens ones gross
binary octal hexadecimal above below except unless loss losses deficit debt permille
"""))  # fmt: skip
_CHINESE_VALUES = re.compile("[万亿千百十零一二三四五六七八九半倍成折之多余几上下左右至到不非或错对否无未吗]")

_WORD = r"(?:«[^«»]*»|[A-Za-zμΩ°%¢])"
_TAIL = re.compile(
    rf"(?P<value>.*[\d)}}π!])(?P<space> ?)(?P<unit>{_WORD}(?:«[^«»]*»|[A-Za-zμΩ°%/*. -]|[(](?=[A-Za-z«])|[)]|\^\{{-?[123]\}})*)",
    re.DOTALL,
)
_TAIL_IN_BRACKETS = re.compile(_TAIL.pattern.replace(".*", ".*?", 1), re.DOTALL)
_HEAD = re.compile(r"(?P<sign>-? ?)«(?P<unit>USD|EUR|GBP|CNY|INR)»(?P<value>.+)", re.DOTALL)
_PER_THING = re.compile(r"\s*(?:«per [A-Za-z ]+»|per [A-Za-z]+)$")
_PIECE = re.compile(r"°[CF]?|%|¢|[A-Za-zμΩ]+|[\u4e00-\u9fff]+|\^\{?(-?\d)\}?|[/*.()-]")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_GREEK_UNIT = re.compile(
    r"(?:(?<=[\d})] )|\s*«?([kM])»?\s*)\\Omega(?![A-Za-z_])|(?<=\d)\s*\\mu\s*«?([A-Za-z])»?(?=$|[/*^])"
)
_IN_BRACKETS = re.compile(r" ?\(«?([A-Za-z]{2,})»?\)$")
_PART = re.compile(r"(\d[\d.]*) ?(?:«([^«»]*?)»|([A-Za-z.]+|°))(?: ?(?:,|and|«and») ?)? ?", re.DOTALL)
_FEET = re.compile(r"(\d+) ?' ?(\d[\d.]*) ?(?:''|\")")
_ARC = re.compile(r"(\d+) ?° ?(\d[\d.]*) ?'(?: ?(\d[\d.]*) ?'')?")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit: powers of dimensions, and its size in their base units."""

    powers: frozenset[tuple[str, int]]
    size: Fraction = Fraction(1)
    is_sure: bool = dataclasses.field(default=True, compare=False)
    """False for a plain letter of a reference, which may be a variable: it is a unit only where the answer has one."""

    @property
    def is_share(self) -> bool:
        """Whether it is the percent sign."""
        return self.powers == {("share", 1)}

    def times(self, other: "Unit", power: int = 1) -> "Unit":
        """The product with a power of another unit."""
        powers = dict(self.powers)
        for name, exponent in other.powers:
            powers[name] = powers.get(name, 0) + exponent * power
        return Unit(frozenset(item for item in powers.items() if item[1]), self.size * other.size**power)


_ONE = Unit(frozenset())


def split_unit(text: str, *, is_gold: bool) -> tuple[str, Unit | None]:
    """The value and the unit of a normalised text; (text, None) where there is no unit.

    A single plain letter is a unit only behind a space ("5 m"). Unknown words count things ("12 students"), unless they
    change the value ("12 million").
    """
    money = _HEAD.fullmatch(text)
    if money:
        value, unit = split_unit(_PER_THING.sub("", money["value"]), is_gold=is_gold)
        known = _read_unit(money["unit"], is_plain=False)
        is_noun = unit is not None and all(name[0] == "«" for name, _ in unit.powers)
        return (money["sign"] + value, known) if unit is None or unit == known or is_noun else (text, None)
    text = _GREEK_UNIT.sub(lambda match: f"«{match[1] or ''}Ω»" if match[2] is None else f" «μ{match[2]}»", text)
    text = _IN_BRACKETS.sub(lambda found: f" «{found[1]}»" if known_unit(found[1]) else found[0], text)
    match = _TAIL.fullmatch(text)
    if match and match["value"].count("(") != match["value"].count(")"):  # 50 W/(m^2 K)
        match = _TAIL_IN_BRACKETS.fullmatch(text)
    if match is None or ("°" in match["unit"] and re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", match["value"])):
        return text, None
    raw = match["unit"].strip()
    is_letter = re.match(r"[A-Za-z](?![A-Za-z])", raw) is not None
    if not match["space"] and ((is_letter and raw[:2] != "m^") or (raw.isalpha() and known_unit(raw) is None)):
        return text, None
    unit = _read_unit(raw, is_plain="«" not in raw)
    if unit is None:
        return text, None
    return match["value"].strip(), dataclasses.replace(
        unit, is_sure=not is_letter or (bool(match["space"]) and not is_gold)
    )


def compound(text: str) -> tuple[str, Unit] | None:
    """The sum and the base unit of ``5 ft 6 in``, ``5'6''``, ``2 hours and 15 minutes``; None for anything else."""
    text = _FEET.sub(r"\1«ft»\2«in»", text) if _FEET.fullmatch(text) else text
    arc = _ARC.fullmatch(text)
    if arc:
        text = f"{arc[1]}«°»{arc[2]}«arcminute»" + (f"{arc[3]}«arcsecond»" if arc[3] else "")
    parts, end = [], 0
    while end < len(text):
        match = _PART.match(text, end)
        name = match and re.sub(r"[,\s]*\band\b\s*$", "", match[2] or match[3]).strip(" .,")
        unit = known_unit(name) if name else None
        if match is None or unit is None:
            return None
        parts.append((match[1], unit))
        end = match.end()
    sizes = [unit.size for _, unit in parts]
    if len(parts) < 2 or len({unit.powers for _, unit in parts}) > 1 or sizes != sorted(set(sizes), reverse=True):
        return None
    return "+".join(f"{value}*({unit.size})" for value, unit in parts), Unit(parts[0][1].powers)


@functools.cache
def known_unit(name: str) -> Unit | None:
    """The unit of a name, with or without a prefix or the s of the plural; None where there is none."""
    lower = name.lower()
    for form in (name, lower) if len(name) > 2 or lower in ("km", "kg", "cm") else (name,):
        for single in (form, form.removesuffix("s")) if len(form) > 2 else (form,):
            if single in _UNITS:
                return _UNITS[single]
            for prefix, size in _PREFIX_SIZES.items():
                rest = single.removeprefix(prefix)
                if rest != single and rest in _PREFIXED and (len(rest) > 3) == (len(prefix) > 2) and single != "pm":
                    return _PREFIXED[rest].times(Unit(frozenset(), size))
    return None


def _read_unit(text: str, *, is_plain: bool) -> Unit | None:
    text = re.sub(r"(?:°|degrees?) ?([CF])(?:elsius|ahrenheit)?\b", r"°\1", re.sub(r" *[«»] *", " ", text)).strip(" .")
    text = text.replace("每", "/").replace("平方", " square ").replace("立方", " cubic ")
    unit, last, sign, power, words, start, is_described = _ONE, None, 1, 1, 0, 0, False
    while start < len(text):
        if text[start] == " ":
            start += 1
            continue
        match = _PIECE.match(text, start)
        if match is None:
            return None
        piece, start = match.group(), match.end()
        if piece[0] == "^":
            if last is None or not -3 <= int(match[1]) <= 3:
                return None
            unit, last = unit.times(last, sign * (int(match[1]) - 1)), None
        elif piece == "/" or piece in ("per", "a", "an", "each", "every"):
            if not unit.powers:
                return None
            sign = -1
        elif piece in "*.-()" or piece == "old" or (is_described and piece in ("of", "the", "in")):
            continue
        elif piece in ("of", "in") and unit.powers and start < len(text):
            is_described = True  # "5 bolts of fiber" are 5 bolts
        elif piece.lower() in _POWERS:
            power = _POWERS[piece.lower()]
        else:
            last = known_unit(piece)
            if last is None:
                is_odd = (
                    len(piece) > 8 or _CHINESE_VALUES.search(piece.replace("不同", ""))
                    if piece[0] > "一"
                    else len(piece) < (4 if is_plain else 2)
                )
                if is_odd or piece.lower() in _NOT_UNITS:
                    return None
                words += 1
                last = Unit(frozenset({(f"«{piece.lower().removesuffix('s')}»", 1)}))
            unit, power = unit if is_described else unit.times(last, sign * power), 1
    return unit if (unit.powers or last) and words <= 5 and len(unit.powers) <= 5 else None


_UNITS: dict[str, Unit] = {}
_PREFIXED: dict[str, Unit] = {}
_PREFIX_SIZES = {prefix: size for prefixes, size in _PREFIXES.items() for prefix in prefixes.split()}


def _define(definition: str) -> None:
    names, _, worth = (part.strip() for part in definition.partition("="))
    prefixed, _, others = names.partition("|")
    known = [*prefixed.split(), *others.split()]
    size = re.match(r"[\d./]+ ", worth)
    base = _read_unit(worth[size.end() if size else 0 :], is_plain=False) if worth else Unit(frozenset({(known[0], 1)}))
    unit = base.times(Unit(frozenset(), Fraction(size.group().strip()))) if base and size else base
    assert unit is not None, definition
    _UNITS.update(dict.fromkeys(known, unit))
    _PREFIXED.update(dict.fromkeys(prefixed.split(), unit))


for _definition in _DEFINITIONS.strip().replace("\n", ";").split(";"):
    _define(_definition)
