r"""The plain form of a written answer: LaTeX, Unicode and markdown spellings of the same thing become one.

After ``normalise`` a text holds ASCII, a few operator characters (``≤ ≥ ≠ ≈ ± ∓ ∞ ∪ ∩ ∈ ∅ ∧ ∨ π ° ℝ ℤ``), ``⦃ ⦄`` for
the braces of sets, ``⟦a¦b¶c¦d⟧`` for matrices, ``{ }`` for grouping, LaTeX commands that mean something (``\frac``,
``\sqrt``, ``\sin``), and words: ``«cm»``, which came from ``\text{cm}`` and the like.
"""

import functools
import re
import unicodedata

from r1jax.rewards.equivalence.notations import CHINESE_NUMBER, in_digits

MAX_CHARS = 1000
_MAX_DEPTH = 40

# Target: the characters written for it. What is not here follows from Unicode's names and decompositions.
_CHARACTERS = {
    "-": "−–—﹣‐‑", " ": "\t\n\r", "": "\u200b\u200c\u200d\u2060\ufeff", "*": "×·⋅∙∗", "/": "÷∕⁄", ",": "、", "'": "‘’′", "''": "″“”",
    ".": "。", ":": "∶", "≤": "⩽≦", "≥": "⩾≧", "|": "∣", "(": "⟨〈", ")": "⟩〉", "[": "【", "]": "】", "°": "º˚∘", "…": "…⋯",
    "∪": "⋃", "∩": "⋂", "≈": "≃≅", "π": "π", "ℝ": "ℝ", "ℤ": "ℤ", "ℕ": "ℕ", "ℚ": "ℚ", "ℂ": "ℂ", "≠": "≠", "°C": "℃", "°F": "℉",
    "\\neg ": "¬", "\\parallel ": "∥", "\\lfloor ": "⌊", "\\rfloor ": "⌋", "\\lceil ": "⌈", "\\rceil ": "⌉", "\\angle ": "∠",
    "\\triangle ": "△∆", "\\perp ": "⊥", "\\sqrt ": "√", "\\sqrt[3] ": "∛", "\\sqrt[4] ": "∜", "\\setminus ": "∖", "\\sum ": "∑",
    "\\to ": "→", "«EUR»": "€", "«GBP»": "£", "«CNY»": "¥￥", "«INR»": "₹",
}  # fmt: skip
_SCRIPTS = {"<super>": "^", "<sub>": "_"}
_SCRIPT_RUN = re.compile(r"([\^_])\{([^{}]*)\}\1\{")


class _Plain(dict[int, str]):
    """What a character is in plain text: full-width and styled ones, fractions, high and low ones, Greek letters."""

    def __missing__(self, code: int) -> str:
        plain = character = chr(code)
        kind, *codes = unicodedata.decomposition(character).split() or [""]
        parts = "".join(chr(int(part, 16)) for part in codes).translate(self) if kind.startswith("<") else ""
        name = unicodedata.name(character, "").replace("LAMDA", "LAMBDA").split()
        if kind == "<fraction>":
            plain = "\\frac{{{}}}{{{}}}".format(*parts.split("/"))
        elif kind in _SCRIPTS:
            plain = f"{_SCRIPTS[kind]}{{{parts}}}"
        elif kind not in ("", "<circle>"):
            plain = parts
        elif name[:1] == ["GREEK"] and name[2:3] == ["LETTER"] and len(name) == 4:
            plain = f"\\{name[3].lower() if name[1] == 'SMALL' else name[3].capitalize()} "
        self[code] = plain
        return plain


_PLAIN = _Plain({code: chr(code) for code in range(128)})
_PLAIN |= {ord(sign): target for target, signs in _CHARACTERS.items() for sign in signs}

