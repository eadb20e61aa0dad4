"""Turns an SVG document of matplotlib into a small element of a page."""

from __future__ import annotations

import re

from funnelcast.report.colours import COLOURS

__all__ = ["STAND_INS", "for_the_page"]

# CSS colour of the page -> a colour that matplotlib accepts and the page replaces.
STAND_INS = {f"var(--{name})": f"#0303{i:02x}" for i, name in enumerate(COLOURS)}


def for_the_page(svg: str, name: str) -> str:
    """Cut the SVG out of its document; use the page's colours and fonts; make ids unique; shorten numbers.

    Args:
        svg: a document of matplotlib, drawn with `STAND_INS`.
        name: prefix of ids, unique on the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    for colour, stand_in in STAND_INS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r'(?<= d=")[^"]*', lambda found: _short_path(found.group()), svg)
    svg = re.sub(r'( (?:x|y)="-?\d+\.\d)\d+', r"\1", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    return _without_leftovers(svg)


def _short_path(path: str) -> str:
    """Write a path with one digit after the point, a quarter of a pixel at the least, and on one line."""
    path = re.sub(r"(\.\d)\d+", r"\1", path)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", path).strip()


def _without_leftovers(svg: str) -> str:
    """Leave out blanks between elements, ids that nothing refers to, and groups without content."""
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    kept = {name for pair in used for name in pair if name}
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in kept else "", svg)
    svg = re.sub(r">\s+<", "><", svg)
    svg = re.sub(r'style="[^"]*"', lambda found: found.group().replace("; ", ";").replace(": ", ":"), svg)
    former = ""
    while former != svg:
        former, svg = svg, re.sub(r"<g/>|<(g|defs)></\1>", "", svg)
    return svg.strip()
