"""Sections -> one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from funnelcast.report.colours import css_colours
from funnelcast.report.elements import Section

__all__ = ["render_page"]


def render_page(title: str, meta: str, sections: Sequence[Section], footer: str) -> str:
    """Fill the template; every text is escaped, and the page allows its own script by checksum and no other.

    Args:
        title: of the page.
        meta: a sentence below it.
        sections: its sections in order, with names that no two of them share.
        footer: the last sentences.

    Example:
        >>> page = render_page("a <b>", "x", [Section("one", "One", "1")], "")
        >>> "<h1>a &lt;b&gt;</h1>" in page, '<section id="one">' in page
        (True, True)
    """
    environment = Environment(
        loader=PackageLoader("funnelcast.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "tables.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("template.html").render(
        title=title,
        meta=meta,
        footer=footer,
        sections=sections,
        light=css_colours("light"),
        dark=css_colours("dark"),
        style=style,
        script=script,
        script_digest=digest,
    )
