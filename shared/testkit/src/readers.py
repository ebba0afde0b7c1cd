"""Reads Delta tables as the command line says, a JSON list of [reader, path, version, SQL]; prints a JSON
list of rows for each.

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


def main():
    readers = {"duckdb": duckdb_rows, "delta-rs": delta_rs_rows}
    for reader, path, version, sql in json.loads(sys.argv[1]):
        rows = [{name: plain(value) for name, value in row.items()} for row in readers[reader](path, version, sql)]
        print(json.dumps(rows, ensure_ascii=False))


main()
