//! Settings of `tidelake local`: few of its own, and those of each service below its name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidelake_log::KafkaSettings;
use tidelake_manifest::cache::SNAPSHOT_CACHE_BYTES;

use crate::failure::Failure;

/// Of the one flusher of an installation in a folder.
const INSTANCE_ID: &str = "local";
/// A flusher without one.
const NAMELESS: &str = "none";

/// Settings of everything in one process. Store, log and listeners are said once, at the top: a
/// service's own section can't contradict them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LocalSettings {
    /// Folder for the log and, unless `store` says otherwise, the tables.
    pub dir: PathBuf,
    /// Everything in memory, the log too: no file is made, no Kafka port is opened, and memory grows
    /// with all that is written, until the process ends and nothing is left.
    pub ephemeral: bool,
    /// Memory for versions of tables between uses, shared by all services: their lists of files.
    /// Versions in use come on top.
    pub snapshot_cache_bytes_max: u64,
    /// Without authentication this must be a loopback address.
    pub listen: IpAddr,
    pub gateway_port: u16,
    pub query_port: u16,
    pub kafka_port: u16,
    /// URL of the object store; empty: `store/` in the folder.
    pub store: String,
    /// `bootstrap` empty: the embedded broker.
    pub kafka: KafkaSettings,
    pub broker: BrokerSection,
    pub gateway: tidelake_ingest_gateway::Settings,
    pub flusher: tidelake_flusher::Settings,
    pub compactor: tidelake_compactor::Settings,
    pub query: tidelake_query_api::Settings,
}

/// What of the embedded broker can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BrokerSection {
    /// Waits for the disk before each acknowledgement. Off, a power cut may lose acknowledged
    /// records; a killed process does not.
    pub fsync: bool,
    /// How long an append may wait for company before the disk is asked.
    pub flush_linger_ms: u64,
}

impl Default for BrokerSection {
    fn default() -> Self {
        Self {
            fsync: true,
            flush_linger_ms: 0,
        }
    }
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self {
            dir: "./tidelake-data".into(),
            ephemeral: false,
            snapshot_cache_bytes_max: SNAPSHOT_CACHE_BYTES,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            gateway_port: 8080,
            query_port: 8081,
            kafka_port: 9092,
            store: String::new(),
            kafka: KafkaSettings {
                bootstrap: String::new(),
                ..KafkaSettings::default()
            },
            broker: BrokerSection::default(),
            gateway: tidelake_ingest_gateway::Settings::default(),
            flusher: tidelake_flusher::Settings::default(),
            compactor: tidelake_compactor::Settings::default(),
            query: tidelake_query_api::Settings::default(),
        }
    }
}

