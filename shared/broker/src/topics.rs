//! The topics of the broker: names, ids, settings, and the folders they live in.
//!
//! ```text
//! topics/<name>/topic.json      id, partition count, settings (replaced as a whole)
//! topics/<name>/<index>/        segments of one partition
//! deleted/<id>/                 on its way out: moved here at once, removed after
//! ```
//! What is built or deleted goes by the id alone: a name of 249 bytes leaves no room for more in a
//! folder's name.
//!
//! Invariant: a folder below `topics/` has a `topic.json`; it appears and disappears by rename.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tidelake_core::TopicId;
use uuid::Uuid;

use crate::damage::OfflinePartition;
use crate::error::BrokerError;
use crate::files::{decode, encode, sync_dir, write_atomic};
use crate::partition::{Partition, PartitionContext};
use crate::topic_config::{ConfigDefaults, ConfigError, LiveConfig, TopicConfig};

/// Partitions of one topic.
const PARTITIONS_MAX: i32 = 4_096;
/// Topics of one broker.
const TOPICS_MAX: usize = 20_000;
const NAME_BYTES_MAX: usize = 249;
/// The folder of all topics, below the broker's.
const TOPICS_DIR: &str = "topics";

/// The folder of one partition, below the broker's. `None` for what cannot be a topic's name.
pub(crate) fn partition_dir(dir: &Path, topic: &str, partition: i32) -> Option<PathBuf> {
    check_name(topic).ok()?;
    Some(dir.join(TOPICS_DIR).join(topic).join(partition.to_string()))
}

