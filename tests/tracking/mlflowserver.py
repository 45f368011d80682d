"""An HTTP server that answers as MLflow's does, on loopback, and can be slow, refuse or hang."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

EXPERIMENT = {"experiment_id": "7", "name": "riboray", "lifecycle_stage": "active"}


class MlflowServer:
    """The few requests that a run makes, answered from memory.

    ``behaviour`` decides what happens to what a run logs: ``fast``, ``refuse`` (503), ``hang`` or
    a number of seconds to take.
    """

    def __init__(self):
        self.behaviour = "fast"
        self.batches = []
        self.run = None
        self.deleted = False
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        """Stop listening; let requests that hang go."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def metrics(self, name):
        """Steps and values of a metric, as they came."""
        sent = (m for batch in self.batches for m in batch.get("metrics", ()))
        return [(int(m.get("step", 0)), m["value"]) for m in sent if m["key"] == name]

    def answer(self, path, body):
        """Return status and answer of a request."""
        if path == "experiments/get-by-name":
            return 200, {"experiment": EXPERIMENT}
        if path == "runs/create":
            info = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "7", "status": "RUNNING"}
            info |= {"lifecycle_stage": "active", "start_time": body["start_time"]}
            self.run = {"info": info, "data": {"tags": body["tags"]}}
            return 200, {"run": self.run}
        if path == "runs/get":
            if self.deleted:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
            return 200, {"run": self.run}
        if path == "runs/update":
            self.run["info"] |= {"status": body["status"]} if "status" in body else {}
            return 200, {"run_info": self.run["info"]}
        if path == "runs/log-batch":
            return self._log(body)
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}

    def _log(self, body):
        if self.behaviour == "refuse":
            return 503, {"message": "busy"}
        if sum(len(body.get(part, ())) for part in ("metrics", "tags", "params")) > 1000:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "1,000 at most"}
        if self.behaviour == "hang":
            self.closing.wait(60)
        if isinstance(self.behaviour, float):
            time.sleep(self.behaviour)
        self.batches.append(body)
        kept = {tag["key"]: tag for tag in self.run["data"]["tags"]}
        kept |= {tag["key"]: tag for tag in body.get("tags", ())}
        self.run["data"]["tags"] = list(kept.values())
        self.run["data"].setdefault("params", []).extend(body.get("params", ()))
        return 200, {}

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                self._reply({k: v[0] for k, v in parse_qs(parts.query).items()})

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                self._reply(json.loads(self.rfile.read(length) or b"{}"))

            def _reply(self, body):
                path = urlsplit(self.path).path.split("/mlflow/")[-1]
                status, answer = server.answer(path, body)
                data = json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # who asked has given up

            def log_message(self, *arguments):
                pass

        return Handler
