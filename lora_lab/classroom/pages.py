"""A notebook as one HTML file: readable by everyone, printable, and without a single address outside itself.

nbconvert turns cells into HTML; the frame, the colours, what may scroll and the mathematics are ours. nbconvert's own
pages load MathJax and require.js from another host, so formulas become MathML here, which browsers read by themselves.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lora_lab.markup import Html, join, tag

if TYPE_CHECKING:
    from nbformat import NotebookNode

WIDEST = 84  # characters of a line that fit on the page; longer ones scroll
CODE_STYLE = "xcode"  # of Pygments: every colour in it has a contrast of 5:1 on white
# The browser itself refuses whatever would be loaded from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1a1a1a; font: 1.0625rem/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 47rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3, h4 { line-height: 1.25; margin: 1.6em 0 .5em; }
a { color: #0b4f9e; }
:focus-visible { outline: 3px solid #0b4f9e; outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; background: #fff; padding: .5rem; }
pre { background: #fff; border-left: 3px solid #767676; padding: .4rem .8rem; margin: .6rem 0; white-space: pre-wrap;
  font: .875rem/1.45 ui-monospace, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: break-word; }
pre.wide { white-space: pre; overflow-x: auto; }
.input pre { border-left-color: #0b4f9e; }
.wide { overflow-x: auto; }
code { font-family: ui-monospace, Consolas, "DejaVu Sans Mono", monospace; font-size: .9em; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { border: 1px solid #767676; padding: .25rem .6rem; text-align: left; vertical-align: top; }
caption { text-align: left; font-weight: bold; }
img { max-width: 100%; height: auto; }
blockquote { border-left: 4px solid #8a5a00; margin: 1rem 0; padding: .1rem 1rem; }
summary { cursor: pointer; }
math { font-size: 1.1em; }
@media print {
  main { max-width: none; padding: 0; }
  .skip, nav { display: none; }
  pre, pre.wide { white-space: pre-wrap; }
  .wide { overflow: visible; }
  .wide table { font-size: .8em; }
  pre, img, table, blockquote { break-inside: avoid; }
  h1, h2, h3, h4 { break-after: avoid; }
}
"""
# Code is left alone, whatever dollars are in it.
CODE = r"```.*?```|`[^`\n]+`"
MATHS = re.compile(
    "(?P<code>" + CODE + r")|\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^$\n]+?)(?<!\s)\$(?![\w$])", re.DOTALL
)
LINK = re.compile(
    "(?P<code>" + CODE + r")|(?<!!)\[(?P<text>[^\]]*)\]\((?P<to>[^)\s]+)\)|<(?P<auto>https?://[^>\s]+)>", re.DOTALL
)


def frame(title: str, *inside: object, style: str = "", script: str = "") -> str:
    """A whole HTML page around `inside` (texts are escaped, Html is not), with more `style` and a `script`."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE + code_colours() + style)),
    ]
    skip = tag("a", "Skip to the text", class_="skip", href="#main")
    body = [skip, tag("main", *inside, id="main", tabindex="-1")]
    if script:
        body.append(tag("script", Html(script)))
    return "<!doctype html>\n" + tag("html", tag("head", *head), "\n", tag("body", *body), lang="en-GB") + "\n"


@functools.cache
def code_colours() -> str:
    """CSS for highlighted code."""
    from pygments.formatters import HtmlFormatter

    lines = HtmlFormatter(style=CODE_STYLE).get_style_defs(".highlight").splitlines()
    return "\n".join(line for line in lines if line.startswith(".highlight"))


@functools.cache
def _exporter() -> Any:
    from nbconvert import HTMLExporter

    return HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )


def body(cells: Iterable[NotebookNode], folder: str = "", pages: Iterable[str] = ()) -> Html:
    """The cells, with their outputs, as HTML that stands in a page.

    `folder` is where pictures that the text names are looked for. A link to NAME.ipynb becomes one to NAME.html when
    NAME is one of `pages`; any other link becomes its text.
    """
    from nbformat.v4 import new_notebook

    formulas: list[Html] = []
    copies = [cell.copy() for cell in cells]
    for cell in copies:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(functools.partial(_link, pages=set(pages)), cell.source)
            cell.source = MATHS.sub(functools.partial(_formula, kept=formulas), cell.source)
    notebook = new_notebook(cells=copies, metadata={"language_info": {"name": "python"}})
    text, _ = _exporter().from_notebook_node(notebook, resources={"metadata": {"path": folder}})
    for number, formula in enumerate(formulas):
        text = text.replace(f"FORMULA{number}MULA", formula)
    text = re.sub(r"<pre[^>]*>(.*?)</pre>", _scrolling, text, flags=re.DOTALL)
    text = re.sub(r"<table.*?</table>", lambda found: _wide("Table", found[0]), text, flags=re.DOTALL)
    return Html(text)


def page(notebook: NotebookNode, title: str, folder: str = "", pages: Iterable[str] = ()) -> str:
    """A notebook as one self-contained HTML page; `folder` and `pages` as in `body`."""
    return frame(title, body(notebook.cells, folder, pages))


def prose(markdown: str, pages: Iterable[str] = ()) -> Html:
    """A piece of Markdown as HTML."""
    from nbformat.v4 import new_markdown_cell

    return body([new_markdown_cell(markdown)], pages=pages)


def _link(found: re.Match, pages: set[str]) -> str:
    if found["code"] or found["auto"]:
        return found["code"] or f"`{found['auto'].partition('//')[2]}`"
    name, dot, kind = found["to"].partition(".ipynb")
    if dot and name in pages:
        return f"[{found['text']}]({name}.html)"
    return found["text"]


def _formula(found: re.Match, kept: list[Html]) -> str:
    if found["code"]:
        return found["code"]
    kept.append(formula(found["block"] or found["inline"], block=bool(found["block"])))
    return f"FORMULA{len(kept) - 1}MULA"


def formula(latex: str, block: bool = False) -> Html:
    """LaTeX as MathML; as code where it cannot be turned into it."""
    from latex2mathml.converter import convert

    try:
        made = convert(latex.strip(), display="block" if block else "inline")
    except Exception:  # the converter's errors have no common kind
        return tag("code", latex.strip())
    return Html(made.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))


def _scrolling(found: re.Match) -> str:
    """Text with lines that are too long is a scrolling place of its own, which the keyboard can reach."""
    lines = html.unescape(re.sub(r"<[^>]+>", "", found[1])).splitlines()
    if max(map(len, lines), default=0) <= WIDEST:
        return tag("pre", Html(found[1]))
    return tag("pre", Html(found[1]), class_="wide", tabindex="0", role="group", aria_label="Text with long lines")


def _wide(what: str, inside: str) -> Html:
    return tag("div", Html(inside), class_="wide", tabindex="0", role="group", aria_label=what)


__all__ = ["body", "code_colours", "formula", "frame", "join", "page", "prose"]
