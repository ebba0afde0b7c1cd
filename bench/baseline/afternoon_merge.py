"""The afternoon script for upserts: Kafka -> pyarrow JSON -> deltalake merge, a million rows a batch.

The table holds LIVE keys before the clock starts. Prints one JSON line.
Usage: afternoon_merge.py BOOTSTRAP TOPIC RECORDS FOLDER LIVE
"""

import io
import json
import os
import resource
import sys
import time

import pyarrow as pa
import pyarrow.json as pj
from confluent_kafka import Consumer, TopicPartition
from deltalake import DeltaTable, write_deltalake

BATCH_ROWS = 1_000_000


def fill(folder, live):
    for start in range(0, live, BATCH_ROWS):
        ids = range(start, min(start + BATCH_ROWS, live))
        write_deltalake(folder, pa.table({
            "id": pa.array(ids, pa.int64()),
            "user": pa.array([f"u{i % 500_000:06}" for i in ids]),
            "amount": pa.array([i % 50_000 / 100 for i in ids]),
            "ts": pa.array(ids, pa.int64()),
            "country": pa.array(["DE"] * len(ids)),
            "event": pa.array(["click"] * len(ids)),
        }), mode="append")


def main():
    bootstrap, topic, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
    folder, live = sys.argv[4], int(sys.argv[5])
    fill(folder, live)
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": f"afternoon-{os.getpid()}",
        "enable.auto.commit": False,
        "queued.min.messages": 1_000_000,
        "fetch.queue.backoff.ms": 10,
    })
    partitions = consumer.list_topics(topic).topics[topic].partitions
    # Single records only: the table was filled with packed batches.
    starts = []
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition))
        starts.append(TopicPartition(topic, partition, low))
    consumer.assign(starts)
    begun, done, buffer = None, 0, []
    while done + len(buffer) < records:
        messages = consumer.consume(10_000, timeout=1.0)
        values = [m.value() for m in messages if m.error() is None and m.key() is not None]
        if begun is None and values:
            begun = time.monotonic()
        buffer.extend(values)
        if len(buffer) >= BATCH_ROWS or done + len(buffer) >= records:
            rows = pj.read_json(io.BytesIO(b"\n".join(buffer)))
            places = rows.append_column("place", pa.array(range(len(rows))))
            newest = places.group_by("id").aggregate([("place", "max")])["place_max"]
            (DeltaTable(folder)
                .merge(rows.take(newest), "t.id = s.id", source_alias="s", target_alias="t")
                .when_matched_update_all().when_not_matched_insert_all().execute())
            done += len(buffer)
            buffer = []
    seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "benchmark": "afternoon_merge",
        "records": done,
        "live_keys": live,
        "seconds": round(seconds, 3),
        "records_per_second": round(done / seconds),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
