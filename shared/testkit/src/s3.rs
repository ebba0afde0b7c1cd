//! An S3 server of others: versitygw over a folder. Its conditional puts are atomic, which few
//! look-alikes' are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::external;
use crate::process::{Process, Program};
use crate::wait::{WAIT_MAX, free_port, wait_until};

const BINARY: &str = "bin/versitygw";
const ACCESS_KEY: &str = "testkit";
const SECRET_KEY: &str = "testkit-secret";
const REGION: &str = "us-east-1";

/// A running server with its own buckets. Stopped and its data removed when dropped.
#[derive(Debug)]
pub struct S3Server {
    dir: TempDir,
    binary: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl S3Server {
    /// Starts a server that has these buckets. `None` where external tests are switched off.
    ///
    /// # Errors
    /// When it is not in the cache, or does not come up.
    pub async fn start(buckets: &[&str]) -> Result<Option<Self>> {
        if !external::wanted("an S3 server") {
            return Ok(None);
        }
        let binary = external::cached(BINARY)?;
        let dir = tempfile::tempdir().context("no folder for the S3 server")?;
        for bucket in buckets {
            fs::create_dir_all(dir.path().join("data").join(bucket))?;
        }
        let mut server = Self {
            dir,
            binary,
            port: free_port()?,
            process: None,
        };
        server.restart().await?;
        Ok(Some(server))
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}")
    }

    /// The environment through which S3 clients find it.
    pub fn env(&self) -> Vec<(String, String)> {
        let endpoint = self.endpoint();
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL", &endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// The folder that holds a bucket's objects as files.
    pub fn folder(&self, bucket: &str) -> PathBuf {
        self.dir.path().join("data").join(bucket)
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it does not run, or the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the S3 server is not running")?
            .kill()
    }

    /// Starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not answer within [`WAIT_MAX`].
    pub async fn restart(&mut self) -> Result<()> {
        let address = format!("127.0.0.1:{}", self.port);
        let data = self.dir.path().join("data");
        let process = start(&self.binary, &address, &data).await?;
        let process = self.process.insert(process);
        let answered = wait_until("the S3 server to answer", WAIT_MAX, async || {
            if !process.is_running() {
                return Some(false);
            }
            TcpStream::connect(&address).await.is_ok().then_some(true)
        });
        match answered.await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the S3 server ended by itself\n{}", process.output()),
            Err(error) => bail!("{error}\n{}", process.output()),
        }
    }
}

async fn start(binary: &Path, address: &str, data: &Path) -> Result<Process> {
    Program::new(&binary.to_string_lossy())
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .args(["--quiet", "--region", REGION, "--port", address, "posix"])
        .args([data])
        .without_ready_line()
        .start()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_server_comes_back_on_the_same_port() {
        let Some(mut server) = S3Server::start(&["lake"]).await.unwrap() else {
            return;
        };
        let endpoint = server.endpoint();
        assert!(server.folder("lake").is_dir());
        server.kill().unwrap();
        server.restart().await.unwrap();
        assert_eq!(server.endpoint(), endpoint);
    }
}
