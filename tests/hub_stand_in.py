"""A small stand-in for the Hugging Face Hub on loopback: it keeps in memory what clients send and serves it back.

It speaks the calls that `huggingface_hub` makes for create_repo, branches, upload_folder (preupload, LFS batch and
upload, commit) and for downloads (model info, tree, resolve). There is no Xet, no authentication and no git: a branch
is a dict of path → bytes and a commit replaces entries of it.

    with HubStandIn() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(cache_dir)})
        hub.files("someone/model")["config.json"]
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def _sha(data: bytes | str) -> str:
    return hashlib.sha1(data if isinstance(data, bytes) else data.encode()).hexdigest()


class Repository:
    """One model repository: branches of files, and the head commit of each branch."""

    def __init__(self, repo_id: str, private: bool) -> None:
        self.repo_id = repo_id
        self.private = private
        self.branches: dict[str, dict[str, bytes]] = {"main": {}}
        self.heads: dict[str, str] = {"main": _sha(repo_id)}
        self.commits: list[dict[str, Any]] = []

    def branch_of(self, revision: str) -> str | None:
        """The branch that a branch name or the head's commit id stands for; None where there is none."""
        if revision in self.branches:
            return revision
        return next((name for name, head in self.heads.items() if head == revision), None)


class HubStandIn:
    """The server and what it stores. A context manager; `requests` lists each call as (method, path)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(timeout=5)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a child process that sends it here, with caches of its own under `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch holds: path → content."""
        return self.repositories[repo_id].branches[branch]


class _Handler(BaseHTTPRequestHandler):
    """One request; `hub` is set on the subclass that `HubStandIn` makes."""

    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep pytest's output clean."""

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_HEAD(self) -> None:
        self._dispatch("HEAD")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_PUT(self) -> None:
        self._dispatch("PUT")

    def _dispatch(self, method: str) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.hub.lock:
            self.hub.requests.append((method, url.path))
            if token := self.headers.get("Authorization"):
                self.hub.tokens.add(token.removeprefix("Bearer "))
            for verbs, pattern, action in _ROUTES:
                if method in verbs and (match := re.fullmatch(pattern, url.path)):
                    action(self, **{key: unquote(value or "") for key, value in match.groupdict().items()})
                    return
            self._error(404, "EntryNotFound", f"the stand-in has no {method} {url.path}")

    # -- answers

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        data = json.dumps({"error": message}).encode()
        self._send(status, data, {"X-Error-Code": code, "X-Error-Message": message})

    def _repository(self, repo: str) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None:
            self._error(404, "RepoNotFound", f"no repository {repo}")
        return found

    def _branch(self, repo: str, revision: str) -> tuple[Repository, str] | None:
        repository = self._repository(repo)
        if repository is None:
            return None
        branch = repository.branch_of(revision or "main")
        if branch is None:
            self._error(404, "RevisionNotFound", f"no revision {revision} in {repo}")
            return None
        return repository, branch

    # -- repositories

    def create(self) -> None:
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        reply = {"url": f"{self.hub.endpoint}/{repo_id}", "id": repo_id, "name": repo_id}
        if repo_id in self.hub.repositories:
            self._json({"error": "You already created this model repo", **reply}, 409)
            return
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[repo_id] = Repository(repo_id, private)
        self._json(reply)

    def whoami(self) -> None:
        self._json({"type": "user", "name": "someone", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def validate_yaml(self) -> None:
        card = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        errors = [] if match else [{"message": "the card has no YAML front matter"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create_branch(self, repo: str, revision: str) -> None:
        repository = self._repository(repo)
        if repository is None:
            return
        if revision in repository.branches:
            self._error(409, "BranchExists", f"branch {revision} exists")
            return
        repository.branches[revision] = dict(repository.branches["main"])
        repository.heads[revision] = repository.heads["main"]
        self._json({})

    def info(self, repo: str, revision: str = "") -> None:
        if found := self._branch(repo, revision):
            repository, branch = found
            self._json(
                {
                    "_id": _sha(repo)[:24],
                    "id": repo,
                    "modelId": repo,
                    "sha": repository.heads[branch],
                    "private": repository.private,
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in sorted(repository.branches[branch])],
                }
            )

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        if found := self._branch(repo, revision):
            repository, branch = found
            prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
            files = {p: d for p, d in repository.branches[branch].items() if p.startswith(prefix)}
            if self.query.get("recursive", "").lower() not in ("true", "1"):
                files = {p: d for p, d in files.items() if "/" not in p[len(prefix) :]}
            if prefix and not files:
                self._error(404, "EntryNotFound", f"no folder {folder} in {repo}")
                return
            self._json([self._entry(path, data) for path, data in sorted(files.items())])

    def paths_info(self, repo: str, revision: str) -> None:
        if found := self._branch(repo, revision):
            repository, branch = found
            wanted = json.loads(self.body)["paths"]
            files = repository.branches[branch]
            self._json([self._entry(path, files[path]) for path in wanted if path in files])

    @staticmethod
    def _entry(path: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(data), "oid": _sha(data)}

    # -- uploads

    def preupload(self, repo: str, revision: str) -> None:
        if self._branch(repo, revision):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".bin")) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._json({"files": files})

    def lfs_batch(self, repo: str) -> None:
        objects = []
        for item in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"}
            known = item["oid"] in self.hub.lfs_objects
            objects.append({**item, **({} if known else {"actions": {"upload": upload}})})
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._error(400, "BadOid", "the content does not hash to its oid")
            return
        self.hub.lfs_objects[oid] = self.body
        self._send(200, b"")

    def commit(self, repo: str, revision: str) -> None:
        found = self._branch(repo, revision)
        if found is None:
            return
        repository, branch = found
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        target = branch
        if self.query.get("create_pr"):
            target = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repository.branches) + 1}"
            repository.branches[target] = dict(repository.branches[branch])
        files = repository.branches[target]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append({"branch": target, **value})
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs_objects[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = _sha(self.body + str(len(repository.commits)).encode())
        repository.heads[target] = oid
        url = f"{self.hub.endpoint}/{repo}"
        reply = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        if target != branch:
            reply["pullRequestUrl"] = f"{url}/discussions/{target.rsplit('/', 1)[1]}"
        self._json(reply)

    # -- downloads

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if found := self._branch(repo, revision):
            repository, branch = found
            data = repository.branches[branch].get(path)
            headers = {"X-Repo-Commit": repository.heads[branch]}
            if data is None:
                self.send_response(404)
                for key, value in {**headers, "X-Error-Code": "EntryNotFound", "Content-Length": "0"}.items():
                    self.send_header(key, value)
                self.end_headers()
                return
            self._send(200, data, {**headers, "ETag": f'"{_sha(data)}"', "Accept-Ranges": "none"})


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES = [
    (("POST",), r"/api/repos/create", _Handler.create),
    (("GET",), r"/api/whoami-v2", _Handler.whoami),
    (("POST",), r"/api/validate-yaml", _Handler.validate_yaml),
    (("POST",), rf"/api/models/{_REPO}/branch/{_REVISION}", _Handler.create_branch),
    (("POST",), rf"/api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    (("POST",), rf"/api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    (("POST",), rf"/api/models/{_REPO}/paths-info/{_REVISION}", _Handler.paths_info),
    (("GET",), rf"/api/models/{_REPO}/tree/{_REVISION}(?P<folder>/.*)?", _Handler.tree),
    (("GET",), rf"/api/models/{_REPO}/revision/{_REVISION}", _Handler.info),
    (("GET",), rf"/api/models/{_REPO}", _Handler.info),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
]
