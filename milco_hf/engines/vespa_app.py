"""The application package that Vespa runs: a schema with a mapped tensor, a rank profile, and one node."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
CLUSTER = "content"
PROFILE = "milco"
SUMMARY = "ids"
# Vespa refuses searches for more results than a query profile allows; 400 if none does.
MOST_RESULTS = 10_000

_SERVICES = """<?xml version="1.0" encoding="utf-8" ?>
<services version="1.0">
  <container id="default" version="1.0">
    <document-api/>
    <search/>
    <nodes>
      <node hostalias="node1"/>
    </nodes>
  </container>
  <content id="{cluster}" version="1.0">
    <min-redundancy>1</min-redundancy>
    <documents>
      <document type="{name}" mode="index"/>
    </documents>
    <nodes>
      <node hostalias="node1" distribution-key="0"/>
    </nodes>
  </content>
</services>
"""

_HOSTS = """<?xml version="1.0" encoding="utf-8" ?>
<hosts>
  <host name="localhost">
    <alias>node1</alias>
  </host>
</hosts>
"""

_QUERY_PROFILE = """<query-profile id="default">
  <field name="maxHits">{most}</field>
  <field name="maxOffset">{most}</field>
</query-profile>
"""

_SCHEMA = """schema {name} {{
    document {name} {{
        field id type string {{
            indexing: attribute | summary
        }}
        field text type string {{
            indexing: index | summary
            index: enable-bm25
        }}
        # a dimension's number, and its weight
        field tokens type tensor<float>(term{{}}) {{
            indexing: attribute
        }}
{terms}    }}
    document-summary {summary} {{
        summary id {{}}
    }}
    rank-profile {profile} {{
        inputs {{
            query(q) tensor<float>(term{{}})
        }}
        first-phase {{
            expression: sum(query(q) * attribute(tokens))
            # what shares no dimension with the query is no result
            rank-score-drop-limit: 0
        }}
    }}
}}
"""

_TERMS = """        # whole numbers, for the wand operator, which finds the candidates
        field terms type weightedset<string> {
            indexing: attribute
            attribute: fast-search
        }
"""


def application_files(name: str, *, wand: bool = False) -> dict[str, str]:
    """The files of an application with one schema, by their paths in it.

    Args:
        name: Of the schema and its documents.
        wand: Whether documents also have whole-number weights, with which `wand` finds candidates.

    Raises:
        ValueError: The name is none for a schema.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"A schema's name has letters, digits and underscores, and begins with no digit; got {name!r}."
        )
    return {
        "services.xml": _SERVICES.format(name=name, cluster=CLUSTER),
        "hosts.xml": _HOSTS,
        f"schemas/{name}.sd": _SCHEMA.format(name=name, summary=SUMMARY, profile=PROFILE, terms=_TERMS if wand else ""),
        "search/query-profiles/default.xml": _QUERY_PROFILE.format(most=MOST_RESULTS),
    }


def write_application(folder: str | Path, name: str, *, wand: bool = False) -> Path:
    """Writes an application, ready for `vespa deploy`, to be adapted to more nodes.

    Args:
        folder: A new or empty one.
        name: See `application_files`.
        wand: See `application_files`.

    Raises:
        FileExistsError: The folder holds something.
        ValueError: See `application_files`.
    """
    folder = Path(folder).expanduser()
    files = application_files(name, wand=wand)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already and is not empty. Give another folder (--output).")
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return folder


def zipped_application(name: str, *, wand: bool = False) -> bytes:
    """The same as one zip file, as the deploy API takes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in application_files(name, wand=wand).items():
            archive.writestr(path, content)
    return buffer.getvalue()


__all__ = [
    "CLUSTER",
    "MOST_RESULTS",
    "NAME",
    "PROFILE",
    "SUMMARY",
    "application_files",
    "write_application",
    "zipped_application",
]
