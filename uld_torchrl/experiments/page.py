"""One HTML file without links to elsewhere: pictures are inside it, styles too, and there is no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; } .note { color: #555; }
"""

Rows = Sequence[Sequence[str]]


def html_page(
    title: str,
    notes: Sequence[str],
    pictures: Mapping[str, Path],
    tables: Sequence[tuple[str, str, Sequence[str], Rows]],
) -> str:
    """Return the page.

    Args:
        title: heading.
        notes: sentences below it.
        pictures: what each shows -> PNG file.
        tables: heading, caption, columns, rows of each.

    Example:
        >>> page = html_page("A < B", ["note"], {}, [("scores", "of runs", ["env"], [["x & y"]])])
        >>> "A &lt; B" in page, "x &amp; y" in page, "http" in page
        (True, True, False)
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f'<p class="note">{escape(note)}</p>' for note in notes)]
    parts += [_picture(what, file) for what, file in pictures.items()]
    parts += [_table(*table) for table in tables]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _picture(what: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<h2>{escape(what.capitalize())}</h2>\n<img alt="{escape(what)}" src="data:image/png;base64,{data}">'
    )


def _table(heading: str, caption: str, columns: Sequence[str], rows: Rows) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<h2>{escape(heading)}</h2>\n<p>{escape(caption)}</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )
