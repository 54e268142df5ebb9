"""What a conforming parser (html5lib) sees of an HTML message: the visible text and its links, off a tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import html5lib

from postroom.mime.html_attributes import NO_STYLE, Style, style_of

_HTML = "{http://www.w3.org/1999/xhtml}"
_NOT_SHOWN = frozenset(
    (
        "datalist",
        "head",
        "iframe",
        "math",
        "noembed",
        "noframes",
        "script",
        "style",
        "svg",
        "template",
        "title",
    )
)
_ENDS_IN_A_TAG = re.compile(r"eof-in-(?:attribute|tag-name)|expected-(?:attribute|end-of-tag).*-eof")
_READERS_LINKS = ("https://", "http://", "mailto:", "tel:", "sms:")


@dataclass
class Link:
    """A link, with the text and the images that lead there: those in a link inside it lead elsewhere."""

    address: str
    text: list[str] = field(default_factory=list)
    has_image: bool = False


@dataclass
class Seen:
    """The visible text in the order of the tree, and the links. `ends_in_a_tag`: the rest of the source is an attribute."""

    ends_in_a_tag: bool
    text: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """What the elements around say of visibility."""

    unseen: bool = False
    zero_font: bool = False

    @property
    def visible(self) -> bool:
        return not (self.unseen or self.zero_font)

    def inside(self, style: Style) -> _Place:
        return _Place(
            self.unseen if style.unseen is None else style.unseen,
            self.zero_font if style.zero_font is None else style.zero_font,
        )


def see(html: str) -> Seen:
    """Return what a reader of the message sees."""
    parser = html5lib.HTMLParser(html5lib.getTreeBuilder("etree"))
    tree = parser.parse(html)
    seen = Seen(any(_ENDS_IN_A_TAG.match(code) for _, code, _ in parser.errors))
    stack: list[tuple[Iterator[Any], _Place, Any]] = [(_steps(tree), _Place(), None)]
    open_links: list[Link] = []
    while stack:
        steps, place, element = stack[-1]
        step = next(steps, None)
        if step is None:
            stack.pop()
            if _name(element) == "a":
                open_links.pop()
        elif not isinstance(step, str):
            _enter(step, place, seen, stack, open_links)
        elif place.visible:
            _say(step, seen, open_links)
    return seen


def _say(text: str, seen: Seen, open_links: list[Link]) -> None:
    seen.text.append(text)
    if open_links:
        open_links[-1].text.append(text)


def _steps(element: Any) -> Iterator[Any]:
    """Yield the texts and elements in an element, in order."""
    if element.text:
        yield element.text
    for child in element:
        yield child
        if child.tail:
            yield child.tail


def _enter(
    element: Any,
    place: _Place,
    seen: Seen,
    stack: list[tuple[Iterator[Any], _Place, Any]],
    open_links: list[Link],
) -> None:
    name = _name(element)
    style = NO_STYLE if name is None else _style(element)
    if name is None or name in _NOT_SHOWN or style.hides:
        return
    inside = place.inside(style)
    if name == "img":
        _show_image(element, inside, seen, open_links)
        return
    if name == "a":
        link = Link(element.get("href", ""))
        seen.links.append(link)
        open_links.append(link)
    elif name == "br":
        _say("\n", seen, open_links)
    stack.append((_steps(element), inside, element))


def _show_image(element: Any, inside: _Place, seen: Seen, open_links: list[Link]) -> None:
    if inside.unseen:
        return
    _say(f" {element.get('alt', '')} ", seen, open_links)
    if open_links:
        open_links[-1].has_image = True


def _name(element: Any) -> str | None:
    """Return the name of an HTML element; None for comments and foreign content."""
    if element is None or not isinstance(element.tag, str) or not element.tag.startswith(_HTML):
        return None
    return element.tag.removeprefix(_HTML)


def _style(element: Any) -> Style:
    source = " ".join(
        f'{name}="{value.replace("&", "&amp;").replace(chr(34), "&quot;")}"'
        for name, value in element.attrib.items()
        if name in ("hidden", "style")
    )
    return style_of(source) if source else NO_STYLE


def letters(text: str) -> str:
    """Return what a text says, without what layout adds or takes: spaces, marks of lists and tables, padding."""
    return "".join(re.findall(r"[^\W\d_]", text))


def addresses(seen: Seen) -> set[str]:
    """Return the addresses of the visible links that are for a reader and that their text does not say."""
    return {
        address
        for link in seen.links
        if (address := one_line(link.address)).lower().startswith(_READERS_LINKS)
        and ((text := " ".join("".join(link.text).split())) or link.has_image)
        and bare(text) != bare(address)
    }


def one_line(href: str) -> str:
    return (
        re.sub(r"[\t\n\r]\s*", "", href.strip()).replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")
    )


def bare(url: str) -> str:
    """Return an address as people write it."""
    for scheme in _READERS_LINKS:
        if url[: len(scheme)].lower() == scheme:
            url = url[len(scheme) :]
    return url.rstrip("/")
