"""The frame of a page that is one file: no network, no script, no other file.

It is read by eye, by keyboard and by screen reader: landmarks, headings in order, tables with
captions and scopes, in regions that scroll by keyboard where a window is narrow. It prints.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

# The page forbids itself to fetch anything: what it shows, it holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 1rem/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
  max-width: 64rem; padding: 1rem; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
a { color: #005a8d }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 3px solid #005a8d; outline-offset: 2px }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none }
nav a { display: inline-block; padding: .25rem 0 }
summary { cursor: pointer; color: #005a8d; padding: .25rem 0; width: fit-content }
.warning { border-left: 4px solid #b34700; background: #fff4ec; padding: .5rem .75rem }
figure { margin: 1rem 0; break-inside: avoid }
figcaption, caption { text-align: left; padding: .25rem 0 }
caption { font-weight: 600 }
figcaption { font-size: .875rem }
svg, img { display: block; width: 100%; height: auto }
svg { max-width: 30rem }
img { max-width: 44rem }
svg text { font: 13px system-ui, sans-serif; fill: #222; stroke: #fff; stroke-width: 3px;
  paint-order: stroke }
.scroll img { min-width: 36rem }
.row { display: grid; gap: 0 1.5rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)) }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: bottom;
  border-bottom: 1px solid #ddd }
thead th { border-bottom: 2px solid #6b6b6b }
td { white-space: nowrap }
tr > :first-child { text-align: left; padding-left: 0 }
tbody th { font-weight: 400; min-width: min(8.2rem, 27vw); position: sticky; left: 0;
  background: #fff }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem) }
.words td { text-align: left; white-space: normal; overflow-wrap: break-word }
.words th, .words td { vertical-align: top }
.heat td { text-align: center; padding: .35rem .45rem; min-width: 2.6rem;
  border: 1px solid #fff; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.heat thead th { font-weight: 400 }
.heat thead th + th { text-align: center }
@media print {
  body { max-width: none; padding: 0; font-size: 9pt }
  nav { display: none }
  .scroll { overflow: visible; break-inside: avoid }
  .scroll img { min-width: 0 }
  table { font-size: 8pt }
  th, td { padding: .12rem .35rem }
  tbody th { min-width: 0 }
  .heat { font-size: 7.5pt }
  .heat td { min-width: 0 }
}
"""


class Section(NamedTuple):
    """A part of the page: `name` is its anchor, `title` its heading, `lines` its HTML."""

    name: str
    title: str
    lines: Sequence[str]


def page(title: str, introduction: Iterable[str], sections: Sequence[Section]) -> str:
    """The whole file; `title` is its only h1, a list of links leads to the sections."""
    links = [f'<li><a href="#{s.name}">{escape(s.title)}</a></li>' for s in sections]
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{escape(title)}</title>",
        '<link rel="icon" href="data:,">',
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{escape(title)}</h1>",
        *introduction,
        "</header>",
        '<nav aria-label="On this page"><ul>',
        *links,
        "</ul></nav>",
        "<main>",
    ]
    for section in sections:
        lines.append(f'<section aria-labelledby="{section.name}">')
        lines += [f'<h2 id="{section.name}">{escape(section.title)}</h2>', *section.lines]
        lines.append("</section>")
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def paragraph(words: str, *, warning: bool = False) -> str:
    """Plain words, marked out if they warn."""
    look = ' class="warning" role="note"' if warning else ""
    return f"<p{look}>{escape(words)}</p>"


def table(
    name: str,
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    look: str = "",
    styles: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """A table; the first cell of a row is its heading.

    Args:
        name: unique on the page.
        caption: what it holds.
        header: heads of the columns; empty for none.
        rows: cells, as plain words.
        look: a class of `STYLE`: "words", "heat" or none.
        styles: CSS of each cell behind the heading, row by row.
    """
    body = []
    for r, (head, *cells) in enumerate(rows):
        looks = [f' style="{style}"' for style in styles[r]] if styles else [""] * len(cells)
        figures = "".join(
            f"<td{style}>{escape(cell)}</td>" for style, cell in zip(looks, cells, strict=True)
        )
        body.append(f'<tr><th scope="row">{escape(head)}</th>{figures}</tr>')
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    return [
        f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">',
        f'<table class="{look}">' if look else "<table>",
        f'<caption id="{name}"><span>{escape(caption)}</span></caption>',
        *([f"<thead><tr>{heads}</tr></thead>"] if header else []),
        *["<tbody>", *body, "</tbody>", "</table>", "</div>"],
    ]


def figure(drawing: str, caption: str) -> list[str]:
    """A drawing with what is written below it."""
    return ["<figure>", drawing, f"<figcaption>{escape(caption)}</figcaption>", "</figure>"]


def image(png: bytes, title: str, told: str) -> str:
    """A PNG inside the page, which a narrow window scrolls; `told` is its text alternative."""
    picture = f'<img src="{png_address(png)}" alt="{escape(told)}">'
    region = f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0">'
    return f"{region}{picture}</div>"


def png_address(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
