r"""The plain form of a written answer: LaTeX, Unicode and markdown spellings of the same thing become one.

After ``normalise`` a text holds ASCII, a few operator characters (``≤ ≥ ≠ ≈ ± ∓ ∞ ∪ ∩ ∈ ∅ π ° ℝ``), ``⦃ ⦄`` for the
braces of sets, ``⟦a¦b¶c¦d⟧`` for matrices, ``{ }`` for grouping, LaTeX commands that mean something (``\frac``, ``\sqrt``,
``\sin``), and words: ``«cm»``, which came from ``\text{cm}`` and the like.
"""

import re

MAX_CHARS = 1000
_MAX_DEPTH = 40

_CHARACTERS = str.maketrans(
    {
        **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)},  # full-width forms
        **dict.fromkeys("−–—﹣‐‑", "-"),
        **dict.fromkeys("  \u2009\u202f\u3000\t\n\r", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        **dict.fromkeys("×·⋅∙*", "*"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("、", ","),
        **dict.fromkeys("‘’′", "'"),
        **{"。": ".", "∶": ":", "⩽": "≤", "⩾": "≥", "≦": "≤", "≧": "≥", "¬": "\\neg ", "∣": "|", "∥": "\\parallel "},
        **{"½": "\\frac{1}{2}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}"},
        **{"⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "【": "[", "】": "]", "∅": "∅", "º": "°", "˚": "°"},
        **{"€": "«EUR»", "£": "«GBP»", "¥": "«CNY»", "￥": "«CNY»"},
        **{"α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ", "δ": "\\delta ", "θ": "\\theta ", "λ": "\\lambda "},
        **{"μ": "\\mu ", "ρ": "\\rho ", "σ": "\\sigma ", "φ": "\\phi ", "ω": "\\omega ", "ε": "\\epsilon "},
    }
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_SUPERSCRIPT = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_REMOVED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|nolimits|boldsymbol|[lL]arge|LARGE|[hH]uge|small|normalsize|bf|rm|it|mathstrut|strut|phantom)(?![A-Za-z])\.?"
    r"|\\!|\\(?:label|tag|color|textcolor)\s*\{[^{}]*\}|\\therefore(?![A-Za-z])"
)
_SPACES = re.compile(r"\\(?:[,;:> \\]|quad|qquad|hspace\{[^{}]*\}|thinspace|enspace)(?![A-Za-z])|~|\\\s")
_SPELLINGS = {
    r"\\(?:dfrac|tfrac|cfrac)(?![A-Za-z])": r"\\frac",
    r"\\(?:dbinom|tbinom|choose)(?![A-Za-z])": r"\\binom",
    r"\\(?:leq|leqslant|le|leqq)(?![A-Za-z])|<=|=<": "≤",
    r"\\(?:geq|geqslant|ge|geqq)(?![A-Za-z])|>=": "≥",
    r"\\(?:neq|ne)(?![A-Za-z])|!=|\\not\s*=": "≠",
    r"\\equiv(?![A-Za-z])|≡": "=",
    r"\\lt(?![A-Za-z])": "<",
    r"\\gt(?![A-Za-z])": ">",
    r"\\(?:approx|simeq|thickapprox)(?![A-Za-z])": "≈",
    r"\\infty(?![A-Za-z])|(?<![A-Za-z\\])(?:infinity|oo)(?![A-Za-z])": "∞",
    r"\\(?:cup|bigcup)(?![A-Za-z])": "∪",
    r"\\cap(?![A-Za-z])": "∩",
    r"\\in(?![A-Za-z])": "∈",
    r"\\(?:emptyset|varnothing)(?![A-Za-z])": "∅",
    r"\\pm(?![A-Za-z])|\+/-|\+-": "±",
    r"\\mp(?![A-Za-z])": "∓",
    r"\\(?:pi|Pi)(?![A-Za-z])|(?<![A-Za-z\\])pi(?![A-Za-z])": "π",
    r"\\(?:cdot|times|ast)(?![A-Za-z])": "*",
    r"\\div(?![A-Za-z])": "/",
    r"\\(?:mathbb|mathbf|mathcal|Bbb)\s*\{?R\}?|\\R(?![A-Za-z])": "ℝ",
    r"\\mathbb\s*\{?Z\}?": "ℤ",
    r"\\mathbb\s*\{?N\}?": "ℕ",
    r"\\mathbb\s*\{?Q\}?": "ℚ",
    r"\\mathbb\s*\{?C\}?": "ℂ",
    r"\\(?:lbrace|\{)": "⦃",
    r"\\(?:rbrace|\})": "⦄",
    r"\\(?:langle|lparen)(?![A-Za-z])": "(",
    r"\\(?:rangle|rparen)(?![A-Za-z])": ")",
    r"\\(?:lbrack)(?![A-Za-z])": "[",
    r"\\(?:rbrack)(?![A-Za-z])": "]",
    r"\\(?:vert|lvert|rvert|mid)(?![A-Za-z])": "|",
    r"\\colon(?![A-Za-z])": ":",
    r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\^\s*°": "°",
    r"\\%": "%",
    r"(?<![A-Za-z])per cent(?![A-Za-z])": "percent",
    r"\\&": "&",
    r"\\_": "_",
    r"\\(?:ldots|cdots|dots|dotsc|dotsb)(?![A-Za-z])|\.\.\.": "…",
    r"\\prime(?![A-Za-z])": "'",
    r"\\(?:lor|vee)(?![A-Za-z])": " or ",
    r"\\(?:land|wedge)(?![A-Za-z])": " and ",
    r"\\(?:varepsilon)(?![A-Za-z])": r"\\epsilon ",
    r"\\(?:varphi)(?![A-Za-z])": r"\\phi ",
    r"\*\*": "^",
}
_COMMANDS = [(re.compile(pattern), target) for pattern, target in _SPELLINGS.items()]
_MATRIX = re.compile(r"\\begin\s*\{([pbB]?matrix|smallmatrix|array)\}\s*(?:\{[^{}]*\})?(.*?)\\end\s*\{\1\}", re.DOTALL)
_WRAPPER = re.compile(
    r"\\(text|textbf|textrm|textit|textsf|texttt|textnormal|emph|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|bm|underline)\s*\{"
)
_KEPT_AS_MATH = re.compile(r"[^A-Za-z]*|[^A-Za-z]*[A-Za-z][^A-Za-z]*")
_UNIT_LETTER = re.compile(r"[\d)}π] [mgshLlNJWVKFC]$")
_FRACTION_PIECE = r"(\{(?:[^{}]|\{[^{}]*\})*\}|\d|[A-Za-zπ])"
_SHORT_FRACTION = re.compile(rf"\\(frac|binom)\s*{_FRACTION_PIECE}\s*{_FRACTION_PIECE}")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+|[A-Za-zπ])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_BARE_POWER = re.compile(r"\^\s*(-?\d+(?:\.\d+)?)(?![\d.])")
_BARE_INDEX = re.compile(r"_\s*(\d+|[A-Za-z])")
_EMPTY_GROUP = re.compile(r"(?:\\(?:text|mbox|mathrm)\s*)?\{\s*\}")
_PREFIX = re.compile(
    r"(?i)^«?(?:so |hence |thus |therefore,? )?(?:the )?(?:final )?answer(?:\s+is\b)?\s*:?\s*»?\s*[:=]?\s*(?=[^\s»])|^[=≈]\s*"
)


