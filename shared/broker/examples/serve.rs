//! Serves a folder: `serve PORT DIR [nofsync]`. For trying clients by hand.

use std::net::{Ipv4Addr, SocketAddr};

use tidelake_broker::{Broker, BrokerSettings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let (Some(port), Some(dir)) = (args.next(), args.next()) else {
        return Err("usage: serve PORT DIR [nofsync]".into());
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?));
    let mut settings = BrokerSettings::new(dir, listen);
    settings.fsync = args.next().as_deref() != Some("nofsync");
    let broker = Broker::start(settings).await?;
    tokio::signal::ctrl_c().await?;
    broker.shutdown().await?;
    Ok(())
}
