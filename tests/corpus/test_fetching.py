"""`riboray fetch` against a real server on this machine that misbehaves in every way we know."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import PIPE, Popen
from types import SimpleNamespace

import pytest

from riboray.corpus import download
from riboray.corpus.fetching import FetchConfig, fetch
from riboray.errors import ConfigError, OutputError, RiborayError
from tests.integration.helpers import environment, wait_for

DATE, LATER = "Wed, 01 Oct 2025 10:00:00 GMT", "Thu, 02 Oct 2025 10:00:00 GMT"
SEED = "/CURRENT/Rfam.seed.gz"


def packed(size, seed=1):
    """Gzip of two members that does not get smaller."""
    data = random.Random(seed).randbytes(size)
    return gzip.compress(data[: size // 2], 1) + gzip.compress(data[size // 2 :], 1)


class Site(ThreadingHTTPServer):
    """A server, what it does wrong, what it was asked, and a command that fetches from it."""

    etag, date, more, ranges, tells_size, resets = '"one"', DATE, {}, True, True, False
    answers, pause, served, block_on_close = (), 0.0, 0, False
    cut = staticmethod(lambda first: 10**9)
    handle_error = staticmethod(lambda *_: None)  # clients may go away

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url, self.folder = f"http://127.0.0.1:{self.server_port}", folder
        self.files = {SEED: packed(400_000), "/CURRENT/Rfam.clanin": b"CL00001 tRNA\n"}
        self.requests, self.headers = [], []
        self.target = folder / "rfam-current" / "Rfam.seed.gz"
        self.part = self.target.with_name("Rfam.seed.gz.part")
        self.source = self.target.with_name("Rfam.seed.gz.source.json")

    def get(self, same=True, **options):
        """Fetch Rfam's seed; whatever happens, it must be the file that is served."""
        where = {"output": str(self.folder), "base_url": self.url}
        (file,) = fetch(FetchConfig(**{"databases": ["rfam"], **where, **options}))["files"]
        assert not same or self.target.read_bytes() == self.files[SEED]
        return file

    def fails(self, kind, message, **options):
        with pytest.raises(kind, match=message) as error:
            self.get(**options)
        return error.value

    def leave_part(self, content, **note):
        """Lay down what an interrupted command leaves."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.part.write_bytes(content)
        note = {"size": None, "etag": '"one"', "last_modified": None} | note
        path = self.part.with_name("Rfam.seed.gz.part.json")
        path.write_text(json.dumps(note))
        return path

    def names(self):
        return sorted(path.name for path in self.target.parent.iterdir())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log_message = staticmethod(lambda *_: None)

    def do_GET(self):
        site, wanted, first = self.server, self.headers.get("Range"), 0
        site.requests.append((self.command, self.path, wanted))
        site.headers.append(self.headers)
        content = site.files.get(self.path)
        if site.answers or content is None:
            status, headers = site.answers.pop(0) if site.answers else (404, {})
            return self.head(status, {"Content-Length": "0", **headers})
        if wanted and site.ranges and self.headers["If-Range"] in (site.etag, site.date):
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if first and first >= len(content):
            return self.head(416, {"Content-Range": f"bytes */{len(content)}"})
        part = f"bytes {first}-{len(content) - 1}/{len(content)}" if first else None
        marks = {"ETag": site.etag, "Last-Modified": site.date, "Content-Range": part, **site.more}
        size = str(len(content) - first) if site.tells_size else None
        self.head(206 if first else 200, {"Content-Length": size, **marks})
        if self.command == "GET":
            self.send(site, content[: site.cut(first)], first, len(content))

    do_HEAD = do_GET

    def head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def send(self, site, content, first, size):
        for start in range(first, len(content), 1 << 16):
            self.wfile.write(content[start : start + (1 << 16)])
            site.served += len(content[start : start + (1 << 16)])
            time.sleep(site.pause)
        self.close_connection |= len(content) < size or not site.tells_size
        if len(content) < size and site.resets:  # the connection is reset, not closed
            how = socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            self.connection.setsockopt(*how)


@pytest.fixture
def site(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    with Site(tmp_path) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server
        server.shutdown()


def test_a_file_arrives_whole_with_its_note(site, capsys):
    size = len(site.files[SEED])
    facts = {"url": site.url + SEED, "sha256": hashlib.sha256(site.files[SEED]).hexdigest()}
    result = {"path": str(site.target), "bytes": size, "resumed_from": 0, "attempts": 1}
    assert site.get() == result | facts
    assert site.names() == ["Rfam.seed.gz", "Rfam.seed.gz.source.json"]
    note = json.loads(site.source.read_text())
    assert note.pop("date").startswith("20")
    assert note == facts | {"size": size, "etag": '"one"', "last_modified": DATE}
    assert site.headers[0]["Accept-Encoding"] == "identity"
    site.source.unlink()
    site.tells_size = False
    site.files[SEED] = gzip.compress(bytes(20_000_000)) + gzip.compress(b"") + bytes(600_000)
    assert site.get(update=True)["bytes"] == len(site.files[SEED])
    assert "does not tell" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(6))
def test_a_line_that_drops_at_random(site, seed, capsys):
    rng = random.Random(seed)
    site.cut = lambda first: first + rng.randint(0, 90_000)
    site.resets = bool(seed % 2)
    assert site.get(retries=100)["attempts"] == len(site.requests) > 4
    assert site.resets or site.served == len(site.files[SEED])  # a reset discards some
    assert re.search(r"(broke off|by peer) at [\d.]+ kB; trying again", capsys.readouterr().err)


def test_a_server_that_cannot_resume(site, capsys):
    site.ranges = False
    site.cut = lambda first: 100_000  # the same bytes again are no progress
    site.fails(RiborayError, "given up", retries=3)
    assert len(site.requests) == 5
    ends = iter([150_000, 250_000])
    site.cut = lambda first: next(ends, 10**9)
    file = site.get(retries=0)
    assert (file["attempts"], file["resumed_from"]) == (3, 0)
    assert "cannot go on in the middle" in capsys.readouterr().err


def test_a_file_that_changes_between_attempts(site, capsys):
    def cut(first):
        site.files[SEED], site.etag = packed(300_000, seed=2), '"two"'
        site.cut = lambda first: 10**9
        return 100_000

    site.cut = cut
    site.get()
    assert "has changed upstream; starting again" in capsys.readouterr().err
    site.etag, site.cut = '"3"', lambda first: setattr(site, "etag", site.etag + "3") or 100_000
    site.fails(RiborayError, "changes all the time", update=True)


@pytest.mark.parametrize("note", [{"etag": '"zero"'}, {"size": 300_000}, {}])
def test_a_part_that_does_not_fit_is_not_joined(site, note):
    site.leave_part(bytes(9), **note)
    site.more = {"ETag": site.etag} if note else {"Content-Range": "bytes 8-9/*"}
    site.etag = note.get("etag", site.etag)  # the range is served, though of another file
    assert site.get()["resumed_from"] == 0
    assert [wanted for *_, wanted in site.requests] == ["bytes=9-", None]


def test_a_busy_server_is_waited_for(site):
    site.answers = [(503, {"Retry-After": "1"}), (429, {}), (500, {})]
    began = time.monotonic()
    assert site.get()["attempts"] == 4
    assert time.monotonic() - began >= 1
    site.source.unlink()
    site.answers = [(503, {"Retry-After": "90000"})]
    site.fails(RiborayError, r"pause of 90000 s.*run the same command again", update=True)
    assert 50 < download._pause_of(formatdate(time.time() + 60, usegmt=True)) < 61
    assert [download._pause_of(text) for text in (DATE, "yesterday", "")] == [0, 0, 0]


def test_a_missing_file_ends_at_once(site):
    site.answers = [(404, {}), (403, {})]
    for status in 404, 403:
        wanted = rf"^{site.url}{SEED}: .*\({status}\); check --release .*{site.url}/\)$"
        site.fails(ConfigError, wanted)
    assert (len(site.requests), site.names()) == (2, [])


def test_a_file_cut_short_for_good_is_given_up_and_kept(site):
    site.cut = lambda first: 150_000
    error = site.fails(RiborayError, "150 kB are kept in .*part: run the same", retries=2)
    assert (error.exit_code, len(site.requests)) == (1, 4)
    assert site.part.read_bytes() == site.files[SEED][:150_000]
    site.cut = lambda first: first + 20_000  # retries count attempts without progress only
    file = site.get(retries=0)
    assert (file["resumed_from"], file["attempts"]) == (150_000, 13)
    assert site.names() == ["Rfam.seed.gz", "Rfam.seed.gz.source.json"]


@pytest.mark.parametrize("how", ["middle", "cut", "tail", b"see you later\n", b""])
def test_damaged_gzip_is_removed(site, how):
    good = site.files[SEED]
    middle = good[:300_000] + bytes([good[300_000] ^ 1]) + good[300_001:]
    site.files[SEED] = {"middle": middle, "cut": good[:-1], "tail": good + b"\0\0!"}.get(how, how)
    site.fails(RiborayError, "damaged in transfer .* run the command again")
    assert site.names() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on_and_a_second_one_is_refused(site, tmp_path, how):
    content = site.files[SEED] = packed(3_000_000)
    site.pause = 0.02
    where = f"databases=['rfam'], base_url='{site.url}', output='{tmp_path}'"
    code = (  # tests that run in the background inherit that Ctrl-C is ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from riboray.corpus.fetching import *; fetch(FetchConfig({where}))"
    )
    with Popen([sys.executable, "-c", code], env=environment(), stderr=PIPE) as process:
        try:
            wait_for(lambda: site.part.exists() and site.part.stat().st_size > 300_000, 60)
            site.fails(OutputError, "another process is fetching it")
        finally:
            process.send_signal(how)
            said = process.communicate(timeout=30)[1].decode()
    assert ("the same command goes on from there" in said) == (how == signal.SIGINT)
    had = site.part.stat().st_size
    assert 300_000 < had < len(content)
    site.pause = 0.0
    assert site.get()["resumed_from"] == had
    assert site.requests[-1] == ("GET", SEED, f"bytes={had}-")
    assert site.served < 2 * len(content)


def test_what_is_there_is_not_fetched_again(site, capsys):
    site.target.parent.mkdir()
    site.target.write_bytes(b"half")
    site.fails(OutputError, "not as a finished fetch leaves it")
    first = site.get(update=True) | {"attempts": 0}
    assert site.get() == first
    assert site.requests[-1][0] == "HEAD"
    assert "is there already" in capsys.readouterr().err
    site.answers = [(500, {})]  # not even the server is needed
    assert site.get() == first
    assert "is not known" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["size", "etag", "date"])
def test_what_has_changed_upstream_is_replaced_on_request_only(site, mark, capsys):
    old, site.etag = site.files[SEED], None if mark == "date" else site.etag
    site.get()
    site.files[SEED] = packed(410_000 if mark == "size" else 400_000, seed=3)
    site.etag, site.date = '"new"' if mark == "etag" else site.etag, LATER
    site.get(same=False)
    assert site.target.read_bytes() == old
    assert "has changed upstream; --update replaces it" in capsys.readouterr().err
    site.get(update=True)
    assert site.requests[-1][0] == "GET"
    site.get(update=True)
    assert site.requests[-1][0] == "HEAD"


def test_a_disk_that_is_too_small(site, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=300_000))
    site.fails(OutputError, r"400 kB are needed, but only 300 kB.*--output")
    assert site.names() == []
    site.leave_part(site.files[SEED][:200_000])
    assert site.get()["resumed_from"] == 200_000


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_the_date_decides(site, etag, capsys):
    site.etag, site.cut = etag, lambda first: first + 150_000
    assert site.get()["attempts"] == 3
    assert site.headers[-1]["If-Range"] == DATE
    site.date, ends = None, iter([100_000])  # and without a date nothing is resumed
    site.cut = lambda first: next(ends, 10**9)
    site.source.unlink()
    assert site.get(update=True)["attempts"] == 2
    assert site.requests[-1][2] is None
    assert "no mark" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "size_known", "attempts"),
    [(0, False, 1), (0, True, 0), (9, False, 2), (9, True, 1)],  # 1 and 2: a 416 tells
)
def test_parts_that_earlier_commands_left(site, extra, size_known, attempts, capsys):
    size = len(site.files[SEED])
    site.leave_part(site.files[SEED] + bytes(extra), size=size if size_known else None)
    file = site.get()
    assert (file["resumed_from"], file["attempts"]) == (0 if extra else size, attempts)
    site.leave_part(b"of what?").unlink()
    site.source.unlink()
    assert site.get(update=True)["resumed_from"] == 0
    assert "nothing says what the partial file" in capsys.readouterr().err


def test_a_web_page_or_other_packing_does_not_take_the_place_of_the_file(site):
    site.leave_part(site.files[SEED][:9])
    site.more, site.ranges = {"Content-Type": "text/html; charset=utf-8"}, False
    site.fails(RiborayError, "a web page came instead", retries=1)
    assert site.part.stat().st_size == 9
    site.more = {"Content-Encoding": "x-gzip"}  # some servers say so of every .gz
    site.get()
    site.fails(RiborayError, "is sent in x-gzip", files=["clans"])


def test_redirects_are_followed_unless_they_lead_to_something_less_safe(site, monkeypatch):
    site.files["/mirror"] = site.files[SEED]
    site.answers = [(302, {"Location": "/mirror"})]
    site.get()
    site.source.unlink()
    for count, target, message in (1, "file:///x", "not followed"), (9, "/mirror", "more than 5"):
        site.answers = [(302, {"Location": target})] * count
        site.fails(RiborayError, message, update=True)
    real = download.requests.Session.request

    def plain(session, how, url, **more):  # the server speaks TLS as far as this test goes
        return real(session, how, url.replace("s:", ":"), **more)

    monkeypatch.setattr(download.requests.Session, "request", plain)
    site.answers = [(302, {"Location": site.url + SEED})]
    secure = site.url.replace("http:", "https:")
    site.fails(RiborayError, "https:.*not safe; not followed", update=True, base_url=secure)


def test_a_server_that_is_not_there_or_falls_silent(site, monkeypatch):
    site.fails(RiborayError, "refused; given up", retries=2, base_url="http://127.0.0.1:1")
    monkeypatch.setattr(download, "READ_SECONDS", 0.2)
    pauses = iter([1.0])
    site.cut = lambda first: setattr(site, "pause", next(pauses, 0.0)) or 10**9
    assert site.get(retries=0)["attempts"] == 2


def test_two_databases_and_all_their_files(site, tmp_path):
    expected = ["/current_release/rfam/rfam_annotations.tsv.gz", "/CURRENT/Rfam.clanin"]
    site.files[expected[0]] = packed(1000)
    wanted = {"databases": ["rnacentral", "rfam"], "files": ["clans", "rfam-annotations"]}
    result = fetch(FetchConfig(**wanted, base_url=site.url + "/", output=str(tmp_path)))
    assert [file["url"] for file in result["files"]] == [site.url + path for path in expected]
    assert result["bytes"] == sum(len(site.files[path]) for path in expected)
    assert (tmp_path / "rfam-current" / "Rfam.clanin").read_bytes() == b"CL00001 tRNA\n"


def test_releases():
    both = ["sequences/rnacentral_active.fasta.gz", "id_mapping/id_mapping.tsv.gz"]
    for release, base, paths, folder in (
        ("26.0", "RNAcentral/releases/26.0/", both, "rnacentral-26.0"),
        (None, "RNAcentral/current_release/", both, "rnacentral-current"),
        ("15.0", "Rfam/15.0/", ["Rfam.seed.gz"], "rfam-15.0"),
        (None, "Rfam/CURRENT/", ["Rfam.seed.gz"], "rfam-current"),
    ):
        plan = FetchConfig(databases=folder.split("-")[:1], release=release, output="data").plan()
        base = "https://ftp.ebi.ac.uk/pub/databases/" + base
        found = [(file.url, str(target.parent)) for file, target in plan]
        assert found == [(base + path, f"data/{folder}") for path in paths]


def test_configurations_that_cannot_work():
    both = {"databases": ["rfam", "rnacentral"]}
    for message, options in {
        "name a database (rnacentral, rfam, sample)": {"databases": []},
        "unknown database 'pfam'; there are rnacentral, rfam": {"databases": ["pfam"]},
        "unknown file 'active'; rfam has seed, clans": {"files": ["active"]},
        "names none of rnacentral": {**both, "files": ["seed"]},
        "one by one": {**both, "release": "15.0"},
        "must be written as 26.0, not '../15.0'": {"release": "../15.0"},
        "must be http://": {"base_url": "ftp://ftp.ebi.ac.uk"},
        "not 'http://[::1'": {"base_url": "http://[::1"},
        "without a password": {"base_url": "https://me:secret@example.org/"},
        "at least 0": {"retries": -1},
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            FetchConfig(**{"databases": ["rfam"], **options})
