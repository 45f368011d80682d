"""`riboray fetch` against a real server on this machine that misbehaves in every way we know."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import namedtuple
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from riboray.corpus import download, fetching
from riboray.corpus.download import RemoteFile, new_session, probe
from riboray.corpus.fetching import DATABASES, FetchConfig, fetch
from riboray.errors import ConfigError, OutputError, RiborayError
from tests.integration.helpers import environment, wait_for

DATE = "Wed, 01 Oct 2025 10:00:00 GMT"


def packed(size, seed=1):
    """Gzip of two members that does not get smaller."""
    data = random.Random(seed).randbytes(size)
    return gzip.compress(data[: size // 2], 1) + gzip.compress(data[size // 2 :], 1)


class Handler(BaseHTTPRequestHandler):
    """Answers as the site says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        site = self.server.site
        wanted = self.headers.get("Range")
        site.requests.append((self.command, self.path, wanted))
        site.headers.append(self.headers)
        if site.before:
            site.before(site, len(site.requests))
        if site.answers and (answer := site.answers.pop(0)):
            return self.refuse(*answer)
        if self.path not in site.files:
            return self.refuse(404, {})
        content, first = site.files[self.path], 0
        fresh = self.headers.get("If-Range") in (None, site.etag, site.date)
        if wanted and site.ranges and fresh:
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if first and first >= len(content):
            return self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        marks = {"ETag": site.etag, "Last-Modified": site.date, **site.more}
        for name, value in marks.items():
            if value is not None:
                self.send_header(name, value)
        if site.tells_size:
            self.send_header("Content-Length", str(len(content) - first))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.send(site, content, first)

    def refuse(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, site, content, first):
        last = min(len(content), site.cut(first) if site.cut else len(content))
        for start in range(first, last, site.block):
            try:
                self.wfile.write(content[start : min(start + site.block, last)])
            except OSError:  # the client was killed
                break
            site.served += min(start + site.block, last) - start
            time.sleep(site.pause)
        if last < len(content):
            if site.resets:  # the connection is reset, not closed
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True


@pytest.fixture
def site(monkeypatch):
    """A server with the settings that `Handler` reads."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.site = SimpleNamespace(
        url=f"http://127.0.0.1:{server.server_port}",
        files={"/CURRENT/Rfam.seed.gz": packed(400_000), "/CURRENT/Rfam.clanin": b"CL00001 tRNA\n"},
        etag='"one"',
        date=DATE,
        more={},
        ranges=True,
        tells_size=True,
        cut=None,
        resets=False,
        before=None,
        answers=[],
        block=1 << 16,
        pause=0.0,
        requests=[],
        headers=[],
        served=0,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.site
    server.shutdown()
    server.server_close()
    thread.join()


SEED = "/CURRENT/Rfam.seed.gz"


@pytest.fixture
def get(site, tmp_path):
    """Fetch Rfam's seed from the site."""

    def fetch_seed(**options):
        options = {"databases": ["rfam"], "output": str(tmp_path), **options}
        return fetch(FetchConfig(base_url=site.url, **options))

    fetch_seed.target = tmp_path / "rfam-current" / "Rfam.seed.gz"
    fetch_seed.part = tmp_path / "rfam-current" / "Rfam.seed.gz.part"
    fetch_seed.note = tmp_path / "rfam-current" / "Rfam.seed.gz.part.json"
    fetch_seed.source = tmp_path / "rfam-current" / "Rfam.seed.gz.source.json"
    return fetch_seed


def leave_part(get, content, **note):
    """Lay down what an interrupted command leaves."""
    get.part.parent.mkdir(parents=True, exist_ok=True)
    get.part.write_bytes(content)
    if note:
        get.note.write_text(json.dumps({"size": None, "etag": None, "last_modified": None} | note))


def names(get):
    return sorted(path.name for path in get.target.parent.iterdir())


def test_a_file_arrives_whole_with_its_note(site, get):
    content = site.files[SEED]
    sha256 = hashlib.sha256(content).hexdigest()
    assert get() == {
        "files": [
            {
                "path": str(get.target),
                "url": site.url + SEED,
                "bytes": len(content),
                "sha256": sha256,
                "resumed_from": 0,
                "attempts": 1,
            }
        ],
        "bytes": len(content),
    }
    assert get.target.read_bytes() == content
    assert names(get) == ["Rfam.seed.gz", "Rfam.seed.gz.source.json"]
    note = json.loads(get.source.read_text())
    assert note.pop("date").startswith("20")
    assert note == {
        "url": site.url + SEED,
        "size": len(content),
        "etag": '"one"',
        "last_modified": DATE,
        "sha256": sha256,
    }
    assert site.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("seed", range(6))
