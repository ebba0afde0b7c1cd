"""Random SQL over the same rows in the log's tail, in files, in an upsert table of both, and in tables
that delta-rs has compacted.

    sql_fuzz.py GATEWAY QUERY SECONDS SEED FOLDER

FOLDER is where the tables' folders are. Each statement is asked of all tables, and of DuckDB with the rows in memory, where both speak
it alike. What must hold:

- the answer does not depend on where the rows are, and is DuckDB's;
- a query's rows are those where a condition holds, where it does not, and where it is unknown
  (ternary logic partitioning: Rigger and Su, OOPSLA 2020);
- as many rows are counted by WHERE as by adding up the condition (NoREC: Rigger and Su, ESEC/FSE 2020);
- no statement is answered by an error of the engine, or later than its deadline.

Prints one JSON line of what was asked; ends with the statement and its seed at the first breach.
"""

import collections
import datetime
import decimal
import glob
import http.client
import json
import math
import random
import sys
import time
import urllib.parse

import duckdb
from deltalake import DeltaTable

TABLES = ["fuzz_tail", "fuzz_files", "fuzz_upsert", "fuzz_compacted", "fuzz_upsert_compacted"]
UPSERT = ("fuzz_upsert", "fuzz_upsert_compacted")
TIMEOUT_MS = 10_000
LATE_MS = 500
ROWS = 80
COLUMNS = [
    ("id", "long", "BIGINT"),
    ("n", "int", "INTEGER"),
    ("m", "long", "BIGINT"),
    ("x", "double", "DOUBLE"),
    ("d", "decimal(10, 2)", "DECIMAL(10, 2)"),
    ("s", "string", "VARCHAR"),
    ("b", "boolean", "BOOLEAN"),
    ("t", "timestamp", "TIMESTAMP"),
    ("day", "date", "DATE"),
]
# What a statement may end with that says nothing about where its rows are.
OF_DATA = {"QUERY_FAILED", "SQL_INVALID", "SQL_NOT_SUPPORTED", "QUERY_MEMORY_EXCEEDED", "QUERY_TIMEOUT"}


class Breach(Exception):
    pass


class Client:
    def __init__(self, url):
        self.host = urllib.parse.urlsplit(url).netloc
        self.http = None

    def post(self, path, body, kind="application/json"):
        if self.http is None:
            self.http = http.client.HTTPConnection(self.host, timeout=120)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            headers = {"content-type": kind, "accept": "application/json; floats=text"}
            self.http.request("POST", path, data, headers)
            answer = self.http.getresponse()
            return answer.status, json.loads(answer.read(), parse_float=float)
        except (OSError, http.client.HTTPException) as error:
            raise Breach(f"the process does not answer any more: {error!r}") from error

    def ok(self, path, body, kind="application/json"):
        status, answer = self.post(path, body, kind)
        if status not in (200, 201):
            raise Breach(f"{path}: {status} {answer}")
        return answer


# Rows


def rows(dice):
    day = datetime.date(2026, 1, 1)
    for id in range(ROWS):
        seldom = dice.random() < 0.1
        yield {
            "id": id,
            "n": dice.choice([None, -7, -1, 0, 1, 2, 3, 2**31 - 1, -(2**31)]) if seldom else dice.randint(-5, 5),
            "m": None if dice.random() < 0.2 else dice.choice([0, 1, -1, 100, 2**40, -(2**40), dice.randint(-20, 20)]),
            "x": None if dice.random() < 0.2 else dice.choice([0.5, -1.25, 3.0, 1e300, -1e-300, dice.randint(-9, 9) / 4]),
            "d": None if dice.random() < 0.2 else str(decimal.Decimal(dice.randint(-500, 500)) / 100),
            "s": dice.choice([None, "", "a", "A", "abc", "ab%c", "z_", "äöü", "日本", " a ", "x" * 40]),
            "b": dice.choice([None, True, False]),
            "t": None if dice.random() < 0.2 else f"{dice.choice([1, 1650, 1970, 2026, 9999]):04}-0{dice.randint(1, 9)}-11T12:34:56.789123",
            "day": None if dice.random() < 0.2 else str(day + datetime.timedelta(dice.randint(-9, 9))),
        }


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def fill(gateway, dice):
    fields = [
        {"id": place, "name": name, "type": kind.replace(" ", ""), "required": name == "id"}
        for place, (name, kind, _) in enumerate(COLUMNS, 1)
    ]
    for table in TABLES:
        schema = {"type": "struct", "fields": fields}
        mode = "append"
        if table in UPSERT:
            schema["identifier-field-ids"] = [1]
            mode = "upsert"
        gateway.ok("/v1/tables", {"name": table, "schema": schema, "mode": mode, "buckets": 2})
    final = list(rows(dice))
    ndjson = "application/x-ndjson"
    send = lambda table, some: gateway.ok(f"/v1/tables/{table}/records", lines(some), ndjson)
    flush = lambda table: gateway.ok(f"/v1/tables/{table}/flush?timeout_ms=60000", b"")
    send("fuzz_tail", final)
    for table in ("fuzz_files", "fuzz_compacted"):
        for part in (final[::3], final[1::3], final[2::3]):
            send(table, part)
            flush(table)
    # Older rows of the same keys are in files, with deleted ones among them; half of the newer ones
    # are committed.
    older = [dict(row, n=99, s="older") for row in rows(dice)]
    for table in UPSERT:
        send(table, older)
        flush(table)
        send(table, final[::2])
        flush(table)
        send(table, final[1::2])
    return final


