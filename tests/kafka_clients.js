// Produces, consumes in a group, lists offsets, commits and administers with kafkajs.
// usage: node kafkajs.js BOOTSTRAP, with kafkajs on NODE_PATH
const assert = require("node:assert");
const { Kafka, CompressionTypes, logLevel } = require("kafkajs");

async function main(bootstrap) {
  const kafka = new Kafka({ clientId: "js", brokers: [bootstrap], logLevel: logLevel.ERROR });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: "js", numPartitions: 2 }], waitForLeaders: true });
  const { topics } = await admin.fetchTopicMetadata({ topics: ["js"] });
  assert.equal(topics[0].partitions.length, 2);

  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    const messages = [...Array(50).keys()].map((n) => ({
      key: `k${n}`, value: `v${n}`, partition: n % 2, headers: { h: "x" },
    }));
    await producer.send({ topic: "js", compression, messages });
  }
  await producer.disconnect();

  const consumer = kafka.consumer({ groupId: "js-group" });
  await consumer.connect();
  await consumer.subscribe({ topics: ["js"], fromBeginning: true });
  const seen = new Set();
  await new Promise((done, failed) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => failed(payload.error));
    consumer.run({
      eachMessage: async ({ partition, message }) => {
        assert.equal(message.headers.h.toString(), "x");
        seen.add(`${partition}@${message.offset}`);
        if (seen.size === 100) done();
      },
    }).catch(failed);
  });
  await consumer.commitOffsets([0, 1].map((partition) => ({ topic: "js", partition, offset: "50" })));
  const { groups } = await admin.describeGroups(["js-group"]);
  assert.equal(groups[0].state, "Stable");
  await consumer.disconnect();

  const ends = await admin.fetchTopicOffsets("js");
  assert.deepEqual(ends.map((end) => [end.low, end.high]), [["0", "50"], ["0", "50"]]);
  const byTime = await admin.fetchTopicOffsetsByTimestamp("js", Date.now() + 1000000);
  assert.deepEqual(byTime.map((found) => found.offset), ["50", "50"]);
  const [committed] = await admin.fetchOffsets({ groupId: "js-group", topics: ["js"] });
  assert.deepEqual(committed.partitions.map((p) => p.offset).sort(), ["50", "50"]);
  await admin.deleteGroups(["js-group"]);
  await admin.deleteTopics({ topics: ["js"] });
  assert.ok(!(await admin.listTopics()).includes("js"));
  await admin.disconnect();
  console.log("ok");
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
