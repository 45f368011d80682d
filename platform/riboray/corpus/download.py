"""Bring one file over an unreliable line: resume, retry, size check.

The bytes go to ``NAME.part`` and what the server says of the file (size, ETag, Last-Modified) to
``NAME.part.json``. A later attempt, in this process or another, asks for the rest with ``Range``
and sends the ETag along in ``If-Range``, so that two versions of a file are never joined.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from riboray import __version__
from riboray.console import say
from riboray.errors import ConfigError, RiborayError
from riboray.manifest import write_json
from riboray.room import byte_size, check_disk

__all__ = ["Download", "RemoteFile", "Upstream", "new_session", "note_of", "probe"]

#: Wait before the first new attempt; each further one without progress waits twice as long.
BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
#: A server that asks for a longer pause (Retry-After) than this ends the command.
LONGEST_PAUSE_SECONDS = 900.0
CONNECT_SECONDS = 20.0
#: Silence after which a connection counts as lost.
READ_SECONDS = 60.0

_CHUNK = 1 << 16
_REDIRECTS = 5
#: Versions of a file that one command begins to fetch before it gives up.
_VERSIONS = 5


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch and the page where a person can see what else is there."""

    url: str
    listing: str

    @property
    def name(self) -> str:
        """Name of the file without its folders."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Upstream:
    """What a server says of a file."""

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def of(cls, response: requests.Response) -> Upstream:
        """Read a response's headers; the size is that of the whole file, also for a part of it."""
        headers = response.headers
        if response.status_code == 206:
            size = _range_of(response)[1]
        else:
            length = headers.get("Content-Length", "")
            size = int(length) if length.isdigit() and "Transfer-Encoding" not in headers else None
        return cls(size, headers.get("ETag"), headers.get("Last-Modified"))

    def agrees(self, other: Upstream) -> bool:
        """Tell whether both may be the same file; what one of them lacks is not compared."""
        if None not in (self.size, other.size) and self.size != other.size:
            return False
        for mine, theirs in ((self.etag, other.etag), (self.last_modified, other.last_modified)):
            if mine and theirs:
                return mine.removeprefix("W/") == theirs.removeprefix("W/")
        return True

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may carry: a strong ETag, else the date."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified


class _Setback(Exception):
    """A failure that another attempt may mend."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _Patience:
    """Counts failures without progress and waits, longer each time, before the next attempt."""

    def __init__(self, name: str, retries: int) -> None:
        self._name, self._retries = name, retries
        self._failures = self._furthest = 0
        self._progressed = False

    def reached(self, position: int) -> None:
        """Note progress: bytes beyond all that were there before, not the same ones again."""
        if position > self._furthest:
            self._furthest, self._progressed = position, True

    def forget(self) -> None:
        """Count from the beginning: there is another file to fetch."""
        self._furthest = 0

    def wait(self, failure: _Setback) -> bool:
        """Wait before the next attempt; False if there should be none."""
        self._failures = 0 if self._progressed else self._failures + 1
        self._progressed = False
        if self._failures > self._retries or failure.pause > LONGEST_PAUSE_SECONDS:
            return False
        backoff = min(LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(self._failures, 16))
        # Jitter: many clients that lost the same server must not all come back at once.
        seconds = max(failure.pause, backoff * random.uniform(0.5, 1.0))  # noqa: S311
        count = f" ({self._failures} of {self._retries})" if self._failures else ""
        say(f"{self._name}: {failure}; trying again in {seconds:.0f} s{count}")
        time.sleep(seconds)
        return True


def new_session() -> requests.Session:
    """Return an HTTP session that asks for files as they are."""
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    session.headers["User-Agent"] = f"riboray/{__version__}"
    return session


def probe(session: requests.Session, file: RemoteFile, retries: int) -> Upstream:
    """Ask what a server has, without fetching it.

    Raises
    ------
    RiborayError
        If it cannot be asked, or has no such file.
    """
    patience = _Patience(file.name, retries)
    while True:
        try:
            with _request(session, "HEAD", file, {}) as response:
                return Upstream.of(response)
        except _Setback as failure:
            if not patience.wait(failure):
                raise RiborayError(f"{file.url}: {failure}; try again later") from failure


def _request(
    session: requests.Session, method: str, file: RemoteFile, headers: dict[str, str]
) -> requests.Response:
    """Send a request and follow redirects, though never to something less safe."""
    url, timeout = file.url, (CONNECT_SECONDS, READ_SECONDS)
    for _ in range(_REDIRECTS + 1):
        try:
            response = session.request(
                method, url, headers=headers, stream=True, allow_redirects=False, timeout=timeout
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _of_request(url, error) from error
        target = session.get_redirect_target(response)
        if target is None:
            _check_answer(response, file)
            return response
        response.close()
        target = urljoin(url, target)
        schemes = urlsplit(url).scheme, urlsplit(target).scheme
        if schemes[1] not in ("http", "https") or schemes == ("https", "http"):
            raise RiborayError(f"{url}: leads to {target}, which is not safe; not followed")
        url = target
    raise RiborayError(f"{file.url}: more than {_REDIRECTS} redirects, the last to {url}")


def _of_request(url: str, error: Exception) -> Exception:
    """Return the error to raise for a request that had no answer."""
    if isinstance(error, ValueError):  # such as a URL that is none
        return ConfigError(f"{url}: cannot be asked for ({error})")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return RiborayError(
            f"{url}: the server's certificate is not trusted; a network with a login page or a "
            "proxy may be in between (its certificates are read from REQUESTS_CA_BUNDLE)"
        )
    return _Setback(_reason(error))


def _reason(error: BaseException) -> str:
    """Say in a few words why a connection failed: the innermost cause knows."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    if isinstance(error, urllib3.exceptions.HTTPError | HTTPException):
        return "the connection broke off"
    return " ".join(str(error).split()) or type(error).__name__


