"""A Hugging Face Hub on this machine: what huggingface_hub calls to upload and to download.

Repositories live in memory, every file in the commit itself (no LFS, no Xet). Anybody reads a
repository that is not `private`; `TOKEN` reads and writes all but those in `refused`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
Files = dict[str, bytes]


@dataclass
class Hub:
    """The state of the server; tests read and change it."""

    endpoint: str = ""
    commits: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    """By repository (`datasets/USER/NAME` too), oldest first: commit and all its files."""
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    """`GET /api/models/user/name`, in order."""
    tokens: set[str] = field(default_factory=set)
    """Every token that was sent."""

    def commit(self, repository: str, files: Files) -> str:
        """Add files to a repository, which may be new; the commit."""
        history = self.commits.setdefault(repository, [])
        whole = (history[-1][1] if history else {}) | files
        text = json.dumps([len(history), repository, sorted(whole)])
        history.append((hashlib.sha1(text.encode()).hexdigest(), whole))
        return history[-1][0]

    def files(self, repository: str, revision: str = "main") -> tuple[str, Files] | None:
        """The commit that a revision names, and its files."""
        history = self.commits[repository]
        return {"main": history[-1], **{each[0]: each for each in history}}.get(revision)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers on 127.0.0.1 until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.state.requests.append(f"{self.command} {path}")
        self.state.tokens |= {self.token} - {""}
        for pattern, method in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/main", self._preupload),
            (r"/api/(models|datasets)/([^/]+/[^/]+)/commit/main", self._commit),
            (r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"(/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                method(body, *found.groups())
                return
        self._send(501, {"error": f"the stub does not know {path}"})

    do_HEAD = do_POST = do_GET

    def _send(self, status: int, content: object = None, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, kind: str | None, name: str, writes: bool = False) -> str | None:
        """Its key; None, after an answer, if it is not there or not for this token."""
        key = f"datasets/{name}" if "datasets" in (kind or "") else name
        trusted = self.token == TOKEN
        if key not in self.state.commits or (key in self.state.private and not trusted):
            self._send(404 if trusted else 401, {}, X_Error_Code="RepoNotFound")
        elif key in self.state.gated:
            self._send(403, {}, X_Error_Code="GatedRepo")
        elif writes and (not trusted or key in self.state.refused):
            self._send(403, {"error": "you may not write here"})
        else:
            return key
        return None

    def _create(self, body: bytes) -> None:
        wanted = json.loads(body)
        key = f"{wanted['organization']}/{wanted['name']}"
        if self.token != TOKEN or key in self.state.refused:
            self._send(403, {"error": "you may not write here"})
        elif key in self.state.commits:
            self._send(409, {"url": f"{self.state.endpoint}/{key}"})
        else:
            self.state.commit(key, {})
            self.state.private |= {key} if wanted.get("visibility") == "private" else set()
            self._send(200, {"url": f"{self.state.endpoint}/{key}"})

    def _validate(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, body: bytes, kind: str, name: str) -> None:
        if self._repository(kind, name, writes=True):
            paths = [file["path"] for file in json.loads(body)["files"]]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self._send(200, {"files": [{"path": path, **plain} for path in paths]})

    def _commit(self, body: bytes, kind: str, name: str) -> None:
        if key := self._repository(kind, name, writes=True):
            lines = [json.loads(line) for line in body.splitlines()]
            added = [line["value"] for line in lines if line["key"] == "file"]
            files = {file["path"]: base64.b64decode(file["content"]) for file in added}
            commit = self.state.commit(key, files)
            url = f"{self.state.endpoint}/{key}/commit/{commit}"
            self._send(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _tree(self, body: bytes, kind: str, name: str, revision: str) -> None:
        if found := self._files(kind, name, revision):
            listed = [
                {"type": "file", "path": path, "size": len(data), "oid": _digest(data)}
                for path, data in found[1].items()
            ]
            self._send(200, listed)

    def _info(self, body: bytes, kind: str, name: str, revision: str | None) -> None:
        if found := self._files(kind, name, revision or "main"):
            siblings = [{"rfilename": path} for path in found[1]]
            self._send(200, {"id": name, "sha": found[0], "siblings": siblings})

    def _resolve(self, body: bytes, kind: str | None, name: str, revision: str, path: str) -> None:
        if found := self._files(kind, name, revision):
            commit, files = found
            headers = {"X_Repo_Commit": commit}
            if path in files:
                self._send(200, files[path], ETag=f'"{_digest(files[path])}"', **headers)
            else:
                self._send(404, {}, X_Error_Code="EntryNotFound", **headers)

    def _files(self, kind: str | None, name: str, revision: str) -> tuple[str, Files] | None:
        """The commit of a revision and its files; None, after an answer, where there is none."""
        if (key := self._repository(kind, name)) is None:
            return None
        if (found := self.state.files(key, revision)) is None:
            self._send(404, {}, X_Error_Code="RevisionNotFound")
        return found


def _digest(data: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
