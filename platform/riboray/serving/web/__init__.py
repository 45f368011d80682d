"""The service's own page: three files, nothing from elsewhere, no build."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

__all__ = ["WEB_FILES", "add_file"]

WEB_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""Name and media type of the file at each path."""

#: What the page may do: run its own script, look as its own sheet says, ask this service.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_file(api: FastAPI, path: str, name: str, media_type: str) -> None:
    """Add a file of the page to an application."""
    body = (files(__name__) / name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}

    @api.get(path, include_in_schema=False, name=name)
    async def answer() -> Response:
        return Response(body, media_type=media_type, headers=headers)
