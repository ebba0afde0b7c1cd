//! The HTTP door: what a client sends becomes a request, an answer becomes bytes, an error a problem
//! document.
//!
//! Owns routes, headers, bodies and status codes. Knows the rooms below; none of them knows it.

pub(crate) mod answer;
mod check;
mod compress;
mod lookup;
mod problem;
mod routes;
mod snapshots;
mod tables;

pub use routes::router;
