"""`milco serve`: a model, and maybe an index, over HTTP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from milco_hf.cli.arguments import add_revision, positive

EXAMPLES = """\
examples:
  milco serve
      milco-mini on port 8000 of this machine: /embed_sparse, /embed_query, /embed_document, /explain; /docs says more
  milco serve --index my-index
      the index's own model, /search, and a search page at http://127.0.0.1:8000/
  milco serve --model milco-560m --devices cuda:0 cuda:1 --dtype auto --host 0.0.0.0
      one model on each device, for the whole network
  curl -s localhost:8000/embed_sparse -H 'Content-Type: application/json' -d '{"inputs": "Who wrote this book?"}'

With the environment variable MILCO_API_KEY or --api-key-file, callers need `Authorization: Bearer …`.
Ctrl-C or SIGTERM ends the server after it has answered what it was asked before."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "serve",
        parents=parents,
        help="vectors, search and explanations over HTTP",
        description="Serve a model, and maybe an index, over HTTP; /embed_sparse is text-embeddings-inference's.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", metavar="ID|PATH", help="the checkpoint (default: the index's own; without an index milco-mini)"
    )
    add_revision(parser)
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="serve this index, and the page to search it")
    parser.add_argument("--any-model", action="store_true", help="take a model whose fingerprint is not the index's")
    parser.add_argument(
        "--host", "--hostname", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the best there is)")
    parser.add_argument("--devices", nargs="+", metavar="DEVICE", help="the model on each, such as cuda:0 cuda:1")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16"), help="computed in (default: the weights')")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="the token that callers need (or: $MILCO_API_KEY)"
    )
    kinds = parser.add_argument_group("queries and documents (default: as the index or the checkpoint says)")
    kinds.add_argument("--query-length", type=positive, metavar="N", help="longest query in tokens")
    kinds.add_argument(
        "--document-length", "--max-length", type=positive, metavar="N", help="longest document in tokens"
    )
    kinds.add_argument("--prune-queries", nargs="+", metavar="HOW", help="such as mass:0.9, or english=… source=…")
    kinds.add_argument("--prune-documents", "--prune", nargs="+", metavar="HOW", help="likewise")
    kinds.add_argument("--auto-truncate", action="store_true", help="cut texts that are too long; else refuse them")
    _add_limits(parser.add_argument_group("limits"))
    parser.set_defaults(run=run)


def _add_limits(group: argparse._ArgumentGroup) -> None:
    """A flag for each limit."""
    group.add_argument("--max-batch-tokens", type=positive, metavar="N", help="in a forward pass (default: by device)")
    for name, what in _LIMITS.items():
        seconds = name.endswith("_timeout")
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=float if seconds else positive,
            metavar="S" if seconds else "N",
            help=what,
        )


# The fields of `Limits`, whose defaults these are; it is not imported for --help alone.
_LIMITS = {
    "payload_limit": "bytes of a request (default: 2,000,000)",
    "max_client_batch_size": "texts of a request (default: 32)",
    "max_characters": "characters of a request's texts together (default: 1,000,000)",
    "max_hits": "documents of a search (default: 1,000)",
    "max_concurrent_requests": "requests at a time (default: 512)",
    "max_queue": "texts that wait for the model (default: 2,048)",
    "max_explanations": "explanations, and likewise searches, at a time (default: 64)",
    "body_timeout": "seconds for a body to arrive (default: 60)",
    "queue_timeout": "seconds that a request may wait for its turn (default: 30)",
}


def run(options: argparse.Namespace) -> None:
    """Open the model, then serve until a signal comes."""
    if options.device and options.devices:
        raise ValueError("Give either --device or --devices, not both.")
    from milco_hf.serving import Limits, Settings, create_app, serve
    from milco_hf.serving.running import read_api_key

    given: dict[str, Any] = {name: getattr(options, name) for name in _LIMITS if getattr(options, name) is not None}
    settings = Settings(
        Limits(**given),
        auto_truncate=options.auto_truncate,
        max_batch_tokens=options.max_batch_tokens,
        api_key=read_api_key(options.api_key_file),
    )
    app = create_app(
        options.model,
        revision=options.revision,
        index=options.index,
        settings=settings,
        devices=options.devices or options.device,
        dtype=options.dtype,
        query_length=options.query_length,
        document_length=options.document_length,
        query_prune=options.prune_queries,
        document_prune=options.prune_documents,
        check_fingerprint=not options.any_model,
    )
    engine = app.state.engine

    def ready(address: str) -> None:
        where = f"{engine.name} on {', '.join(engine.devices)}: {address}"
        page = "" if options.index is None else f" (page: {address}/)"
        token = "with a token" if settings.api_key else "without a token"
        sys.stderr.write(f"{where}{page}, API: {address}/docs, {token}. Ctrl-C ends.\n")
        sys.stderr.flush()

    serve(app, options.host, options.port, access_log=options.verbose, ready=ready)