/// Every partition below the broker's folder: topic, index, folder.
pub(crate) fn partition_dirs(dir: &Path) -> io::Result<Vec<(String, i32, PathBuf)>> {
    let mut found = Vec::new();
    for topic in fs::read_dir(dir.join(TOPICS_DIR))? {
        let topic = topic?;
        let name = topic.file_name();
        let Some(name) = name.to_str().filter(|name| check_name(name).is_ok()) else {
            continue;
        };
        for partition in fs::read_dir(topic.path())? {
            let partition = partition?;
            let index = partition.file_name();
            let index = index.to_str().and_then(|index| index.parse().ok());
            found.extend(index.map(|index| (name.to_owned(), index, partition.path())));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Why a topic could not be created or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopicError {
    #[error("topic {0:?} exists already")]
    Exists(String),
    #[error("topic {0:?} does not exist")]
    Unknown(String),
    #[error("topic name {0:?} is not valid: 1 to 249 of letters, digits, '.', '_' and '-'")]
    Name(String),
    #[error("{0} partitions are not possible: expected 1 to {PARTITIONS_MAX}")]
    Partitions(i32),
    #[error("topic has {now} partitions already: the number can only grow, not become {asked}")]
    Shrinks { now: i32, asked: i32 },
    #[error("this broker holds {TOPICS_MAX} topics, its most: delete one first")]
    TooMany,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("topic files could not be changed")]
    Io(#[from] io::Error),
}

/// What `topic.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    version: u32,
    id: TopicId,
    partitions: i32,
    configs: BTreeMap<String, String>,
}

/// One topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub name: String,
    pub id: Uuid,
    partitions: RwLock<Vec<Arc<Partition>>>,
    overrides: RwLock<BTreeMap<String, String>>,
    config: LiveConfig,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<Arc<Partition>> {
        self.partitions
            .read()
            .get(usize::try_from(index).ok()?)
            .cloned()
    }

    pub(crate) fn partition_count(&self) -> i32 {
        self.partitions.read().len() as i32
    }

    pub(crate) fn config(&self) -> TopicConfig {
        *self.config.read()
    }

    /// What was set for this topic, as opposed to the broker's defaults.
    pub(crate) fn overrides(&self) -> BTreeMap<String, String> {
        self.overrides.read().clone()
    }
}

#[derive(Debug, Default)]
struct Names {
    by_name: BTreeMap<String, Arc<Topic>>,
    by_id: HashMap<Uuid, Arc<Topic>>,
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Topics {
    dir: PathBuf,
    deleted_dir: PathBuf,
    defaults: ConfigDefaults,
    context: Arc<PartitionContext>,
    names: RwLock<Names>,
    /// One change at a time; held across disk work, never by readers.
    changing: Mutex<()>,
}

impl Topics {
    /// Recovers all topics below `dir`. Blocks on the disk.
    pub(crate) fn open(
        dir: &Path,
        defaults: ConfigDefaults,
        context: Arc<PartitionContext>,
    ) -> Result<Self, BrokerError> {
        let topics = Self {
            dir: dir.join(TOPICS_DIR),
            deleted_dir: dir.join("deleted"),
            defaults,
            context,
            names: RwLock::default(),
            changing: Mutex::new(()),
        };
        fs::create_dir_all(&topics.dir).map_err(BrokerError::io(&topics.dir))?;
        topics.purge();
        for entry in fs::read_dir(&topics.dir).map_err(BrokerError::io(&topics.dir))? {
            let path = entry.map_err(BrokerError::io(&topics.dir))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if check_name(name).is_err() {
                continue;
            }
            let topic = topics.load(name, &path)?;
            topics.names.write().insert(topic);
        }
        Ok(topics)
    }

    fn load(&self, name: &str, path: &Path) -> Result<Topic, BrokerError> {
        let meta_path = path.join("topic.json");
        let damaged = |reason: String| BrokerError::Corrupt {
            path: path.to_owned(),
            reason: format!("topic.json: {reason}"),
        };
        let bytes = fs::read(&meta_path).map_err(BrokerError::io(&meta_path))?;
        let meta: Meta = decode(&bytes).map_err(damaged)?;
        let config = TopicConfig::new(&meta.configs, self.defaults)
            .map_err(|error| damaged(error.to_string()))?;
        if !(1..=PARTITIONS_MAX).contains(&meta.partitions) {
            return Err(damaged(format!("{} partitions", meta.partitions)));
        }
        for index in 0..meta.partitions {
            let dir = path.join(index.to_string());
            fs::create_dir_all(&dir).map_err(BrokerError::io(&dir))?;
        }
        Ok(self.assemble(name, path, meta, config))
    }

    fn assemble(&self, name: &str, path: &Path, meta: Meta, config: TopicConfig) -> Topic {
        let config = Arc::new(RwLock::new(config));
        let partitions =
            (0..meta.partitions).map(|index| self.open_partition(name, path, index, &config));
        Topic {
            name: name.to_owned(),
            id: Uuid::from_bytes(meta.id.0),
            partitions: RwLock::new(partitions.collect()),
            overrides: RwLock::new(meta.configs),
            config,
        }
    }

    fn open_partition(
        &self,
        name: &str,
        path: &Path,
        index: i32,
        config: &LiveConfig,
    ) -> Arc<Partition> {
        let context = Arc::clone(&self.context);
        let dir = path.join(index.to_string());
        Partition::open(format!("{name}-{index}"), dir, context, Arc::clone(config))
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Topic>> {
        self.names.read().by_name.get(name).cloned()
    }

    pub(crate) fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.names.read().by_id.get(&id).cloned()
    }

    /// All topics by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.names.read().by_name.values().cloned().collect()
    }

    /// Checks what [`Topics::create`] would check, and changes nothing.
    pub(crate) fn check_new(
        &self,
        name: &str,
        partitions: i32,
        configs: &BTreeMap<String, String>,
    ) -> Result<TopicConfig, TopicError> {
        check_name(name)?;
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(TopicError::Partitions(partitions));
        }
        let names = self.names.read();
        if names.by_name.contains_key(name) {
            return Err(TopicError::Exists(name.to_owned()));
        }
        if names.by_name.len() >= TOPICS_MAX {
            return Err(TopicError::TooMany);
        }
        Ok(TopicConfig::new(configs, self.defaults)?)
    }

    /// Creates a topic, durably. Blocks on the disk.
    pub(crate) fn create(
        &self,
        name: &str,
        id: Uuid,
        partitions: i32,
        configs: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, TopicError> {
        let _changing = self.changing.lock();
        let config = self.check_new(name, partitions, &configs)?;
        let meta = Meta {
            version: 1,
            id: TopicId(id.into_bytes()),
            partitions,
            configs,
        };
        // Built where an interrupted creation is cleaned away with what was deleted.
        let building = self.deleted_dir.join(format!("{id}.new"));
        for index in 0..partitions {
            fs::create_dir_all(building.join(index.to_string()))?;
        }
        write_atomic(&building.join("topic.json"), &encode(&meta))?;
        let path = self.dir.join(name);
        fs::rename(&building, &path)?;
        sync_dir(&self.dir)?;
        let topic = self.assemble(name, &path, meta, config);
        Ok(self.names.write().insert(topic))
    }

    /// Adds partitions until there are `count`. Blocks on the disk.
    pub(crate) fn grow(&self, name: &str, count: i32, dry_run: bool) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        let topic = self
            .by_name(name)
            .ok_or_else(|| TopicError::Unknown(name.to_owned()))?;
        let now = topic.partition_count();
        if count <= now {
            return Err(TopicError::Shrinks { now, asked: count });
        }
        if count > PARTITIONS_MAX {
            return Err(TopicError::Partitions(count));
        }
        if dry_run {
            return Ok(());
        }
        let path = self.dir.join(name);
        for index in now..count {
            fs::create_dir_all(path.join(index.to_string()))?;
        }
        self.write_meta(&topic, count, topic.overrides())?;
        let added = (now..count).map(|i| self.open_partition(name, &path, i, &topic.config));
        let added: Vec<_> = added.collect();
        topic.partitions.write().extend(added);
        Ok(())
    }

    /// Replaces a topic's settings by what `change` makes of them. Blocks on the disk.
    pub(crate) fn configure(
        &self,
        name: &str,
        dry_run: bool,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        let topic = self
            .by_name(name)
            .ok_or_else(|| TopicError::Unknown(name.to_owned()))?;
        let mut overrides = topic.overrides();
        change(&mut overrides);
        let config = TopicConfig::new(&overrides, self.defaults)?;
        if dry_run {
            return Ok(());
        }
        self.write_meta(&topic, topic.partition_count(), overrides.clone())?;
        *topic.overrides.write() = overrides;
        *topic.config.write() = config;
        Ok(())
    }

    fn write_meta(
        &self,
        topic: &Topic,
        partitions: i32,
        configs: BTreeMap<String, String>,
    ) -> io::Result<()> {
        let id = TopicId(topic.id.into_bytes());
        let meta = Meta {
            version: 1,
            id,
            partitions,
            configs,
        };
        write_atomic(
            &self.dir.join(&topic.name).join("topic.json"),
            &encode(&meta),
        )
    }

    /// Deletes a topic, durably, and wakes those who wait for its records. Blocks on the disk.
    pub(crate) fn delete(&self, name: &str) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        let topic = self
            .by_name(name)
            .ok_or_else(|| TopicError::Unknown(name.to_owned()))?;
        fs::create_dir_all(&self.deleted_dir)?;
        fs::rename(
            self.dir.join(name),
            self.deleted_dir.join(topic.id.to_string()),
        )?;
        sync_dir(&self.dir)?;
        let mut names = self.names.write();
        names.by_name.remove(name);
        names.by_id.remove(&topic.id);
        drop(names);
        for partition in topic.partitions.read().iter() {
            partition.delete();
        }
        self.purge();
        Ok(())
    }

    /// Removes what was deleted before. What cannot be removed now is tried again next time.
    fn purge(&self) {
        match fs::remove_dir_all(&self.deleted_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = ?self.deleted_dir, %error, "deleted topics not removed yet");
            }
            _ => {}
        }
    }

    /// Every partition that is offline, with its topic, its index and why.
    pub(crate) fn offline(&self) -> Vec<OfflinePartition> {
        let mut offline = Vec::new();
        for topic in self.all() {
            for (partition, index) in topic.partitions.read().iter().zip(0..) {
                offline.extend(partition.offline().map(|reason| OfflinePartition {
                    topic: topic.name.clone(),
                    partition: index,
                    reason: reason.to_owned(),
                }));
            }
        }
        offline
    }

    /// All partitions of all topics.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        let topics = self.all();
        topics
            .iter()
            .flat_map(|topic| topic.partitions.read().clone())
            .collect()
    }
}

impl Names {
    fn insert(&mut self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.by_id.insert(topic.id, Arc::clone(&topic));
        self.by_name.insert(topic.name.clone(), Arc::clone(&topic));
        topic
    }
}

/// Kafka's rule for topic names, which also makes them fit to be folder names.
fn check_name(name: &str) -> Result<(), TopicError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let ok = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(legal)
        && name != "."
        && name != "..";
    if ok {
        Ok(())
    } else {
        Err(TopicError::Name(name.chars().take(80).collect()))
    }
}