def peer(final):
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    # Some of its rewrites change answers, such as that of date_trunc(…) <> t where t is null.
    con.execute("PRAGMA disable_optimizer")
    columns = ", ".join(f"{name} {kind}" for name, _, kind in COLUMNS)
    con.execute(f"CREATE TABLE t ({columns})")
    marks = ", ".join(f"CAST(? AS {kind})" for _, _, kind in COLUMNS)
    for row in final:
        con.execute(f"INSERT INTO t VALUES ({marks})", [row[name] for name, _, _ in COLUMNS])
    return con


# Statements


class Maker:
    """Expressions of one type each, a few levels deep; `a.` before columns where there are two tables."""

    def __init__(self, dice):
        self.dice = dice
        self.of = [""]

    def pick(self, *choices):
        return self.dice.choice(choices)()

    def column(self, name):
        return self.dice.choice(self.of) + name

    def whole(self, depth=2):
        literal = lambda: str(self.dice.choice([0, 1, -1, 2, 5, 100, 2**31, -(2**40)]))
        column = lambda: self.column(self.dice.choice(["n", "m", "id"]))
        if depth == 0:
            return self.pick(column, column, literal)
        deeper = lambda: self.whole(depth - 1)
        return self.pick(
            column,
            literal,
            lambda: f"({deeper()} {self.dice.choice('+-*')} {deeper()})",
            lambda: f"({deeper()} % {self.dice.choice([2, 3, 7])})",
            lambda: f"abs({deeper()})",
            lambda: f"coalesce({deeper()}, {deeper()})",
            lambda: f"CAST(length({self.text(depth - 1)}) AS BIGINT)",
            lambda: f"CASE WHEN {self.condition(depth - 1)} THEN {deeper()} ELSE {deeper()} END",
            lambda: f"nullif({deeper()}, {deeper()})",
            lambda: f"CAST(extract({self.dice.choice(['year', 'month', 'day', 'hour'])} FROM {self.column('t')}) AS BIGINT)",
            lambda: f"{self.dice.choice(['greatest', 'least'])}({deeper()}, {deeper()})",
            lambda: f"CASE {deeper()} WHEN {deeper()} THEN {deeper()} WHEN 0 THEN 7 END",
            lambda: f"CAST(round({self.real(depth - 1)}) AS BIGINT)",
        )

    def real(self, depth=2):
        column = lambda: self.column("x")
        literal = lambda: f"CAST({self.dice.choice([0.5, -1.25, 3.0, 100.0])} AS DOUBLE)"
        if depth == 0:
            return self.pick(column, literal)
        deeper = lambda: self.real(depth - 1)
        return self.pick(
            column,
            literal,
            lambda: f"({deeper()} {self.dice.choice('+-*')} {deeper()})",
            lambda: f"abs({deeper()})",
            lambda: f"coalesce({deeper()}, {deeper()})",
            lambda: f"CASE WHEN {self.condition(depth - 1)} THEN {deeper()} END",
        )

    def number(self, _depth=0):
        column = lambda: self.column("d")
        literal = lambda: f"CAST({self.dice.randint(-500, 500) / 100} AS DECIMAL(10, 2))"
        return self.pick(column, column, literal)

    def text(self, depth=2):
        column = lambda: self.column("s")
        literal = lambda: self.dice.choice(["''", "'a'", "'abc'", "'äöü'", "'日本'", "'ab%c'"])
        if depth == 0:
            return self.pick(column, literal)
        deeper = lambda: self.text(depth - 1)
        return self.pick(
            column,
            literal,
            lambda: f"({deeper()} || {deeper()})",
            lambda: f"upper({self.dice.choice(['s', deeper()]) if self.of == [''] else deeper()})",
            lambda: f"lower({deeper()})",
            lambda: f"trim({deeper()})",
            lambda: f"substr({deeper()}, {self.dice.randint(1, 3)}, {self.dice.randint(0, 4)})",
            lambda: f"replace({deeper()}, 'a', 'bb')",
            lambda: f"{self.dice.choice(['left', 'right'])}({deeper()}, {self.dice.randint(0, 3)})",
            lambda: f"reverse({deeper()})",
            lambda: f"lpad({deeper()}, 4, '-')",
            lambda: f"CAST({self.whole(depth - 1)} AS VARCHAR)",
            lambda: f"concat({deeper()}, {deeper()})",
            lambda: f"coalesce({deeper()}, {deeper()})",
            lambda: f"CASE WHEN {self.condition(depth - 1)} THEN {deeper()} ELSE {deeper()} END",
        )

    def moment(self, _depth=0):
        year = self.dice.choice([1, 1650, 1970, 2026, 9999])
        return self.pick(
            lambda: self.column("t"),
            lambda: self.column("t"),
            lambda: f"TIMESTAMP '{year:04}-05-11 12:34:56.789123'",
            lambda: f"date_trunc('{self.dice.choice(['year', 'month', 'hour'])}', {self.column('t')})",
            lambda: f"({self.column('t')} + INTERVAL '{self.dice.randint(1, 40)} days')",
        )

    def day(self, _depth=0):
        return self.pick(
            lambda: self.column("day"),
            lambda: self.column("day"),
            lambda: f"DATE '2026-01-0{self.dice.randint(1, 9)}'",
        )

    def any(self, depth=2):
        return self.dice.choice(
            [self.whole, self.whole, self.real, self.number, self.text, self.moment, self.day]
        )(depth)

    def compared(self, depth):
        make = self.dice.choice([self.whole, self.whole, self.real, self.number, self.text, self.moment, self.day])
        left, right = make(depth), make(depth)
        sign = self.dice.choice(
            ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
        )
        return self.pick(
            lambda: f"{left} {sign} {right}",
            lambda: f"{left} BETWEEN {right} AND {make(depth)}",
            lambda: f"{left} {self.dice.choice(['', 'NOT '])}IN ({', '.join(make(0) for _ in range(self.dice.randint(1, 5)))})",
            lambda: f"{left} IS {self.dice.choice(['', 'NOT '])}NULL",
        )

    def condition(self, depth=2):
        if depth == 0:
            return self.pick(lambda: self.compared(0), lambda: self.column("b"))
        deeper = lambda: self.condition(depth - 1)
        return self.pick(
            lambda: f"({self.compared(depth - 1)})",
            lambda: f"({self.compared(depth - 1)})",
            lambda: f"({deeper()} AND {deeper()})",
            lambda: f"({deeper()} OR {deeper()})",
            lambda: f"(NOT {deeper()})",
            lambda: f"({self.text(depth - 1)} LIKE {self.dice.choice(['%a%', 'a%', '%c', '_', '%本'])!r})",
            lambda: self.column("b"),
            lambda: f"starts_with({self.text(depth - 1)}, {self.text(0)})",
            lambda: f"coalesce({deeper()}, {self.dice.choice(['true', 'false'])})",
            lambda: f"(({deeper()}) IS {self.dice.choice(['', 'NOT '])}{self.dice.choice(['TRUE', 'FALSE', 'NULL'])})",
        )

    def aggregate(self):
        filtered = lambda: f" FILTER (WHERE {self.condition(1)})" if self.dice.random() < 0.3 else ""
        return self.pick(
            lambda: "count(*)" + filtered(),
            lambda: f"count({self.any(1)})" + filtered(),
            lambda: f"count(DISTINCT {self.dice.choice([self.whole, self.text, self.day])(1)})",
            lambda: f"sum({self.whole(1)})" + filtered(),
            lambda: f"sum(DISTINCT {self.column('n')})",
            lambda: f"sum({self.number()})" + filtered(),
            lambda: f"{self.dice.choice(['min', 'max'])}({self.any(1)})" + filtered(),
            lambda: f"{self.dice.choice(['bool_and', 'bool_or'])}({self.condition(1)})" + filtered(),
            lambda: f"avg({self.column('n')})" + filtered(),
        )

    def statement(self):
        where = lambda: f" WHERE {self.condition()}" if self.dice.random() < 0.7 else ""
        group = lambda: self.dice.choice(["n", "s", "b", "day", "m % 3", "substr(s, 1, 1)", "id % 4"])
        self.of = [""]

        def rows():
            return f"SELECT id, {self.any()}, {self.any()} FROM {{t}}{where()}"

        def totals():
            some = ", ".join(self.aggregate() for _ in range(self.dice.randint(1, 4)))
            return f"SELECT {some} FROM {{t}}{where()}"

        def groups():
            key = group()
            having = f" HAVING count(*) > {self.dice.randint(0, 3)}" if self.dice.random() < 0.3 else ""
            return f"SELECT {key}, {self.aggregate()}, {self.aggregate()} FROM {{t}}{where()} GROUP BY {key}{having}"

        def some():
            order = self.dice.choice(["id", "id DESC", f"{self.dice.choice(['n', 's', 'm', 'day'])} NULLS FIRST, id", "x DESC NULLS LAST, id"])
            return f"SELECT id, {self.any(1)} FROM {{t}}{where()} ORDER BY {order} LIMIT {self.dice.randint(0, 20)} OFFSET {self.dice.randint(0, 5)}"

        def joined():
            kind = self.dice.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
            key = self.dice.choice(["id", "n", "s", "day"])
            self.of = ["a.", "b."]
            more = f" AND {self.condition(1)}" if self.dice.random() < 0.4 else ""
            statement = f"SELECT a.id, b.id, {self.any(1)} FROM {{t}} a {kind} {{t}} b ON a.{key} = b.{key}{more}"
            if self.dice.random() < 0.5:
                statement += f" WHERE {self.condition(1)}"
            self.of = [""]
            return statement

        def within():
            inner = self.condition(1)
            return self.pick(
                lambda: f"SELECT id FROM {{t}} WHERE n {self.dice.choice(['', 'NOT '])}IN (SELECT n FROM {{t}} WHERE {inner})",
                lambda: f"SELECT id FROM {{t}} o WHERE {self.dice.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM {{t}} i WHERE i.n = o.m AND i.id < 40)",
                lambda: f"SELECT id, n - (SELECT max(n) FROM {{t}} WHERE {inner} AND n < 100) FROM {{t}}{where()}",
                lambda: f"WITH q AS (SELECT id, n k, s FROM {{t}} WHERE {inner}) SELECT q.k, count(*) FROM q JOIN {{t}} u ON q.id = u.id GROUP BY q.k",
            )

        def windows():
            over = f"OVER (PARTITION BY {group()} ORDER BY id{self.dice.choice(['', ' ROWS 2 PRECEDING', ' ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING'])})"
            call = self.dice.choice(["row_number()", "sum(m)", "count(n)", "min(s)", "max(day)", "lag(n)", "first_value(s)"])
            if call in ("row_number()", "lag(n)"):
                over = over.split(" ROWS")[0] + (")" if " ROWS" in over else "")
            return f"SELECT id, {call} {over} FROM {{t}}{where()}"

        def sets():
            sign = self.dice.choice(["UNION ALL", "UNION", "EXCEPT", "INTERSECT"])
            return f"SELECT n, s FROM {{t}}{where()} {sign} SELECT n, s FROM {{t}}{where()}"

        def gathered():
            other = self.dice.choice(["m", "n + 1", "-n", "id % 3", "CAST(length(s) AS INTEGER)", "n * 2"])
            union = self.dice.choice(["UNION ALL", "UNION"])
            inner = f"SELECT n g, s FROM {{t}}{where()} {union} SELECT {other}, s || 'x' FROM {{t}}{where()}"
            return self.pick(
                lambda: f"SELECT g, count(*), max(s) FROM ({inner}) q GROUP BY g",
                lambda: f"SELECT DISTINCT g FROM ({inner}) q",
                lambda: f"SELECT count(*), count(DISTINCT g), min(s) FROM ({inner}) q",
            )

        def different():
            return f"SELECT DISTINCT {group()}, {self.dice.choice(['b', 'n', 'day'])} FROM {{t}}{where()}"

        def nested():
            inner = f"SELECT id, n, s, {self.whole()} k FROM {{t}}{where()}"
            shape = self.dice.choice(
                [
                    f"SELECT k, count(*), max(s) FROM ({inner}) q WHERE k > {self.dice.randint(-5, 5)} GROUP BY k",
                    f"SELECT id, k FROM ({inner} ORDER BY id LIMIT 30) q WHERE n < 2 OR s IS NULL",
                    f"SELECT q.id, u.n, q.k FROM ({inner}) q {self.dice.choice(['LEFT', 'RIGHT', 'FULL'])} JOIN (SELECT n, count(*) c FROM {{t}} GROUP BY n) u ON q.k = u.n WHERE u.c > 1 OR q.id < 9",
                    f"SELECT * FROM ({inner} UNION ALL SELECT id + 1000, n, s, 0 FROM {{t}}) q WHERE k = 0 AND (n > 0 OR s > 'a')",
                    f"SELECT id, (SELECT count(*) FROM {{t}} i WHERE i.n = q.n) FROM ({inner}) q WHERE k IS NOT NULL",
                    f"SELECT id, n, row_number() OVER (PARTITION BY n ORDER BY id) r FROM ({inner}) q QUALIFY r <= 2",
                    f"SELECT id, k FROM ({inner}) q WHERE k {self.dice.choice(['', 'NOT '])}IN (SELECT m FROM {{t}} WHERE {self.condition(1)})",
                ]
            )
            return shape

        def many():
            kinds = lambda: self.dice.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
            key = lambda: self.dice.choice(["id", "n", "day"])
            first, second = key(), key()
            self.of = ["a.", "b.", "c."]
            statement = (
                f"SELECT a.id, b.id, c.id FROM {{t}} a {kinds()} {{t}} b ON a.{first} = b.{first} AND a.id < 20 "
                f"{kinds()} {{t}} c ON b.{second} = c.{second} AND c.id < 20 WHERE {self.condition(1)} AND {self.condition(1)}"
            )
            self.of = [""]
            return statement

        def rolled():
            a, b = self.dice.sample(["n", "s", "b", "day"], 2)
            by = self.dice.choice(["ROLLUP ({a}, {b})", "CUBE ({a}, {b})", "GROUPING SETS (({a}), ({b}), ())"])
            return f"SELECT {a}, {b}, {self.aggregate()} FROM {{t}}{where()} GROUP BY {by.format(a=a, b=b)}"

        def using():
            kind = self.dice.choice(["JOIN", "LEFT JOIN", "FULL JOIN"])
            return f"SELECT id, a.n, b.s FROM {{t}} a {kind} (SELECT id, s FROM {{t}}{where()}) b USING (id) WHERE a.n > 0 OR b.s < 'b'"

        return self.dice.choice(
            [gathered, nested, nested, nested, many, rolled, using, rows, rows, totals, totals, groups, groups, some, joined, within, windows, sets, different]
        )()


