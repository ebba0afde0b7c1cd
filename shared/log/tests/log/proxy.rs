//! Stands between a client and a broker and does to its answers what it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ApiKey, DescribeConfigsResponse, FetchResponse, FindCoordinatorResponse, MetadataResponse,
    ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

type Edit = Box<dyn Fn(&[u8]) -> Vec<u8> + Send>;

#[derive(Default)]
struct Mischief {
    /// What becomes of the record batches of a fetch.
    edit: Option<Edit>,
    /// Fetches are swallowed.
    holds: bool,
    /// Questions about settings are swallowed.
    holds_settings: bool,
    /// So many answers say that no topic is known.
    forgets: usize,
    /// Every topic is said to be compacted.
    compacted: bool,
    /// How late answers come. Those behind them do not wait for their turn.
    delay: Duration,
}

/// Answers on their way to a client.
const ANSWERS_MAX: usize = 1 << 10;

pub(crate) struct Proxy {
    port: u16,
    upstream: String,
    mischief: Mutex<Mischief>,
    /// Answers to heartbeats wait, and what the broker says behind them.
    heartbeats_held: watch::Sender<bool>,
    heartbeat_answered: Notify,
}

impl Proxy {
    pub(crate) async fn start(upstream: String) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            upstream,
            mischief: Mutex::default(),
            heartbeats_held: watch::Sender::new(false),
            heartbeat_answered: Notify::new(),
        });
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(broker) = TcpStream::connect(&serving.upstream).await {
                    serving.clone().pump(client, broker);
                }
            }
        });
        proxy
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn edit(&self, edit: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
        self.mischief.lock().unwrap().edit = Some(Box::new(edit));
    }

    pub(crate) fn hold(&self, holds: bool) {
        self.mischief.lock().unwrap().holds = holds;
    }

    pub(crate) fn hold_settings(&self) {
        self.mischief.lock().unwrap().holds_settings = true;
    }

    /// Waits until one more heartbeat is answered.
    pub(crate) async fn heartbeat(&self) {
        self.heartbeat_answered.notified().await;
    }

    pub(crate) fn hold_heartbeats(&self, held: bool) {
        self.heartbeats_held.send_replace(held);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.mischief.lock().unwrap().delay = delay;
    }

    pub(crate) fn forget_topics(&self, answers: usize) {
        self.mischief.lock().unwrap().forgets = answers;
    }

    pub(crate) fn compacted(&self, compacted: bool) {
        self.mischief.lock().unwrap().compacted = compacted;
    }

    fn pump(self: Arc<Self>, client: TcpStream, broker: TcpStream) {
        for stream in [&client, &broker] {
            stream.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let (answers, on_their_way) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(self.clone().requests(from_client, to_broker, asked.clone()));
        tokio::spawn(self.answers(from_broker, answers, asked));
        tokio::spawn(deliver(on_their_way, to_client));
    }

    async fn requests(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: Arc<Mutex<HashMap<i32, (i16, i16)>>>,
    ) {
        while let Ok(frame) = read(&mut from).await {
            let mut head = &frame[..8];
            let (key, version, id) = (head.get_i16(), head.get_i16(), head.get_i32());
            asked.lock().unwrap().insert(id, (key, version));
            let held = {
                let mischief = self.mischief.lock().unwrap();
                mischief.holds && key == ApiKey::Fetch as i16
                    || mischief.holds_settings && key == ApiKey::DescribeConfigs as i16
            };
            if !held && write(&mut to, &frame).await.is_err() {
                return;
            }
        }
    }

    async fn answers(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        to: mpsc::Sender<(JoinHandle<()>, Bytes)>,
        asked: Arc<Mutex<HashMap<i32, (i16, i16)>>>,
    ) {
        while let Ok(frame) = read(&mut from).await {
            let id = (&frame[..4]).get_i32();
            let (key, version) = asked.lock().unwrap().remove(&id).unwrap();
            if key == ApiKey::Heartbeat as i16 {
                let mut held = self.heartbeats_held.subscribe();
                // The sender is our own.
                let _go = held.wait_for(|held| !held).await;
                self.heartbeat_answered.notify_waiters();
            }
            let frame = match ApiKey::try_from(key) {
                Ok(ApiKey::Metadata) => rewrite(frame, version, |m| self.metadata(m)),
                Ok(ApiKey::FindCoordinator) => rewrite(frame, version, |m| self.coordinator(m)),
                Ok(ApiKey::DescribeConfigs) => rewrite(frame, version, |m| self.configs(m)),
                Ok(ApiKey::Fetch) => rewrite(frame, version, |m| self.fetched(m)),
                _ => frame,
            };
            let delay = self.mischief.lock().unwrap().delay;
            let due = tokio::spawn(async move {
                // There is nothing else to wait for.
                let _late = tokio::time::timeout(delay, std::future::pending::<()>()).await;
            });
            if to.send((due, frame)).await.is_err() {
                return;
            }
        }
    }

    fn metadata(&self, answer: &mut MetadataResponse) {
        for broker in &mut answer.brokers {
            broker.host = StrBytes::from_static_str("127.0.0.1");
            broker.port = i32::from(self.port);
        }
        let mut mischief = self.mischief.lock().unwrap();
        if mischief.forgets > 0 && !answer.topics.is_empty() {
            mischief.forgets -= 1;
            for topic in &mut answer.topics {
                topic.error_code = ResponseError::UnknownTopicOrPartition.code();
                topic.partitions.clear();
            }
        }
    }

    fn coordinator(&self, answer: &mut FindCoordinatorResponse) {
        answer.port = i32::from(self.port);
        for coordinator in &mut answer.coordinators {
            coordinator.port = i32::from(self.port);
        }
    }

    fn configs(&self, answer: &mut DescribeConfigsResponse) {
        if !self.mischief.lock().unwrap().compacted {
            return;
        }
        let settings = answer
            .results
            .iter_mut()
            .flat_map(|result| &mut result.configs);
        for setting in settings.filter(|setting| &*setting.name == "cleanup.policy") {
            setting.value = Some(StrBytes::from_static_str("compact"));
        }
    }

    fn fetched(&self, answer: &mut FetchResponse) {
        let mischief = self.mischief.lock().unwrap();
        let Some(edit) = &mischief.edit else {
            return;
        };
        let partitions = answer
            .responses
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions);
        for records in partitions.filter_map(|partition| partition.records.as_mut()) {
            *records = Bytes::from(edit(records));
        }
    }
}

