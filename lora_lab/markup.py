"""HTML made of tags, so that no text is ever put into a page unescaped."""

from __future__ import annotations

import html

EMPTY = ("br", "img", "meta", "hr")  # tags without an end


class Html(str):
    """Text that is HTML already; any other text is escaped where it is put into a tag."""

    __slots__ = ()


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """`<name attributes>inside</name>`: what is inside is escaped unless it is Html, and so are attributes' values.

    An underscore at the end of an attribute's name is dropped (`class_`), one within it is a hyphen.

    >>> tag("p", "a < b, ", tag("b", "bold"), class_="note")
    '<p class="note">a &lt; b, <b>bold</b></p>'
    """
    words = [f'{key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()]
    start = "<" + " ".join([name, *words]) + ">"
    return Html(start if name in EMPTY else start + join(inside) + "</" + name + ">")


def join(parts: object) -> Html:
    """Texts and Html one after another, the texts escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts))


def prose(text: str) -> Html:
    """A sentence as Html: escaped, with what stands between backticks as code."""
    return join(tag("code", part) if at % 2 else part for at, part in enumerate(str(text).split("`")))