# Target: the commands that mean it.
_COMMANDS = {
    name: target
    for target, names in {
        "": """big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle limits nolimits left right
            large Large LARGE huge Huge small normalsize bf rm it mathstrut strut ce therefore because hline""",
        " ": "quad qquad thinspace enspace space", "…": "ldots cdots dots dotsc dotsb", "'": "prime", "°": "degree",
        "≤": "leq leqslant le leqq", "≥": "geq geqslant ge geqq", "≠": "neq ne", "=": "equiv", "<": "lt", ">": "gt",
        "≈": "approx simeq thickapprox", "∞": "infty", "∪": "cup bigcup", "∩": "cap bigcap", "∈": "in", "∅": "emptyset varnothing",
        "±": "pm", "∓": "mp", "π": "pi Pi", "*": "cdot times ast", "/": "div", "ℝ": "R", "⦃": "lbrace", "⦄": "rbrace",
        "(": "langle lparen", ")": "rangle rparen", "[": "lbrack", "]": "rbrack", "|": "vert lvert rvert mid", ":": "colon",
        "∨": "lor vee", "∧": "land wedge", "\\frac": "dfrac tfrac cfrac", "\\binom": "dbinom tbinom choose",
        "\\epsilon ": "varepsilon", "\\phi ": "varphi", "i": "imath", "j": "jmath", "\\setminus ": "backslash smallsetminus",
        "\\vec": "overrightarrow", "\\neg ": "lnot", "\\to ": "to rightarrow longrightarrow Rightarrow implies", "\\hat": "widehat",
        "«EUR»": "euro", "«GBP»": "pounds", "«CNY»": "yen",
    }.items()
    for name in names.split()
}  # fmt: skip
_COMMAND = re.compile(r"\\(?:(?:left|right)\s*\.|([A-Za-z]+)|\\)")
_SPELLINGS = [
    (re.compile(pattern), target)
    for pattern, target in {
        r"<=>": r"\\rightleftharpoons ", r"(?<![<-])->": r"\\to ", r"<=|=<": "≤", r">=": "≥", r"!=|\\not\s*=": "≠", "≡": "=",
        r"(?<![A-Za-z\\])(?:infinity|oo)(?![A-Za-z])": "∞",
        r"\+/-|\+-": "±", r"(?<![A-Za-z\\])pi(?![A-Za-z])": "π", r"\\\{": "⦃", r"\\\}": "⦄", r"\\%": "%", r"\\&": "&", r"\\_": "_",
        r"\^\s*(?:\{\s*)?(?:\\circ(?![A-Za-z])|°)\s*\}?|(?<=\d)\^\s*(?:\{\s*)?(?:\\(?:text|mathrm|rm)\s*)?\{?o\}*(?![A-Za-z])": "°",
        r"(?<![A-Za-z])per cent(?![A-Za-z])": "percent", r"\.\.\.": "…",
        r"\\frac\s*\{\\(?:text|mathrm)\{([a-z]+)\}\}\{\\(?:text|mathrm)\{([a-z]+)\}\}": r"\\text{\1/\2}",
        r"(\d\s*[A-Za-z/]{1,5}),\s*(?=(?:north|south|east|west))": r"\1 ", r"\*\*": "^", r"(?<![A-Za-z\\])sqrt(?=\s*\d)": r"\\sqrt",
        r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|to)\s*(?=\d)": ":",
        r"(?<=\d)\^\s*\{(?:\\(?:text|mathrm)\s*\{(?:st|nd|rd|th)\}|st|nd|rd|th)\}": "",
        r"(?<=[=∈∪∩])\s*\{([^{}]*)\}": r"⦃\1⦄", r"^\{([^{}]*)\}(?=\s*[∪∩])": r"⦃\1⦄", r"(?<=\d)\s*度": "°", "或者?": " or ",
        r"(?<![\w}])([a-z])([12])(?=\s*=)": r"\1_{\2}", "[和与]|以及": ",", "[且并]": " and ", r"\bdue (?=north|south|east|west)": "",
        r"\\(?:mathrm|text)\s*\{d\}\s*(?=[a-z])": "d", r"\\frac\s*\{d([a-z])\}\s*\{dx\}|(?<![A-Za-z\\])d([a-z])/dx(?![A-Za-z])": r"\1\2'",
    }.items()
]  # fmt: skip
_NUMBERS = re.compile(
    r"\\(?:mathbb|Bbb)\s*\{?\s*([RZNQC])\s*\}?|\\(?:mathbf|mathcal)\s*\{?(R)\}?"
    r"|(?<=∈)\s*(?:\\(?:mathbf|mathrm|text|bf)\s*\{)?\s*([RZNQC])\}?(?![A-Za-z])"
)
_BOLD = re.compile(r"(?:(?<=\s)|^)\*\*(\S[^*]*?)\*\*(?=[\s.,;。]|$)")
_SPACES = re.compile(r"\\(?:[,;:> \\]|hspace\{[^{}]*\})|~|\\\s")
_REMOVED = re.compile(r"\\!|\\(?:label|tag|color|textcolor|[hv]?phantom)\s*\{[^{}]*\}")
_MATRIX = re.compile(
    r"(⦃\s*)?\\begin\s*\{([pbBv]?matrix|smallmatrix|array|d?cases|aligned|gathered|split|align)\}\s*(?:\{[^{}]*\})?(.*?)\\end\s*\{\2\}",
    re.DOTALL,
)
_WORDS_OF_CASES = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:if|when|for|where)?\s*\}|(?<![A-Za-z])(?:if|when|for)(?![A-Za-z])"
)
_CASE = re.compile(r"([^=<>≤≥≠]*),([^,]*[=<>≤≥≠].*)", re.DOTALL)
_WRAPPER = re.compile(
    r"\\(text|textbf|textrm|textit|textsf|texttt|textnormal|emph|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|bm|boldsymbol|underline)\s*\{"
)
_KEPT_AS_MATH = re.compile(r"[^A-Za-z]*|[^A-Za-z]*[A-Za-z][^A-Za-z]*")
_LABELS = re.compile(r"(?:[A-Z]|[IVX]+|\d+)(?:(?:\s*,\s*|\s+)(?:(?:and|or)\s+)?(?:[A-Z]|[IVX]+|\d+)(?![a-z]))+")
_UNIT_LETTER = re.compile(r"[\d)}π] [mgshLlNJWVKFCATH]$")
_FRACTION_PIECE = r"(\{(?:[^{}]|\{[^{}]*\})*\}|\d|[A-Za-zπ])"
_SHORT_FRACTION = re.compile(rf"\\(frac|binom)\s*{_FRACTION_PIECE}\s*{_FRACTION_PIECE}")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+|[A-Za-zπ])")
_SHORT_ACCENT = re.compile(r"\\(hat|vec|bar|tilde|dot|overline)\s*([A-Za-z])(?![A-Za-z])")
_UNIT_VECTOR = re.compile(r"\\(?:hat|vec)\s*\{\s*\\hat\{([ijk])\}\s*\}|\\vec\s*\{([ijk])\}")
_HIGH_ROOT = re.compile(r"(?<![\w)}\]])\^\{(\d+)\}\s*\\sqrt(?!\s*\[)")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_RECURRING = re.compile(
    r"(?<![\d.])(\d*\.\d*?)(?:(\d)\2\2+|(\d{2,6}?)\3+) ?…|\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?|(?<=\b0\.)\((\d+)\)$"
)
_BARE_POWER = re.compile(r"\^\s*(-?\d+(?:\.\d+)?)(?![\d.])")
_BARE_INDEX = re.compile(r"_\s*(\d+|[A-Za-z])")
_CHOSEN = re.compile(
    r"(?<![A-Za-z\\])([CA])_\{(\d{1,3}|[nm])\}\^\{(\d{1,3}|[km])\}|(?<![A-Za-z\\])([CA])\^\{(\d{1,3}|[km])\}_\{(\d{1,3}|[nm])\}"
    r"|(?<![\w}])[\^_]\{(\d{1,3})\}\s*(C)_\{(\d{1,3})\}"
)
_EMPTY_GROUP = re.compile(r"(?:\\(?:text|mbox|mathrm)\s*)?\{\s*\}")
_PREFIX = re.compile(
    r"(?i)^«?(?:so |hence |thus |therefore,? )?(?:the )?(?:final |correct |right |best )?(?:answer|option|choice)s?\b(?:\s+(?:is|are)\b)?"
    r"\s*:?\s*»?\s*[:=]?\s*(?=[^\s»])|^«the (?!.*\b(?:wrong|incorrect|not|other)\b)[a-z ]{2,30}\bis ?»\s*(?=[-\d\\(])"
    r"|^(?:[=≈]|«?approximately(?: »?|»))\s*|^«?(?:for )?all ?»?(?= ?[a-z] ?[<>≤≥≠∈])"
    r"|^(?:所以|因此|故)?,?(?:本题|最终|正确)?(?:答案(?:是|为|选)?|应?选(?:项|择)?|[答解]得?(?=:))\s*:?\s*(?=\S)"
    r"|^(?:[A-Za-z]的)?(?!.*(?:是|为|等于).*(?:是|为|等于)|.{0,12}[不非未约至少多或]|.{0,12}[大小]于等)[\u4e00-\u9fff]{1,12}(?:是|为|等于)\s*:?\s*(?=[^\u4e00-\u9fff])|^共?有?(?=\d)"
)
_FOR_ALL = re.compile(
    r"[,;]?\s*«?[,(]?\s*(?:for (?:all|every|any)(?: real)?(?: numbers?| values? of)?\s*»?\s*[a-z](?:\s*∈\s*ℝ)?"
    r"|(?:where|with|for (?:any|some|all))\b[^=]*\bconstants?\b[^=]*|[A-Za-z]\s*∈\s*ℝ\s*«?(?:is )?arbitrary)\s*[»)]*$"
)
_CLOSING = re.compile(r"(?:(?<!\\)[ \n.,;。，；]|\\$)+$")
_ANGLES = re.compile(r"^<([^<>]*,[^<>]*)>$")
_ONLY = re.compile(r"(?<=[IVX\dA-J»]) ?«?(?: ?|(?<=«))only»?$")
_CHINESE = re.compile(r"«[^«»]*»|[\u4e00-\u9fff]+")