def test_a_line_that_drops_at_random(site, get, seed, capsys):
    rng = random.Random(seed)
    site.cut = lambda first: first + rng.randint(0, 90_000)
    site.resets = bool(seed % 2)
    result = get(retries=100)["files"][0]
    assert get.target.read_bytes() == site.files[SEED]
    assert result["attempts"] == len(site.requests) > 4
    if not site.resets:  # a reset may discard what was sent but not yet read
        assert site.served == len(site.files[SEED])
    assert "trying again" in capsys.readouterr().err


def test_retries_are_counted_without_progress_only(site, get):
    site.cut = lambda first: first + 20_000
    result = get(retries=0)["files"][0]
    assert result["attempts"] == 21
    assert get.target.read_bytes() == site.files[SEED]


def test_a_server_that_cannot_resume(site, get, capsys):
    site.ranges = False
    ends = iter([100_000, 250_000])
    site.cut = lambda first: next(ends, 10**9)
    result = get(retries=0)["files"][0]
    assert get.target.read_bytes() == site.files[SEED]
    assert (result["attempts"], result["resumed_from"]) == (3, 0)
    assert "cannot go on in the middle" in capsys.readouterr().err


def test_a_server_that_cannot_resume_and_never_gets_further_is_given_up(site, get):
    site.ranges = False
    site.cut = lambda first: 100_000
    with pytest.raises(RiborayError, match="given up"):
        get(retries=3)
    assert len(site.requests) == 5


def test_a_file_that_changes_between_attempts(site, get, capsys):
    def change(site, number):
        if number == 2:
            site.files[SEED], site.etag = packed(300_000, seed=2), '"two"'

    site.before = change
    site.cut = lambda first: 100_000 if site.etag == '"one"' else 10**9
    result = get()["files"][0]
    assert get.target.read_bytes() == packed(300_000, seed=2)
    assert result["bytes"] == len(packed(300_000, seed=2))
    assert "has changed upstream; starting again" in capsys.readouterr().err
    assert json.loads(get.source.read_text())["etag"] == '"two"'


@pytest.mark.parametrize(
    "other", [{"etag": '"zero"', "last_modified": DATE}, {"size": 5, "etag": '"one"'}]
)
def test_a_changed_file_is_seen_by_its_etag_or_size_even_if_ranges_are_served(site, get, other):
    """A server may ignore If-Range."""
    content = site.files[SEED]
    leave_part(get, b"x" * 4, **{"size": len(content), **other})
    site.before = lambda site, number: setattr(site, "date", None)
    site.etag = other["etag"] if "size" in other else site.etag
    assert get()["files"][0]["resumed_from"] == 0
    assert get.target.read_bytes() == content


def test_a_file_that_changes_all_the_time_is_given_up(site, get):
    def change(site, number):
        site.etag = f'"{number}"'

    site.before = change
    site.cut = lambda first: 100_000
    with pytest.raises(RiborayError, match="changes all the time"):
        get()


def test_a_busy_server_is_waited_for(site, get, capsys):
    site.answers = [(503, {"Retry-After": "1"}), (429, {}), (500, {})]
    began = time.monotonic()
    assert get()["files"][0]["attempts"] == 4
    assert time.monotonic() - began >= 1
    assert get.target.read_bytes() == site.files[SEED]
    assert "503" in capsys.readouterr().err


def test_a_server_that_asks_for_a_very_long_pause(site, get):
    site.answers = [(503, {"Retry-After": "90000"})]
    with pytest.raises(RiborayError, match="pause of 90000 s.*run the same command again"):
        get()


def test_retry_after_may_be_a_date():
    assert 50 < download._pause_of(formatdate(time.time() + 60, usegmt=True)) < 61
    assert download._pause_of("yesterday") == download._pause_of("") == 0
    assert download._pause_of(formatdate(time.time() - 60, usegmt=True)) == 0


@pytest.mark.parametrize("status", [404, 403])
def test_a_missing_file_ends_at_once(site, get, status):
    site.answers = [(status, {})]
    with pytest.raises(ConfigError) as error:
        get()
    for words in (site.url + SEED, str(status), "check --release", f"{site.url}/"):
        assert words in str(error.value)
    assert len(site.requests) == 1
    assert names(get) == []