def compact(query, folder):
    """Another engine's files for what was flushed, as soon as statements see them."""
    for table in ("fuzz_compacted", "fuzz_upsert_compacted"):
        (log,) = glob.glob(f"{folder}/**/{table}/_delta_log", recursive=True)
        files = lambda: query.ok(
            "/v1/sql",
            {"sql": f"SELECT count(*) FROM table_files('{table}')", "consistency": "committed"},
        )["rows"][0][0]
        had = files()
        DeltaTable(log.removesuffix("/_delta_log")).optimize.compact()
        until = time.monotonic() + 30
        while files() >= had:
            if time.monotonic() > until:
                raise Breach(f"{table} has its {had} files still")
            time.sleep(0.05)


# Answers


def plain(value):
    """Of Tidelake's JSON and of DuckDB's Python the same value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return str(value) if not math.isfinite(value) else float(f"{value:.10g}")
    if isinstance(value, int):
        return float(f"{value:.10g}") if abs(value) >= 2**63 else value
    if isinstance(value, decimal.Decimal):
        return str(value.normalize())
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds")
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def typed(value, kind):
    if value is None:
        return None
    if kind.startswith("decimal"):
        return str(decimal.Decimal(value).normalize())
    if kind.startswith("timestamp"):
        text = value.rstrip("Z").replace(" ", "T")
        text += "" if "." in text else ".000000"
        return text.ljust(26, "0")
    if kind in ("double", "float"):
        return plain(float(value))
    return plain(value)


def bag(rows):
    return collections.Counter(json.dumps(row, ensure_ascii=False) for row in rows)


class Fuzz:
    def __init__(self, query, con):
        self.query, self.con = Client(query), con
        self.counts = collections.Counter()
        self.details = {}

    def ask(self, statement, table):
        """The rows, or the code of an error that the data or the statement is to blame for."""
        begun = time.monotonic()
        body = {"sql": statement.format(t=table), "timeout_ms": TIMEOUT_MS}
        status, answer = self.query.post("/v1/sql", body)
        took = (time.monotonic() - begun) * 1000
        if took > TIMEOUT_MS + LATE_MS:
            raise Breach(f"answered after {took:.0f} ms, {TIMEOUT_MS} were given")
        self.counts["asked"] += 1
        if status == 200:
            kinds = [column["type"] for column in answer["columns"]]
            return [[typed(v, kind) for v, kind in zip(row, kinds)] for row in answer["rows"]]
        code = answer.get("code")
        if code not in OF_DATA:
            raise Breach(f"{table}: {status} {answer}")
        self.counts[code] += 1
        self.details.setdefault(code, answer.get("detail"))
        return code

    def everywhere(self, statement):
        answers = [self.ask(statement, table) for table in TABLES]
        good = [answer for answer in answers if not isinstance(answer, str)]
        if len(good) < len(answers):
            # Whether a row is computed that has no value depends on the order of conditions; that a
            # statement means nothing does not.
            codes = {answer for answer in answers if isinstance(answer, str)}
            if good and codes - {"QUERY_FAILED"}:
                raise Breach(f"answers differ in kind: {[a if isinstance(a, str) else 'rows' for a in answers]}")
            return None
        for table, answer in zip(TABLES[1:], good[1:]):
            self.same(TABLES[0], good[0], table, answer)
        return good[0]

    def same(self, left, a, right, b):
        a, b = bag(a), bag(b)
        if a != b:
            only = lambda x, y: list((x - y).elements())[:5]
            raise Breach(f"only in {left}: {only(a, b)}\nonly in {right}: {only(b, a)}")

    def beside_duckdb(self, statement, answer):
        try:
            theirs = self.con.execute(statement.format(t="t")).fetchall()
        except duckdb.Error:
            self.counts["duckdb refuses"] += 1
            return
        self.counts["compared"] += 1
        self.same("tidelake", answer, "duckdb", [[plain(v) for v in row] for row in theirs])

    def step(self, maker):
        kind = maker.dice.random()
        if kind < 0.7:
            self.statement = maker.statement()
            answer = self.everywhere(self.statement)
            if answer is not None:
                self.beside_duckdb(self.statement, answer)
            return
        maker.of = [""]
        condition, table = maker.condition(), maker.dice.choice(TABLES)
        if kind < 0.85:
            self.statement = f"SELECT id, n, s FROM {{t}} WHERE {condition}"
            parts = [
                self.ask(f"SELECT id, n, s FROM {{t}} WHERE {part}", table)
                for part in (condition, f"NOT {condition}", f"({condition}) IS NULL")
            ]
            if not any(isinstance(part, str) for part in parts):
                whole = self.ask("SELECT id, n, s FROM {t}", table)
                self.same("all rows", whole, "the three parts", sum(parts, []))
                self.counts["partitioned"] += 1
            return
        self.statement = f"SELECT count(*) FROM {{t}} WHERE {condition}"
        counted = self.ask(self.statement, table)
        added = self.ask(f"SELECT sum(CASE WHEN {condition} THEN 1 ELSE 0 END) FROM {{t}}", table)
        if not isinstance(counted, str) and not isinstance(added, str):
            self.same("WHERE", counted, "the sum", added)
            self.counts["added up"] += 1


def main():
    gateway, query, seconds, seed, folder = sys.argv[1:6]
    dice = random.Random(int(seed))
    final = fill(Client(gateway), dice)
    compact(Client(query), folder)
    fuzz = Fuzz(query, peer(final))
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        # A seed for each statement, so that one alone can be made again.
        one = dice.getrandbits(48)
        fuzz.statement = ""
        try:
            fuzz.step(Maker(random.Random(one)))
        except Breach as breach:
            rows = json.dumps(final[:3], ensure_ascii=False)
            sys.exit(f"seed {seed}, statement {one}:\n{fuzz.statement}\n{breach}\nrows: {rows} …")
    print(json.dumps({**fuzz.counts, "for example": fuzz.details}, ensure_ascii=False))


main()
