//! The settings of a topic, under Kafka's names. What is not served is refused, not ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// The values a partition works by; shared by a topic's partitions and changed in place.
pub(crate) type LiveConfig = Arc<RwLock<TopicConfig>>;

/// Defaults of the broker for topics that set nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigDefaults {
    pub retention_ms: Option<i64>,
    pub segment_bytes_max: u64,
    pub message_bytes_max: usize,
}

/// A topic's settings in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicConfig {
    /// `None` keeps records for ever.
    pub retention_ms: Option<i64>,
    /// `None` keeps any number of bytes.
    pub retention_bytes: Option<u64>,
    pub segment_bytes_max: u64,
    pub message_bytes_max: usize,
}

/// How Kafka's tools show a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigType {
    Int,
    Long,
    Text,
    List,
}

impl ConfigType {
    /// Kafka's number of the type.
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::Text => 2,
            Self::Int => 3,
            Self::Long => 5,
            Self::List => 7,
        }
    }
}

/// Every setting there is.
pub(crate) const NAMES: [(&str, ConfigType); 8] = [
    ("cleanup.policy", ConfigType::List),
    ("compression.type", ConfigType::Text),
    ("max.message.bytes", ConfigType::Int),
    ("message.timestamp.type", ConfigType::Text),
    ("min.insync.replicas", ConfigType::Int),
    ("retention.bytes", ConfigType::Long),
    ("retention.ms", ConfigType::Long),
    ("segment.bytes", ConfigType::Int),
];

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("topic setting {0:?} is not known to this broker")]
    Unknown(String),
    #[error("topic setting {name}={value:?} is not served: expected {expected}")]
    Value {
        name: String,
        value: String,
        expected: &'static str,
    },
}

impl TopicConfig {
    /// The settings that `overrides` make of the defaults.
    pub(crate) fn new(
        overrides: &BTreeMap<String, String>,
        defaults: ConfigDefaults,
    ) -> Result<Self, ConfigError> {
        let mut config = Self {
            retention_ms: defaults.retention_ms,
            retention_bytes: None,
            segment_bytes_max: defaults.segment_bytes_max,
            message_bytes_max: defaults.message_bytes_max,
        };
        for (name, value) in overrides {
            config.set(name, value)?;
        }
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let wrong = |expected| ConfigError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let only = |served| {
            if value == served {
                Ok(())
            } else {
                Err(wrong(served))
            }
        };
        let number = |min: i64, max: i64, expected| {
            let number = value.trim().parse::<i64>().ok();
            number
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| wrong(expected))
        };
        let unlimited_below_zero = "a number from -1 (unlimited) on";
        match name {
            "cleanup.policy" => only("delete")?,
            "compression.type" => only("producer")?,
            "message.timestamp.type" => only("CreateTime")?,
            "min.insync.replicas" => only("1")?,
            "retention.ms" => {
                let ms = number(-1, i64::MAX, unlimited_below_zero)?;
                self.retention_ms = (ms >= 0).then_some(ms);
            }
            "retention.bytes" => {
                let bytes = number(-1, i64::MAX, unlimited_below_zero)?;
                self.retention_bytes = u64::try_from(bytes).ok();
            }
            "segment.bytes" => {
                self.segment_bytes_max =
                    number(1024, i64::from(i32::MAX), "1024 to 2147483647")?.unsigned_abs();
            }
            "max.message.bytes" => {
                let bytes = number(0, i64::from(i32::MAX), "0 to 2147483647")?;
                self.message_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
            }
            _ => return Err(ConfigError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// The text of one setting in force.
    pub(crate) fn value(&self, name: &str) -> String {
        match name {
            "cleanup.policy" => "delete".to_owned(),
            "compression.type" => "producer".to_owned(),
            "max.message.bytes" => self.message_bytes_max.to_string(),
            "message.timestamp.type" => "CreateTime".to_owned(),
            "min.insync.replicas" => "1".to_owned(),
            "retention.bytes" => self
                .retention_bytes
                .map_or("-1".to_owned(), |b| b.to_string()),
            "retention.ms" => self
                .retention_ms
                .map_or("-1".to_owned(), |ms| ms.to_string()),
            _ => self.segment_bytes_max.to_string(),
        }
    }
}
