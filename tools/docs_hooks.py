"""Hooks of MkDocs: pages made from the code, files of the repository, formulas as MathML.

Pages in `docs/` link to each other and to files of the repository by relative paths, as one reads
them in the source tree. Here those paths become the site's.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tools")]

from docs_commands import commands_page  # noqa: E402

#: Pages that lie elsewhere in the repository, by their names on the site.
PAGES = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "MODEL_CARD.md": "platform/riboray/weights/MODEL_CARD.md",
}
#: Files that pages link to; the site carries them as they are.
FILES = ("cluster*.yaml", "configs/*.yaml", "kuberay/*.yaml", "serve/*")

_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files that do not lie in `docs/`."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    for source in carried():
        files.append(File.generated(config, f"files/{source}", abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    return files


def carried() -> list[str]:
    """List the files that the site carries, relative to the repository."""
    found = (path for pattern in FILES for path in ROOT.glob(pattern) if path.is_file())
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the source tree into links of the site."""
    name = page.file.src_uri
    source = PAGES.get(name, f"docs/{name}")

    def replace(match: re.Match[str]) -> str:
        target = site_path(source, match[2])
        if target is None:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(name) or ".") + match[3]

    return _LINK.sub(replace, markdown)


def site_path(source: str, link: str) -> str | None:
    """Return where on the site a link of a file leads, None if it is left as it stands."""
    if ":" in link or link.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    known = {repository: site for site, repository in PAGES.items()}
    if path in known:
        return known[path]
    if path == "README.md":
        return "index.md"
    if path in carried():
        return f"files/{path}"
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers show by themselves."""

    def replace(match: re.Match[str]) -> str:
        text = match[3]
        for name, symbol in (("amp", "&"), ("lt", "<"), ("gt", ">")):
            text = text.replace(f"&{name};", symbol)
        return str(convert(text, display="block" if match[2] == "[" else "inline"))

    return _FORMULA.sub(replace, html)
