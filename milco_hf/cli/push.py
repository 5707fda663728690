"""`milco push`: upload a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "push",
        parents=parents,
        help="upload a checkpoint to the Hugging Face Hub with a model card",
        description="Check that a checkpoint folder is complete in itself, give it a model card where it has none, and "
        "upload it to the Hugging Face Hub in one commit. Optimizer states and other traces of training stay here.",
        epilog="example: milco push milco-560m someone/milco-560m --private --card card.yaml",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the checkpoint's folder")
    parser.add_argument("repo_id", metavar="REPO_ID", help="name or owner/name on the Hub")
    parser.add_argument(
        "--card",
        metavar="FILE",
        help="YAML or JSON with what only you know: description, license, languages, encoder, pivot, training_data, "
        "results, limitations (default: the folder's card.yaml; without one its README.md is kept, or one is made from "
        "the configuration)",
    )
    parser.add_argument("--private", action="store_true", help="make the repository private if it is made now")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to, made if need be (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of pushing")
    parser.add_argument("--message", metavar="TEXT", help="the commit's message")
    parser.add_argument("--token", help="access token (default: the one `hf auth login` stored, or HF_TOKEN)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Push, and write the repository's address to standard output."""
    import milco_hf

    address = milco_hf.push(
        options.checkpoint,
        options.repo_id,
        card=options.card,
        private=options.private or None,
        revision=options.revision,
        token=options.token,
        commit_message=options.message,
        create_pr=options.create_pr,
    )
    sys.stdout.write(f"{address}\n")
