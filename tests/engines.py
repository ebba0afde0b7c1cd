"""Does to tables what other engines do, as the command line says: a JSON list of
[operation, path, version]; prints null for each that was done, or why it was refused.

delta-rs does what it can; what it can't is committed by hand, as Spark would.
"""

import json
import os
import re
import sys
import time
import uuid

import pyarrow as pa
from deltalake import DeltaTable, Field, write_deltalake


def rows(ids, value):
    ids = list(ids)
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("v", pa.int64()),
            pa.field("note", pa.string()),
        ]
    )
    return pa.table([ids, [value] * len(ids), ["other"] * len(ids)], schema=schema)


def append(path, _version):
    write_deltalake(path, rows(range(5000, 5040), 1), mode="append")


def delete(path, _version):
    DeltaTable(path).delete("id % 5 = 0")


def update(path, _version):
    DeltaTable(path).update(updates={"v": "v + 100000"}, predicate="id % 5 = 1")


def merge(path, _version):
    source = rows([*range(10, 20), *range(5000, 5010)], 7)
    merger = DeltaTable(path).merge(
        source, predicate="t.id = s.id", source_alias="s", target_alias="t"
    )
    merger = merger.when_matched_update({"v": "s.v"})
    merger.when_not_matched_insert({"id": "s.id", "v": "s.v", "note": "s.note"}).execute()


def compact(path, _version):
    DeltaTable(path).optimize.compact()


def z_order(path, _version):
    DeltaTable(path).optimize.z_order(["v"])


def restore(path, version):
    DeltaTable(path).restore(version)


def vacuum(path, _version, full=False):
    DeltaTable(path).vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False, full=full
    )


def vacuum_full(path, version):
    vacuum(path, version, full=True)


def checkpoint(path, _version):
    DeltaTable(path).create_checkpoint()


def clean_up(path, _version):
    """Checkpoint, and removal of commits that are 40 days old."""
    old = time.time() - 40 * 86400
    for name in commits(path)[:-1]:
        os.utime(f"{path}/_delta_log/{name}", (old, old))
    table = DeltaTable(path)
    table.create_checkpoint()
    table.cleanup_metadata()


def add_column(path, _version):
    DeltaTable(path).alter.add_columns([Field("extra", "string", nullable=True)])


def set_property(path, _version):
    DeltaTable(path).alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})


def set_by_hand(path, _version):
    metadata = newest(path, "metaData")
    properties = {
        "delta.checkpointInterval": "3",
        "delta.logRetentionDuration": "interval 2 days",
        "delta.deletedFileRetentionDuration": "interval 0 hours",
        "somebody.else": "ü",
    }
    configuration = {**metadata["configuration"], **properties}
    commit(path, "SET TBLPROPERTIES", [{"metaData": {**metadata, "configuration": configuration}}])


def commits(path):
    names = os.listdir(f"{path}/_delta_log")
    return sorted(name for name in names if re.fullmatch(r"\d{20}\.json", name))


def newest(path, action):
    for name in reversed(commits(path)):
        with open(f"{path}/_delta_log/{name}") as lines:
            for line in lines:
                found = json.loads(line)
                if action in found:
                    return found[action]
    raise LookupError(action)


def commit(path, operation, actions):
    """Put if absent of the next number, until nobody else was faster."""
    info = {"timestamp": int(time.time() * 1000), "operation": operation}
    text = "".join(json.dumps(action) + "\n" for action in [{"commitInfo": info}, *actions])
    while True:
        number = int(commits(path)[-1][:20]) + 1
        temporary = f"{path}/_delta_log/.{uuid.uuid4()}"
        with open(temporary, "w") as file:
            file.write(text)
        try:
            os.link(temporary, f"{path}/_delta_log/{number:020}.json")
            return
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)


def alter(path, operation, change, mapped=False):
    """A metadata commit; `change` gets the list of fields."""
    metadata, protocol = newest(path, "metaData"), newest(path, "protocol")
    schema, configuration = json.loads(metadata["schemaString"]), metadata["configuration"]
    actions = []
    if mapped and configuration.get("delta.columnMapping.mode", "none") == "none":
        for number, field in enumerate(schema["fields"], 1):
            field["metadata"]["delta.columnMapping.id"] = number
            field["metadata"]["delta.columnMapping.physicalName"] = field["name"]
        configuration["delta.columnMapping.mode"] = "name"
        configuration["delta.columnMapping.maxColumnId"] = str(len(schema["fields"]))
        protocol = {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": [*protocol.get("readerFeatures", []), "columnMapping"],
            "writerFeatures": [
                *protocol.get("writerFeatures", ["appendOnly", "invariants"]),
                "columnMapping",
            ],
        }
        actions.append({"protocol": protocol})
    change(schema["fields"])
    actions.append({"metaData": {**metadata, "schemaString": json.dumps(schema)}})
    commit(path, operation, actions)


def add_by_hand(path, _version):
    field = {"name": "extra", "type": "string", "nullable": True, "metadata": {}}
    alter(path, "ADD COLUMNS", lambda fields: fields.append(field))


def rename(path, _version):
    alter(path, "RENAME COLUMN", lambda fields: fields[1].update(name="w"), mapped=True)


def reorder(path, _version):
    alter(path, "CHANGE COLUMN", lambda fields: fields.insert(1, fields.pop(2)))


def drop(path, _version):
    alter(path, "DROP COLUMNS", lambda fields: fields.pop(2), mapped=True)


def main():
    # Whatever an engine prints is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for operation, path, version in json.loads(sys.argv[1]):
        try:
            globals()[operation](path, version)
            print("null", file=answers)
        except Exception as error:
            print(json.dumps(f"{type(error).__name__}: {error}"[:300]), file=answers)
    answers.close()


main()
