"""Rows in parts, and the formats that a table is written in: Parquet, JSON lines, CSV."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from edgecv_runtime.answers import Columns, Field, of_task
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.predictor import ERROR

# The name as the disk has it, a value for each column, and the error or None.
Row = list[Any]
Rows = Iterator[Row]
PATH = "path"
_BATCH = 4096  # rows of Parquet that are in memory together
_BYTES = 64 << 20  # of parts, at most, that they come from


def rows_of(names: Sequence[str], columns: Columns) -> list[Row]:
    """Columns as rows of plain values; where there is an error all others are None."""
    errors = columns[ERROR]
    values = [column for name, column in columns.items() if name != ERROR]
    return [
        broken(name, errors[row], columns)
        if errors[row] is not None
        else [os.fsencode(name), *(_plain(column[row]) for column in values), None]
        for row, name in enumerate(names)
    ]


def broken(name: str, error: str, columns: Sequence[str] | Columns) -> Row:
    """The row of a picture without a result."""
    return [os.fsencode(name), *(None for _ in range(len(columns) - 1)), _readable(error)]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _readable(text: str) -> str:
    """Text without the lone surrogates of names that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def read(part: Path) -> list[Row]:
    """The rows of a part; none where it is damaged or missing."""
    try:
        return msgspec.msgpack.decode(part.read_bytes(), type=list[Row])
    except (msgspec.DecodeError, FileNotFoundError):
        return []


def named(fields: Sequence[Field]) -> tuple[str, ...]:
    """The columns of a table."""
    return (PATH, *(field.name for field in fields), ERROR)


def default(task: str) -> tuple[str, ...]:
    """The columns that a table has where none are named: what is largest, and is in others, is left out."""
    names = [name for name in of_task(task).names if name not in ("scores", "result")]
    return tuple(names) or of_task(task).names


def _parquet(fields: Sequence[Field], rows: Rows, file: IO[bytes]) -> None:
    pa, pq = arrow()
    single = {"object": pa.string(), "float32": pa.float32(), "int64": pa.int64()}

    def kind(field: Field) -> Any:
        if field.is_bytes:
            return pa.binary()
        made = single[field.spec.dtype]
        for _ in field.spec.shape if not field.by_picture else field.spec.shape[1:]:
            made = pa.list_(made)
        return made

    kinds = [pa.string(), *map(kind, fields), pa.string()]
    schema = pa.schema(list(zip(named(fields), kinds, strict=True)))
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in _batches(rows):
            for row in batch:
                row[0] = _path(row[0])
            columns = [pa.array(list(each), kind) for each, kind in zip(zip(*batch, strict=True), kinds, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))


def _batches(rows: Rows) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) for value in row if isinstance(value, bytes | str | list))
        if len(batch) == _BATCH or size > _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def arrow() -> tuple[Any, Any]:
    """pyarrow and its part for Parquet; raises Unavailable with the cure."""
    try:
        import pyarrow as pa
        from pyarrow import parquet as pq
    except ImportError as exc:
        raise Unavailable("Parquet is written by pyarrow (.jsonl and .csv need nothing)", extra="bulk") from exc
    return pa, pq


def _json_lines(fields: Sequence[Field], rows: Rows, file: IO[bytes]) -> None:
    names = named(fields)
    nested = [field.name == "result" for field in fields]
    for row in rows:
        row[0] = _path(row[0])
        for at, is_nested in enumerate(nested, 1):
            if is_nested and row[at] is not None:
                row[at] = msgspec.Raw(row[at].encode())
        file.write(msgspec.json.encode(dict(zip(names, row, strict=True))) + b"\n")  # bytes as base64


def _csv(fields: Sequence[Field], rows: Rows, file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(named(fields))
    for row in rows:
        row[0] = _path(row[0])
        writer.writerow([_cell(value) for value in row])
    text.detach()  # flushes, and leaves the file open


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return msgspec.json.encode(value).decode() if isinstance(value, list) else value


def _path(name: bytes) -> str:
    r"""A name as text; bytes that are no UTF-8 are written as \xe9."""
    return name.decode(errors="backslashreplace")


Write = Callable[[Sequence[Field], Rows, IO[bytes]], None]
# What a table's suffix asks for.
FORMATS: dict[str, Write] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".csv": _csv,
}


def format_of(out: Path) -> Write:
    """What writes a table, by its suffix; raises BadInput, or Unavailable where its package is missing."""
    if out.suffix not in FORMATS:
        raise BadInput(f"{out}: a table ends in {', '.join(FORMATS)}")
    if out.suffix == ".parquet":
        arrow()
    return FORMATS[out.suffix]
