//! What the promises are tested with: a running installation, a client of its HTTP surface and a
//! producer that goes around it.

mod client;
mod direct;
mod fleet;
mod installation;

pub use client::{Answer, Client};
pub use direct::Direct;
pub use fleet::Fleet;
pub use installation::{Installation, Services};