_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"(?<![\d.,])(\d+)(?:\.(\d+))? ?(«?) ?({'|'.join(_ZEROS)})(?![A-Za-z])(?: ?(»))?")


class UnreadableError(ValueError):
    """A text that is no answer that this module can read: too long, too deep, unbalanced."""


def normalise(text: str) -> str:
    r"""The plain form.

    Raises:
        UnreadableError: more than ``MAX_CHARS`` characters, groups nested more than 40 deep, unbalanced braces.
    """
    if len(text) > MAX_CHARS:
        raise UnreadableError(f"{len(text)} characters; at most {MAX_CHARS}")
    text = _SUPERSCRIPT.sub(lambda match: "^{" + "".join(_SUPERSCRIPTS[c] for c in match.group()) + "}", text)
    text = _SUBSCRIPT.sub(lambda match: "_{" + "".join(str(ord(c) - 0x2080) for c in match.group()) + "}", text)
    text = re.sub("√\\s*(\\d+|[a-zA-Zπ])", r"\\sqrt{\1}", text.replace("√(", "sqrt("))
    text = _strip_markup(text.strip())
    text = text.translate(_CHARACTERS)
    _check_depth(text)
    text = re.sub(r",\\! *|\{,\}", ",", text).replace("{:}", ":")
    text = _EMPTY_GROUP.sub(" ", text)
    text = _REMOVED.sub("", text)
    text = _MATRIX.sub(_matrix, text)
    text = _SPACES.sub(" ", text)
    text = _dollars(text)
    for pattern, target in _COMMANDS:
        text = pattern.sub(target, text)
    text = _unwrap(text)
    text = _REPEATING.sub(_repeating_fraction, text)
    for _ in range(4):
        text, count = _SHORT_FRACTION.subn(_full_fraction, text)
        if not count:
            break
    text = _SHORT_ROOT.sub(r"\\sqrt\1{\2}", text)
    text = _BARE_INDEX.sub(r"_{\1}", _BARE_POWER.sub(r"^{\1}", text))
    text = _SCALED.sub(_written_out, _trim(re.sub(r" +", " ", text)))
    return _trim(_PREFIX.sub("", text))


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
    """Without the marks around the whole: math delimiters, bold and code of markdown."""
    for _ in range(4):
        for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`")):
            inside = text[len(opening) : len(text) - len(closing)]
            is_marked = len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing)
            if is_marked and (closing not in inside or opening == "$$"):
                text = inside.strip()
        text = text.rstrip(" \n.,;。，；") if not text.endswith(("...", "\\,", "\\;")) else text
    return text


def _matrix(match: re.Match[str]) -> str:
    rows = re.split(r"\\\\(?:\[[^\[\]]*\])?|\\cr(?![A-Za-z])", match[2].replace("\\hline", ""))
    return "⟦" + "¶".join(row.replace("&", "¦") for row in rows if row.strip()) + "⟧"


def _dollars(text: str) -> str:
    """Money signs become «USD», math delimiters vanish."""
    text = re.sub(r"\\\$", "«USD»", text)
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
        content = text[match.end() : end - 1].strip()
        name, word = match[1], content.lower().strip(" ,.")
        if name.startswith("operatorname"):
            inside = f"\\{content} " if content.isalpha() else content
        elif word in ("and", "or"):
            inside = f" {word} "
        elif _WRAPPER.search(content) or "\\" in content or name in ("underline",):
            inside = f" {content} "
        elif _KEPT_AS_MATH.fullmatch(content) and not _UNIT_LETTER.search(
            f"{text[: match.start()].rstrip()} {content}"
        ):
            inside = content
        else:
            inside = f"«{content}»"
        text = text[: match.start()] + inside + text[end:]
    raise UnreadableError("too many text groups")


def _written_out(match: re.Match[str]) -> str:
    """``2.5 million`` as 2500000; words behind it stay."""
    whole, decimals, opening, scale, closing = match.groups(default="")
    zeros = _ZEROS[scale]
    value = f"{whole}{decimals[:zeros].ljust(zeros, '0')}" + (f".{decimals[zeros:]}" if decimals[zeros:] else "")
    return value.lstrip("0") + (" «" if opening and not closing else "" if opening or not closing else "»")


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
