"""Produces, consumes in a group, lists offsets, commits and administers with aiokafka.

usage: python kafka_clients.py BOOTSTRAP
"""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def main(bootstrap):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("py", num_partitions=2, replication_factor=1)])
    assert "py" in await admin.list_topics()
    for compression in (None, "gzip"):
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, enable_idempotence=True, compression_type=compression
        )
        await producer.start()
        for n in range(50):
            value = f"v{n}".encode()
            await producer.send("py", value, key=b"k", partition=n % 2, headers=[("h", b"x")])
        await producer.stop()

    consumer = AIOKafkaConsumer(
        "py",
        bootstrap_servers=bootstrap,
        group_id="py-group",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    seen = set()
    while len(seen) < 100:
        message = await asyncio.wait_for(consumer.getone(), 90)
        assert message.headers == (("h", b"x"),), message.headers
        seen.add((message.partition, message.offset))
    await consumer.commit()
    parts = [TopicPartition("py", 0), TopicPartition("py", 1)]
    assert await consumer.end_offsets(parts) == {part: 50 for part in parts}
    assert await consumer.beginning_offsets(parts) == {part: 0 for part in parts}
    by_time = await consumer.offsets_for_times({part: 0 for part in parts})
    assert all(found.offset == 0 for found in by_time.values()), by_time
    assert [await consumer.committed(part) for part in parts] == [50, 50]
    await consumer.stop()

    groups = await admin.list_consumer_groups()
    assert "py-group" in {group[0] for group in groups}, groups
    await admin.describe_consumer_groups(["py-group"])
    offsets = await admin.list_consumer_group_offsets("py-group")
    assert {at.partition: found.offset for at, found in offsets.items()} == {0: 50, 1: 50}
    await admin.delete_topics(["py"])
    assert "py" not in await admin.list_topics()
    await admin.close()
    print("ok")


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 200))
