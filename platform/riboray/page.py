"""What every HTML page of riboray has in common: colours, style, tables, one file without requests.

A page is complete without its script, and nothing but that script can run in it: the policy in the
page's head names the script by its hash, so that markup in the data, should it ever get past
`html.escape`, stays dead.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Container, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from unicodedata import east_asian_width

__all__ = ["PALETTE", "html_page", "html_table", "inline_png", "printable"]

#: Okabe & Ito's colours, which the colour-blind tell apart, ink and grey. Each is a variable of the
#: pages' style, which has another shade of it for dark mode.
PALETTE = {
    "ink": "#1b1b1f",
    "grey": "#8a8a90",
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "red": "#d55e00",
}

_LIGHT = """--ink: #1b1b1f; --page: #fcfcfd; --card: #fff; --line: #dcdce2;
  --grey: #6c6c74; --blue: #0072b2; --orange: #e69f00; --green: #009e73; --red: #d55e00;"""
_DARK = """--ink: #e6e6ea; --page: #131316; --card: #1c1c21;
  --line: #36363e; --grey: #a0a0a8; --blue: #56b4e9; --orange: #f0b429; --green: #2cc295;
  --red: #ff8a3d;"""

_CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; margin: 0; }} h2 {{ font-size: 1.2rem; }}
.lead, footer {{ color: var(--grey); }}
.warning {{ border-left: 4px solid var(--red); padding: .4rem .8rem; background: var(--card); }}
.figures {{ display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }}
.tables {{ columns: 26rem; column-gap: 1rem; }}
figure, .table {{ margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }}
.table {{ break-inside: avoid; margin-bottom: 1rem; overflow-x: auto; }}
img {{ display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }}
.picture figcaption {{ color: var(--grey); padding-top: .4rem; }}
svg {{ display: block; width: 100%; height: auto; color: var(--ink); }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .3rem; }}
th, td {{ text-align: left; padding: .15rem .4rem .15rem 0; border-top: 1px solid var(--line);
  vertical-align: top; }}
th {{ font-weight: 400; color: var(--grey); }}
.number {{ text-align: right; white-space: nowrap; padding-left: .4rem; }}
@media (max-width: 30rem) {{ table {{ font-size: .75rem; }}
  .number {{ padding: .15rem 0 .15rem .3rem; }} }}
"""


def html_page(
    title: str, body: str, *, css: str = "", script: str = "", images: bool = False
) -> str:
    """Put a page together.

    Parameters
    ----------
    title : str
        Plain text.
    body : str
        HTML; whatever came from data is escaped in it.
    css : str
        Style beside that of all pages.
    script : str
        The one script that may run; by default none.
    images : bool
        Whether the body holds pictures from `inline_png`.

    Returns
    -------
    str
        A document that fetches nothing: no font, no form, no request of any kind.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if images:
        policy += "; img-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<style>{_CSS}{css}</style>
</head>
<body>
{body}{f"<script>{script}</script>{chr(10)}" if script else ""}</body>
</html>
"""


def inline_png(path: Path, describes: str, caption: str) -> str:
    """Put a picture into a page, inside it: nothing is fetched.

    Parameters
    ----------
    path : Path
        A PNG file.
    describes : str
        What it shows, for those who cannot see it; plain text.
    caption : str
        What stands below it; plain text.

    Returns
    -------
    str
        HTML of a figure.
    """
    data = base64.b64encode(path.read_bytes()).decode()
    picture = f'<img alt="{escape(describes)}" src="data:image/png;base64,{data}">'
    return f'<figure class="picture">{picture}<figcaption>{escape(caption)}</figcaption></figure>'


def html_table(
    heading: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    texts: int = 1,
    marked: Container[int] = (),
) -> str:
    """Write one table.

    Parameters
    ----------
    heading : str
        The caption; none if empty.
    columns : sequence of str
        Titles; if all are empty, there is no head.
    rows : sequence of sequence of str
        Cells, as plain text.
    texts : int
        Columns that are words; those after them are numbers, flush right.
    marked : container of int
        Rows to mark.

    Returns
    -------
    str
        HTML, every cell escaped.
    """

    def row(cells: Sequence[str], tag: str, attribute: str = "") -> str:
        return (
            f"<tr{attribute}>"
            + "".join(
                f"<{tag}{'' if i < texts else ' class=number'}>{escape(cell)}</{tag}>"
                for i, cell in enumerate(cells)
            )
            + "</tr>"
        )

    caption = f"<caption>{escape(heading)}</caption>\n" if heading else ""
    head = f"<thead>{row(columns, 'th')}</thead>" if any(columns) else ""
    body = "\n".join(
        row(cells, "td", " class=marked" if number in marked else "")
        for number, cells in enumerate(rows)
    )
    return f'<div class="table"><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def printable(value: object, width: int = 60) -> str:
    """Return a value on one line, without control characters, of a bounded width."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    widths = accumulate(1 + (east_asian_width(c) in "WF") for c in text)
    fitting = sum(end <= width for end in widths)
    return text if fitting == len(text) else text[: fitting - 1] + "…"
