"""A server on this machine that speaks the part of the Hugging Face Hub's interface that huggingface_hub uses."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_a_test"


@dataclass
class Repository:
    """Files by revision."""

    private: bool = False
    gated: bool = False
    revisions: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})


@dataclass
class ModelHub:
    """What the server holds."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256."""
    requests: list[str] = field(default_factory=list)

    def variables(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Environment variables by which a process uses this server, with a cache of its own."""
        plain = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return {**plain, "HF_TOKEN": token} if token else {**plain, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Serve an empty hub."""
    hub = ModelHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ModelHub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer with a file's headers."""
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        """Answer with a file: /USER/NAME/resolve/REVISION/FILE."""
        self.hub.requests.append(f"{self.command} {self.path}")
        user, name, _, revision, file = unquote(self.path).lstrip("/").split("/", 4)
        repository = self.hub.repositories.get(f"{user}/{name}")
        if repository is None or (repository.private and not self._authorized()):
            return self._refuse(401, "RepoNotFound")
        if repository.gated:
            return self._refuse(403, "GatedRepo")
        if (files := repository.revisions.get(revision)) is None:
            return self._refuse(404, "RevisionNotFound")
        if file not in files:
            return self._refuse(404, "EntryNotFound")
        return self._answer(
            200, files[file], body, {"X-Repo-Commit": _sha("commit" + revision), "ETag": _sha(files[file])}
        )

    def do_POST(self) -> None:
        """Create a repository, say how files are sent, take a commit."""
        self.hub.requests.append(f"{self.command} {self.path}")
        data = (
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.headers["Content-Length"]
            else self._chunks()
        )
        if not self._authorized():
            return self._refuse(401, "")
        path = unquote(self.path).split("?")[0]
        if path == "/api/repos/create":
            wanted = json.loads(data)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.hub.repositories:
                return self._json(
                    {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409
                )
            self.hub.repositories[name] = Repository(private=wanted.get("visibility") == "private")
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(data)["files"]
            ]
            return self._json({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            return self._json({"transfer": "basic", "objects": [self._upload(o) for o in json.loads(data)["objects"]]})
        user, name, _, revision = path.removeprefix("/api/models/").split("/", 3)
        files = self.hub.repositories[f"{user}/{name}"].revisions.setdefault(revision, {})
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        return self._json(
            {"commitUrl": f"{self.hub.url}/{user}/{name}/commit/1", "commitOid": _sha("commit"), "success": True}
        )

    def do_PUT(self) -> None:
        """Take a large file."""
        data = (
            self.rfile.read(int(self.headers["Content-Length"])) if self.headers["Content-Length"] else self._chunks()
        )
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self._answer(200, b"")

    def _chunks(self) -> bytes:
        """Read a body whose length is not said before."""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}}

    def _authorized(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"", headers={"X-Error-Code": code, "X-Error-Message": f"refused: {code}"})

    def _json(self, document: dict[str, Any], status: int = 200) -> None:
        self._answer(status, json.dumps(document).encode(), headers={"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, body: bool = True, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def _sha(data: bytes | str) -> str:
    return hashlib.sha1(data.encode() if isinstance(data, str) else data).hexdigest()
