"""HTML to text: readable, never raises, linear."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.mime.html_to_text import html_to_text
from tests.soak import SOAK
from tests.steps import steps_of

CASES = {
    "": "",
    "   \n ": "",
    "Hello": "Hello",
    "a < b && c > d": "a < b && c > d",
    "1 <2": "1 <2",
    # white space
    "<p>  one \n two\t</p>": "one two",
    "one <b> two </b> three": "one two three",
    "<b>one</b><i>two</i>": "onetwo",
    "a&nbsp;&nbsp;b": "a b",
    # blocks
    "<p>one</p><p>two</p>": "one\n\ntwo",
    "<p>one<p>two": "one\n\ntwo",
    "<div>one</div><div>two</div>": "one\ntwo",
    "<div><div>one</div></div>two": "one\ntwo",
    "one<br>two<br/>three": "one\ntwo\nthree",
    "one<br><br><br>two": "one\n\ntwo",
    "<h1>Title</h1>text": "Title\n\ntext",
    "a<hr>b": "a\n" + "-" * 20 + "\nb",
    "<hr>": "",
    "<DIV>one</DIV><Div>two</dIV>": "one\ntwo",
    # entities
    "&lt;b&gt; &amp;amp; &euro; &#8364; &#x20AC; &copy": "<b> &amp; € € € ©",
    "&nosuch; &#0; &": "&nosuch; \ufffd &",
    # lists
    "<ul><li>one<li>two</ul>three": "- one\n- two\n\nthree",
    "<ol><li>one</li><li>two</li></ol>": "1. one\n2. two",
    "<ol start=7><li>one<li>two</ol>": "7. one\n8. two",
    "<ol start=x><li>one</ol>": "1. one",
    "x<ul><li>one<ul><li>inner</li></ul></li><li>two</li></ul>": "x\n\n- one\n  - inner\n- two",
    "<li>stray": "- stray",
    "<ul>" * 20 + "<li>x": " " * 10 + "- x",
    "<ul><li><p>one</p><p>more</p></li></ul>": "- one\n\n  more",
    # links
    '<a href="https://x.example/a">here</a>.': "here <https://x.example/a>.",
    '<a href="https://x.example/">https://x.example</a>': "https://x.example",
    "<a href=https://x.example>x.example</a>": "x.example",
    '<a href="mailto:ada@x.example">ada@x.example</a>': "ada@x.example",
    '<a href="mailto:ada@x.example">write</a>': "write <mailto:ada@x.example>",
    '<a href="#top">top</a> <a href="javascript:x()">js</a> <a href="/rel">rel</a> <a>none</a>': "top js rel none",
    '<a href="https://x.example/?a=1&amp;b=2">x</a>': "x <https://x.example/?a=1&b=2>",
    '<a href="https://x.example/\n a>b">x</a>': "x <https://x.example/a%3Eb>",
    '<a href="https://x.example/"></a>y': "y",
    "<p><a href=https://x.example/a><li>text": "- text <https://x.example/a>",
    "<p><a href=https://x.example/a></p>text</a> more": "text <https://x.example/a> more",
    "<p><a href=https://x.example/a>one<div>two</div></a> more": "one <https://x.example/a>\n\ntwo\nmore",
    '<a href="tel:+49"><table><td><a href="https://x.example/o"></tr>order': "order <tel:+49>",
    '<a href="tel:+49"><table><td><a href="https://x.example/o">in</table>out': "in <https://x.example/o>\n\nout <tel:+49>",
    '<a href="https://a.example">a<a href="https://b.example">b': "a <https://a.example>b <https://b.example>",
    '<ul><li><a href="https://x.example">https://x.example</a></ul>': "- https://x.example",
    '<a href="https://x.example"><img src=x alt="Logo"></a>': "Logo <https://x.example>",
    # images
    '<img alt="A cat" src=x> sat': "A cat sat",
    '<img src="x">': "",
    "<img alt='a > b'>": "a > b",
    # pre
    "<pre>\n a\n  b \n</pre>c": " a\n  b \n\nc",
    "<pre>a\r\nb\rc</pre>": "a\nb\nc",
    '<pre><a href="https://x.example">x</a></pre>': "x <https://x.example>",
    "<pre>a<br>b</pre>": "a\nb",
    # tables
    "<table><tr><td>a</td><td>b</td></tr><tr><td>c<td>d</table>": "a | b\nc | d",
    "<table>\n<tr>\n<th>a</th>\n<th>b</th>\n</tr>\n</table>": "a | b",
    "<table><tr><td></td><td>b</td><td></td></tr></table>": "b",
    "x<table><tr><td>a</td></tr></table>y": "x\n\na\n\ny",
    # quotations
    "a<blockquote>b<br>c</blockquote>d": "a\n\n> b\n> c\n\nd",
    # not shown
    "<head><title>T</title><style>p{}</style></head><body>x": "x",
    "<script>if (a<b) '</p>'</script>x": "x",
    "<SCRIPT>a</Script >x": "x",
    "<style>unclosed": "",
    "<template><p>t</p></template>x": "x",
    "<svg><text>t</text></svg>x": "x",
    "<svg/>x": "x",
    '<div style="color:red; DISPLAY : none">pre<div>header</div></div>x': "x",
    "<p hidden>a<p>b": "b",
    "<span hidden>a</span>b": "b",
    '<p class="hidden" style="overflow:hidden">b': "b",
    "<!-- c --><!DOCTYPE html><?xml?><![if !mso]>x<![endif]></%>": "x",
    "<!--[if mso]><p>no</p><![endif]-->x<!-->y<!--->z": "xyz",
    "x<!-- unclosed <p>": "x",
    "x<b unclosed": "x",
    # broken
    "a\0b": "ab",
    "soft\xadhy\ufeffphen": "softhyphen",
    '<p title="unclosed>text</p>after': "text\n\nafter",
    "</p></ul></blockquote></pre></a>x": "x",
    # references in attributes
    '<a href="https://shop.example/c?u=1&timestamp=1732">Confirm</a>': "Confirm <https://shop.example/c?u=1&timestamp=1732>",
    '<a href="https://shop.example/o?id=7&order_id=9&section=2&region=eu&copy=1&notify=1">Open</a>': "Open <https://shop.example/o?id=7&order_id=9&section=2&region=eu&copy=1&notify=1>",
    '<a href="https://x.example/?a=1&lt;b&lt=2&#61;&amp;c&ampd">x</a>': "x <https://x.example/?a=1%3Cb&lt=2=&c&ampd>",
    "<a href=https://x.example/a&notit;b>x</a>": "x <https://x.example/a&notit;b>",
    # links around images
    '<p>Please confirm:</p><a href="https://shop.example/confirm/abc"><img src="https://shop.example/button.png" width="200"></a><p>Bye</p>': "Please confirm:\n\n<https://shop.example/confirm/abc>\n\nBye",  # noqa: E501
    '<a href="https://x.example/1"><img src=a></a><a href="https://x.example/2"><img src=b alt=""></a>': (
        "<https://x.example/1><https://x.example/2>"
    ),
    '<p>a<a href="https://x.example"><span hidden>h</span></a>b</p>': "ab",
    '<p><a href="https://x.example">one<p>two': "one <https://x.example>\n\ntwo",
    # what is hidden, and for how long
    '<table><tr><td style="display:none">preview<td>Your code is 1234</table><p>Rest of the mail.</p>': "Your code is 1234\n\nRest of the mail.",  # noqa: E501
    "<ul><li hidden>a<li>b<li>c</ul><p>Rest</p>": "- b\n- c\n\nRest",
    '<p><span style="display:none">x</p><p>Visible paragraph</p>': "Visible paragraph",
    '<div style="font-size:0;max-height:0;line-height:0;visibility:hidden;mso-hide:all">PREHEADER</div><p>Real</p>': "Real",
    '<p><font style="display:none">x</p><p>Hidden too</p>': "",
    "<b hidden><i hidden>x</b>y</i>z": "z",
    "<p>a<b hidden>b<p>c</b>d": "a\n\nd",
    "<b><span hidden>x</b>y": "y",
    "<form><div hidden>x</form>y</div>z": "z",
    "<table hidden>a<tr><td>b</table>c": "ac",
    "<div style=visibility:hidden>a<p style=visibility:visible>b</p>c</div>d": "b\n\nd",
    "<div style='font-size:0'>a<span style='font-size:14px'>b</span>c</div>d": "b\nd",
    "<div style='opacity:0;'>a</div><div style='max-height:0;overflow:hidden'>b</div>c": "c",
    "<div style='opacity:0.5;max-height:0'>a</div><div hidden style='display:block'>b</div>": "a\nb",
    "<svg><text>a</text><p>b": "b",
    # invisible padding
    "<div>Hello&nbsp;&zwnj;&nbsp;&zwnj;&nbsp;&#847;&zwnj;&#8203;&#8199;</div><p>Real</p>": "Hello\n\nReal",
    "a\u200b b\u200bc": "a b\u200bc",
    "<div>&#8203;</div><p>a": "a",
    # other elements
    '<a href="https://x.example/a"><div>Card title</div><div>Card text</div></a><p>next</p>': "Card title\nCard text <https://x.example/a>\n\nnext",
    "<p>Pick</p><select><option>One</option><option>Two</option></select>": "Pick\n\nOne\nTwo",
    "<p>می\u200cخواهم 👨\u200d👩\u200d👧</p>": "می\u200cخواهم 👨\u200d👩\u200d👧",
    "<p>a<textarea>b &amp; <i></textarea>c": "a\n\nb & <i>\n\nc",
    "a<plaintext>b</p>c": "a\n\nb</p>c",
}


@pytest.mark.parametrize(("html", "text"), CASES.items(), ids=ascii)
def test_reads_as_people_expect(html: str, text: str) -> None:
    assert html_to_text(html) == text


def test_a_whole_mail() -> None:
    html = """<!DOCTYPE html><html><head><meta charset=utf-8><title>Receipt</title></head>
    <body><div style="display:none">Preview&zwnj;</div>
    <h1>Thank you,&nbsp;Ada!</h1>
    <p>Your order <b>#42</b> is on its way.
       <a href="https://shop.example/o/42?x=1&amp;y=2">Track it</a>.</p>
    <table><tr><th>Item</th><th>Price</th></tr><tr><td>Tea</td><td>&euro;&nbsp;4</td></tr></table>
    <ul><li>Free returns</li><li>Questions? <a href="mailto:hi@shop.example">hi@shop.example</a></li></ul>
    </body></html>"""
    assert html_to_text(html) == (
        "Thank you, Ada!\n\n"
        "Your order #42 is on its way. Track it <https://shop.example/o/42?x=1&y=2>.\n\n"
        "Item | Price\nTea | € 4\n\n"
        "- Free returns\n- Questions? hi@shop.example"
    )


TAGS = (
    "<p> </p> <div> </div> <ul> <ol> <li> </li> </ul> <pre> </pre> <a> </a> <table> <tr> <td> <br> <hr> text "
    "& &amp; < > <!-- --> <script> </script> <blockquote> </blockquote> <svg> </svg> \" ' = / \0 \ud800 \u2028 ü"
)
HIDING = ["<a href='https://x.example'>", "<p hidden>", "<div style='display:none'>", "<img alt=x>"]
PIECES = st.sampled_from([*TAGS.split(" "), *HIDING, " ", "\n", "\r"])


@given(st.text() | st.lists(PIECES).map("".join))
def test_never_raises(html: str) -> None:
    text = html_to_text(html)
    assert text == text.strip("\n")
    assert "\0" not in text


@given(st.lists(st.text(alphabet="abcxyzäöü€", min_size=1), min_size=1))
def test_no_word_is_lost(words: list[str]) -> None:
    html = "".join(f"<div><b>{word}</b></div>" for word in words)
    assert html_to_text(html).split() == words


def repeated(text: str) -> Callable[[int], str]:
    return lambda size: text * max(1, size // len(text))


def numbered(text: str, size: int) -> str:
    return "".join(text.format(number) for number in range(size // len(text)))


HOSTILE: dict[str, Callable[[int], str]] = {
    "nested divs": lambda size: "<div>" * (size // 5) + "x",
    "reopened formatting": partial(numbered, "<p><b id={}>"),
    "hidden, unclosed, distinct": partial(numbered, "<span id={} hidden>"),
    "hidden and reopened": partial(numbered, "<p><font id={} hidden>"),
    "hidden and closed late": lambda size: (
        numbered("<p><font id={} hidden>", size // 2) + "</font>x" * (size // 16)
    ),
    "misnested": lambda size: "<b>" * (size // 9) + numbered("<i id={}>", size // 3) + "</b>" * (size // 9),
    "closed around blocks": lambda size: (
        "<b>" * (size // 12) + "<span>" * (size // 12) + "<div>" + "</b>" * (size // 12)
    ),
    "closed before cells": lambda size: (
        "<p>" + numbered("<b hidden id={}>", size // 2) + "</p><table>" + "<td>x" * (size // 10)
    ),
    "closed and reopened": lambda size: (
        "<p>"
        + numbered("<b hidden id={}>", size // 2)
        + "</p>"
        + "<table><td></table><p><i></i></p>" * (size // 66)
    ),
    "unclosed tags": repeated("<a "),
    "unclosed comments": repeated("<!--"),
    "almost comments": repeated("<!-- >"),
    "unclosed quotes": repeated("<a b=\"'"),
    "quotes across tags": repeated("<a b='\">"),
    "quoted end": repeated('</a x="b>"'),
    "bogus comments": repeated("<!"),
    "end tags": repeated("</"),
    "attributes": lambda size: "<p " + "a " * (size // 2) + ">",
    "empty values": lambda size: "<p" + " =" * (size // 2) + ">",
    "maybe hidden": repeated("<p style='display :"),
    "ampersands": repeated("&"),
    "endless number": lambda size: "&#" + "1" * size + ";",
    "endless hex": lambda size: "&#x" + "f" * size + ";",
    "lists": repeated("<ul><li>x"),
    "quotations": repeated("<blockquote>x"),
    "pre in lists": lambda size: "<ul>" * 10 + "<pre>" + "x\n" * (size // 2),
    "cells": repeated("<td>x"),
    "links": repeated("<a href=http://x>y"),
    "scripts": repeated("<script>"),
    "half-closed scripts": repeated("<script></scrip"),
    "white space": repeated(" "),
    "one word": repeated("x"),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_markup_costs_no_more_steps_than_its_length(hostile: Callable[[int], str]) -> None:
    once, twice = (steps_of(partial(html_to_text, hostile(size))) for size in (8_000, 16_000))
    assert twice < 2.5 * once + 1000, "what grows with its square would be four times as much"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_markup_ends(hostile: Callable[[int], str]) -> None:
    """Half a second for a megabyte; what grows with its square takes minutes, and the test's time is up."""
    html = hostile(1_000_000 if SOAK else 100_000)
    text = html_to_text(html)
    assert len(text) <= 20 * len(html)