_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}
_SCALED = re.compile(rf"(?<![\d.,])(\d+(?:\.\d+)?) ?(«?) ?({'|'.join(_ZEROS)})(?![A-Za-z])(?: ?(»))?")


class UnreadableError(ValueError):
    """A text that is no answer that this module can read: too long, too deep, unbalanced."""


@functools.lru_cache(maxsize=1024)
def normalise(text: str) -> str:
    r"""The plain form.

    Raises:
        UnreadableError: more than ``MAX_CHARS`` characters, groups nested more than 40 deep, unbalanced braces.
    """
    if len(text) > MAX_CHARS:
        raise UnreadableError(f"{len(text)} characters; at most {MAX_CHARS}")
    text = _strip_markup(text.strip()).translate(_PLAIN)
    _check_depth(text)
    for _ in range(20):
        text, count = _SCRIPT_RUN.subn(r"\1{\2", text)
        if not count:
            break
    text = re.sub(r"(?:\\(?:text|mathrm|mathpunct)\s*)?\{:\}", ":", text)
    text = _PREFIX.sub("", re.sub(r",\\! *|\{,\}", ",", text).lstrip())
    text = _REMOVED.sub("", _EMPTY_GROUP.sub(" ", text))
    text = _COMMAND.sub(
        lambda match: "" if match.group().endswith(".") else _COMMANDS.get(match[1], match.group()), text
    )
    for pattern, target in _SPELLINGS:
        text = pattern.sub(target, text)
    if re.search(r"[=<>≤≥≠∈\d]", text):
        text = text.replace("∨", " or ").replace("∧", " and ")
    text = CHINESE_NUMBER.sub(in_digits, _RECURRING.sub(r"\1\\overline{\2\3\4\5\6\7}", text))
    text = _NUMBERS.sub(lambda match: dict(zip("RZNQC", "ℝℤℕℚℂ", strict=True))[match[1] or match[2] or match[3]], text)
    text = _dollars(_SPACES.sub(" ", _MATRIX.sub(_matrix, text).replace("&", ",")))
    text = _CHINESE.sub(lambda match: match.group() if match.group()[0] == "«" else f"«{match.group()}»", _unwrap(text))
    text = _UNIT_VECTOR.sub(r"\\hat{\1\2}", _SHORT_ACCENT.sub(r"\\\1{\2}", text))
    text = _REPEATING.sub(_repeating_fraction, text)
    for _ in range(4):
        text, count = _SHORT_FRACTION.subn(_full_fraction, text)
        if not count:
            break
    text = _HIGH_ROOT.sub(r"\\sqrt[\1]", _BARE_INDEX.sub(r"_{\1}", _BARE_POWER.sub(r"^{\1}", text)))
    text = _CHOSEN.sub(_chosen, _SHORT_ROOT.sub(r"\\sqrt\1{\2}", text))
    text = _SCALED.sub(_written_out, _trim(re.sub(r" +", " ", text)))
    return _trim(_ANGLES.sub(r"(\1)", _ONLY.sub("", _FOR_ALL.sub("", _PREFIX.sub("", text)))))


