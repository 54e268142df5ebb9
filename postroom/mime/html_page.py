"""Writes the plain text of an HTML page: lines, paragraphs, lists, quotations, table cells and links."""

from __future__ import annotations

import html as entities
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from postroom.core.numbers import whole_number
from postroom.mime.html_attributes import attributes as parse_attributes

_ENDLESS_NUMBER = re.compile(r"&#[0-9]{8,}+;?")

_INVISIBLE = dict.fromkeys(map(ord, "\xad\u034f\ufeff"))  # soft hyphen, joiner, BOM: used to pad previews
# Joiners and spaces of no width: text between letters or emoji, padding beside white space.
_PADDING = re.compile(r"[\s\u180e\u200b-\u200d\u2060-\u2064]{2,}+|^[\u180e\u200b-\u200d\u2060-\u2064]$")
_NO_WIDTH = dict.fromkeys([0x180E, *range(0x200B, 0x200E), *range(0x2060, 0x2065)])
_LINKS = ("https://", "http://", "mailto:", "tel:", "sms:")
_WRAPPED = re.compile(r"[\t\n\r]\s*+")
_PIECES_AT_ONCE = 4096  # kept apart: joining and dropping a million pieces holds Python's lock for long
_LONGEST_LINK = 4096  # characters or pieces of a link's text that is compared with its address
_MAX_INDENT = 5  # deeper nesting is not indented further, so output stays proportional to input

_BLOCKS = frozenset(
    "address article aside body center dd details dialog div dt fieldset figcaption figure footer form "  # noqa: SIM905
    "header hgroup html legend main nav optgroup option search section select summary tbody tfoot thead tr".split()
)
_PARAGRAPHS = frozenset("caption dl h1 h2 h3 h4 h5 h6 p table".split())  # noqa: SIM905


class Page:
    """The text written so far, and the breaks and separators before the next word.

    Breaks and separators are held back until there is a word to separate, so
    none can pile up, begin the page or end it.
    """

    def __init__(self) -> None:
        self._out: list[str] = []
        self._before: list[str] = []  # the text before that, joined
        self._breaks = 0  # line ends due: 1 begins a new line, 2 leaves a blank one
        self._separator = ""  # due between words on one line
        self._marker = ""  # due at the beginning of a list item
        self._any_text = False
        self._lists: list[int | None] = []  # the last number of each open <ol>; None for <ul>
        self._quotes = 0
        self._pre = 0
        self._pre_begins = False
        self._links: list[_Link] = []  # that are open; one in a cell may stand in another around the table

    def text(self, source: str) -> None:
        """Write character data: white space collapses, except in <pre>."""
        text = _unescape(source)
        if not text.isascii():
            text = _PADDING.sub(_without_invisible, text.translate(_INVISIBLE))
        if self._pre:
            self._preformatted(text)
        else:
            self._words(text)

    def opened(self, name: str, attributes: str) -> None:
        """Act on an element that begins."""
        self._pre_begins = False
        act = _START.get(name)
        if act is not None:
            act(self, attributes)

    def closed(self, name: str) -> None:
        """Act on an element that ends."""
        act = _END.get(name)
        if act is not None:
            act(self, "")

    def finish(self) -> str:
        """Return the page."""
        while self._links:
            self.end_link("")
        return "".join([*self._before, *self._out]).strip("\n") if self._any_text else ""

    def suspended(self, name: str) -> None:
        """Write where a link leads as soon as an element around it ends; what follows may be in the link again."""
        if name == "a" and self._links and (self._links[-1].text or self._links[-1].has_image):
            self._lead(self._links[-1])

    # Words, lines and separators.

    def _words(self, text: str) -> None:
        words = " ".join(text.split())
        if text[:1].isspace():
            self._space()
        if words:
            self._write(words)
            if text[-1].isspace():
                self._space()

    def _space(self) -> None:
        self._separator = self._separator or " "

    def _write(self, text: str) -> None:
        """Write text without line ends, after the breaks and separators that are due."""
        self._pay_breaks()
        self._out.append(text)
        self._any_text = True
        if self._links:
            self._links[-1].add(text)

    def _pay_breaks(self) -> None:
        if len(self._out) > _PIECES_AT_ONCE:
            self._before.append("".join(self._out[:-1]))
            del self._out[:-1]
        if self._breaks or not self._out:
            self._out.append("\n" * self._breaks + self._prefix() + self._marker)
            self._marker = ""
        elif self._separator:
            self._out.append(self._separator)
        self._breaks, self._separator = 0, ""

    def _prefix(self) -> str:
        """Return the beginning of a new line: quotation marks, and room for list markers."""
        depth = len(self._lists) - 1 if self._marker else len(self._lists)
        return "> " * min(self._quotes, _MAX_INDENT) + "  " * min(max(depth, 0), _MAX_INDENT)

    def _preformatted(self, text: str) -> None:
        """Write the text of <pre> as it is, line by line."""
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if self._pre_begins and len(lines) > 1 and not lines[0]:
            del lines[0]  # WHATWG HTML §13.2.6.4.7: a line feed right after <pre> does not count
        self._pre_begins = False
        self._pay_breaks()
        prefix = "\n" + self._prefix()
        self._out.append(prefix.join(lines))
        if text.strip():
            self._any_text = True
            if self._links:
                self._links[-1].add(text)

    # Elements. Each takes the source of its attributes.

    def line(self, _: str = "") -> None:
        self._breaks = max(self._breaks, 1)

    def paragraph(self, _: str = "") -> None:
        self._breaks = 2

    def line_break(self, _: str) -> None:
        if self._pre:
            self._preformatted("\n")
        else:
            self._breaks = min(self._breaks + 1, 2)

    def rule(self, _: str) -> None:
        seen = self._any_text
        self.line()
        self._write("-" * 20)
        self._any_text = seen
        self.line()

    def image(self, attributes: str) -> None:
        found = parse_attributes(attributes)
        self._words(found.get("alt", ""))
        if self._links:
            self._links[-1].has_image = True

    def cell(self, _: str) -> None:
        self._separator = " | " if self._out else ""

    def start_pre(self, _: str) -> None:
        self.paragraph()
        self._pre += 1
        self._pre_begins = True

    def end_pre(self, _: str) -> None:
        if self._pre and self._out:  # the line feed before </pre> is no line of its own
            self._out[-1] = self._out[-1].removesuffix("\n" + self._prefix())
        self._pre = max(self._pre - 1, 0)
        self.paragraph()

    def start_quote(self, _: str) -> None:
        self.paragraph()
        self._quotes += 1

    def end_quote(self, _: str) -> None:
        self._quotes = max(self._quotes - 1, 0)
        self.paragraph()

    def start_bullets(self, _: str) -> None:
        self._break_around_list()
        self._lists.append(None)

    def start_numbers(self, attributes: str) -> None:
        self._break_around_list()
        first = parse_attributes(attributes).get("start", "")
        self._lists.append((whole_number(first, 8) or 1) - 1)

    def end_list(self, _: str) -> None:
        if self._lists:
            self._lists.pop()
        self._break_around_list()

    def _break_around_list(self) -> None:
        self.line() if self._lists else self.paragraph()

    def item(self, _: str) -> None:
        self.line()
        number = self._lists[-1] if self._lists else None
        if number is None:
            self._marker = "- "
        else:
            self._lists[-1] = number + 1
            self._marker = f"{number + 1}. "

    def end_item(self, _: str) -> None:
        self._marker = ""
        self.line()

    def start_link(self, attributes: str) -> None:
        self._links.append(_Link(_url(parse_attributes(attributes).get("href", ""))))

    def end_link(self, _: str) -> None:
        if self._links:
            self._lead(self._links.pop())

    def _lead(self, link: _Link) -> None:
        """Write where the link leads, once, unless its text says so or it is not for a reader."""
        href, link.href = link.href, ""
        if not href.lower().startswith(_LINKS):
            return
        text = "".join(link.text)
        url = f"<{href.replace('<', '%3C').replace('>', '%3E')}>"
        if not text and link.has_image:
            self._write(url)
        elif text and (link.is_long or _bare(text) != _bare(href)):
            self._out.append(f" {url}")