impl LocalSettings {
    /// What can't be allowed or can't work.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !self.listen.is_loopback() {
            let message = format!(
                "refusing to listen on {}: there is no authentication",
                self.listen
            );
            return Err(Failure::usage(message)
                .hint("listen on 127.0.0.1 or ::1; put a proxy that authenticates in front"));
        }
        let defaults = Self::default();
        let elsewhere = [
            ("dir", self.dir != defaults.dir),
            ("store", !self.store.is_empty()),
            ("kafka.bootstrap", !self.kafka.bootstrap.is_empty()),
        ];
        if self.ephemeral
            && let Some((key, _)) = elsewhere.iter().find(|(_, set)| *set)
        {
            let message = format!("setting \"{key}\" has no meaning for an ephemeral process");
            return Err(Failure::usage(message)
                .hint("it keeps everything in memory: leave out `ephemeral`, or this setting"));
        }
        let once = |section: &str, key: &str, unchanged: bool| {
            let at_top = match key {
                "listen" => "`listen` and the ports",
                _ => "the same key",
            };
            if unchanged {
                return Ok(());
            }
            let message = format!("setting \"{section}.{key}\" has no meaning here");
            Err(Failure::usage(message)
                .hint(format!("use {at_top} at the top, outside of {section}")))
        };
        let (ours, new) = (&self.gateway, &defaults.gateway);
        once("gateway", "store", ours.store == new.store)?;
        once("gateway", "kafka", ours.kafka == new.kafka)?;
        once("gateway", "listen", ours.listen == new.listen)?;
        let (ours, new) = (&self.flusher, &defaults.flusher);
        once("flusher", "store", ours.store == new.store)?;
        once("flusher", "kafka", ours.kafka == new.kafka)?;
        once("flusher", "listen", ours.listen == new.listen)?;
        let (ours, new) = (&self.compactor, &defaults.compactor);
        once("compactor", "store", ours.store == new.store)?;
        once("compactor", "listen", ours.listen == new.listen)?;
        let (ours, new) = (&self.query, &defaults.query);
        once("query", "store", ours.store == new.store)?;
        once("query", "kafka", ours.kafka == new.kafka)?;
        once("query", "listen", ours.listen == new.listen)
    }

    /// The object store's URL; `dir` is the absolute folder.
    pub(crate) fn store_url(&self, dir: &Path) -> Result<String, Failure> {
        if !self.store.is_empty() {
            return Ok(self.store.clone());
        }
        let folder = dir.join("store");
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::failed(format!("folder {}: {error}", folder.display())))?;
        let url = url::Url::from_directory_path(&folder);
        let url = url.map_err(|()| Failure::failed(format!("{} is no URL", folder.display())))?;
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    pub(super) fn kafka(&self, bootstrap: &str) -> KafkaSettings {
        KafkaSettings {
            bootstrap: bootstrap.to_owned(),
            ..self.kafka.clone()
        }
    }

    fn address(&self, port: u16) -> String {
        SocketAddr::new(self.listen, port).to_string()
    }

    pub(crate) fn gateway(&self, kafka: &str, store: &str) -> tidelake_ingest_gateway::Settings {
        let mut gateway = tidelake_ingest_gateway::Settings {
            store: store.to_owned(),
            kafka: self.kafka(kafka),
            listen: self.address(self.gateway_port),
            ..self.gateway.clone()
        };
        if self.ephemeral {
            // Bodies wait in memory alone: one may take what all may.
            gateway.ingest.spool_memory_bytes = gateway.ingest.spool_memory_bytes_total;
            gateway.ingest.spool_disk_bytes_total = 0;
        }
        gateway
    }

    /// Its health and metrics show on the gateway's port too: the process has one registry.
    pub(crate) fn flusher(
        &self,
        dir: Option<&Path>,
        kafka: &str,
        store: &str,
    ) -> tidelake_flusher::Settings {
        let index_dir = match (dir, self.flusher.index_dir.as_str()) {
            (Some(dir), "") => dir.join("cache/flusher").display().to_string(),
            (_, set) => set.to_owned(),
        };
        // A store in this process's own folder has no other flusher: it may have a name, by which
        // Apache Kafka gives it its buckets back at once after a crash, rather than when the
        // session of the dead one is over.
        let flusher = &self.flusher;
        let is_alone = dir.is_some() && self.store.is_empty() && flusher.group.is_empty();
        let instance_id = match flusher.instance_id.as_str() {
            "" if is_alone && !self.kafka.bootstrap.is_empty() => INSTANCE_ID.to_owned(),
            // The embedded broker ends with its flusher, and nothing is kept without a folder.
            "" if dir.is_none() || self.kafka.bootstrap.is_empty() => NAMELESS.to_owned(),
            set => set.to_owned(),
        };
        tidelake_flusher::Settings {
            index_dir,
            instance_id,
            store: store.to_owned(),
            kafka: self.kafka(kafka),
            listen: self.address(0),
            ..self.flusher.clone()
        }
    }

    pub(crate) fn compactor(&self, store: &str) -> tidelake_compactor::Settings {
        tidelake_compactor::Settings {
            store: store.to_owned(),
            listen: self.address(0),
            ..self.compactor.clone()
        }
    }

    /// True where somebody says where flusher or query keep their key indexes: they share none then.
    pub(crate) fn has_own_index_folders(&self) -> bool {
        !self.flusher.index_dir.is_empty() || self.query.query.index_folder.is_some()
    }

    pub(crate) fn query(
        &self,
        dir: Option<&Path>,
        kafka: &str,
        store: &str,
    ) -> tidelake_query_api::Settings {
        let mut query = self.query.query.clone();
        match dir {
            Some(dir) => {
                let folder = || dir.join("cache/query");
                query.index_folder.get_or_insert_with(folder);
            }
            // Operators that don't fit in memory fail instead of spilling.
            None => query.spill_bytes_max = 0,
        }
        tidelake_query_api::Settings {
            query,
            store: store.to_owned(),
            kafka: self.kafka(kafka),
            listen: self.address(self.query_port),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn load(overrides: serde_json::Value) -> LocalSettings {
        tidelake_service::settings::load(None, std::iter::empty(), overrides).unwrap()
    }

    #[test]
    fn an_open_installation_stays_on_the_machine() {
        let failure = load(json!({ "listen": "0.0.0.0" })).check().unwrap_err();
        assert!(failure.message.contains("refusing to listen on 0.0.0.0"));
        load(json!({ "listen": "::1" })).check().unwrap();
    }

    #[test]
    fn the_one_flusher_of_a_folder_is_known_to_kafka_by_name() {
        let instance = |overrides, dir| {
            let settings = load(overrides);
            settings.flusher(dir, "k:9092", "file:///s").instance_id
        };
        let dir = Some(Path::new("d"));
        let kafka = json!({ "bootstrap": "k:9092" });
        assert_eq!(instance(json!({ "kafka": kafka }), dir), "local");
        // What dies with the process has no session that outlives it.
        assert_eq!(instance(json!({}), dir), "none");
        assert_eq!(instance(json!({ "kafka": kafka }), None), "none");
        // Others may be in the group.
        let shared = json!({ "kafka": kafka, "store": "s3://a/b" });
        assert_eq!(instance(shared, dir), "");
        let grouped = json!({ "kafka": kafka, "flusher": { "group": "g" } });
        assert_eq!(instance(grouped, dir), "");
        let named = json!({ "kafka": kafka, "flusher": { "instance_id": "mine" } });
        assert_eq!(instance(named, dir), "mine");
    }

    #[test]
    fn what_is_said_once_can_not_be_contradicted() {
        let failure = load(json!({ "query": { "store": "s3://a/b" } }))
            .check()
            .unwrap_err();
        assert!(
            failure.message.contains("query.store"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn every_service_gets_the_same_store_and_log() {
        let settings = load(json!({ "gateway_port": 0, "kafka": { "topic_prefix": "x" } }));
        let gateway = settings.gateway("k:1", "file:///s");
        assert_eq!(gateway.kafka.bootstrap, "k:1");
        assert_eq!(gateway.kafka.topic_prefix, "x");
        assert_eq!(gateway.listen, "127.0.0.1:0");
        assert_eq!(
            settings
                .flusher(Some(Path::new("d")), "k:1", "file:///s")
                .kafka,
            gateway.kafka
        );
        assert_eq!(
            settings
                .query(Some(Path::new("d")), "k:1", "file:///s")
                .store,
            gateway.store
        );
    }

    #[test]
    fn a_folder_with_odd_letters_is_a_good_url() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a b#c");
        let url = LocalSettings::default().store_url(&odd).unwrap();
        assert!(url.ends_with("/a%20b%23c/store"), "{url}");
        assert!(odd.join("store").is_dir());
    }
}
