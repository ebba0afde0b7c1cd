//! The clients of a Kafka log, beside the embedded broker.

mod damage;
mod proxy;
