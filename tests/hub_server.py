"""A Hugging Face Hub of this machine for tests: repositories in memory, served to the real client libraries by HTTP.

It speaks what they ask for: repository and tree API, `resolve` with ranges and with redirects to where large files lie,
pre-upload, Git LFS batch and PUT, commits, branches and tags. It can cut connections, be out of order and refuse
tokens. `settings` points a process at it; `point_client_at` the client that is already imported.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

LARGE = (".bin", ".parquet", ".safetensors", "tokenizer.json")
"""What is kept by its SHA-256 (Git LFS) and served from elsewhere, as the Hub does for these and large texts."""
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "gpl-3.0", "unknown", "other")
"""Of the licenses that the Hub knows."""
PAGE = 100
"""Entries of one answer of the tree API."""


@dataclass
class Repository:
    """The files of every commit, and which commit a branch or a tag is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Change files (None removes one) on a branch, and give the new commit."""
        changed = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        kept = {path: content for path, content in sorted(changed.items()) if content is not None}
        identity = repr((len(self.commits), [(path, hashlib.sha1(kept[path]).hexdigest()) for path in kept]))
        commit = hashlib.sha1(identity.encode()).hexdigest()
        self.commits[commit] = kept
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit's name stands for."""
        return revision if revision in self.commits else self.branches.get(revision) or self.tags.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the branch main."""
        return self.commits[self.branches["main"]]


@dataclass
class Cut:
    """A connection that breaks: of a request by `method` whose path contains `path`, after `after` bytes of content."""

    method: str
    path: str
    after: int
    times: int = 1


@dataclass
class Hold:
    """The next upload whose path contains `path` comes to a halt after `after` bytes, and is lost when it is let go."""

    path: str
    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def halt(self) -> None:
        self.reached.set()
        self.released.wait()


@dataclass
class Outage:
    """After `after` more requests whose path contains `path`, every request fails, until `Hub.recover` is called.

    With `status`, or because nobody listens there any more.
    """

    path: str
    after: int
    status: int | None = None


@dataclass
class Hub:
    """A running endpoint, and everything it holds."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    """By kind and name, as `datasets/someone/texts` or `models/someone/gpt2`."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256."""
    writers: set[str] = field(default_factory=lambda: {"writer"})
    """The tokens that may see what is private, and write. Others may neither."""
    cuts: list[Cut] = field(default_factory=list)
    hold: Hold | None = None
    outage: Outage | None = None
    ranges: bool = True
    """Whether it takes notice of ranges."""
    asked: list[str] = field(default_factory=list)
    """Every request as `METHOD /path`, with ` bytes=...` for a range."""

    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None
    _kept: socket.socket | None = None

    def start(self) -> None:
        """Listen on a free port of the loopback address, or where it listened before."""
        port = urlsplit(self.url).port or 0
        if self._kept:
            self._kept.close()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Answers", (_Answers,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None  # two requests may end it at the same time
        if server and self._thread:
            server.shutdown()
            self._thread.join()
            server.server_close()
            self._kept = socket.socket()  # or a server of another test might be given this port
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._kept.bind(server.server_address)

    def end(self) -> None:
        """Listen no more, and give the port away."""
        self.stop()
        if self._kept:
            self._kept.close()

    def recover(self) -> None:
        """End an outage."""
        self.outage = None
        if self._server is None:
            self.start()

    def dataset(
        self, name: str, files: Mapping[str, bytes | str], private: bool = False, kind: str = "datasets"
    ) -> Repository:
        """Add a repository, of a dataset or of `kind`, with one commit of `files`."""
        repository = self.repositories[f"{kind}/{name}"] = Repository(private=private)
        repository.commit({path: text.encode() if isinstance(text, str) else text for path, text in files.items()})
        return repository

    def answered(self, method: str, path: str) -> list[str]:
        """The requests by `method` whose path contains `path`."""
        return [line for line in self.asked if line.startswith(method) and path in line]

    def settings(self, home: Path) -> dict[str, str]:
        """The environment of a process that is to take this for the Hub, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",  # a storage protocol of its own, beside HTTP; the client falls back to this
            "HF_TOKEN": "",
        }


@contextlib.contextmanager
def serve() -> Generator[Hub]:
    """A Hub on a free port of the loopback address."""
    hub = Hub()
    hub.start()
    try:
        yield hub
    finally:
        hub.end()


def point_client_at(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> None:
    """Make the imported huggingface_hub take `hub` for the Hub, with `token`, and lose no time between its retries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", token or "")


