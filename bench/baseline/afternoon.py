"""The script that a data engineer writes in an afternoon: Kafka -> pyarrow JSON -> deltalake.

Reads a backlog of JSON records and appends them to a Delta table, one million rows a batch, no
exactly-once. Prints one JSON line. Usage: afternoon.py BOOTSTRAP TOPIC RECORDS FOLDER
"""

import io
import json
import os
import resource
import sys
import time

import pyarrow.json as pj
from confluent_kafka import Consumer
from deltalake import write_deltalake

BATCH_ROWS = 1_000_000


def main():
    bootstrap, topic, records, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": f"afternoon-{os.getpid()}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "queued.min.messages": 1_000_000,
        "fetch.queue.backoff.ms": 10,
    })
    consumer.subscribe([topic])
    begun, done, buffer = None, 0, []
    while done + len(buffer) < records:
        messages = consumer.consume(10_000, timeout=1.0)
        if begun is None and messages:
            begun = time.monotonic()
        buffer.extend(m.value() for m in messages if m.error() is None)
        if len(buffer) >= BATCH_ROWS or done + len(buffer) >= records:
            if buffer:
                write_deltalake(folder, pj.read_json(io.BytesIO(b"\n".join(buffer))), mode="append")
                done += len(buffer)
                buffer = []
    seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "benchmark": "afternoon_script",
        "records": done,
        "seconds": round(seconds, 3),
        "records_per_second": round(done / seconds),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
