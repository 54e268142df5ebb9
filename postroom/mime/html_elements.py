"""Which HTML elements are open at each point of a page (WHATWG HTML §13.2.4.2 and §13.2.4.3), without a tree.

`OpenElements` follows the standard's stack of open elements and its list of active formatting elements: which
end tags are implied, which are ignored, what a misnested end tag closes and what is reopened after it. It
tells its listener when an element opens and closes, and whether text is visible at the moment. It keeps no
node, and each tag costs a bounded number of steps (a search among formatting elements is logarithmic): what
the standard reopens one by one is reopened here by moving a run of them.

Left out: the limit of eight rounds of the adoption agency, and frames.
"""

from __future__ import annotations

import re
from typing import Protocol

from postroom.mime.html_attributes import Style, style_of
from postroom.mime.html_formatting import ActiveFormatting, Element


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FORMATTING = _names("a b big code em font i nobr s small strike strong tt u")
VOID = _names(
    "area base basefont bgsound br col command embed frame hr image img input keygen link meta param source track wbr"
)
_NEVER_SHOWN = _names("datalist math svg template")
_FOREIGN = _names("math svg")
_BREAKS_OUT = _names(  # §13.2.6.5: these end foreign content
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu meta "
    "nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"
)
_INTEGRATION_POINTS = _names(
    "annotation-xml desc foreignobject mi mn mo ms mtext"
)  # HTML again, inside foreign content
_CLOSES_P = _names(
    "address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption figure footer form h1 "
    "h2 h3 h4 h5 h6 header hgroup hr li listing main menu nav ol p plaintext pre search section summary ul xmp"
)
_HEADINGS = _names("h1 h2 h3 h4 h5 h6")
_SCOPES = _names("applet caption marquee object select table td template th")
_MARKERS = _names("applet caption marquee object td template th")
_TABLE_PARTS = _names("caption colgroup tbody td tfoot th thead tr")
_SECTIONS = _names("tbody tfoot thead")
_CELLS = _names("caption td th")
_ROWS = _names("table tbody tfoot thead tr")
_NO_WALL = _names("address div p")
_SPECIAL = (
    _CLOSES_P
    | _SCOPES
    | _TABLE_PARTS
    | _names("button iframe noembed noframes noscript script style textarea title")
    | _INTEGRATION_POINTS
)
_ITEMS = {"li": _names("li"), "dd": _names("dd dt"), "dt": _names("dd dt")}
_ANNOTATIONS = _names("rb rp rt rtc")
_IMPLIED_ENDS = {
    "option": ("option",),
    "optgroup": ("option", "optgroup"),
    **dict.fromkeys(_ANNOTATIONS, tuple(_ANNOTATIONS)),
}
_IGNORED = _names("body frameset head html")
_DOCTYPE = re.compile(r"\s*+(?:<!--.*?-->\s*+)*+<!doctype\s++html\b([^>]*+)", re.IGNORECASE | re.DOTALL)
_OLD_DOCTYPE = re.compile(r"html (?:2|3)|html 4\.\d+ (?:transitional|frameset)//en\"\s*$", re.IGNORECASE)


class Listener(Protocol):
    """What is told of elements that can be seen."""

    def opened(self, name: str, attributes: str) -> None: ...

    def closed(self, name: str) -> None: ...

    def suspended(self, name: str) -> None:
        """A link was closed with an element around it; the text that follows may be in it again."""


