"""The list of active formatting elements: which `<b>`, `<a>`, … are reopened later (WHATWG HTML §13.2.4.3)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from postroom.mime.html_attributes import Style

_SAME_AT_MOST = 3  # §13.2.4.3, the "Noah's Ark clause"


@dataclass(slots=True, eq=False)
class Element:
    name: str
    style: Style
    told: bool  # the listener knows of it
    open: bool = True
    attributes: str = ""  # of a formatting element
    lifts: int = 0  # hiding elements of a table that it stands in front of, not in


@dataclass(slots=True, eq=False)
class _Run:
    """Formatting elements, next to each other in the list, that stand at one depth of the stack."""

    start: int  # the first one's place in the list
    depth: int
    hiding: int  # how many of them hide their content


@dataclass(slots=True, eq=False)
class ActiveFormatting:
    """The list of active formatting elements since its last marker.

    Runs hold those that are open. The others, from `pending` on, were closed with an element around them, and
    are opened again before the next text.
    """

    elements: list[Element] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)  # by name
    alike: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # by name and attributes
    runs: list[_Run] = field(default_factory=list)
    pending: int = 0
    pending_hiding: int = 0
    hiding: int = 0

    def reopen(self, depth: int) -> None:
        if self.pending < len(self.elements):
            self.runs.append(_Run(self.pending, depth, self.pending_hiding))
            self.pending, self.pending_hiding = len(self.elements), 0

    def close_below(self, depth: int) -> None:
        """The stack ends at this depth now."""
        while self.runs and self.runs[-1].depth > depth:
            run = self.runs.pop()
            self.pending = run.start
            self.pending_hiding += run.hiding

    def add(self, element: Element, attributes: str, depth: int) -> None:
        """Open one, all others being open."""
        same = self.alike.setdefault((element.name, attributes), [])
        same[:] = [place for place in same if self.elements[place].open]
        if len(same) >= _SAME_AT_MOST:
            self.remove(same[0])
        place = len(self.elements)
        same.append(place)
        self.elements.append(element)
        self.places.setdefault(element.name, []).append(place)
        if not self.runs or self.runs[-1].depth != depth:
            self.runs.append(_Run(place, depth, 0))
        self.runs[-1].hiding += element.style.hides
        self.hiding += element.style.hides
        self.pending = place + 1

    def last(self, name: str) -> int | None:
        """Return the place of the last one with this name."""
        places = self.places.get(name, [])
        while places and not self.elements[places[-1]].open:
            places.pop()
        return places[-1] if places else None

    def run_of(self, place: int) -> _Run | None:
        """Return where this one is open; None when it is not."""
        if place >= self.pending:
            return None
        return self.runs[bisect_right(self.runs, place, key=lambda run: run.start) - 1]

    def remove(self, place: int) -> None:
        element, run = self.elements[place], self.run_of(place)
        element.open = False
        self.hiding -= element.style.hides
        if run is None:
            self.pending_hiding -= element.style.hides
        else:
            run.hiding -= element.style.hides
        self._forget_last()

    def _forget_last(self) -> None:
        """Drop closed elements from the end of the list, so that a page of a million tags keeps few of them."""
        while self.elements and not self.elements[-1].open:
            element = self.elements.pop()
            place = len(self.elements)
            for places in (self.places[element.name], self.alike[element.name, element.attributes]):
                if places and places[-1] == place:
                    places.pop()
        while self.runs and self.runs[-1].start >= len(self.elements):
            self.runs.pop()
        self.pending = min(self.pending, len(self.elements))