class _Over(Exception):  # noqa: N818  it need not be an error
    """The connection ends here."""


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        reach = self.headers.get("Range")
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.hub.asked.append(f"{self.command} {unquote(parts.path)}" + (f" {reach}" if reach else ""))
        self.cut = self._next_cut(unquote(parts.path))
        with contextlib.suppress(_Over, BrokenPipeError, ConnectionResetError):
            self._fail_in_outage(unquote(parts.path))
            self.body = self._read_body()
            for method, pattern, answer in _ROUTES:
                if self.command in method and (found := re.fullmatch(pattern, parts.path)):
                    answer(self, *(unquote(part) for part in found.groups() if part is not None))
                    return
            self._send(404, b"no such route")

    def _fail_in_outage(self, path: str) -> None:
        outage = self.hub.outage
        if outage and outage.after and outage.path in path:
            outage.after -= 1
        elif outage and not outage.after:
            if outage.status is None:
                self.hub.stop()
            else:
                self._send(outage.status, b"out of order")
            raise _Over

    def _next_cut(self, path: str) -> Cut | None:
        cut = next(
            (cut for cut in self.hub.cuts if cut.method == self.command and cut.path in path and cut.times), None
        )
        if cut:
            cut.times -= 1
        return cut

    def _read_body(self) -> bytes:
        if self.command == "PUT" and self.hub.hold and self.hub.hold.path in self.path:
            self.rfile.read(self.hub.hold.after)
            self.hub.hold.halt()
            raise _Over
        if self.cut and self.command in ("PUT", "POST"):
            self.rfile.read(self.cut.after)
            raise _Over
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = list[bytes]()
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if not self.cut else content[: self.cut.after])

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _refuse(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, **more}
        self._json({"error": message}, status, **{name: value for name, value in headers.items() if value})
        raise _Over

    def _may_write(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.writers

    def _check_writer(self) -> None:
        if "Authorization" not in self.headers:
            self._refuse(401, message="Invalid username or password.")
        if not self._may_write():
            self._refuse(403, message="this token has only the right to read")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.hub.repositories.get(f"{kind.removesuffix('/') or 'models'}/{name}")
        if found is None or (found.private and not self._may_write()):
            self._refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
        if found and found.gated and not self._may_write():
            self._refuse(403, "GatedRepo")
        assert found
        return found

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        assert commit
        return commit

    def whoami(self) -> None:
        role = "write" if self._may_write() else "read"
        if role == "read" and self.headers.get("Authorization") != "Bearer reader":
            self._refuse(401, message="Invalid credentials in Authorization header")
        self._json(
            {
                "name": "me",
                "type": "user",
                "orgs": [{"name": "ours"}],
                "auth": {"accessToken": {"displayName": "mine", "role": role}},
            }
        )

    def create(self) -> None:
        self._check_writer()
        asked = json.loads(self.body)
        kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        if f"{kind}/{name}" in self.hub.repositories:
            return self._json({"error": f"You already created this {kind[:-1]} repo", "url": url}, 409)
        attributes = {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"}
        repository = self.hub.dataset(name, attributes, kind=kind)
        repository.private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        return self._json({"url": url})

    def refs(self, kind: str, name: str) -> None:
        repository = self._repository(kind, name)

        def told(where: str, places: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": c} for n, c in places.items()]

        branches, tags = told("heads", repository.branches), told("tags", repository.tags)
        self._json({"branches": branches, "tags": tags, "converts": []})

    def branch(self, kind: str, name: str, branch: str) -> None:
        self._check_writer()
        repository = self._repository(kind, name)
        if branch in repository.branches:
            return self._json({"error": "Reference already exists"}, 409)
        asked = json.loads(self.body or b"{}")
        repository.branches[branch] = self._commit(repository, asked.get("startingPoint", "main"))
        return self._json({})

    def tag(self, kind: str, name: str, revision: str) -> None:
        self._check_writer()
        repository = self._repository(kind, name)
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            return self._json({"error": "Tag reference exists already"}, 409)
        repository.tags[tag] = self._commit(repository, revision)
        return self._json({})

    def info(self, kind: str, name: str, _: str | None = None, revision: str | None = None) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision or "main")
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        self._json({"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        deep = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries = _entries(files, f"{folder}/" if folder else "", deep)
        if not entries and folder:
            self._refuse(404, "EntryNotFound")
        start = int(self.query.get("cursor", ["0"])[0])
        following = f"{self.hub.url}{urlsplit(self.path).path}?recursive={deep}&cursor={start + PAGE}"
        link = {"Link": f'<{following}>; rel="next"'} if start + PAGE < len(entries) else {}
        self._json(entries[start : start + PAGE], **link)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        wanted = parse_qs(self.body.decode())["paths"]
        self._json([entry for entry in _entries(files, "", True) if entry["path"] in wanted])

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision)
        content = repository.commits[commit].get(path)
        if content is None:
            return self._refuse(404, "EntryNotFound", X_Repo_Commit=commit)
        if path.endswith(LARGE):  # another host to the client, which is not to show it the token
            oid = hashlib.sha256(content).hexdigest()
            self.hub.objects[oid] = content
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost") + f"/objects/{oid}"
            linked = {"X_Linked_ETag": f'"{oid}"', "X_Linked_Size": str(len(content))}
            return self._send(302, Location=elsewhere, X_Repo_Commit=commit, **linked)
        return self._send_range(content, X_Repo_Commit=commit, ETag=f'"{_git_oid(content)}"')

    def _send_range(self, content: bytes, **headers: str) -> None:
        reach = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not reach or not self.hub.ranges:
            return self._send(200, content, **headers)
        start, stop = int(reach[1]), min(int(reach[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return self._send(416, Content_Range=f"bytes */{len(content)}")
        where = f"bytes {start}-{stop - 1}/{len(content)}"
        return self._send(206, content[start:stop], Content_Range=where, **headers)

    def get_object(self, oid: str) -> None:
        assert "Authorization" not in self.headers, "a token was shown to another host"
        self._send_range(self.hub.objects[oid])

    def put_object(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._send(200)

    def validate_yaml(self) -> None:
        header = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        errors = _errors_of(yaml.safe_load(header[1])) if header else []
        if self.headers.get("Accept") == "text/plain":
            return self._send(400 if errors else 200, "\n".join(f"- Error: {error}" for error in errors).encode())
        warnings = [] if header else [{"message": "empty or missing yaml metadata in repo card"}]
        told = {"warnings": warnings, "errors": [{"message": error} for error in errors]}
        return self._json(told, 400 if errors else 200)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._check_writer()
        repository = self._repository(kind, name)
        files = repository.commits[self._commit(repository, revision)]
        self._json({"files": [_upload_mode(file["path"], files) for file in json.loads(self.body)["files"]]})

    def batch(self, kind: str, name: str) -> None:
        self._check_writer()
        self._repository(kind, name)
        wanted = [{"oid": entry["oid"], "size": entry["size"]} for entry in json.loads(self.body)["objects"]]
        for entry in wanted:
            if entry["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{entry['oid']}"}}
        self._json({"transfer": "basic", "objects": wanted})

    def commit(self, kind: str, name: str, branch: str) -> None:
        self._check_writer()
        repository = self._repository(kind, name)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        parent = header["value"].get("parentCommit")
        if parent and parent != self._commit(repository, branch):
            return self._refuse(412, message="A commit has happened since. Please refresh and try again.")
        changes = dict[str, bytes | None]()
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "deletedFile":
                changes[value["path"]] = None
                continue
            large = operation["key"] == "lfsFile"
            changes[value["path"]] = self.hub.objects[value["oid"]] if large else base64.b64decode(value["content"])
        commit = repository.commit(changes, branch)
        return self._json({"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{commit}", "commitOid": commit})


def _errors_of(header: Mapping[str, Any]) -> list[str]:
    """What the Hub has against a card's header, in its words."""
    errors = list[str]()
    if header.get("license", LICENSES[0]) not in LICENSES:
        errors.append(f'"license" must be one of [{", ".join(LICENSES)}]')
    for at, code in enumerate(header.get("language", [])):
        if code != code.lower():
            errors.append(f'"language[{at}]" must only contain lowercase characters')
        elif not re.fullmatch("[a-z]{2,3}|code|multilingual", code):
            errors.append(
                f'"language[{at}]" with value "{code}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code '
                '(two/three letters), or a special value like "code", "multilingual".'
            )
    return errors


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git_oid(content)}
    return {**entry, "lfs": lfs} if path.endswith(LARGE) else entry


def _entries(files: Mapping[str, bytes], below: str, deep: bool) -> list[dict[str, Any]]:
    inside = {path: content for path, content in files.items() if path.startswith(below)}
    found = [_entry(path, content) for path, content in inside.items() if deep or "/" not in path[len(below) :]]
    folders = {path[:at] for path in inside for at in range(len(below), len(path)) if path[at] == "/"}
    shown = [folder for folder in folders if deep or "/" not in folder[len(below) :]]
    return found + [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(shown)]


def _upload_mode(path: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    entry = _entry(path, files[path]) if path in files else {}
    oid = entry.get("lfs", entry).get("oid")
    return {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False, "oid": oid}


_REPOSITORY = r"/api/(datasets|models)/([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", _Answers.create),
    ("POST", "/api/validate-yaml", _Answers.validate_yaml),
    ("GET", "/api/whoami-v2", _Answers.whoami),
    ("GET", _REPOSITORY + "/refs", _Answers.refs),
    ("POST", _REPOSITORY + r"/branch/([^/]+)", _Answers.branch),
    ("POST", _REPOSITORY + r"/tag/([^/]+)", _Answers.tag),
    ("GET", _REPOSITORY, _Answers.info),
    ("GET", _REPOSITORY + r"/(revision)/([^/]+)", _Answers.info),
    ("GET", _REPOSITORY + r"/tree/([^/]+)(?:/(.+))?", _Answers.tree),
    ("POST", _REPOSITORY + r"/paths-info/([^/]+)", _Answers.paths_info),
    ("POST", _REPOSITORY + r"/preupload/([^/]+)", _Answers.preupload),
    ("POST", _REPOSITORY + r"/commit/([^/]+)", _Answers.commit),
    ("POST", r"/((?:datasets/)?)([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Answers.batch),
    ("GET HEAD", r"/((?:datasets/)?)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Answers.resolve),
    ("GET", r"/objects/(\w+)", _Answers.get_object),
    ("PUT", r"/objects/(\w+)", _Answers.put_object),
]
