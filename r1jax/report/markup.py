"""Puts untrusted text and figures into HTML: everything a model or a config wrote passes through here."""

import html
import json
import math
import re
from typing import Any

# As r1jax.rewards.reflection counts them: spec E's list (R1v2 C.2) and its Chinese equivalents. A test holds them equal.
_ENGLISH = "wait|mistake|however|but|retry|error|verify|wrong|evaluate|check"
_CHINESE = "等一下|等等|失误|然而|不过|但是|可是|再试|重试|错误|验证|验算|不对|错|评估|检查|核对"
_REFLECTION = re.compile(rf"(?<![A-Za-z])(?:{_ENGLISH})(?![A-Za-z])|{_CHINESE}", re.IGNORECASE)

_INVISIBLE = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_BROKEN = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


def visible(text: str) -> str:
    """`text` with nothing hidden: control characters as pictures, direction marks by code, broken ones as U+FFFD."""
    text = _BROKEN.sub("\ufffd", text.translate(_PICTURES))
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def escape(text: Any) -> str:
    """`text` safe between tags and inside a quoted attribute."""
    return html.escape(visible(str(text)), quote=True)


def highlight(text: str) -> str:
    """Escaped `text` with each reflection word in a <mark>."""
    pieces, end = [], 0
    for match in _REFLECTION.finditer(text):
        pieces += [escape(text[end : match.start()]), f"<mark>{escape(match[0])}</mark>"]
        end = match.end()
    return "".join([*pieces, escape(text[end:])])


def count_marked(text: str) -> int:
    """How many words `highlight` marks."""
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


def duration(seconds: float) -> str:
    """Seconds as a person says them; "–" if unknown."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def table(rows: list[list[str]], *, head: list[str] | None = None) -> str:
    """A table that scrolls sideways on a narrow screen. Cells are HTML already."""
    top = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def setting(value: Any) -> str:
    """One leaf of a config, escaped and cut to a readable length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return escape(clip(text, 300))


def page(title: str, body: str) -> str:
    """A whole HTML page that loads nothing and runs no script, whatever `body` holds."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


STYLE = """
:root{--back:#fff;--panel:#f7f8fa;--text:#1b1f26;--quiet:#5b6472;--grid:#dfe3e9;--line:#dfe3e9;--mark:#ffe08a;--good:#16803c;--bad:#c02626;
--c0:#2563eb;--c1:#d9730d;--c2:#0f8f6b;--c3:#c2257a;--c4:#7c3aed;--c5:#0e8aa8;--c6:#b91c1c;--c7:#6b8e10}
@media (prefers-color-scheme:dark){:root{--back:#14171c;--panel:#1c2027;--text:#e6e9ee;--quiet:#9aa4b2;--grid:#333a45;--line:#333a45;--mark:#6b5200;--good:#5ad183;--bad:#ff8080;
--c0:#6ea8fe;--c1:#f5a04c;--c2:#3ecf9f;--c3:#f472b6;--c4:#b394ff;--c5:#4cc9e6;--c6:#ff7b72;--c7:#b5d34a}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC",sans-serif}
main{max-width:1240px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:1.5rem;margin:0 0 2px;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:36px 0 4px;padding-top:12px;border-top:1px solid var(--line)}h3{font-size:1rem;margin:26px 0 8px}
p{margin:4px 0 8px}.quiet,figcaption p,summary small{color:var(--quiet)}
.cards,.grid,.pair{display:grid;gap:12px}
.cards{grid-template-columns:repeat(auto-fit,minmax(min(100%,178px),1fr));margin:14px 0}
.cards>div{background:var(--panel);border-radius:8px;padding:10px 14px}
.cards b{display:block;font-size:1.12rem;font-weight:650;line-height:1.3}.cards span{color:var(--quiet);font-size:.85rem;display:block}
.grid{grid-template-columns:repeat(auto-fill,minmax(min(100%,370px),1fr))}
figure{margin:0;background:var(--panel);border-radius:8px;padding:12px 12px 6px;display:flex;flex-direction:column;min-width:0}
figcaption{font-weight:600;overflow-wrap:anywhere}figcaption p{font-weight:400;font-size:.82rem;margin:2px 0}
.legend{display:flex;flex-wrap:wrap;gap:0 10px;font-weight:400;font-size:.85rem;margin:2px 0}
.legend span{overflow-wrap:anywhere}.legend i{display:inline-block;width:20px;height:3px;margin-right:5px;vertical-align:middle;background:var(--c)}
.legend .dash1{background:repeating-linear-gradient(90deg,var(--c) 0 8px,transparent 8px 12px)}
.legend .dash2{background:repeating-linear-gradient(90deg,var(--c) 0 3px,transparent 3px 5px)}
.legend .dash3{background:repeating-linear-gradient(90deg,var(--c) 0 8px,transparent 8px 10px,var(--c) 10px 12px,transparent 12px 14px)}
.legend .points{width:8px;height:8px;margin:0 11px 1px 6px}.points.dash0{transform:rotate(45deg) scale(.9)}.legend .points{background:var(--c)}
.points.dash2{border-radius:50%}.points.dash3{clip-path:polygon(50% 0,100% 100%,0 100%)}
svg{width:100%;height:auto;margin-top:auto}svg text{font-family:inherit!important}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem}td,th{padding:3px 14px 3px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}td:first-child{white-space:nowrap}td{overflow-wrap:anywhere;max-width:70ch}.one,td .quiet{white-space:nowrap}.protocol{display:block;color:var(--quiet);margin-top:3px}.wide{display:block;white-space:normal;max-width:34ch}
th{font-weight:600;color:var(--quiet)}
@media(max-width:700px){.claims thead{display:none}.claims tr{display:block;border-bottom:1px solid var(--line);padding:6px 0}.claims td,.claims .wide{display:block;border:0;padding:1px 0;max-width:none}
.claims .wide{font-weight:600}.claims td:nth-child(2)::before{content:"paper: ";color:var(--quiet)}.claims td:nth-child(3)::before{content:"ours: ";color:var(--quiet)}.claims td:nth-child(4)::before{content:"held: ";color:var(--quiet)}}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(100%,370px),1fr));margin:6px 0 22px}
.answer{background:var(--panel);border-radius:8px;padding:8px 12px;min-width:0;overflow:hidden}
.answer header{font-size:.82rem;color:var(--quiet);margin-bottom:4px;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono CJK SC",monospace;unicode-bidi:plaintext}
.prompt{border-left:3px solid var(--line);padding-left:10px;color:var(--quiet)}
mark{background:var(--mark);color:inherit;border-radius:3px;padding:0 1px}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.note{border-left:3px solid var(--c1);padding:2px 10px;margin:6px 0}
summary{cursor:pointer;margin:8px 0}details>summary h2,details>summary h3{display:inline;border:0;padding:0;margin:0}
details.stage{margin-top:32px;border-top:1px solid var(--line);padding-top:8px}a{color:var(--c0)}
""".replace("\n", "")
