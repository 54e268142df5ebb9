"""Which elements an HTML start or end tag opens and closes (WHATWG HTML §13.2.4.2 and §13.2.4.3), without a tree.

`OpenElements` follows the standard's stack of open elements and its list of active formatting elements: which
end tags are implied, which are ignored, what a misnested end tag closes and what is reopened after it. It
tells its listener when an element opens and closes, and whether text is visible at the moment. It keeps no
node, and each tag costs a bounded number of steps (a search among formatting elements is logarithmic): what
the standard reopens one by one is reopened here by moving a run of them.

Left out: the limit of eight rounds of the adoption agency, and frames.
"""

from __future__ import annotations

import re

from postroom.mime.html_attributes import style_of
from postroom.mime.html_formatting import Element
from postroom.mime.html_names import (
    BREAKS_OUT,
    CLOSES_P,
    FOREIGN,
    FORMATTING,
    HEADINGS,
    IGNORED,
    IMPLIED_ENDS,
    INTEGRATION_POINTS,
    ITEMS,
    ROWS,
    SECTIONS,
    SPECIAL,
    TABLE_PARTS,
    VOID,
)
from postroom.mime.html_stack import ElementStack, last


class OpenElements(ElementStack):
    """The open elements of a page. Call `start`, `end` and `text` in the order of the page."""

    def text(self, *, blank: bool) -> bool:
        """Note that text comes; return whether it is visible."""
        if self._in_table_mode:
            return self._fostered_is_visible(blank=blank)
        self._reopen()
        return self.visible

    def start(self, name: str, attributes: str) -> None:
        """Act on a start tag: close what it implies, and open it."""
        if name in BREAKS_OUT or name == "font":
            self._leave_foreign(name, attributes)
        if self._foreign >= 0 and name not in FOREIGN and name not in INTEGRATION_POINTS:
            return
        if name in FORMATTING:
            self._start_formatting(name, attributes)
        elif name in IGNORED:
            self._hide_page(name, attributes)
        elif name in TABLE_PARTS:
            self._start_table_part(name, attributes)
        elif name == "form" and (self._places.get("form") or (self._table >= 0 and not self._is_in_cell)):
            return  # forms do not nest, and one in a table is empty
        else:
            self._make_way(name)
            if name in VOID:
                self._void(name, attributes)
            elif not (name in FOREIGN and attributes.endswith("/")):
                self._push(name, attributes)

    def _leave_foreign(self, name: str, attributes: str) -> None:
        if name == "font" and not re.search(r"\b(?:color|face|size)\s*=", attributes, re.IGNORECASE):
            return
        while (foreign := self._foreign) >= 0:
            self._pop_to(foreign)

    @property
    def _foreign(self) -> int:
        """Return the place of the `svg` or `math` whose content comes; -1 in HTML."""
        place = max(last(self._places.get(name, [])) for name in FOREIGN)
        special = self._top_special()
        return place if place > (-1 if special is None else special) else -1

    def _hide_page(self, name: str, attributes: str) -> None:
        style = style_of(attributes)
        if not self._ignored.get(name) and style.hides and name != "head":
            self._hiding += 1
            self._ignored[name] = True

    def _make_way(self, name: str) -> None:
        """Close the elements whose end tags this start tag implies."""
        if name in ITEMS:
            self._close_item(name)
        if name in CLOSES_P or (name == "table" and not self._quirks):
            self._close_p()
        if name in HEADINGS:
            self._close_heading()
        elif name in ("button", "select"):
            self._end_in_scope(name)
        elif name == "table" and self._table >= 0 and not self._is_in_cell:
            self._pop_to(self._table)
        for implied in IMPLIED_ENDS.get(name, ()):
            self._end_ordinary(implied)
        if name not in CLOSES_P and name != "table":
            self._reopen()

    def _close_item(self, name: str) -> None:
        """A list item ends where the next one of its list begins."""
        wall = last(self._walls)
        if wall >= 0 and self._stack[wall].name in ITEMS[name]:
            self._pop_to(wall)

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

    def _start_table_part(self, name: str, attributes: str) -> None:
        table = self._table
        if table < 0:
            return
        kept = table
        if name in ("td", "th", "tr"):
            kept = max([kept, *(self._in(section, table) for section in SECTIONS)])
        if name in ("td", "th"):
            kept = max(kept, self._in("tr", table))
        self._pop_to(kept + 1)
        self._close_formatting(kept)  # those right in the table too, which stand in front of it
        if name in ("td", "th", "tr") and self._stack[-1].name == "table":
            self._push("tbody", "")
        if name in ("td", "th") and self._stack[-1].name != "tr":
            self._push("tr", "")
        self._push(name, attributes)

    def end(self, name: str) -> None:
        """Act on an end tag: close what it ends, or nothing."""
        if name in FORMATTING:
            self._end_formatting(name)
        elif name == "p":
            self._end_p()
        elif name == "form":
            self._end_form()
        elif name in HEADINGS:
            if last(self._headings) > last(self._scopes):
                self._pop_to(self._headings[-1])
        elif name == "li":
            self._end_item()
        elif name in TABLE_PARTS or name == "table":
            self._end_table_part(name)
        elif name in SPECIAL:
            self._end_in_scope(name)
        else:
            self._end_ordinary(name)

    def _end_item(self) -> None:
        lists = max(last(self._places.get(name, [])) for name in ("ol", "ul"))
        place = last(self._places.get("li", []))
        if place > max(last(self._scopes), lists):
            self._pop_to(place)

    def _end_table_part(self, name: str) -> None:
        place = self._table if name == "table" else self._in(name, self._table)
        if place >= 0 and not (name in ROWS and self._is_in_template(place)):
            self._pop_to(place)

    def _is_in_template(self, place: int) -> bool:
        return last(self._places.get("template", [])) > place

    def _end_p(self) -> None:
        if not self._close_p():
            self._leave_foreign("p", "")
            self._close_p()

    def _close_p(self) -> bool:
        place = last(self._places.get("p", []))
        if place <= max(last(self._scopes), last(self._places.get("button", []))):
            return False
        self._pop_to(place)
        return True

    def _end_in_scope(self, name: str) -> None:
        place = last(self._places.get(name, []))
        if place >= 0 and place >= last(self._scopes):
            self._pop_to(place)

    def _end_ordinary(self, name: str) -> None:
        place = last(self._places.get(name, []))
        special = self._top_special()
        if place > (-1 if special is None else special):
            self._pop_to(place)

    def _end_form(self) -> None:
        """Close the form itself and nothing that is open in it (§13.2.6.4.7)."""
        place = last(self._places.get("form", []))
        if place > last(self._scopes):
            self._kill(place)
            self._trim()

    def _end_formatting(self, name: str) -> None:
        """The adoption agency (§13.2.6.4.7): open inline elements inside are closed too, blocks stay open."""
        place = self._formatting.last(name)
        if place is None:
            return
        run = self._formatting.run_of(place)
        if run is not None and last(self._scopes) >= run.depth:
            return
        self._remove_formatting(place)
        if run is None:
            return
        while self._ordinary and self._ordinary[-1] >= run.depth:
            self._kill(self._ordinary.pop())
        self._trim()

    def _close_heading(self) -> None:
        """A heading ends where the next one begins right in it."""
        runs = self._formatting.runs
        has_formatting = bool(runs) and runs[-1].depth == len(self._stack)
        if self._stack and self._stack[-1].name in HEADINGS and not has_formatting:
            self._pop_to(len(self._stack) - 1)