fn rewrite<R: Decodable + Encodable + HeaderVersion>(
    frame: Bytes,
    version: i16,
    change: impl FnOnce(&mut R),
) -> Bytes {
    let mut rest = frame;
    let header = ResponseHeader::decode(&mut rest, R::header_version(version)).unwrap();
    let mut answer = R::decode(&mut rest, version).unwrap();
    change(&mut answer);
    let mut whole = BytesMut::new();
    header
        .encode(&mut whole, R::header_version(version))
        .unwrap();
    answer.encode(&mut whole, version).unwrap();
    whole.freeze()
}

async fn read(from: &mut OwnedReadHalf) -> std::io::Result<Bytes> {
    let mut frame = vec![0; from.read_i32().await? as usize];
    from.read_exact(&mut frame).await?;
    Ok(frame.into())
}

async fn write(to: &mut OwnedWriteHalf, frame: &[u8]) -> std::io::Result<()> {
    to.write_i32(frame.len() as i32).await?;
    to.write_all(frame).await
}

async fn deliver(mut answers: mpsc::Receiver<(JoinHandle<()>, Bytes)>, mut to: OwnedWriteHalf) {
    while let Some((due, frame)) = answers.recv().await {
        due.await.unwrap();
        if write(&mut to, &frame).await.is_err() {
            return;
        }
    }
}