@dataclass(slots=True)
class _Link:
    """A link that is open. Without an address: it was written already, or there is none."""

    href: str
    text: list[str] = field(default_factory=list)
    has_image: bool = False
    is_long: bool = False  # the text cannot be the address, and is not kept

    def add(self, text: str) -> None:
        if len(text) > _LONGEST_LINK or len(self.text) > _LONGEST_LINK:
            self.is_long = True
            text = text[:1]
        if not self.is_long or not self.text:
            self.text.append(text)


def _without_invisible(found: re.Match[str]) -> str:
    """Keep the spaces of a run of spaces and invisible characters; a run without spaces is text."""
    run = found[0]
    spaces = run.translate(_NO_WIDTH)
    return spaces if spaces or found.end() - found.start() == len(found.string) else run


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    try:
        return entities.unescape(text)
    except ValueError:  # a number of more than 4,300 digits, which int() refuses
        return entities.unescape(_ENDLESS_NUMBER.sub("\ufffd", text))


def _url(href: str) -> str:
    """Return an address on one line: line breaks are removed, other spaces are encoded."""
    return _WRAPPED.sub("", href.strip()).replace(" ", "%20")


def _bare(url: str) -> str:
    """Return a URL or address without its scheme, to compare two."""
    for scheme in _LINKS:
        if url[: len(scheme)].lower() == scheme:
            url = url[len(scheme) :]
    return url.rstrip("/")


_Act = Callable[[Page, str], None]
_START: dict[str, _Act] = {
    **dict.fromkeys(_BLOCKS, Page.line),
    **dict.fromkeys(_PARAGRAPHS, Page.paragraph),
    "a": Page.start_link,
    "blockquote": Page.start_quote,
    "br": Page.line_break,
    "hr": Page.rule,
    "dir": Page.start_bullets,
    "img": Page.image,
    "li": Page.item,
    "ol": Page.start_numbers,
    "listing": Page.start_pre,
    "menu": Page.start_bullets,
    "plaintext": Page.start_pre,
    "pre": Page.start_pre,
    "td": Page.cell,
    "textarea": Page.start_pre,
    "th": Page.cell,
    "ul": Page.start_bullets,
    "xmp": Page.start_pre,
}
_END: dict[str, _Act] = {
    **dict.fromkeys(_BLOCKS, Page.line),
    **dict.fromkeys(_PARAGRAPHS, Page.paragraph),
    "a": Page.end_link,
    "blockquote": Page.end_quote,
    "br": Page.line_break,  # </br> is <br>, says the standard
    "dir": Page.end_list,
    "li": Page.end_item,
    "listing": Page.end_pre,
    "menu": Page.end_list,
    "ol": Page.end_list,
    "plaintext": Page.end_pre,
    "pre": Page.end_pre,
    "textarea": Page.end_pre,
    "ul": Page.end_list,
    "xmp": Page.end_pre,
}
