"""Stand-ins on loopback for the engines that cannot run in tests: they refuse what the real ones' documents refuse.

`Lucene` speaks the calls of Elasticsearch or OpenSearch that the package makes (create index, mapping, _bulk, _refresh,
_count, _msearch), `Vespa` those of Vespa's deploy, document and query APIs. Both keep documents in memory and score
them as the real engine does. Sources, read in November 2026: elastic.co/docs (sparse_vector and rank_features fields,
sparse vector and rank feature queries, bulk and multi search APIs), docs.opensearch.org (neural sparse query, sparse
vector), docs.vespa.ai (document/v1, document JSON format, query API, tensor literal form, deploy API v2), and Lucene's
FeatureField for how weights are rounded.

    with Lucene("elasticsearch") as server:
        server.fail_next(429, 503)          # the next two requests
        connect("elasticsearch", "docs", url=server.url)
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import threading
import xml.etree.ElementTree as ET
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

_SMALLEST = float(np.finfo(np.float32).tiny)


class RefusedError(Exception):
    """What the engine would answer with an error."""

    def __init__(self, status: int, reason: str, kind: str = "illegal_argument_exception") -> None:
        super().__init__(reason)
        self.status, self.reason, self.kind = status, reason, kind


def need(condition: object, reason: str, status: int = 400) -> None:
    if not condition:
        raise RefusedError(status, reason)


def rounded(weight: float) -> float:
    """As Lucene's FeatureField stores it: the upper 17 bits of an fp32, the rest dropped."""
    bits = np.float32(weight).view(np.uint32) & np.uint32(0xFFFF8000)
    return float(bits.view(np.float32))