def test_a_file_cut_short_for_good_is_given_up_and_kept(site, get):
    site.cut = lambda first: 150_000
    with pytest.raises(RiborayError, match="150 kB are kept in .*part: run the same") as error:
        get(retries=2)
    assert error.value.exit_code == 1
    assert get.part.read_bytes() == site.files[SEED][:150_000]
    assert len(site.requests) == 4
    site.cut = None
    assert get()["files"][0]["resumed_from"] == 150_000
    assert get.target.read_bytes() == site.files[SEED]
    assert names(get) == ["Rfam.seed.gz", "Rfam.seed.gz.source.json"]


@pytest.mark.parametrize("how", ["flipped", "cut", "text", "empty", "tail"])
def test_damaged_gzip_is_removed(site, get, how):
    content = bytearray(site.files[SEED])
    content[300_000] ^= 1
    site.files[SEED] = {
        "flipped": bytes(content),
        "cut": site.files[SEED][:-1],
        "text": b"see you later\n",
        "empty": b"",
        "tail": site.files[SEED] + b"\0\0tail",
    }[how]
    with pytest.raises(RiborayError, match="damaged in transfer .* run the command again"):
        get()
    assert names(get) == []


def test_gzip_may_have_padding_and_unpack_to_a_lot(site, get):
    site.files[SEED] = gzip.compress(bytes(20_000_000)) + gzip.compress(b"") + bytes(600_000)
    assert get()["bytes"] == len(site.files[SEED])


COMMAND = """
import sys
from riboray.corpus.fetching import FetchConfig, fetch
fetch(FetchConfig(databases=["rfam"], base_url=sys.argv[1], output=sys.argv[2]))
"""


def test_a_killed_command_goes_on_and_a_second_one_is_refused(site, get, tmp_path):
    content = site.files[SEED] = packed(3_000_000)
    site.pause = 0.02
    command = [sys.executable, "-c", COMMAND, site.url, str(tmp_path)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: get.part.exists() and get.part.stat().st_size > 300_000, 60)
        with pytest.raises(OutputError, match="another process is fetching it"):
            get()
    finally:
        process.kill()
        process.wait()
    had = get.part.stat().st_size
    assert 300_000 < had < len(content)
    assert not get.target.exists()
    site.pause = 0.0
    result = get()["files"][0]
    assert result["resumed_from"] == had
    assert site.requests[-1] == ("GET", SEED, f"bytes={had}-")
    assert site.headers[-1]["If-Range"] == '"one"'
    assert site.served < 2 * len(content)
    assert get.target.read_bytes() == content


def test_ctrl_c_says_what_is_kept(site, get, monkeypatch, capsys):
    show = fetching._Meter.show

    def interrupt(meter, position, size):
        if position > 100_000:
            raise KeyboardInterrupt
        show(meter, position, size)

    monkeypatch.setattr(fetching._Meter, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get()
    assert "the same command goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(fetching._Meter, "show", show)
    assert get()["files"][0]["resumed_from"] > 100_000
    assert get.target.read_bytes() == site.files[SEED]


def test_what_is_there_is_not_fetched_again(site, get, capsys):
    first = get()["files"][0]
    site.requests.clear()
    assert get()["files"][0] == first | {"attempts": 0}
    assert [method for method, *_ in site.requests] == ["HEAD"]
    assert "is there already" in capsys.readouterr().err
    site.answers = [(500, {})]  # not even the server is needed
    assert get()["files"][0] == first | {"attempts": 0}
    assert "is not known" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["size", "etag", "date"])
def test_what_has_changed_upstream_is_replaced_on_request_only(site, get, mark, capsys):
    old = site.files[SEED]
    site.etag = None if mark == "date" else site.etag
    get()
    new = packed(410_000, seed=3) if mark == "size" else packed(400_000, seed=3)
    site.files[SEED] = new
    site.etag = '"new"' if mark == "etag" else site.etag
    site.date = "Thu, 02 Oct 2025 10:00:00 GMT"
    assert (len(new) == len(old)) == (mark != "size")
    get()
    assert get.target.read_bytes() == old
    assert "has changed upstream; --update replaces it" in capsys.readouterr().err
    get(update=True)
    assert get.target.read_bytes() == new
    site.requests.clear()
    get(update=True)
    assert [method for method, *_ in site.requests] == ["HEAD"]


