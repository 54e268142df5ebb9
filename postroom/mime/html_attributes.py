"""Parses the attributes of an HTML tag, and whether its style hides it (WHATWG HTML §13.2.5.32, §13.2.5.73)."""

from __future__ import annotations

import html as entities
import re
from dataclasses import dataclass
from html.entities import html5

_ATTRIBUTE = re.compile(
    r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]++)))?""",
)
_REFERENCE = re.compile(r"&(?:#[0-9]++|#[xX][0-9a-fA-F]++|([a-zA-Z][a-zA-Z0-9]*+))(;?)(=?)")
_LONGEST_NUMBER = 9  # digits; U+10FFFF has seven. int() refuses more than 4,300

_MAY_HIDE = re.compile(
    r"hidden|display|visibility|opacity|(?:height|width|font)[^;]*+:\s*+[.0]|font", re.IGNORECASE
)
_DECLARATION = re.compile(r"(?:^|;)\s*+([a-zA-Z-]++)\s*+:([^;]*+)")
_COMMENT = re.compile(r"/\*.*?(?:\*/|$)", re.DOTALL)
_ZERO = re.compile(r"[+-]?(?:0++(?:\.0*+)?|\.0++)(?:%|[a-z]++)?(?=$|[\s/])")
_BOXES = ("height", "max-height", "width", "max-width")


@dataclass(frozen=True, slots=True)
class Style:
    """The visibility of an element by its `hidden` and `style` attributes.

    `hides` holds for everything inside. `unseen` (`visibility`) and `zero_font` (`font-size`) are inherited until
    an element inside says otherwise; None where this one says nothing.
    """

    hides: bool = False
    unseen: bool | None = None
    zero_font: bool | None = None


NO_STYLE = Style()


def attributes(source: str) -> dict[str, str]:
    """Return a tag's attributes; of a repeated one the first counts."""
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(source):
        found.setdefault(name.lower(), unescape_attribute(double or single or bare))
    return found


def unescape_attribute(text: str) -> str:
    """Decode character references as in an attribute.

    There `&copy=1` and `&copyright` are text: a named reference needs its semicolon, unless neither `=` nor a
    letter or digit follows it.
    """
    return _REFERENCE.sub(_decode, text) if "&" in text else text


def _decode(found: re.Match[str]) -> str:
    name, semicolon, equals = found.groups()
    if name is None:
        digits = found[0].strip("&#xX;=")
        return ("\ufffd" if len(digits.lstrip("0")) > _LONGEST_NUMBER else _number(found[0], equals)) + equals
    if semicolon and f"{name};" in html5:
        return html5[f"{name};"] + equals
    if name in html5 and not equals:  # one of those that may end without a semicolon; `;` is text then
        return html5[name] + semicolon
    return found[0]


def _number(reference: str, equals: str) -> str:
    return entities.unescape(reference.removesuffix(equals))


def style_of(source: str) -> Style:
    """Return the visibility of an element by its attributes."""
    if _MAY_HIDE.search(source) is None:
        return NO_STYLE
    found = attributes(source)
    declared = _declarations(found.get("style", ""))
    display = declared.get("display")
    hidden = display == "none" if display is not None else "hidden" in found
    return Style(
        hides=hidden or _is_zero(declared.get("opacity")) or _is_clipped(declared),
        unseen=_unseen(declared.get("visibility")),
        zero_font=_zero_font(declared),
    )


def _declarations(style: str) -> dict[str, str]:
    """Return the declarations of a style attribute; of a repeated one the last counts."""
    style = _COMMENT.sub("", style)
    return {
        name.lower(): value.lower().partition("!")[0].strip() for name, value in _DECLARATION.findall(style)
    }


def _is_zero(value: str | None) -> bool:
    return value is not None and _ZERO.match(value) is not None


def _is_clipped(declared: dict[str, str]) -> bool:
    """Whether it is a box without height or width that hides its overflow."""
    clips = declared.get("overflow", declared.get("overflow-y", "")).split()[:1] in (["hidden"], ["clip"])
    return clips and any(_is_zero(declared.get(box)) for box in _BOXES)


def _unseen(visibility: str | None) -> bool | None:
    return None if visibility in (None, "", "inherit") else visibility in ("hidden", "collapse")


def _zero_font(declared: dict[str, str]) -> bool | None:
    size = declared.get("font-size")
    if size is None and "font" in declared:
        size = next(
            (word for word in declared["font"].split() if word[:1].isdigit() or word[:1] == "."), None
        )
    if not size or size == "inherit":
        return None
    if _is_zero(size):
        return True
    return None if size.endswith(("%", "em")) and not size.endswith("rem") else False
