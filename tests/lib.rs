//! What the promises are tested with: a running installation and a client of its HTTP surface.

mod client;
mod installation;

pub use client::{Answer, Client};
pub use installation::{Installation, Services};