def test_a_file_that_fetch_did_not_finish_is_no_result(site, get):
    get.target.parent.mkdir(parents=True)
    get.target.write_bytes(b"half")
    with pytest.raises(OutputError, match="not as a finished fetch leaves it"):
        get()
    get(update=True)
    assert get.target.read_bytes() == site.files[SEED]


def test_a_disk_that_is_too_small(site, get, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 7 * 10**5, 3 * 10**5))
    with pytest.raises(OutputError, match=r"400 kB are needed, but only 300 kB.*--output"):
        get()
    assert names(get) == []
    leave_part(get, site.files[SEED][:200_000], size=len(site.files[SEED]), etag='"one"')
    assert get()["files"][0]["resumed_from"] == 200_000


def test_a_part_without_its_note_is_started_anew(site, get, capsys):
    leave_part(get, b"from somewhere else")
    assert get()["files"][0]["resumed_from"] == 0
    assert get.target.read_bytes() == site.files[SEED]
    assert "nothing says what the partial file" in capsys.readouterr().err


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_the_date_decides(site, get, etag):
    site.etag = etag
    site.cut = lambda first: first + 150_000
    assert get()["files"][0]["attempts"] == 3
    assert site.headers[-1]["If-Range"] == DATE
    assert get.target.read_bytes() == site.files[SEED]


def test_without_any_mark_nothing_is_resumed(site, get, capsys):
    site.etag = site.date = None
    ends = iter([100_000])
    site.cut = lambda first: next(ends, 10**9)
    get()
    assert [wanted for *_, wanted in site.requests] == [None, None]
    assert get.target.read_bytes() == site.files[SEED]
    assert "no mark" in capsys.readouterr().err


def test_a_size_that_the_server_does_not_tell(site, get, capsys):
    site.tells_size = False
    assert get()["bytes"] == len(site.files[SEED])
    assert "does not tell" in capsys.readouterr().err
    assert json.loads(get.source.read_text())["size"] == len(site.files[SEED])


def test_a_part_that_is_whole_already(site, get):
    content = site.files[SEED]
    leave_part(get, content, etag='"one"')  # of unknown size: the server is asked and answers 416
    result = get()["files"][0]
    assert (result["resumed_from"], result["attempts"]) == (len(content), 1)
    assert get.target.read_bytes() == content
    get.target.unlink()
    leave_part(get, content, etag='"one"', size=len(content))
    assert get()["files"][0]["attempts"] == 0
    assert get.target.read_bytes() == content


@pytest.mark.parametrize("size", [None, 10**6])
def test_a_part_that_is_longer_than_the_file(site, get, size):
    leave_part(get, bytes(500_000), etag='"one"', size=size)
    assert get()["files"][0]["resumed_from"] == 0
    assert get.target.read_bytes() == site.files[SEED]


def test_a_login_page_does_not_take_the_place_of_the_file(site, get):
    leave_part(get, site.files[SEED][:9], etag='"one"')
    site.more, site.ranges = {"Content-Type": "text/html; charset=utf-8"}, False
    with pytest.raises(RiborayError, match="a web page came instead"):
        get(retries=1)
    assert get.part.stat().st_size == 9


def test_a_gzip_file_labelled_as_encoded_is_stored_as_it_is(site, get):
    site.more = {"Content-Encoding": "x-gzip"}
    get()
    assert get.target.read_bytes() == site.files[SEED]
    with pytest.raises(RiborayError, match="is sent in x-gzip"):
        get(files=["clans"])


def test_redirects(site, get, monkeypatch):
    site.files["/mirror"] = site.files[SEED]
    site.answers = [(302, {"Location": "/mirror"})]
    get()
    assert get.target.read_bytes() == site.files[SEED]
    get.source.unlink()
    site.answers = [(302, {"Location": "file:///etc/passwd"})]
    with pytest.raises(RiborayError, match="leads to file:.*not followed"):
        get(update=True)
    site.answers = [(302, {"Location": "/mirror"})] * 10
    with pytest.raises(RiborayError, match="more than 5 redirects"):
        get(update=True)
    assert get.target.read_bytes() == site.files[SEED]


