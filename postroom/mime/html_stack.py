"""The stack of open HTML elements, and whether their content is visible (WHATWG HTML §13.2.4.2)."""

from __future__ import annotations

import re
from typing import Protocol

from postroom.mime.html_attributes import Style, style_of
from postroom.mime.html_formatting import ActiveFormatting, Element
from postroom.mime.html_names import (
    CELLS,
    HEADINGS,
    MARKERS,
    NEVER_SHOWN,
    NO_WALL,
    ROWS,
    SCOPES,
    SPECIAL,
    TABLE_PARTS,
)

_DOCTYPE = re.compile(r"\s*+(?:<!--.*?-->\s*+)*+<!doctype\s++html\b([^>]*+)", re.IGNORECASE | re.DOTALL)
_OLD_DOCTYPE = re.compile(r"html (?:2|3)|html 4\.\d+ (?:transitional|frameset)//en\"\s*$", re.IGNORECASE)


class Listener(Protocol):
    """Is told of visible elements that open and close."""

    def opened(self, name: str, attributes: str) -> None: ...

    def closed(self, name: str) -> None: ...

    def suspended(self, name: str) -> None:
        """A link was closed with an element around it; the text that follows may be in it again."""


class ElementStack:
    """The elements that are open, the formatting elements among them, and what hides its content.

    It opens and closes elements, and tells the listener; which ones a tag opens and closes is for its subclass.
    """

    def __init__(self, listener: Listener, html: str) -> None:
        self._listener = listener
        doctype = _DOCTYPE.match(html)
        self._quirks = doctype is None or _OLD_DOCTYPE.search(doctype[1]) is not None
        self._stack: list[Element] = []
        self._places: dict[str, list[int]] = {}  # by name, those that are open
        self._special: list[int] = []
        self._scopes: list[int] = []
        self._walls: list[int] = []  # elements that end the search for an open list item
        self._ordinary: list[int] = []
        self._fostered: list[int] = []  # those that stand in front of the table in which they were begun
        self._headings: list[int] = []
        self._hiding = 0  # elements of the stack that hide, and formatting elements before a marker
        self._formatting = ActiveFormatting()
        # Place of the marker, the list before it, and how many of that list hide.
        self._before_markers: list[tuple[int, ActiveFormatting, int]] = []
        self._visibility: list[Element] = []
        self._font: list[Element] = []
        self._ignored: dict[str, bool] = {}

    @property
    def visible(self) -> bool:
        """Whether text at this point is visible."""
        return self.laid_out and not (
            _last_open(self._visibility, "unseen") or _last_open(self._font, "zero_font")
        )

    @property
    def laid_out(self) -> bool:
        """Whether text at this point takes part in the layout, visible or not."""
        return not (self._hiding or self._formatting.hiding)

    @property
    def in_table(self) -> bool:
        return bool(self._places.get("table"))

    def _push(self, name: str, attributes: str) -> None:
        style = style_of(attributes)
        if name in NEVER_SHOWN and not style.hides:
            style = Style(hides=True)
        element = Element(name, style, told=False)
        place = len(self._stack)
        if name not in TABLE_PARTS and self._in_table_mode:
            element.lifts = self._hiding_of_table()
            self._hiding -= element.lifts
            self._fostered.append(place)
        was_laid_out = self.laid_out
        self._stack.append(element)
        self._places.setdefault(name, []).append(place)
        self._file(name, place)
        if name in MARKERS:
            self._push_marker(place)
        self._hiding += style.hides
        self._note_style(element)
        if was_laid_out and not style.hides:
            element.told = True
            self._listener.opened(name, attributes)

    def _file(self, name: str, place: int) -> None:
        if name not in SPECIAL:
            self._ordinary.append(place)
            return
        self._special.append(place)
        if name in SCOPES:
            self._scopes.append(place)
        if name not in NO_WALL:
            self._walls.append(place)
        if name in HEADINGS:
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

    def _void(self, name: str, attributes: str) -> None:
        unseen = _last_open(self._visibility, "unseen")
        if self.laid_out and not unseen and not style_of(attributes).hides:
            self._listener.opened("img" if name == "image" else name, attributes)

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

    def _in(self, name: str, table: int) -> int:
        """Return the place of the innermost such element of this table; -1 where there is none."""
        place = last(self._places.get(name, []))
        return place if place > table else -1

    @property
    def _table(self) -> int:
        return last(self._places.get("table", []))

    @property
    def _is_in_cell(self) -> bool:
        return any(self._in(cell, self._table) >= 0 for cell in CELLS)

    @property
    def _in_table_mode(self) -> bool:
        """Whether the innermost special element is a table, its section or row: what stands there is moved before it."""
        top = self._top_special()
        if top is None or self._stack[top].name not in ROWS or self._table < 0:
            return False
        while self._fostered and not self._stack[self._fostered[-1]].open:
            self._fostered.pop()
        return last(self._fostered) < top

    def _top_special(self) -> int | None:
        while self._special and not self._stack[self._special[-1]].open:
            self._special.pop()
        return self._special[-1] if self._special else None

    def _hiding_of_table(self) -> int:
        """Count the hiding ones among the table, its section and row."""
        own = self._stack[self._table : self._table + 4]
        return sum(element.style.hides for element in own if element.open and element.name in ROWS)

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


def last(places: list[int]) -> int:
    return places[-1] if places else -1


def _last_open(declared: list[Element], what: str) -> bool:
    """Whether the innermost open element that sets this property sets it to True."""
    while declared and not declared[-1].open:
        declared.pop()
    return bool(declared) and getattr(declared[-1].style, what) is True
