//! Whether the parts of a process can do their work now.
//!
//! A component is named once and reports itself; readiness is that all components are ready.
//! Liveness is not here: a process that answers is alive, whatever Kafka or the store do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// The components of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, ComponentHealth>>>);

/// What one component last said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentHealth {
    pub ready: bool,
    /// Why it is not ready; absent where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A component's own end.
#[derive(Clone, Debug)]
pub struct HealthHandle {
    health: Health,
    name: &'static str,
}

/// All components at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    pub ready: bool,
    pub components: BTreeMap<&'static str, ComponentHealth>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, not ready ("starting") until it says otherwise. Naming one twice gives a
    /// second handle to the same component.
    pub fn component(&self, name: &'static str) -> HealthHandle {
        self.with(|components| {
            components.entry(name).or_insert_with(|| ComponentHealth {
                ready: false,
                reason: Some("starting".to_owned()),
            });
        });
        HealthHandle {
            health: self.clone(),
            name,
        }
    }

    /// Ready where every component is; a process without components is ready.
    pub fn report(&self) -> HealthReport {
        let components = self.with(|components| components.clone());
        HealthReport {
            ready: components.values().all(|c| c.ready),
            components,
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<&'static str, ComponentHealth>) -> T) -> T {
        // A panic elsewhere leaves the map whole: every change to it is one insert.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HealthHandle {
    pub fn ready(&self) {
        self.set(ComponentHealth {
            ready: true,
            reason: None,
        });
    }

    /// `reason` is shown to operators: say what is missing, not only that something is.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(ComponentHealth {
            ready: false,
            reason: Some(reason.into()),
        });
    }

    fn set(&self, health: ComponentHealth) {
        let before = self
            .health
            .with(|components| components.insert(self.name, health.clone()));
        if before.as_ref() == Some(&health) {
            return;
        }
        match &health.reason {
            None => tracing::info!(component = self.name, "ready"),
            Some(reason) => tracing::warn!(component = self.name, reason, "not ready"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_component_is() {
        let health = Health::new();
        assert!(health.report().ready);
        let log = health.component("log");
        let store = health.component("store");
        assert!(!health.report().ready);
        log.ready();
        assert!(!health.report().ready);
        store.ready();
        assert!(health.report().ready);
        log.not_ready("no broker answers");
        let report = health.report();
        assert!(!report.ready);
        assert_eq!(
            report.components["log"].reason.as_deref(),
            Some("no broker answers")
        );
    }

    #[test]
    fn a_second_handle_does_not_reset_a_component() {
        let health = Health::new();
        health.component("log").ready();
        let _second = health.component("log");
        assert!(health.report().ready);
    }
}