def _check_answer(response: requests.Response, file: RemoteFile) -> None:
    """Raise unless the response carries the file, or a part of it."""
    status, headers = response.status_code, response.headers
    if status == 416:
        return
    if status in (200, 206):
        encoding = headers.get("Content-Encoding", "identity").lower()
        if "text/html" in headers.get("Content-Type", "").lower():
            # A login page or a proxy; its text must not take the place of gigabytes.
            problem: Exception = _Setback("a web page came instead of the file")
        elif encoding != "identity" and not file.name.endswith(".gz"):
            problem = RiborayError(f"{file.url}: is sent in {encoding}, though asked for as it is")
        else:
            return
    elif status in (408, 425, 429) or status >= 500:
        pause = _pause_of(headers.get("Retry-After", ""))
        wish = f" and asks for a pause of {pause:.0f} s" if pause else ""
        problem = _Setback(f"the server answers {status} {response.reason}{wish}", pause)
    elif status in (401, 403, 404, 410):
        what = "has no such file" if status in (404, 410) else "refuses to send it"
        problem = ConfigError(
            f"{file.url}: the server {what} ({status}); check --release and --base-url "
            f"(what is there: {file.listing})"
        )
    else:
        problem = RiborayError(f"{file.url}: the server answers {status} {response.reason}")
    response.close()
    raise problem


