"""A mirror of the hub on this machine: as much of its HTTP interface as uploading and downloading a model takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_" + "secretsecret" * 3
SHA = "0123456789abcdef0123456789abcdef01234567"
REGULAR = (".json", ".md", ".yaml", ".jinja", ".gitattributes", ".txt")


@dataclass
class Hub:
    """What the mirror holds, and what it was asked.

    Attributes:
        url: where it listens.
        repositories: files by name, by repository; a repository that is there is public unless in `private`.
        private: the private ones.
        asked: (method, path) of each request.
        fail: refuses what matches with this status: {pattern: status}.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append((method, path))
        for pattern, status in self.hub.fail.items():
            if re.search(pattern, path):
                return self._send(status, {"error": f"refused for {self.headers.get('Authorization')}"})
        if path.startswith("/objects/"):
            self.hub.objects[path.rsplit("/", 1)[1]] = body
            return self._send(200, {})
        authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not authorized and (method in ("POST", "PUT") or path == "/api/whoami-v2"):
            return self._send(401, {"error": "Invalid credentials"})
        for pattern, answer in (
            (r"/api/whoami-v2", self._who),
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda body: self._send(200, {"errors": [], "warnings": []})),
            (r"/api/models/(?P<id>[^/]+/[^/]+)/preupload/main", self._preupload),
            (r"/api/models/(?P<id>[^/]+/[^/]+)/commit/main", self._commit),
            (r"/api/models/(?P<id>[^/]+/[^/]+)/tree/.+", self._tree),
            (r"/api/models/(?P<id>[^/]+/[^/]+)(/revision/.+)?", self._info),
            (r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/(?P<id>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)", self._file),
        ):
            if match := re.fullmatch(pattern, path):
                return answer(body, **match.groupdict())
        return self._send(404, {"error": f"no {path}"})

    def _send(self, status: int, told: Any, **headers: str) -> None:
        data = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _who(self, body: bytes) -> None:
        self._send(200, {"name": "me", "type": "user", "orgs": [{"name": "ours"}], "auth": {}})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name in self.hub.repositories:
            return self._send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        self.hub.repositories[name] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        return self._send(200, {"url": f"{self.hub.url}/{name}"})

    def _preupload(self, body: bytes, id: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "regular" if file["path"].endswith(REGULAR) else "lfs",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def _batch(self, body: bytes, id: str) -> None:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}},
            }
            for each in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes, id: str) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.hub.repositories[id][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.hub.repositories[id][value["path"]] = self.hub.objects[value["oid"]]
        self._send(200, {"commitUrl": f"{self.hub.url}/{id}/commit/{SHA}", "commitOid": SHA})

    def _info(self, body: bytes, id: str) -> None:
        if id not in self.hub.repositories:
            return self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        siblings = [{"rfilename": name} for name in self.hub.repositories[id]]
        return self._send(200, {"id": id, "sha": SHA, "private": id in self.hub.private, "siblings": siblings})

    def _tree(self, body: bytes, id: str) -> None:
        files = self.hub.repositories[id].items()
        self._send(200, [{"type": "file", "path": name, "size": len(data), "oid": SHA} for name, data in files])

    def _file(self, body: bytes, id: str, file: str) -> None:
        files = self.hub.repositories.get(id, {})
        if file not in files:
            return self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        digest = hashlib.sha256(files[file]).hexdigest()
        return self._send(200, files[file], ETag=f'"{digest}"', X_Repo_Commit=SHA)


@contextmanager
def mirror(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The mirror, with huggingface_hub told to use it, and a token; `cache` holds what is downloaded."""
    from huggingface_hub import constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
