//! One file for each family of requests; here, what they share and who answers what.
//!
//! [`begin`] decodes a request. A produce request is queued at once, so that requests of one
//! connection share a sync; everything else starts when its turn to be answered has come, so that a
//! connection sees its own effects in order.

mod cluster;
mod configs;
mod fetch;
mod groups;
mod list_offsets;
mod offsets;
mod produce;
mod shape;
mod shapes;
mod supported;
mod topics;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::sync::OwnedSemaphorePermit;

use crate::memory::Lease;
use crate::state::BrokerState;

/// What one element of a request takes at most, decoded and answered. Two bytes on the wire are
/// enough for an element, so memory is taken by their number, before they are decoded.
const ELEMENT_BYTES: usize = 256;

/// An answer as it goes to the socket, without the length in front.
#[derive(Debug)]
pub(crate) struct Reply {
    pub chunks: Vec<Bytes>,
    /// Memory accounted for until the reply is written.
    pub budget: Option<OwnedSemaphorePermit>,
}

/// Why a connection must end. Its client broke the protocol, or asked for the impossible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Hangup {
    #[error("request is malformed: {0}")]
    Malformed(String),
    #[error("api key {0} is not known")]
    UnknownApi(i16),
    #[error("version {version} of {api:?} is not served")]
    UnsupportedVersion { api: ApiKey, version: i16 },
    #[error("{api:?} asks for {elements} things at once: ask in parts")]
    TooMany { api: ApiKey, elements: usize },
    #[error("answer to {api:?} version {version} cannot be encoded: {reason}")]
    Encode {
        api: ApiKey,
        version: i16,
        reason: String,
    },
    #[error("a produce request that wants no answer failed: {0}")]
    Unanswered(&'static str),
}

/// `None` where the client wants no answer.
pub(crate) type Outcome = Result<Option<Reply>, Hangup>;

/// One request as a handler sees it.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub broker: Arc<BrokerState>,
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
    pub peer: SocketAddr,
}

impl Context {
    /// The reply's head, and how its body is to be encoded.
    fn reply_head(&self, bytes: &mut BytesMut) -> Result<(), Hangup> {
        let version = self.api.response_header_version(self.version);
        ResponseHeader::default()
            .with_correlation_id(self.correlation_id)
            .encode(bytes, version)
            .map_err(|error| self.encode_error(&error))
    }

    fn encode_error(&self, error: &dyn std::fmt::Display) -> Hangup {
        Hangup::Encode {
            api: self.api,
            version: self.version,
            reason: error.to_string(),
        }
    }

    fn reply<R: Encodable>(&self, response: &R) -> Outcome {
        let mut bytes = BytesMut::with_capacity(256);
        self.reply_head(&mut bytes)?;
        response
            .encode(&mut bytes, self.version)
            .map_err(|error| self.encode_error(&error))?;
        Ok(Some(Reply {
            chunks: vec![bytes.freeze()],
            budget: None,
        }))
    }
}

/// Starts to answer a request.
pub(crate) async fn begin(
    broker: &Arc<BrokerState>,
    peer: SocketAddr,
    mut frame: Bytes,
    lease: &mut Lease,
) -> Result<BoxFuture<'static, Outcome>, Hangup> {
    if frame.len() < 8 {
        return Err(Hangup::Malformed(format!(
            "{} bytes are no request",
            frame.len()
        )));
    }
    let whole_bytes = frame.len();
    let api_code = i16::from_be_bytes([frame[0], frame[1]]);
    let version = i16::from_be_bytes([frame[2], frame[3]]);
    let correlation_id = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
    let api = ApiKey::try_from(api_code).map_err(|()| Hangup::UnknownApi(api_code))?;
    let broker = Arc::clone(broker);
    let mut context = Context {
        broker,
        api,
        version,
        correlation_id,
        client_id: None,
        peer,
    };
    if !supported::serves(api, version) {
        return if api == ApiKey::ApiVersions {
            context.version = 0;
            let outcome = cluster::unsupported_api_versions(&context);
            Ok(Box::pin(async { outcome }))
        } else {
            Err(Hangup::UnsupportedVersion { api, version })
        };
    }
    let header = RequestHeader::decode(&mut frame, api.request_header_version(version))
        .map_err(|error| Hangup::Malformed(error.to_string()))?;
    context.client_id = header.client_id;
    let elements =
        shape::check(api, version, &frame).map_err(|error| Hangup::Malformed(error.to_string()))?;
    let broker = &context.broker;
    let decoded_bytes = elements.saturating_mul(ELEMENT_BYTES);
    if decoded_bytes > broker.settings.request_bytes_max {
        return Err(Hangup::TooMany { api, elements });
    }
    lease
        .cover(&broker.request_memory, whole_bytes + decoded_bytes)
        .await;
    dispatch(context, frame).await
}

async fn dispatch(context: Context, frame: Bytes) -> Result<BoxFuture<'static, Outcome>, Hangup> {
    let c = context;
    match c.api {
        ApiKey::Produce => produce::begin(c, frame).await,
        ApiKey::Fetch => later(c, frame, fetch::fetch),
        ApiKey::ListOffsets => later(c, frame, list_offsets::list_offsets),
        ApiKey::Metadata => later(c, frame, cluster::metadata),
        ApiKey::ApiVersions => later(c, frame, cluster::api_versions),
        ApiKey::DescribeCluster => later(c, frame, cluster::describe_cluster),
        ApiKey::InitProducerId => later(c, frame, produce::init_producer_id),
        ApiKey::CreateTopics => later(c, frame, topics::create_topics),
        ApiKey::DeleteTopics => later(c, frame, topics::delete_topics),
        ApiKey::CreatePartitions => later(c, frame, topics::create_partitions),
        ApiKey::DescribeConfigs => later(c, frame, configs::describe_configs),
        ApiKey::AlterConfigs => later(c, frame, configs::alter_configs),
        ApiKey::IncrementalAlterConfigs => later(c, frame, configs::incremental_alter_configs),
        ApiKey::FindCoordinator => later(c, frame, groups::find_coordinator),
        ApiKey::JoinGroup => later(c, frame, groups::join_group),
        ApiKey::SyncGroup => later(c, frame, groups::sync_group),
        ApiKey::Heartbeat => later(c, frame, groups::heartbeat),
        ApiKey::LeaveGroup => later(c, frame, groups::leave_group),
        ApiKey::DescribeGroups => later(c, frame, groups::describe_groups),
        ApiKey::ListGroups => later(c, frame, groups::list_groups),
        ApiKey::DeleteGroups => later(c, frame, groups::delete_groups),
        ApiKey::OffsetCommit => later(c, frame, offsets::offset_commit),
        ApiKey::OffsetFetch => later(c, frame, offsets::offset_fetch),
        ApiKey::OffsetDelete => later(c, frame, offsets::offset_delete),
        api => Err(Hangup::UnsupportedVersion {
            api,
            version: c.version,
        }),
    }
}

/// Decodes now, handles when polled.
fn later<R, F>(
    context: Context,
    frame: Bytes,
    handle: impl FnOnce(Context, R) -> F + Send + 'static,
) -> Result<BoxFuture<'static, Outcome>, Hangup>
where
    R: Decodable + HeaderVersion + Send + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let request = decode::<R>(frame, context.version)?;
    Ok(Box::pin(async move { handle(context, request).await }))
}

fn decode<R: Decodable>(mut frame: Bytes, version: i16) -> Result<R, Hangup> {
    R::decode(&mut frame, version).map_err(|error| Hangup::Malformed(error.to_string()))
}

/// Runs what blocks on the disk. `None` if it panicked or the runtime is going down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}
