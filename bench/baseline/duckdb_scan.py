"""Times statements over DuckDB's scan of a Delta table. Prints one JSON line with the best time of
each. Usage: duckdb_scan.py FOLDER ROUNDS STATEMENT..."""

import glob
import json
import os
import sys
import time

import duckdb
import duckdb_extension_delta


def main():
    folder, rounds, statements = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    base = os.path.dirname(duckdb_extension_delta.__file__)
    extension = glob.glob(f"{base}/extensions/v*/delta.duckdb_extension")[0]
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{extension}'")
    connection.execute("SET threads = 2")
    best = []
    for statement in statements:
        statement = statement.replace("clicks", f"delta_scan('file://{folder}')")
        times = []
        for _ in range(max(rounds, 3)):
            begun = time.monotonic()
            connection.execute(statement).fetchall()
            times.append((time.monotonic() - begun) * 1000)
        best.append(round(min(times), 1))
    print(json.dumps({"ms": best}))


if __name__ == "__main__":
    main()