def _pause_of(retry_after: str) -> float:
    """Return the seconds that a Retry-After header (seconds or a date) asks for."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _range_of(response: requests.Response) -> tuple[int | None, int | None]:
    """Return first byte and size of the whole from ``Content-Range``, None for what is absent."""
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", text.strip())
    if found is None:
        return None, None
    first, size = found.groups()
    return (None if first is None else int(first)), (None if size == "*" else int(size))


def note_of(part: Path) -> Path:
    """Return the path of the note beside a partial download."""
    return part.with_name(f"{part.name}.json")


@dataclass
class Download:
    """One file on its way into ``NAME.part``."""

    session: requests.Session
    """From `new_session`."""
    file: RemoteFile
    """What to fetch."""
    part: Path
    """Where to."""
    handle: FileIO
    """``part``, open for appending, without a buffer: a killed process loses nothing."""
    retries: int
    """Attempts that may fail, one after another, without a new byte."""
    show: Callable[[int, int | None], None]
    """Told the bytes there are and the size of the file, if known, again and again."""
    upstream: Upstream = field(default_factory=Upstream)
    """What the server says of the file."""
    position: int = 0
    """Bytes in ``part``."""
    resumed_from: int = 0
    """Bytes from an earlier run that were of use."""
    attempts: int = 0
    """Requests made."""

    def __post_init__(self) -> None:
        self._patience = _Patience(self.file.name, self.retries)
        self._whole = False
        self._versions = 1

    def run(self) -> None:
        """Fetch until the file is whole.

        Raises
        ------
        RiborayError
            If it cannot be had; what there is of it stays.
        """
        self._take_up()
        while not self._whole:
            self._attempt()

    def _take_up(self) -> None:
        """Go on from what an earlier run left, if a note says what it is."""
        self.position = os.fstat(self.handle.fileno()).st_size
        if not self.position:
            return
        try:
            self.upstream = Upstream(**json.loads(note_of(self.part).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            self._start_again("nothing says what the partial file here belongs to")
            return
        size = self.upstream.size
        if size is not None and self.position > size:
            self._start_again("the partial file is longer than the whole")
            return
        self.resumed_from = self.position
        self._patience.reached(self.position)
        self._whole = self.position == size

    def _start_again(self, why: str) -> None:
        say(f"{self.file.name}: {why}; starting again from the beginning")
        self.handle.truncate(0)
        self.position = self.resumed_from = 0

    def _attempt(self) -> None:
        """Make one request; wait, or give up, if it fails."""
        headers = {}
        if self.position and (validator := self.upstream.validator):
            headers = {"Range": f"bytes={self.position}-", "If-Range": validator}
        elif self.position:
            self._start_again("the server gives no mark (ETag or date) by which to go on")
        self.attempts += 1
        try:
            with _request(self.session, "GET", self.file, headers) as response:
                if self._accept(response):
                    self._receive(response)
        except _Setback as setback:
            if not self._patience.wait(setback):
                raise RiborayError(
                    f"{self.file.url}: {setback}; given up. {byte_size(self.position)} are kept "
                    f"in {self.part}: run the same command again to go on from there"
                ) from setback

    def _accept(self, response: requests.Response) -> bool:
        """Make ready for the bytes of a response; False if they are not to be read."""
        status, answer, asked = response.status_code, Upstream.of(response), self.position
        first, size = _range_of(response)
        if status != 200 and not asked:
            raise _Setback(f"the server answers {status} though the whole file was asked for")
        advice = "free some space or choose another --output"
        check_disk(self.part.parent, (answer.size or 0) - asked, advice)
        if status == 416 and asked == (self.upstream.size if size is None else size):
            self.upstream, self._whole = replace(self.upstream, size=asked), True
            return False
        if asked and (status == 416 or not self.upstream.agrees(answer)):
            self._start_again("the file has changed upstream")
            self._patience.forget()
            self._versions += 1
            if self._versions > _VERSIONS:
                raise RiborayError(f"{self.file.url}: changes all the time; try again later")
        elif status == 206 and first != asked:
            self._start_again("the server sends another part than was asked for")
        elif status == 200 and asked:
            self._start_again("the server cannot go on in the middle of a file")
        if status == 200:
            self.upstream = answer
            write_json(note_of(self.part), asdict(answer))
        elif self.upstream.size is None:
            self.upstream = replace(self.upstream, size=answer.size)
        return status == 200 or self.position > 0

    def _receive(self, response: requests.Response) -> None:
        """Append the bytes of a response."""
        size = self.upstream.size
        self.show(self.position, size)
        try:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                rest = memoryview(chunk)
                while rest:  # a file without a buffer may take less than it is given
                    rest = rest[self.handle.write(rest) :]
                self.position += len(chunk)
                self._patience.reached(self.position)
                self.show(self.position, size)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Setback(f"{_reason(error)} at {byte_size(self.position)}") from error
        if size is not None and self.position < size:
            raise _Setback(f"the connection ended at {byte_size(self.position)}")
        self._whole = True