def test_no_redirect_from_https_to_http(site, monkeypatch):
    with new_session() as session:
        site.answers = [(302, {"Location": site.url + SEED})]
        real = session.request
        monkeypatch.setattr(
            session, "request", lambda how, url, **more: real(how, url.replace("s:", ":"), **more)
        )
        file = RemoteFile(site.url.replace("http:", "https:") + SEED, "")
        with pytest.raises(RiborayError, match="not safe; not followed"):
            probe(session, file, 0)


def test_a_server_that_is_not_there(tmp_path, site, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = FetchConfig(databases=["rfam"], base_url=url, output=str(tmp_path), retries=2)
        with pytest.raises(RiborayError, match="connection refused; given up"):
            fetch(config)
    assert "(1 of 2)" in capsys.readouterr().err


def test_a_server_that_falls_silent(site, get, monkeypatch):
    monkeypatch.setattr(download, "READ_SECONDS", 0.2)
    pauses = iter([1.0])
    site.cut = lambda first: setattr(site, "pause", next(pauses, 0.0)) or 10**9
    assert get(retries=0)["files"][0]["attempts"] == 2
    assert get.target.read_bytes() == site.files[SEED]


def test_two_databases_and_all_their_files(site, tmp_path):
    paths = [f"/current_release/{path}" for path in DATABASES["rnacentral"].files.values()]
    site.files |= {path: packed(1000, seed) for seed, path in enumerate(paths)}
    files = ["clans", "species-specific", "rfam-annotations"]
    databases = ["rnacentral", "rfam", "rnacentral"]
    config = FetchConfig(
        databases=databases, files=files, base_url=site.url + "/", output=str(tmp_path)
    )
    result = fetch(config)
    assert [file["url"].removeprefix(site.url) for file in result["files"]] == [
        "/current_release/sequences/rnacentral_species_specific_ids.fasta.gz",
        "/current_release/rfam/rfam_annotations.tsv.gz",
        "/CURRENT/Rfam.clanin",
    ]
    assert result["bytes"] == sum(len(site.files[path]) for *_, path, _ in site.requests)
    assert (tmp_path / "rfam-current" / "Rfam.clanin").read_bytes() == b"CL00001 tRNA\n"


@pytest.mark.parametrize(
    ("database", "release", "urls", "folder"),
    [
        (
            "rnacentral",
            "26.0",
            ["RNAcentral/releases/26.0/sequences/rnacentral_active.fasta.gz"]
            + ["RNAcentral/releases/26.0/id_mapping/id_mapping.tsv.gz"],
            "rnacentral-26.0",
        ),
        (
            "rnacentral",
            None,
            ["RNAcentral/current_release/sequences/rnacentral_active.fasta.gz"]
            + ["RNAcentral/current_release/id_mapping/id_mapping.tsv.gz"],
            "rnacentral-current",
        ),
        ("rfam", "15.0", ["Rfam/15.0/Rfam.seed.gz"], "rfam-15.0"),
        ("rfam", None, ["Rfam/CURRENT/Rfam.seed.gz"], "rfam-current"),
    ],
)
def test_releases(database, release, urls, folder):
    plan = FetchConfig(databases=[database], release=release, output="data").plan()
    base = "https://ftp.ebi.ac.uk/pub/databases/"
    assert [file.url for file, _ in plan] == [base + url for url in urls]
    assert {str(target.parent) for _, target in plan} == {f"data/{folder}"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"databases": []}, "name a database (rnacentral, rfam)"),
        ({"databases": ["pfam"]}, "unknown database 'pfam'; there are rnacentral, rfam"),
        ({"files": ["active"]}, "unknown file 'active'; rfam has seed, clans"),
        ({"databases": ["rfam", "rnacentral"], "files": ["seed"]}, "names none of rnacentral"),
        ({"databases": ["rfam", "rnacentral"], "release": "15.0"}, "one by one"),
        ({"release": "15"}, "must be written as 26.0, not '15'"),
        ({"release": "../15.0"}, "must be written as 26.0"),
        ({"base_url": "ftp://ftp.ebi.ac.uk"}, "must be http"),
        ({"base_url": "http://"}, "must be http"),
        ({"base_url": "http://[::1"}, "must be http"),
        ({"base_url": "https://me:secret@example.org/"}, "without a password"),
        ({"retries": -1}, "at least 0"),
    ],
)
def test_configurations_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        FetchConfig(**{"databases": ["rfam"], **options})


def test_an_output_that_is_a_file(site, get, tmp_path):
    (tmp_path / "rfam-current").write_text("")
    with pytest.raises(OutputError, match="is a file, not a directory"):
        get()
