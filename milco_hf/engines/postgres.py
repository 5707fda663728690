"""PostgreSQL with pgvector: a table with a `sparsevec` column."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from milco_hf.engines.base import Engine, Ranking
from milco_hf.engines.batches import Batch, shortest
from milco_hf.engines.retry import Backoff, BusyError, EngineError, retry

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

# pgvector's: elements of a sparsevec, and of one that an HNSW index takes; the longest list HNSW searches with.
_MOST_ENTRIES = 16_000
_MOST_INDEXED = 1_000
_LONGEST_LIST = 1_000
# What PostgreSQL says to a new connection that may be let in later.
_PASSING = ("starting up", "shutting down", "in recovery", "too many", "connection slots")


class PostgresEngine(Engine):
    """A table of PostgreSQL with pgvector 0.7 or newer: `id`, `text` and `weights`, a `sparsevec`.

    Without an index every search reads the whole table: exact, and fit for some hundred thousand documents. With `hnsw`
    it is approximate, and documents have at most 1,000 dimensions.

    Args:
        collection: The table's name; SCHEMA.TABLE for another schema than the first of the search path.
        url: Such as postgresql://user@host/database; what it leaves out, and the password, libpq takes from PGHOST,
            PGUSER, PGPASSWORD, ~/.pgpass and so on.
        hnsw: Whether an HNSW index is built after uploads.
        ef_search: How many candidates a search with HNSW keeps, 1 … 1,000; more are slower and find more.
        connection: A psycopg connection to use, in place of `url`.
        backoff: Of connections that fail or break.

    Raises:
        ImportError: psycopg is not installed.
        EngineError: The database cannot be reached, or has no pgvector.
    """

    name = "postgres"
    longest_id = 2_000  # a row of a B-tree has to fit into a third of a page
    most_entries = _MOST_ENTRIES

    def __init__(
        self,
        collection: str,
        *,
        url: str | None = None,
        hnsw: bool = False,
        ef_search: int = 200,
        connection: psycopg.Connection | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(collection)
        if not 1 <= ef_search <= _LONGEST_LIST:
            raise ValueError(f"ef_search has to be from 1 to {_LONGEST_LIST}, got {ef_search}.")
        if connection is None and not url and "PGHOST" not in os.environ and "PGSERVICE" not in os.environ:
            raise ValueError("postgres needs a url (--url postgresql://user@host/database), or PGHOST.")
        try:
            import psycopg
        except ImportError as error:
            raise ImportError('postgres needs psycopg: pip install "milco-hf[engines]".') from error
        self._hnsw, self._ef_search = hnsw, ef_search
        self.exact = not hnsw
        if hnsw:
            self.most_entries, self.most_results = _MOST_INDEXED, _LONGEST_LIST
        self._url, self._backoff = url or "", backoff or Backoff()
        self._connection = connection
        self._own = connection is None
        self._table = psycopg.sql.Identifier(*collection.split("."))
        self._index = psycopg.sql.Identifier(f"{collection.split('.')[-1][:50]}_weights_hnsw")
        info = self._run(lambda cursor: cursor.connection.info)
        self._address = f"{info.host}:{info.port}/{info.dbname}"

    @property
    def address(self) -> str:
        """Where it is, without credentials."""
        return self._address

    def exists(self) -> bool:
        """Whether the table is there."""
        return self._one("SELECT to_regclass({name}) IS NOT NULL", name=self._table_text())

    def count(self) -> int:
        """How many documents the table has."""
        return self._one("SELECT count(*) FROM {table}")

    def delete(self) -> None:
        """Removes the table with all that is in it."""
        self._execute("DROP TABLE {table}")
        self._about = None

    def _create(self, dimensions: int, about: dict[str, Any]) -> None:
        def make(cursor: psycopg.Cursor) -> None:
            if not self._has_sparsevec(cursor):
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
            if not self._has_sparsevec(cursor):
                raise EngineError(f"{self.address} has a pgvector without sparsevec; it came with version 0.7.0.")
            cursor.execute(
                self._sql(
                    "CREATE TABLE {table} (id text PRIMARY KEY, text text, weights sparsevec({dimensions}) NOT NULL)",
                    dimensions=dimensions,
                )
            )
            cursor.execute(self._sql("COMMENT ON TABLE {table} IS {note}", note=json.dumps(about)))

        self._run(make)

    def _read_about(self) -> dict[str, Any] | None:
        note = self._one("SELECT obj_description({name}::regclass, 'pg_class')", name=self._table_text())
        return json.loads(note) if note and note.startswith('{"format": "milco"') else None

    def write(self, batch: Batch) -> None:
        """Puts documents in, in place of those with the same ids."""
        ends, texts = batch.matrix.indptr.tolist(), batch.texts or [None] * len(batch.ids)
        vectors = [literal(batch.matrix, start, end) for start, end in pairwise(ends)]
        # one statement a batch: all of it is there afterwards, or nothing
        self._execute(
            "INSERT INTO {table} (id, text, weights) "
            "SELECT id, text, weights::sparsevec "
            "FROM unnest(%s::text[], %s::text[], %s::text[]) AS batch (id, text, weights) "
            "ON CONFLICT (id) DO UPDATE SET text = excluded.text, weights = excluded.weights",
            [batch.ids, texts, vectors],
        )

    def finish(self) -> None:
        """Builds the index, where one is wanted."""
        if self._hnsw:
            self._execute("CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw (weights sparsevec_ip_ops)")
        self._execute("ANALYZE {table}")

    def _search(self, queries: sparse.csr_array, k: int) -> Ranking:
        statement = self._sql(
            # <#> is the negative inner product: the smallest comes first
            "SELECT id, -(weights <#> %(query)s::sparsevec) FROM {table} "
            "ORDER BY weights <#> %(query)s::sparsevec LIMIT %(k)s"
        )

        def search(cursor: psycopg.Cursor) -> Ranking:
            if self._hnsw:
                cursor.execute(f"SET LOCAL hnsw.ef_search = {max(self._ef_search, k)}")
            rankings = []
            for start, end in pairwise(queries.indptr.tolist()):
                cursor.execute(statement, {"query": literal(queries, start, end), "k": k})
                rankings.append([(name, float(score)) for name, score in cursor.fetchall()])
            return rankings

        return self._run(search)

    def close(self) -> None:
        """Closes the connection, unless it was given."""
        if self._own and self._connection is not None:
            self._connection.close()
            self._connection = None

    def entries_limit(self) -> str:
        """What `most_entries` is, and the way out."""
        if not self._hnsw:
            return super().entries_limit()
        return (
            f"an HNSW index takes at most {_MOST_INDEXED}. Encode with fewer (--prune top_k:{_MOST_INDEXED}), or leave "
            "hnsw out."
        )

    @staticmethod
    def _has_sparsevec(cursor: psycopg.Cursor) -> bool:
        cursor.execute("SELECT to_regtype('sparsevec') IS NOT NULL")
        return bool(cursor.fetchone()[0])  # type: ignore[index]

    def _table_text(self) -> str:
        """The table's name, quoted, as a string for to_regclass."""
        return ".".join('"' + part.replace('"', '""') + '"' for part in self.collection.split("."))

    def _sql(self, text: str, **values: Any) -> Any:
        from psycopg import sql

        literals = {name: sql.Literal(value) for name, value in values.items()}
        return sql.SQL(text).format(table=self._table, index=self._index, **literals)  # type: ignore[arg-type]

    def _execute(self, text: str, parameters: Any = None) -> None:
        self._run(lambda cursor: cursor.execute(self._sql(text), parameters))

    def _one(self, text: str, **values: Any) -> Any:
        return self._run(lambda cursor: cursor.execute(self._sql(text, **values)).fetchone()[0])

    def _connected(self) -> psycopg.Connection:
        """A new connection; a wrong password or database does not get better with time."""
        import psycopg

        try:
            return psycopg.connect(self._url, autocommit=True)
        except psycopg.OperationalError as error:
            final = "FATAL" in str(error) and not any(word in str(error) for word in _PASSING)
            raise (EngineError if final else BusyError)(f"PostgreSQL: {_first_line(error)}.") from error

    def _run(self, work: Callable[[psycopg.Cursor], Any]) -> Any:
        """Work in one transaction; after a broken connection, on a new one."""
        import psycopg

        def once() -> Any:
            try:
                if self._connection is None or (self._own and self._connection.closed):
                    self._connection = self._connected()
                with self._connection.transaction(), self._connection.cursor() as cursor:
                    return work(cursor)
            except psycopg.OperationalError as error:  # shut down, cut off, out of memory or disk
                raise BusyError(f"PostgreSQL: {_first_line(error)}.") from error
            except psycopg.Error as error:
                raise EngineError(f"PostgreSQL, table {self.collection}: {_first_line(error)}") from error

        return retry(once, self._backoff)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def literal(matrix: sparse.csr_array, start: int, end: int) -> str:
    """Entries `start` … `end` of a matrix as pgvector writes a sparsevec: dimensions from 1, and how many there are."""
    indices = (matrix.indices[start:end].astype(np.int64) + 1).tolist()
    entries = ",".join(f"{index}:{value!r}" for index, value in zip(indices, shortest(matrix.data[start:end])))
    return f"{{{entries}}}/{matrix.shape[1]}"


__all__ = ["PostgresEngine", "literal"]