class OpenElements:
    """The elements that are open. Each start and end tag is told to it in order."""

    def __init__(self, listener: Listener, html: str) -> None:
        self._listener = listener
        doctype = _DOCTYPE.match(html)
        self._quirks = doctype is None or _OLD_DOCTYPE.search(doctype[1]) is not None
        self._stack: list[Element] = []
        self._places: dict[str, list[int]] = {}  # by name, those that are open
        self._special: list[int] = []
        self._scopes: list[int] = []
        self._walls: list[int] = []  # what the search for an open list item does not pass
        self._ordinary: list[int] = []
        self._fostered: list[int] = []  # those that stand in front of the table in which they were begun
        self._headings: list[int] = []
        self._hiding = 0  # elements of the stack that hide, and formatting elements before a marker
        self._formatting = ActiveFormatting()
        self._before_markers: list[
            tuple[int, ActiveFormatting, int]
        ] = []  # place of the marker, the list before it
        self._visibility: list[Element] = []
        self._font: list[Element] = []
        self._ignored: dict[str, bool] = {}

    # -- what a page asks

    def text(self, *, blank: bool) -> bool:
        """Note that text comes; return whether it is visible."""
        if self._in_table_mode:
            return self._fostered_is_visible(blank=blank)
        self._reopen()
        return self.visible

    @property
    def visible(self) -> bool:
        """Whether what stands here can be seen."""
        return self.laid_out and not (
            _last_open(self._visibility, "unseen") or _last_open(self._font, "zero_font")
        )

    @property
    def laid_out(self) -> bool:
        """Whether what stands here takes part in the layout, be it seen or not."""
        return not (self._hiding or self._formatting.hiding)

    @property
    def in_table(self) -> bool:
        return bool(self._places.get("table"))

    # -- start tags

    def start(self, name: str, attributes: str) -> None:
        """Act on a start tag: close what it implies, and open it."""
        if name in _BREAKS_OUT or name == "font":
            self._leave_foreign(name, attributes)
        if self._foreign >= 0 and name not in _FOREIGN and name not in _INTEGRATION_POINTS:
            return
        if name in FORMATTING:
            self._start_formatting(name, attributes)
        elif name in _IGNORED:
            self._hide_page(name, attributes)
        elif name in _TABLE_PARTS:
            self._start_table_part(name, attributes)
        elif name == "form" and (self._places.get("form") or (self._table >= 0 and not self._is_in_cell)):
            return  # forms do not nest, and one in a table is empty
        else:
            self._make_way(name)
            if name in VOID:
                self._void(name, attributes)
            elif not (name in _FOREIGN and attributes.endswith("/")):
                self._push(name, attributes)

    def _leave_foreign(self, name: str, attributes: str) -> None:
        if name == "font" and not re.search(r"\b(?:color|face|size)\s*=", attributes, re.IGNORECASE):
            return
        while (foreign := self._foreign) >= 0:
            self._pop_to(foreign)

    @property
    def _foreign(self) -> int:
        """Return the place of the `svg` or `math` whose content comes; -1 in HTML."""
        place = max(_last(self._places.get(name, [])) for name in _FOREIGN)
        special = self._top_special()
        return place if place > (-1 if special is None else special) else -1

    def _hide_page(self, name: str, attributes: str) -> None:
        style = style_of(attributes)
        if not self._ignored.get(name) and style.hides and name != "head":
            self._hiding += 1
            self._ignored[name] = True

    def _make_way(self, name: str) -> None:
        """Close the elements whose end tags this start tag implies."""
        if name in _ITEMS:
            self._close_item(name)
        if name in _CLOSES_P or (name == "table" and not self._quirks):
            self._close_p()
        if name in _HEADINGS:
            self._close_heading()
        elif name in ("button", "select"):
            self._end_in_scope(name)
        elif name == "table" and self._table >= 0 and not self._is_in_cell:
            self._pop_to(self._table)
        for implied in _IMPLIED_ENDS.get(name, ()):
            self._end_ordinary(implied)
        if name not in _CLOSES_P and name != "table":
            self._reopen()

    def _close_item(self, name: str) -> None:
        """A list item ends where the next one of its list begins."""
        wall = _last(self._walls)
        if wall >= 0 and self._stack[wall].name in _ITEMS[name]:
            self._pop_to(wall)

    def _void(self, name: str, attributes: str) -> None:
        unseen = _last_open(self._visibility, "unseen")
        if self.laid_out and not unseen and not style_of(attributes).hides:
            self._listener.opened("img" if name == "image" else name, attributes)

    def _push(self, name: str, attributes: str) -> None:
        style = style_of(attributes)
        if name in _NEVER_SHOWN and not style.hides:
            style = Style(hides=True)
        element = Element(name, style, told=False)
        place = len(self._stack)
        if name not in _TABLE_PARTS and self._in_table_mode:
            element.lifts = self._hiding_of_table()
            self._hiding -= element.lifts
            self._fostered.append(place)
        was_laid_out = self.laid_out
        self._stack.append(element)
        self._places.setdefault(name, []).append(place)
        self._file(name, place)
        if name in _MARKERS:
            self._push_marker(place)
        self._hiding += style.hides
        self._note_style(element)
        if was_laid_out and not style.hides:
            element.told = True
            self._listener.opened(name, attributes)

    def _file(self, name: str, place: int) -> None:
        if name not in _SPECIAL:
            self._ordinary.append(place)
            return
        self._special.append(place)
        if name in _SCOPES:
            self._scopes.append(place)
        if name not in _NO_WALL:
            self._walls.append(place)
        if name in _HEADINGS:
            self._headings.append(place)

    def _push_marker(self, place: int) -> None:
        outer = self._formatting
        hiding = outer.hiding - outer.pending_hiding  # the others are not open, and are not opened in here
        self._before_markers.append((place, outer, hiding))
        self._hiding += hiding
        self._formatting = ActiveFormatting()

    def _note_style(self, element: Element) -> None:
        if element.style.unseen is not None:
            self._visibility.append(element)
        if element.style.zero_font is not None:
            self._font.append(element)

    def _start_formatting(self, name: str, attributes: str) -> None:
        if name in ("a", "nobr"):
            place = self._formatting.last(name)
            if place is not None:
                before = self._formatting.elements[place]
                self._end_formatting(name)
                if before.open:  # out of scope, and ended all the same
                    self._remove_formatting(place)
        hiding = self._hiding_of_table() if self._in_table_mode else 0  # it stands before the table
        self._hiding -= hiding
        self._reopen()
        was_laid_out = self.laid_out
        element = Element(name, style_of(attributes), told=False, attributes=attributes)
        self._formatting.add(element, attributes, len(self._stack))
        self._note_style(element)
        if was_laid_out and not element.style.hides:
            element.told = True
            self._listener.opened(name, attributes)
        self._hiding += hiding

    # -- tables

    @property
    def _table(self) -> int:
        return _last(self._places.get("table", []))

    @property
    def _is_in_cell(self) -> bool:
        return any(self._in(cell, self._table) >= 0 for cell in _CELLS)

    @property
    def _in_table_mode(self) -> bool:
        """Whether the innermost special element is a table, its section or row: what stands there is moved before it."""
        top = self._top_special()
        if top is None or self._stack[top].name not in _ROWS or self._table < 0:
            return False
        while self._fostered and not self._stack[self._fostered[-1]].open:
            self._fostered.pop()
        return _last(self._fostered) < top

    def _top_special(self) -> int | None:
        while self._special and not self._stack[self._special[-1]].open:
            self._special.pop()
        return self._special[-1] if self._special else None

    def _fostered_is_visible(self, *, blank: bool) -> bool:
        """Text in a table and in no cell stands before the table, in what the table is in (§13.2.6.1)."""
        if blank:
            return False
        self._reopen()
        hiding = self._hiding_of_table()
        self._hiding -= hiding
        visible = self.visible
        self._hiding += hiding
        return visible

    def _hiding_of_table(self) -> int:
        """Count the hiding ones among the table, its section and row."""
        own = self._stack[self._table : self._table + 4]
        return sum(element.style.hides for element in own if element.open and element.name in _ROWS)

    def _start_table_part(self, name: str, attributes: str) -> None:
        table = self._table
        if table < 0:
            return
        kept = table
        if name in ("td", "th", "tr"):
            kept = max([kept, *(self._in(section, table) for section in _SECTIONS)])
        if name in ("td", "th"):
            kept = max(kept, self._in("tr", table))
        self._pop_to(kept + 1)
        self._close_formatting(kept)  # those right in the table too, which stand in front of it
        if name in ("td", "th", "tr") and self._stack[-1].name == "table":
            self._push("tbody", "")
        if name in ("td", "th") and self._stack[-1].name != "tr":
            self._push("tr", "")
        self._push(name, attributes)

    def _in(self, name: str, table: int) -> int:
        """Return the place of the innermost such element of this table; -1 where there is none."""
        place = _last(self._places.get(name, []))
        return place if place > table else -1

    # -- end tags

    def end(self, name: str) -> None:
        """Act on an end tag: close what it ends, or nothing."""
        if name in FORMATTING:
            self._end_formatting(name)
        elif name == "p":
            self._end_p()
        elif name == "form":
            self._end_form()
        elif name in _HEADINGS:
            if _last(self._headings) > _last(self._scopes):
                self._pop_to(self._headings[-1])
        elif name == "li":
            self._end_item()
        elif name in _TABLE_PARTS or name == "table":
            self._end_table_part(name)
        elif name in _SPECIAL:
            self._end_in_scope(name)
        else:
            self._end_ordinary(name)

    def _end_item(self) -> None:
        lists = max(_last(self._places.get(name, [])) for name in ("ol", "ul"))
        place = _last(self._places.get("li", []))
        if place > max(_last(self._scopes), lists):
            self._pop_to(place)

    def _end_table_part(self, name: str) -> None:
        place = self._table if name == "table" else self._in(name, self._table)
        if place >= 0 and not (name in _ROWS and self._is_in_template(place)):
            self._pop_to(place)

    def _is_in_template(self, place: int) -> bool:
        return _last(self._places.get("template", [])) > place

    def _end_p(self) -> None:
        if not self._close_p():
            self._leave_foreign("p", "")
            self._close_p()

    def _close_p(self) -> bool:
        place = _last(self._places.get("p", []))
        if place <= max(_last(self._scopes), _last(self._places.get("button", []))):
            return False
        self._pop_to(place)
        return True

    def _end_in_scope(self, name: str) -> None:
        place = _last(self._places.get(name, []))
        if place >= 0 and place >= _last(self._scopes):
            self._pop_to(place)

    def _end_ordinary(self, name: str) -> None:
        place = _last(self._places.get(name, []))
        special = self._top_special()
        if place > (-1 if special is None else special):
            self._pop_to(place)

    def _end_form(self) -> None:
        """Close the form itself and nothing that is open in it (§13.2.6.4.7)."""
        place = _last(self._places.get("form", []))
        if place > _last(self._scopes):
            self._kill(place)
            self._trim()

    def _end_formatting(self, name: str) -> None:
        """The adoption agency: what is no block and open inside is closed too, blocks go on."""
        place = self._formatting.last(name)
        if place is None:
            return
        run = self._formatting.run_of(place)
        if run is not None and _last(self._scopes) >= run.depth:
            return
        self._remove_formatting(place)
        if run is None:
            return
        while self._ordinary and self._ordinary[-1] >= run.depth:
            self._kill(self._ordinary.pop())
        self._trim()

    def _reopen(self) -> None:
        """Reopen what was closed with an element around it; of a link that was hidden until now the listener is told."""
        formatting = self._formatting
        formatting.reopen(len(self._stack))
        place = formatting.last("a")
        if place is not None and not (link := formatting.elements[place]).told and self.laid_out:
            link.told = True
            self._listener.opened("a", link.attributes)

    def _remove_formatting(self, place: int) -> None:
        element = self._formatting.elements[place]
        self._formatting.remove(place)
        if element.told:
            self._listener.closed(element.name)

    # -- the stack

    def _close_heading(self) -> None:
        """A heading ends where the next one begins right in it."""
        runs = self._formatting.runs
        has_formatting = bool(runs) and runs[-1].depth == len(self._stack)
        if self._stack and self._stack[-1].name in _HEADINGS and not has_formatting:
            self._pop_to(len(self._stack) - 1)

    def _pop_to(self, length: int) -> None:
        """Close all elements from this place on."""
        while len(self._stack) > length:
            place = len(self._stack) - 1
            if self._stack[place].open:
                self._kill(place)
            self._stack.pop()
            for places in (
                self._special,
                self._scopes,
                self._walls,
                self._ordinary,
                self._headings,
                self._fostered,
            ):
                if places and places[-1] == place:
                    places.pop()
            if self._before_markers and self._before_markers[-1][0] == place:
                self._clear_to_marker()
        self._close_formatting(len(self._stack))

    def _trim(self) -> None:
        """Take closed elements off the end of the stack."""
        length = len(self._stack)
        while length and not self._stack[length - 1].open:
            length -= 1
        self._pop_to(length)

    def _kill(self, place: int) -> None:
        """Close one element, wherever it stands."""
        element = self._stack[place]
        element.open = False
        self._hiding += element.lifts - element.style.hides
        self._places[element.name].pop()
        if element.told:
            self._listener.closed(element.name)

    def _clear_to_marker(self) -> None:
        for element in reversed(self._formatting.elements):
            if element.open:
                element.open = False
                if element.told:
                    self._listener.closed(element.name)
        _, self._formatting, hiding = self._before_markers.pop()
        self._hiding -= hiding

    def _close_formatting(self, depth: int) -> None:
        """Tell of a link that was closed with the element around it; the text that follows may be in it again."""
        formatting = self._formatting
        before = formatting.pending
        formatting.close_below(depth)
        if formatting.pending < before and (link := formatting.last("a")) is not None:
            element = formatting.elements[link]
            if formatting.pending <= link < before and element.told:
                self._listener.suspended("a")


def _last(places: list[int]) -> int:
    return places[-1] if places else -1


def _last_open(declared: list[Element], what: str) -> bool:
    """Whether the innermost open element that says something of this says so."""
    while declared and not declared[-1].open:
        declared.pop()
    return bool(declared) and getattr(declared[-1].style, what) is True
