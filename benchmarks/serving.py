"""What the service answers in a second, and how long it takes: `wrk` asks `riboray serve`.

    python -m benchmarks.serving [--checkpoint rnabert] [--seconds 20]

Needs `wrk`. First the bare model embeds the same sequences in one process on one core; then a
service of one replica is asked for 64 sequences a request, and for one at a time by 1, 32 and 256
clients; then by ten times as many as fit its queue; then one of two replicas is killed. Sequences
are random, of 70 to 440 nt (mean about 160).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil

from riboray.embedding.embedder import Embedder, Wanted
from riboray.model.checkpoint import load_checkpoint

#: Each thread of wrk sends the bodies of the file one after the other.
_SCRIPT = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local turn = 0
request = function()
  turn = turn %% #bodies + 1
  return wrk.format("POST", "/v1/embed", {["content-type"] = "application/json"}, bodies[turn])
end
local count = {}
local threads = {}
setup = function(thread) table.insert(threads, thread) end
init = function() statuses = "" ; seen = {} end
response = function(status) seen[status] = (seen[status] or 0) + 1
  local parts = {}
  for code, number in pairs(seen) do parts[#parts + 1] = code .. "=" .. number end
  statuses = table.concat(parts, " ")
end
done = function(summary, latency)
  for _, thread in ipairs(threads) do print("statuses " .. thread:get("statuses")) end
  for _, p in ipairs({50, 99}) do
    print(string.format("p%%d %%.1f", p, latency:percentile(p) / 1000))
  end
end
"""


def make_sequences(count: int) -> list[str]:
    """Draw random RNAs as long as those of the other benchmarks."""
    generator = np.random.default_rng(20221129)
    lengths = np.clip(generator.lognormal(4.95, 0.5, count), 70, 440).astype(int)
    return ["".join(generator.choice(list("ACGU"), size)) for size in lengths]


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def bare(checkpoint: str, sequences: list[str]) -> float:
    """Sequences a second of the model in this process, on one core."""
    embedder = Embedder(load_checkpoint(checkpoint).model)
    wanted = Wanted((embedder.config.num_hidden_layers,))
    embedder.embed(sequences[:200], wanted)
    start = time.perf_counter()
    embedder.embed(sequences, wanted)
    return len(sequences) / (time.perf_counter() - start)


class Asked:
    """A service that `wrk` asks."""

    def __init__(self, checkpoint: str, folder: Path, options: list[str]) -> None:
        (self.port,) = free_ports(1)
        command = [sys.executable, "-m", "riboray.cli", "serve", "--checkpoint", checkpoint]
        command += ["--port", str(self.port), *options]
        self.folder, self.log = folder, (folder / "log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=self.log, env=environment)
        self.address = f"http://127.0.0.1:{self.port}"
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit((folder / "log").read_text()) from None
                time.sleep(0.5)

    def ask(self, bodies: list[str], clients: int, seconds: int) -> dict[str, float]:
        """Send bodies by so many clients; return requests a second, latencies and statuses."""
        (self.folder / "bodies").write_text("\n".join(bodies))
        (self.folder / "ask.lua").write_text(_SCRIPT % (self.folder / "bodies"))
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "120s"]
        done = subprocess.run(
            [*command, "-s", str(self.folder / "ask.lua"), self.address],
            capture_output=True,
            text=True,
            check=True,
        )
        found = {"requests/s": float(re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)[0])}
        found |= {
            f"p{p} ms": float(ms) for p, ms in re.findall(r"^p(\d+) ([\d.]+)", done.stdout, re.M)
        }
        for code, number in re.findall(r"(\d+)=(\d+)", done.stdout):
            found[code] = found.get(code, 0) + int(number)
        found["GB"] = (
            max(
                p.memory_info().rss
                for p in psutil.Process(self.process.pid).children(recursive=True)
            )
            / 1e9
        )
        return found

    def kill_replica(self) -> None:
        """End one of its replicas with -9."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if "ServeReplica:riboray" in " ".join(process.cmdline()):
                process.kill()
                return
        raise SystemExit("no replica was found")

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", default="rnabert")
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed")
    import torch

    torch.set_num_threads(1)
    sequences = make_sequences(4096)
    rate = bare(given.checkpoint, sequences)
    print(f"bare model: {rate:.0f} sequences/s", flush=True)
    many = [json.dumps({"sequences": sequences[k : k + 64]}) for k in range(0, 4096, 64)]
    packed = [
        json.dumps({"sequences": sequences[k : k + 64], "encoding": "base64"})
        for k in range(0, 4096, 64)
    ]
    one = [json.dumps({"sequences": [text]}) for text in sequences[:512]]
    with tempfile.TemporaryDirectory() as folder:
        service = Asked(given.checkpoint, Path(folder), [])
        try:
            for name, bodies, clients, each in (
                ("64 a request, numbers", many, 4, 64),
                ("64 a request, base64", packed, 4, 64),
                *((f"one a request, {n} clients", one, n, 1) for n in (1, 32, 256)),
            ):
                found = service.ask(bodies, clients, given.seconds)
                speed = found["requests/s"] * each
                print(f"{name}: {speed:.0f} sequences/s ({speed / rate:.0%}), {found}", flush=True)
        finally:
            service.close()
        service = Asked(given.checkpoint, Path(folder), ["--capacity", "20000"])
        try:
            print(f"overload: {service.ask(many, 64, given.seconds)}")
        finally:
            service.close()
    with tempfile.TemporaryDirectory() as folder:
        service = Asked(given.checkpoint, Path(folder), ["--num-replicas", "2"])
        few = [json.dumps({"sequences": sequences[k : k + 8]}) for k in range(0, 512, 8)]
        try:
            threading.Timer(given.seconds / 4, service.kill_replica).start()
            print(f"one of two replicas killed: {service.ask(few, 8, given.seconds)}")
            print(f"afterwards: {service.ask(few, 8, given.seconds)}")
        finally:
            service.close()
    print(f"bare model again: {bare(given.checkpoint, sequences):.0f} sequences/s")


if __name__ == "__main__":
    main()
