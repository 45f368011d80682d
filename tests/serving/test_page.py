"""The page, clicked and typed into in a real browser, against the service on a real port."""

import csv
import socket
import threading
import time

import pyarrow as pa
import pytest
import uvicorn
from playwright.sync_api import expect

from riboray.serving.http import build_api
from riboray.serving.keys import KEYS_VARIABLE, KeyRing, new_key
from riboray.serving.service import Service

pytestmark = pytest.mark.slow


def served(api):
    """Serve an application on loopback, in a thread; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def address():
    yield from served(build_api(Service("rnabert")))


@pytest.fixture
def page(chromium, address):
    """The page, 1,000 pixels wide; no error may be in its console."""
    opened = chromium.new_page(viewport={"width": 1000, "height": 900})
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(address)
    expect(opened.locator("#about")).to_contain_text("511,596 parameters")
    yield opened
    assert said == []
    opened.close()


def saved(page, name):
    with page.expect_download() as download:
        page.get_by_label(f"Download {name}").click()
    assert download.value.suggested_filename == name
    return download.value.path()


def test_two_rnas_are_aligned(page):
    page.get_by_role("button", name="Example").click()
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#answer h2")).to_have_text("tRNA-Phe with tRNA-Asp")
    expect(page.locator("#answer canvas")).to_be_visible()
    rows = page.locator("#answer pre").inner_text().splitlines()
    assert rows[0].startswith("tRNA-Phe")
    path = saved(page, "alignment.fa").read_text().split()
    assert [row.replace("-", "")[:8] for row in path[1::2]] == ["GCGGAUUU", "UCCGUGAU"]
    assert len(path[1]) == len(path[3])
    table = list(csv.DictReader(saved(page, "alignment.csv").open()))
    assert "".join(row["query"] for row in table) == path[1]
    assert all((row["score"] == "") == ("-" in (row["query"], row["target"])) for row in table)
    assert saved(page, "alignment.sto").read_text().startswith("# STOCKHOLM 1.0\n")


def test_hidden_nucleotides_are_drawn(page):
    page.locator("#rnas").fill(">x\nGGGAAACCC")
    page.get_by_role("tab", name="Fill in").click()
    page.locator("#places").fill("2-4, 9")
    page.locator("#places").press("Enter")
    expect(page.locator("#answer")).to_contain_text("of 4 positions")
    assert page.locator("#answer svg text.letter").count() >= 4
    rows = list(csv.DictReader(saved(page, "hidden.csv").open()))
    assert [(row["position"], row["nucleotide"]) for row in rows] == [
        ("2", "G"), ("3", "G"), ("4", "A"), ("9", "C")
    ]  # fmt: skip
    assert all(0.9 < sum(float(row[n]) for n in "ACGU") <= 1.001 for row in rows)


def test_rnas_on_the_map_and_a_bad_one(page):
    page.locator("#rnas").fill(">good\nGGGAAACCC\n><img src=x onerror=alert(1)>\nZZZ")
    page.get_by_role("tab", name="Map").click()
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#answer circle").first).to_be_visible(timeout=60_000)
    assert page.locator("#answer path").count() == 1
    assert "<img: 'Z' at position 1 is no nucleotide" in page.locator("#answer li").inner_text()
    assert page.locator("#answer img").count() == 0


def test_embeddings_are_saved(page):
    page.locator("#rnas").fill("ACGU\nACGU")  # no header: one RNA
    page.get_by_role("tab", name="Embeddings").click()
    page.locator("#pooling").select_option("none")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#answer h2")).to_have_text("8 embeddings of 120 numbers")
    rows = list(csv.reader(saved(page, "embeddings.csv").open()))
    assert (len(rows), len(rows[0])) == (9, 122)
    table = pa.ipc.open_stream(saved(page, "embeddings.arrow").read_bytes()).read_all()
    assert float(rows[1][2]) == pytest.approx(table["embedding"][0].as_py()[0][0], abs=1e-5)


def test_what_is_wrong_is_said(page):
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("alert")).to_contain_text("There is no RNA yet")
    page.locator("#rnas").fill(">a\nACGU")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("alert")).to_contain_text("Two RNAs are needed")
    page.get_by_role("tab", name="Fill in").click()
    page.locator("#places").fill("7")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("alert")).to_contain_text("Positions go from 1 to 4")


def test_gap_penalties_are_checked(page):
    page.get_by_role("button", name="Example").click()
    page.locator("#gap-open").fill("")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("alert")).to_have_text("Gap opens: a number from 0 to 100.")
    page.locator("#gap-open").fill("1.05")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#answer h2")).to_be_visible()


def test_a_file_is_dropped_and_opened(page, tmp_path):
    page.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File([">dropped\\nACGU\\n"], "x.fa"));
      document.querySelector("#rnas").dispatchEvent(
        new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    }""")
    expect(page.locator("#rnas")).to_have_value(">dropped\nACGU\n")
    (tmp_path / "y.fa").write_text(">opened\nGGG\n")
    page.locator("#file").set_input_files(tmp_path / "y.fa")
    expect(page.locator("#rnas")).to_have_value(">opened\nGGG\n")


def test_by_keyboard_alone(page):
    page.locator("#example").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    page.locator("#tab-align").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-fill")).to_be_focused()
    expect(page.locator("#panel-fill")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#tab-embed")).to_have_attribute("aria-selected", "true")
    unnamed = page.evaluate("""() =>
      [...document.querySelectorAll("input, select, textarea, button")]
        .filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel))
        .map((e) => e.id)""")
    assert unnamed == []


@pytest.mark.parametrize("tab", ["align", "fill", "map", "embed"])
def test_on_a_phone(page, tab):
    page.set_viewport_size({"width": 360, "height": 640})
    page.get_by_role("button", name="Example").click()
    page.locator(f"#tab-{tab}").click()
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#answer h2")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_key_is_asked_for(chromium):
    key, entry = new_key("me")
    ring = KeyRing.read(None, {KEYS_VARIABLE: entry})
    server = served(build_api(Service("rnabert"), ring))
    opened = chromium.new_page()
    opened.goto(next(server))
    expect(opened.get_by_label("API key")).to_be_visible()
    expect(opened.get_by_role("alert")).to_contain_text("send a key")
    opened.get_by_label("API key").fill(key)
    opened.get_by_label("API key").press("Tab")
    expect(opened.locator("#about")).to_contain_text("rnabert")
    opened.close()
    next(server, None)