class StandIn:
    """A server and what was asked of it: `requests` lists (method, path, body)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.authorization: str | None = None
        self.headers_seen: list[dict[str, str]] = []
        self.hold: threading.Event | None = None  # writes wait for it
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if self.hold is not None:
            self.hold.set()
        self.server.shutdown()
        self.server.server_close()

    def fail_next(self, *statuses: int, **headers: str) -> None:
        """The next requests get these answers in place of the right ones."""
        self.failures += [(status, headers) for status in statuses]

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, headers) -> object:
        raise NotImplementedError

    def refused(self, error: RefusedError) -> object:
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets, of which the second would wait

    def _handle(self) -> None:
        stand_in = self.stand_in
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with stand_in.lock:
            stand_in.requests.append((self.command, self.path, body))
            stand_in.headers_seen.append(dict(self.headers))
            failure = stand_in.failures.pop(0) if stand_in.failures else None
        if failure is not None and failure[0] == 0:  # as a server that dies
            self.close_connection = True
            return
        if failure is not None:
            self._send(failure[0], {"error": "scripted"}, failure[1])
            return
        if stand_in.authorization is not None and self.headers.get("Authorization") != stand_in.authorization:
            self._send(401, {"error": {"type": "security_exception", "reason": "who are you?"}}, {})
            return
        try:
            with stand_in.lock:
                status, answer = 200, stand_in.answer(self.command, parts.path, query, body, self.headers)
        except RefusedError as error:
            status, answer = error.status, stand_in.refused(error)
        self._send(status, answer, {})

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _send(self, status: int, answer: object, headers: dict[str, str]) -> None:
        body = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)
        except BrokenPipeError:  # the client was killed
            pass

    def log_message(self, *_) -> None:
        pass


class Lucene(StandIn):
    """Elasticsearch 9 or OpenSearch 3."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.engine = engine
        self.indices: dict[str, dict] = {}
        self.documents: dict[str, dict[str, dict]] = {}
        self.visible: dict[str, set[str]] = {}
        self.busy_items = 0  # so many items of the next bulk requests get 429
        self.largest_body = 1 << 30
        self.bulk_sizes: list[int] = []

    def refused(self, error: RefusedError) -> object:
        return {"error": {"type": error.kind, "reason": error.reason}, "status": error.status}

    def answer(self, method, path, query, body, headers) -> object:
        index, _, call = unquote(path.lstrip("/")).partition("/")
        if method == "PUT" and not call:
            return self._create(index, json.loads(body))
        if index not in self.indices:
            raise RefusedError(404, f"no such index [{index}]", "index_not_found_exception")
        if (method, call) == ("GET", ""):
            return {index: self.indices[index]}
        if (method, call) == ("DELETE", ""):
            for store in (self.indices, self.documents, self.visible):
                del store[index]
            return {"acknowledged": True}
        if (method, call) == ("GET", "_mapping"):
            return {index: {"mappings": self.indices[index]["mappings"]}}
        if (method, call) == ("POST", "_refresh"):
            self.visible[index] = set(self.documents[index])
            return {"_shards": {"total": 1, "successful": 1, "failed": 0}}
        if (method, call) == ("GET", "_count"):
            return {"count": len(self.visible[index])}
        need(method == "POST" and call in ("_bulk", "_msearch"), f"no handler for {method} {path}")
        need(headers.get("Content-Type") == "application/x-ndjson", "Content-Type is not supported", 406)
        need(body.endswith(b"\n"), "The bulk request must be terminated by a newline [\\n]")
        need(len(body) <= self.largest_body, "too large", 413)
        lines = [json.loads(line) for line in body.decode().split("\n")[:-1]]
        need(len(lines) % 2 == 0, "an action has no source")
        if call == "_bulk":
            return self._bulk(index, lines)
        return {"took": 1, "responses": [self._response(index, *pair) for pair in zip(lines[::2], lines[1::2])]}

    def _create(self, index: str, body: dict) -> object:
        need(index not in self.indices, f"index [{index}] already exists")
        need(re.fullmatch(r"[^A-Z\\/*?\"<>| ,#:_\-+][^A-Z\\/*?\"<>| ,#:]*", index), "Invalid index name")
        need(set(body) <= {"settings", "mappings"}, f"unknown key in {sorted(body)}")
        mappings = body["mappings"]
        need(set(mappings) <= {"_meta", "dynamic", "properties"}, "Root mapping definition has unsupported parameters")
        sparse = body.get("settings", {}).get("index", {}).get("sparse", False)
        for name, field in mappings["properties"].items():
            kind = field["type"]
            known = {"keyword": set(), "text": set(), "rank_features": {"positive_score_impact"}}
            if self.engine == "elasticsearch":
                known["sparse_vector"] = {"store", "index_options"}
            elif sparse:
                known["sparse_vector"] = {"method"}
            need(kind in known, f"No handler for type [{kind}] declared on field [{name}]")
            need(set(field) - {"type"} <= known[kind], f"unknown parameter on mapper [{name}] of type [{kind}]")
            if kind == "sparse_vector" and self.engine == "opensearch":
                need(field["method"]["name"] == "seismic", "unknown method")
                need(field["method"]["parameters"].get("quantization_ceiling_ingest", 3) > 0, "ceiling")
        self.indices[index] = {"mappings": mappings, "settings": body.get("settings", {})}
        self.documents[index], self.visible[index] = {}, set()
        return {"acknowledged": True, "shards_acknowledged": True, "index": index}

    def _bulk(self, index: str, lines: list) -> object:
        items = []
        self.bulk_sizes.append(len(lines) // 2)
        for action, source in zip(lines[::2], lines[1::2]):
            need(list(action) == ["index"] and set(action["index"]) == {"_id"}, f"Malformed action {action}")
            name = action["index"]["_id"]
            try:
                if self.busy_items > 0:
                    self.busy_items -= 1
                    raise RefusedError(
                        429, "rejected execution of coordinating operation", "es_rejected_execution_exception"
                    )
                need(len(name.encode()) <= 512, "id is too long, must be no longer than 512 bytes")
                self._check_source(index, source)
                self.documents[index][name] = source
                items.append({"index": {"_index": index, "_id": name, "status": 201, "result": "created"}})
            except RefusedError as error:
                reason = {"type": error.kind, "reason": error.reason}
                items.append({"index": {"_index": index, "_id": name, "status": error.status, "error": reason}})
        return {"took": 1, "errors": any("error" in item["index"] for item in items), "items": items}

    def _check_source(self, index: str, source: dict) -> None:
        properties = self.indices[index]["mappings"]["properties"]
        for name, value in source.items():
            if name not in properties:
                raise RefusedError(400, f"introduction of [{name}] is not allowed", "strict_dynamic_mapping_exception")
            kind = properties[name]["type"]
            if kind in ("keyword", "text"):
                need(isinstance(value, str), "failed to parse field", 400)
                continue
            need(isinstance(value, dict), f"[{kind}] fields must be json objects")
            for feature, weight in value.items():
                need("." not in feature, f"[{kind}] fields do not support dots in feature names but found [{feature}]")
                need(feature, "feature names are not empty")
                number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
                need(number and math.isfinite(weight), f"[{kind}] fields take hashes of positive floats")
                need(np.float32(weight) >= _SMALLEST, f"featureValue must be a positive normal float, got: {weight}")
                if kind == "sparse_vector" and self.engine == "opensearch":
                    need(feature.isdigit(), "tokens have to be integers")

    def _response(self, index: str, header: dict, search: dict) -> object:
        try:
            need(header == {}, f"unknown key in header {header}")
            need(set(search) <= {"size", "_source", "track_total_hits", "query"}, f"Unknown key in {sorted(search)}")
            need(0 <= search["size"] <= 10_000, "Result window is too large, from + size must be <= 10000")
            field, weights = self._features(index, search["query"])
        except RefusedError as error:
            return {"error": {"type": error.kind, "reason": error.reason, "root_cause": []}, "status": error.status}
        hits = []
        for name in self.visible[index]:
            stored = self.documents[index][name].get(field, {})
            shared = [rounded(stored[token]) * weight for token, weight in weights.items() if token in stored]
            if shared:
                hits.append({"_index": index, "_id": name, "_score": float(np.float32(sum(shared)))})
        hits.sort(key=lambda hit: -hit["_score"])
        return {"took": 1, "status": 200, "hits": {"hits": hits[: search["size"]]}}

    def _features(self, index: str, query: dict) -> tuple[str, dict[str, float]]:
        """The field and the weights of a query, if it is one."""
        properties = self.indices[index]["mappings"]["properties"]
        ((kind, body),) = query.items()
        if kind == "bool" and self.engine == "elasticsearch":
            need(set(body) <= {"should", "minimum_should_match"}, "unknown key in bool")
            weights = {}
            for clause in body["should"]:
                ((name, feature),) = clause.items()
                need(
                    name == "rank_feature" and set(feature) <= {"field", "boost", "linear"}, f"unknown clause {clause}"
                )
                need(feature["linear"] == {}, "linear takes no parameters")
                field, _, token = feature["field"].partition(".")
                weights[token] = feature["boost"]
            need(
                properties[field]["type"] == "rank_features", "[rank_feature] query only works on rank_features fields"
            )
        elif kind == "sparse_vector" and self.engine == "elasticsearch":
            need(set(body) <= {"field", "query_vector", "prune", "pruning_config", "boost"}, "unknown field")
            field, weights = body["field"], body["query_vector"]
            need(properties[field]["type"] == "sparse_vector", "sparse_vector query on another field")
            need(body.get("prune") is False, "this stand-in prunes nothing, an index of 9.1 or newer would")
        elif kind == "neural_sparse" and self.engine == "opensearch":
            ((field, parameters),) = body.items()
            approximate = properties[field]["type"] == "sparse_vector"
            known = {"query_tokens"} | ({"method_parameters"} if approximate else set())
            need(set(parameters) <= known, f"[neural_sparse] unknown field in {sorted(parameters)}")
            need(set(parameters.get("method_parameters", {})) <= {"k", "top_n", "heap_factor", "filter"}, "method")
            weights = parameters["query_tokens"]
            need(approximate or len(weights) <= 1024, "maxClauseCount is set to 1024")
        else:
            raise RefusedError(400, f"unknown query [{kind}]", "parsing_exception")
        need(weights and all(weight > 0 for weight in weights.values()), "weights have to be positive")
        return field, {token: float(np.float32(weight)) for token, weight in weights.items()}


class Vespa(StandIn):
    """A container and a config server in one."""

    def __init__(self, schema: str | None = None, starting: int = 0) -> None:
        super().__init__()
        self.schema = schema
        self.wand = False
        self.starting = starting  # so many requests are answered 503 after a deployment
        self.files: dict[str, str] = {}
        self.documents: dict[str, dict] = {}
        self.coverage = {"coverage": 100, "full": True}

    def refused(self, error: RefusedError) -> object:
        return {"pathId": "/", "message": error.reason}

    def answer(self, method, path, query, body, headers) -> object:
        if path == "/application/v2/tenant/default/prepareandactivate":
            need(method == "POST" and headers.get("Content-Type") == "application/zip", "application/zip is needed")
            return self._deploy(body)
        if self.starting > 0:
            self.starting -= 1
            raise RefusedError(503, "starting")
        if path == "/search/":
            need(method == "POST" and headers.get("Content-Type") == "application/json", "application/json is needed")
            return self._search(json.loads(body))
        found = re.fullmatch(r"/document/v1/([^/]+)/([^/]+)/docid(?:/([^/]+))?", path)
        need(found, f"no handler for {path}", 404)
        need(found[2] == self.schema, f"Document type {found[2]} does not exist")
        if found[3] is None:
            need(query.get("cluster") == "content", "cluster must be specified")
            if method == "DELETE":
                need(query.get("selection") == "true", "selection must be specified")
                some = list(self.documents)[:600]
                for name in some:
                    del self.documents[name]
                left = {"continuation": "AAAA/BBB="} if self.documents else {}
                return {"pathId": path, "documentCount": len(some), **left}
            return {"pathId": path, "documents": [], "documentCount": 0}
        need(method == "POST", f"no handler for {method}")
        operation = json.loads(body)
        need(set(operation) == {"fields"}, f"unknown field in {sorted(operation)}")
        self._check(operation["fields"])
        name = unquote(found[3])
        self.documents[name] = operation["fields"]
        return {"pathId": path, "id": f"id:{found[1]}:{found[2]}::{name}"}

    def _deploy(self, body: bytes) -> object:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            self.files = {name: archive.read(name).decode() for name in archive.namelist()}
        services = ET.fromstring(self.files["services.xml"])
        need(services.tag == "services" and services.find("container/document-api") is not None, "no document-api")
        need(services.find("container/search") is not None, "no search")
        content = services.find("content")
        need(content.get("id") == "content" and content.find("min-redundancy") is not None, "no content cluster")
        nodes = {node.get("hostalias") for node in services.iter("node")}
        need(nodes == {alias.text for alias in ET.fromstring(self.files["hosts.xml"]).iter("alias")}, "unknown host")
        profile = ET.fromstring(self.files["search/query-profiles/default.xml"])
        need({"maxHits", "maxOffset"} == {field.get("name") for field in profile.iter("field")}, "query profile")
        self.schema = content.find("documents/document").get("type")
        schema = self.files[f"schemas/{self.schema}.sd"]
        need(schema.count("{") == schema.count("}"), "unbalanced braces")
        for line in (
            f"schema {self.schema} {{",
            f"document {self.schema} {{",
            "field tokens type tensor<float>(term{}) {",
            "query(q) tensor<float>(term{})",
            "expression: sum(query(q) * attribute(tokens))",
            "rank-score-drop-limit: 0",
        ):
            need(line in schema, f"the schema has no {line}")
        self.wand = "field terms type weightedset<string>" in schema
        return {"session-id": "2", "message": "Session 2 for tenant 'default' prepared and activated."}

    def _check(self, fields: dict) -> None:
        need(
            set(fields) <= {"id", "text", "tokens"} | ({"terms"} if self.wand else set()), f"No field in {set(fields)}"
        )
        need(set(fields["tokens"]) == {"cells"}, "a mapped tensor of one dimension has cells")
        for label, value in fields["tokens"]["cells"].items():
            need(label and isinstance(value, (int, float)), "cells map labels to numbers")
        for term, weight in fields.get("terms", {}).items():
            need(term and isinstance(weight, int) and 0 < weight < 2**31, "weights of a weighted set are integers")
        for name in ("id", "text"):
            illegal = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", fields.get(name, ""))
            need(not illegal, f"The string field value contains illegal code point {illegal}")

    def _search(self, asked: dict) -> object:
        where = re.fullmatch(rf"select \* from {self.schema} where (true|\(.*\))", asked["yql"])
        need(where, f"could not parse {asked['yql']!r}")
        known = {"yql", "hits", "ranking", "input.query(q)", "presentation.summary", "timeout"}
        need(set(asked) - {"ranking.softtimeout.enable"} <= known, f"unknown parameters in {sorted(asked)}")
        need(re.fullmatch(r"[0-9.]+ *(s|ms)?", asked["timeout"]), "timeout")
        need(asked["hits"] <= 10_000, f"{asked['hits']} hits requested, configured limit: 10000.")
        root = {"id": "toplevel", "relevance": 1.0, "coverage": self.coverage}
        if asked["ranking"] == "unranked":
            return {"root": {**root, "fields": {"totalCount": len(self.documents)}}}
        need(asked["ranking"] == "milco" and asked["presentation.summary"] == "ids", "no such profile or summary")
        literal = asked["input.query(q)"]
        need(re.fullmatch(r"\{(\{term:\d+\}:[0-9.e+-]+,?)+\}", literal), f"no tensor: {literal[:80]}")
        weights = {t: float(np.float32(w)) for t, w in re.findall(r"\{term:(\d+)\}:([0-9.e+-]+)", literal)}
        hits = []
        for name in self._candidates(where[1]):
            fields = self.documents[name]
            cells = fields["tokens"]["cells"]
            score = sum(weight * float(np.float32(cells[term])) for term, weight in weights.items() if term in cells)
            if score > 0:
                hits.append({"id": "index:content/0/abc", "relevance": score, "fields": {"id": fields["id"]}})
        hits.sort(key=lambda hit: -hit["relevance"])
        children = {"children": hits[: asked["hits"]]} if hits else {}
        return {"root": {**root, "fields": {"totalCount": len(hits)}, **children}}

    def _candidates(self, where: str) -> list[str]:
        if where == "true":
            return list(self.documents)
        found = re.fullmatch(r"\(\{targetHits:(\d+)\}wand\(terms,(\{.*\})\)\)", where)
        need(found and self.wand, f"could not parse {where!r}")
        weights = json.loads(found[2])
        need(all(isinstance(weight, int) for weight in weights.values()), "wand takes whole weights")
        scores = {
            name: sum(weight * fields["terms"].get(term, 0) for term, weight in weights.items())
            for name, fields in self.documents.items()
        }
        return sorted(scores, key=lambda name: -scores[name])[: int(found[1])]


def basic(user: str, password: str) -> str:
    """The header of basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
