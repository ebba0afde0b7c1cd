"""Reads Delta tables as the command line says, a JSON list of [reader, path, version, SQL]; prints a
JSON list of rows for each.

Types are brought to one text form, so that rows of different readers can be compared: decimals and
times as text, binary as base64, NaN as text.
"""

import base64
import datetime
import decimal
import glob
import json
import math
import os
import sys
import uuid


def plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
            return value.isoformat(timespec="microseconds") + "Z"
        return value.isoformat(timespec="microseconds")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    # Arrow gives maps as lists of pairs, DuckDB as dicts.
    if isinstance(value, list) and value and all(isinstance(i, tuple) and len(i) == 2 for i in value):
        return {str(key): plain(item) for key, item in value}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)


def duckdb_rows(path, version, sql):
    import duckdb
    import duckdb_extension_delta

    folder = os.path.dirname(duckdb_extension_delta.__file__)
    connection = duckdb.connect()
    connection.execute(f"LOAD '{glob.glob(folder + '/extensions/*/delta.duckdb_extension')[0]}'")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    at = "" if version is None else f", version={version}"
    connection.execute(f"CREATE VIEW t AS SELECT * FROM delta_scan('{path}'{at})")
    cursor = connection.execute(sql)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor.fetchall()]


def delta_rs_rows(path, version, sql):
    import pyarrow
    from deltalake import DeltaTable, QueryBuilder

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP")
    options = {name: os.environ[name] for name in names if name in os.environ}
    table = DeltaTable(path, version=version, storage_options=options or None)
    reader = QueryBuilder().register("t", table).execute(sql)
    return pyarrow.table(reader.read_all()).to_pylist()


def polars_rows(path, version, sql):
    import polars

    table = polars.scan_delta(path, version=version)
    return polars.SQLContext(t=table).execute(sql).collect().to_arrow().to_pylist()


def clickhouse_rows(path, version, sql):
    # It reads files below the folder that it is started in, and no others.
    os.chdir("/")
    import chdb

    # -1 is its word for the latest version. It answers a bare count(*) from the statistics, which
    # know nothing of deletion vectors: that must be off.
    at = -1 if version is None else version
    table = f"WITH t AS (SELECT * FROM deltaLakeLocal('{path}'))"
    settings = (
        f"SETTINGS delta_lake_snapshot_version = {at}, optimize_trivial_count_query = 0, "
        "output_format_arrow_string_as_string = 0"
    )
    rows = chdb.query(f"{table} {sql} {settings}", "ArrowTable").to_pylist()
    return [{name: text_or_bytes(value) for name, value in row.items()} for row in rows]


def text_or_bytes(value):
    """ClickHouse has one type for text and bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [text_or_bytes(item) for item in value]
    if isinstance(value, tuple):
        return tuple(text_or_bytes(item) for item in value)
    if isinstance(value, dict):
        return {text_or_bytes(key): text_or_bytes(item) for key, item in value.items()}
    return value


READERS = {
    "duckdb": duckdb_rows,
    "delta-rs": delta_rs_rows,
    "polars": polars_rows,
    "clickhouse": clickhouse_rows,
}


def main():
    # Readers print what they like, such as progress of slow statements: that is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for reader, path, version, sql in json.loads(sys.argv[1]):
        rows = [{name: plain(value) for name, value in row.items()} for row in READERS[reader](path, version, sql)]
        print(json.dumps(rows, ensure_ascii=False), file=answers)
    answers.close()


main()
