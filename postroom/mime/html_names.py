"""Names of HTML elements, grouped as the parsing rules need them (WHATWG HTML §13.2.4.2, §13.2.6)."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FORMATTING = _names("a b big code em font i nobr s small strike strong tt u")
VOID = _names(
    "area base basefont bgsound br col command embed frame hr image img input keygen link meta param source track wbr"
)
NEVER_SHOWN = _names("datalist math svg template")
FOREIGN = _names("math svg")
BREAKS_OUT = _names(  # §13.2.6.5: these end foreign content
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu meta "
    "nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"
)
# HTML again, inside foreign content.
INTEGRATION_POINTS = _names("annotation-xml desc foreignobject mi mn mo ms mtext")
CLOSES_P = _names(
    "address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption figure footer form h1 "
    "h2 h3 h4 h5 h6 header hgroup hr li listing main menu nav ol p plaintext pre search section summary ul xmp"
)
HEADINGS = _names("h1 h2 h3 h4 h5 h6")
SCOPES = _names("applet caption marquee object select table td template th")
MARKERS = _names("applet caption marquee object td template th")
TABLE_PARTS = _names("caption colgroup tbody td tfoot th thead tr")
SECTIONS = _names("tbody tfoot thead")
CELLS = _names("caption td th")
ROWS = _names("table tbody tfoot thead tr")
NO_WALL = _names("address div p")
SPECIAL = (
    CLOSES_P
    | SCOPES
    | TABLE_PARTS
    | _names("button iframe noembed noframes noscript script style textarea title")
    | INTEGRATION_POINTS
)
ITEMS = {"li": _names("li"), "dd": _names("dd dt"), "dt": _names("dd dt")}
ANNOTATIONS = _names("rb rp rt rtc")
IMPLIED_ENDS = {
    "option": ("option",),
    "optgroup": ("option", "optgroup"),
    **dict.fromkeys(ANNOTATIONS, tuple(ANNOTATIONS)),
}
IGNORED = _names("body frameset head html")
