"""Small drawings as SVG text, each with its text alternative; lengths in units of the viewBox."""

from collections.abc import Iterable
from html import escape


def drawing(name: str, size: tuple[float, float], title: str, told: str, parts: Iterable[str]):
    """An inline SVG that a screen reader announces as one picture.

    Args:
        name: unique on the page.
        size: width and height.
        title: what the picture is.
        told: what it shows, for those who do not see it.
        parts: what the functions below return.
    """
    ids = f"{name}-title", f"{name}-told"
    return "\n".join(
        [
            f'<svg role="img" aria-labelledby="{ids[0]}" aria-describedby="{ids[1]}" '
            f'viewBox="0 0 {size[0]:g} {size[1]:g}" xmlns="http://www.w3.org/2000/svg">',
            f'<title id="{ids[0]}">{escape(title)}</title>',
            f'<desc id="{ids[1]}">{escape(told)}</desc>',
            *parts,
            "</svg>",
        ]
    )


def line(start: tuple, end: tuple, colour: str, width: float = 1, dash: str = "none") -> str:
    """A straight line between two points."""
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dash}"/>'


def text(at: tuple, words: str, anchor: str = "middle", look: str = "") -> str:
    """Words that begin, have their middle or end at a point; `look` is more attributes."""
    place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}"'
    return f"<text {place} {look}>{escape(words)}</text>"


def box(corner: tuple, size: tuple, fill: str, stroke: str = "none") -> str:
    """A rectangle from its upper left corner."""
    place = f'x="{corner[0]:.1f}" y="{corner[1]:.1f}"'
    extent = f'width="{max(size[0], 0):.1f}" height="{max(size[1], 0):.1f}"'
    return f'<rect {place} {extent} fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'


def dot(at: tuple, fill: str, radius: float = 4) -> str:
    """A disc with a white rim, which keeps it apart from what lies below."""
    place = f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}"'
    return f'<circle {place} fill="{fill}" stroke="#fff" stroke-width="1"/>'


def picture(corner: tuple, size: tuple, source: str) -> str:
    """An image from a `data:` address, stretched to the size."""
    place = f'x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{size[0]:g}" height="{size[1]:g}"'
    return f'<image {place} preserveAspectRatio="none" href="{source}"/>'
