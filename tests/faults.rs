//! What is around Tidelake goes away, fills up or may not be written: clear words, nothing lost.

use std::path::Path;
use std::process::Command;

use tidelake_testkit::{Kafka, WAIT_MAX, wait_until};
use tidelake_tests::{Installation, Services};

use crate::{lines, numbered};

const COUNT: &str = "SELECT count(*), count(DISTINCT id) FROM t";

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_goes_away_and_comes_back_loses_nothing() {
    let Some(mut kafka) = Kafka::start().await.unwrap() else {
        return;
    };
    let bootstrap = kafka.bootstrap();
    let mut local = Installation::start_with(
        &["--kafka-bootstrap", &bootstrap],
        &[("TIDELAKE__GATEWAY__INGEST__PRODUCE_TIMEOUT_MS", "3000")],
    )
    .await
    .unwrap();
    local
        .client
        .create_table("t", &numbered(), 2)
        .await
        .unwrap();
    local
        .client
        .ndjson("t", &lines(0..100))
        .await
        .unwrap()
        .ok()
        .unwrap();
    kafka.kill().unwrap();
    let answer = local.client.ndjson("t", &lines(1000..1010)).await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.code().is_empty(), "{answer:?}");
    kafka.restart().await.unwrap();
    wait_until("writes to work again", WAIT_MAX, async || {
        let answer = local.client.ndjson("t", &lines(200..201)).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await
    .unwrap();
    local.client.flush("t").await.unwrap();
    let ids = local
        .client
        .ids("SELECT id FROM t WHERE id < 200 ORDER BY id", "latest")
        .await;
    assert_eq!(ids.unwrap(), (0..100).collect::<Vec<_>>());
    local.process.stop().await.unwrap();
}

/// A small file system of its own; `None` where the machine does not let us mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|done| done.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 24) else {
        tidelake_testkit::external::wanted("a file system of its own (mount)");
        return;
    };
    let data = disk.0.join("data");
    let mut local = Installation::start_in(dir, data, &[], &[]).await.unwrap();
    local
        .client
        .create_table("t", &numbered(), 2)
        .await
        .unwrap();
    let mut acknowledged = 0u64;
    let mut refused = None;
    for body in 0..400u64 {
        let noise: String = (0..2000)
            .map(|n| {
                let id = body * 2000 + n;
                format!(
                    "{{\"id\":{id},\"note\":\"{:032x}\"}}\n",
                    u128::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C7D_1234_5678)
                )
            })
            .collect();
        let answer = local.client.ndjson("t", &noise).await.unwrap();
        if answer.status == 200 {
            acknowledged += 2000;
        } else {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the disk is small");
    assert_eq!(refused.status, 503, "{refused:?}");
    // Reads go on, and everything acknowledged is there, also after a crash on the full disk.
    let count = local.client.sql(COUNT, "latest").await.unwrap();
    assert!(
        count[0][0].as_u64() >= Some(acknowledged),
        "{count:?} of {acknowledged}"
    );
    assert_eq!(count[0][0], count[0][1]);
    local.process.kill().unwrap();
    std::fs::write(disk.0.join("room"), b"").ok();
    let more_room = Command::new("mount")
        .args(["-o", "remount,size=200m"])
        .arg(&disk.0)
        .status()
        .is_ok_and(|status| status.success());
    assert!(more_room, "the disk could not be made larger");
    local.restart().await.unwrap();
    local.client.flush("t").await.unwrap();
    let count = local.client.sql(COUNT, "committed").await.unwrap();
    assert!(
        count[0][0].as_u64() >= Some(acknowledged),
        "{count:?} of {acknowledged}"
    );
    assert_eq!(count[0][0], count[0][1]);
    local.process.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_said_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"not a folder").unwrap();
    let (status, output) = tidelake_testkit::Program::new("tidelake")
        .args([
            "local",
            "--gateway-port",
            "0",
            "--query-port",
            "0",
            "--kafka-port",
            "0",
            "--dir",
        ])
        .args([&file])
        .run()
        .await
        .unwrap();
    assert!(!status.success());
    assert!(output.contains("file"), "{output}");
    assert!(!output.contains("panicked"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_share_a_folder() {
    let local = Installation::start().await.unwrap();
    let (status, output) = tidelake_testkit::Program::new("tidelake")
        .args([
            "local",
            "--gateway-port",
            "0",
            "--query-port",
            "0",
            "--kafka-port",
            "0",
            "--dir",
        ])
        .args([local.data()])
        .run()
        .await
        .unwrap();
    assert!(!status.success());
    assert!(!output.contains("panicked"), "{output}");
    local
        .client
        .create_table("t", &numbered(), 1)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_setting_is_an_error_that_suggests_the_right_one() {
    let (status, output) = tidelake_testkit::Program::new("flusher")
        .env("TIDELAKE__FLUSH_AGE_MSS", "1")
        .args(["config", "check"])
        .run()
        .await
        .unwrap();
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("flush_age_ms"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_start_is_named() {
    let services = Services::new("127.0.0.1:1", "ftp://nowhere");
    let refused = services.start("ingest-gateway", &[]).await.unwrap_err();
    let said = format!("{refused:#}");
    assert!(said.contains("ftp"), "{said}");
}
