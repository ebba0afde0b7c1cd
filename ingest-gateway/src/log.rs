//! The log as the gateway needs it: a seam, so that tests run without a broker.

use std::fmt::Debug;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tidelake_core::{Bucket, Offset};
use tidelake_log::{
    LogAdmin, LogClient, LogError, Message, ProducerSettings, TopicCreated, TopicInfo, TopicSpec,
    TopicWriter,
};

/// Resolves once the log has the message on disk, or will never say.
pub(crate) type Delivered = BoxFuture<'static, Result<Offset, LogError>>;

pub(crate) trait TableLog: Debug + Send + Sync + 'static {
    /// Hands a message over, waiting for room in the queue.
    fn enqueue(&self, message: Message) -> BoxFuture<'_, Result<Delivered, LogError>>;
    fn create_topic<'a>(
        &'a self,
        spec: &'a TopicSpec,
    ) -> BoxFuture<'a, Result<TopicCreated, LogError>>;
    /// One that is not there is fine.
    fn delete_topic<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), LogError>>;
    fn describe<'a>(&'a self, topic: &'a str)
    -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>>;
    fn end_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>>;
    fn start_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>>;
    fn alive(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// A log as its client gives it.
#[derive(Debug)]
pub(crate) struct ClientLog {
    writer: Arc<dyn TopicWriter>,
    admin: Arc<dyn LogAdmin>,
}

impl ClientLog {
    pub(crate) fn new(log: &dyn LogClient) -> Result<Self, LogError> {
        Ok(Self {
            writer: log.writer(ProducerSettings::default())?,
            admin: log.admin(),
        })
    }
}

impl TableLog for ClientLog {
    fn enqueue(&self, message: Message) -> BoxFuture<'_, Result<Delivered, LogError>> {
        async move { Ok(self.writer.enqueue_waiting(message).await?.boxed()) }.boxed()
    }

    fn create_topic<'a>(
        &'a self,
        spec: &'a TopicSpec,
    ) -> BoxFuture<'a, Result<TopicCreated, LogError>> {
        self.admin.create_topic(spec).boxed()
    }

    fn delete_topic<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<(), LogError>> {
        self.admin.delete_topic(topic).boxed()
    }

    fn describe<'a>(
        &'a self,
        topic: &'a str,
    ) -> BoxFuture<'a, Result<Option<TopicInfo>, LogError>> {
        self.admin.describe(topic).boxed()
    }

    fn end_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>> {
        self.admin.end_offsets(topic, buckets).boxed()
    }

    fn start_offsets<'a>(
        &'a self,
        topic: &'a str,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<Vec<(Bucket, Offset)>, LogError>> {
        self.admin.start_offsets(topic, buckets).boxed()
    }

    fn alive(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.admin.alive().boxed()
    }
}