def match_brace(text: str, start: int) -> int:
    """Index after the brace that closes the ``{`` at ``start``; UnreadableError where none does."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise UnreadableError("unbalanced braces")


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces between matches of ``separator`` that lie in no bracket of any kind."""
    if separator.search(text) is None:
        return [text.strip()]
    pieces, depth, start, place = [], 0, 0, 0
    while place < len(text):
        character = text[place]
        depth += (character in "([{⦃⟦«") - (character in ")]}⦄⟧»")
        found = separator.match(text, place) if depth == 0 else None
        if found and found.end() > place:
            pieces.append(text[start:place])
            start = place = found.end()
        else:
            place += 1
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces]


def is_enclosed(text: str) -> bool:
    """Whether the bracket that opens a text is closed by its last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{⦃⟦«") - (character in ")]}⦄⟧»")
        if depth <= 0:
            return place == len(text) - 1 and depth == 0 and place > 0
    return False


def _check_depth(text: str) -> None:
    depth = 0
    for match in re.finditer(r"\\.|[([{\])}]", text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(match.group(), 0)
        if abs(depth) > _MAX_DEPTH:
            raise UnreadableError(f"groups nested more than {_MAX_DEPTH} deep")
    braces = re.findall(r"\\.|[{}]", text)
    if braces.count("{") != braces.count("}"):
        raise UnreadableError("unbalanced braces")


def _strip_markup(text: str) -> str:
    """Without bold words, and the marks around the whole: math delimiters, code of markdown."""
    text = _BOLD.sub(r"\1", text)
    for _ in range(4):
        for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("`", "`")):
            inside = text[len(opening) : len(text) - len(closing)]
            is_marked = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
            if is_marked and (closing not in inside or opening == "$$"):
                text = inside.strip()
        text = text if text.endswith("...") else _CLOSING.sub("", text)
    return text


def _matrix(match: re.Match[str]) -> str:
    """``⟦a¦b¶c¦d⟧``; the rows of a system as a list, those of cases as pairs of value and condition."""
    brace, name, body = match.groups(default="")
    brace = "|" if name == "vmatrix" else brace
    rows = [row for row in re.split(r"\\\\(?:\[[^\[\]]*\])?|\\cr(?![A-Za-z])", body) if row.strip()]
    if name.endswith("matrix") or (name == "array" and not brace):
        return brace + "⟦" + "¶".join(row.replace("&", "¦") for row in rows) + "⟧" + "|" * (brace == "|")
    pieces = []
    for row in rows:
        cells = [cell.strip(" ,;.") for cell in _WORDS_OF_CASES.sub(" ", row).split("&")]
        is_pair = len(cells) == 2 and "=" not in cells[1][:1] and name in ("cases", "dcases", "array")
        case = _CASE.fullmatch(cells[0]) if name.endswith("cases") and len(cells) == 1 else None
        cells = [case[1], case[2]] if case else cells
        pieces.append(f"({cells[0]},{cells[1]})" if is_pair or case else "".join(cells))
    return ",".join(pieces)


def _dollars(text: str) -> str:
    """Money signs become «USD», math delimiters vanish."""
    text = re.sub(r"(?:\bUS ?)?\\\$", "«USD»", text)
    if text.count("$") % 2 and re.match(r"-?\$\s*-?[\d.]", text):
        return text.replace("$", "«USD»", 1).replace("$", " ")
    return re.sub(r"\\[()\[\]]", " ", text.replace("$", " "))


def _unwrap(text: str) -> str:
    """``\\text{...}`` and its like: their content where it is mathematics, else «content»."""
    for _ in range(60):
        match = _WRAPPER.search(text)
        if match is None:
            return text
        end = match_brace(text, match.end() - 1)
        content = _ONLY.sub("", text[match.end() : end - 1].strip())
        name, word = match[1], content.lower().strip(" ,.")
        counted = re.fullmatch(r"(-?\d[\d.,/]*) (\D+)", content)
        is_unit = _UNIT_LETTER.search(f"{text[: match.start()].rstrip()} {content}") and text[end : end + 1] != "_"
        if name.startswith("operatorname"):
            inside = f"\\{content} " if content.isalpha() else content
        elif name in ("mathbf", "bm", "boldsymbol") and content in ("i", "j", "k"):
            inside = f"\\hat{{{content}}}"
        elif content.startswith("«"):
            inside = content
        elif word in ("and", "or"):
            inside = f" {word} "
        elif counted:
            inside = f"{counted[1]} «{counted[2]}»"
        elif _WRAPPER.search(content) or "\\" in content or name in ("underline",) or _LABELS.fullmatch(content):
            inside = f" {content} "
        elif _KEPT_AS_MATH.fullmatch(content) and not is_unit:
            inside = content
        else:
            inside = f"«{content}»"
        text = text[: match.start()] + inside + text[end:]
    raise UnreadableError("too many text groups")


def _chosen(match: re.Match[str]) -> str:
    """``C_{10}^{3}``, ``C^3_{10}``, ``{}_{10}C_3`` and the arrangements ``A_5^2`` where the upper number is not the larger one."""
    letter = match[1] or match[4] or match[8]
    total, taken = match[2] or match[6] or match[7], match[3] or match[5] or match[9]
    if total.isdigit() and (not taken.isdigit() or int(taken) > int(total)):
        return match.group()
    return f"\\binom{{{total}}}{{{taken}}}" if letter == "C" else f"\\frac{{{total}!}}{{({total}-{taken})!}}"


def _written_out(match: re.Match[str]) -> str:
    """``2.5 million`` as (2.5*10^{6}); words behind it stay."""
    value, opening, scale, closing = match.groups(default="")
    return f"({value}*10^{{{_ZEROS[scale]}}})" + (
        " «" if opening and not closing else "" if opening or not closing else "»"
    )


def _full_fraction(match: re.Match[str]) -> str:
    top, bottom = (piece if piece.startswith("{") else "{" + piece + "}" for piece in match.group(2, 3))
    return f"\\{match[1]}{top}{bottom}"


def _repeating_fraction(match: re.Match[str]) -> str:
    whole, fixed, cycle = match.groups()
    scale, period = 10 ** len(fixed), 10 ** len(cycle) - 1
    top = int((whole or "0") + fixed) * period + int(cycle)
    return f"(\\frac{{{top}}}{{{scale * period}}})"


def _trim(text: str) -> str:
    text = text.strip()
    while text and (text[-1] in ".,;" or text[-1] == ":") and not text.endswith("…"):
        text = text[:-1].rstrip()
    while text.startswith("{") and text.endswith("}") and match_brace(text, 0) == len(text):
        text = text[1:-1].strip()
    return text
