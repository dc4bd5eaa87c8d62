//! The fixture itself: what a test may rely on before it blames Trunkline.

use std::time::Duration;

use trunkline::demo::client::{Client, ClientError};
use trunkline::demo::cluster::Cluster;
use trunkline::demo::node::Stop;

use crate::fixture::{limited, shape};

#[test]
fn replicas_stream_from_the_primary() {
    limited(|| {
        let cluster = Cluster::start(&shape()).unwrap();
        cluster.node(0).sql("create table t as select 1 as a").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            assert_eq!(replica.sql("select pg_is_in_recovery(), a from t").unwrap(), "t|1");
        }
    });
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_as_a_replica() {
    limited(|| {
        let cluster = Cluster::start(&shape()).unwrap();
        let [old, new, other] = cluster.nodes() else { panic!("three nodes") };
        old.kill().unwrap();
        assert!(!old.is_running());
        assert!(new.promote().unwrap() < Duration::from_secs(5));
        other.follow(new).unwrap();
        old.rebuild_from(new).unwrap();
        new.sql("create table t as select 2 as a").unwrap();
        for replica in [old, other] {
            replica.catch_up(new).unwrap();
            assert_eq!(replica.sql("select a from t").unwrap(), "2");
        }
    });
}

#[test]
fn paused_replay_hides_what_arrives() {
    limited(|| {
        let cluster = Cluster::start(&shape()).unwrap();
        let (primary, replica) = (cluster.node(0), cluster.node(1));
        replica.pause_replay().unwrap();
        primary.sql("create table t()").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(replica.sql("select to_regclass('t') is null").unwrap(), "t");
        replica.resume_replay().unwrap();
        replica.catch_up(primary).unwrap();
        assert_eq!(replica.sql("select to_regclass('t') is null").unwrap(), "f");
    });
}

#[test]
fn a_frozen_node_answers_again_once_thawed() {
    limited(|| {
        let cluster = Cluster::start(&shape()).unwrap();
        let node = cluster.node(2);
        node.freeze().unwrap();
        assert!(node.is_running());
        node.thaw().unwrap();
        assert_eq!(node.sql("select 1").unwrap(), "1");
        node.stop(Stop::Fast).unwrap();
        assert!(!node.is_running());
        node.start().unwrap();
        assert_eq!(node.sql("select 1").unwrap(), "1");
    });
}

#[test]
fn the_demos_client_logs_in_and_tells_errors_apart() {
    limited(|| {
        let cluster = Cluster::start(&shape()).unwrap();
        let port = cluster.node(0).port();
        let mut client = Client::connect(port, "bench", "bench", "bench").unwrap();
        assert_eq!(
            client.query("select 1, null; select 'two'").unwrap(),
            [vec![Some("1".to_owned()), None], vec![Some("two".to_owned())]]
        );
        let refused = client.query("select 1; select 1 / 0").unwrap_err();
        assert!(matches!(refused, ClientError::Refused { code, .. } if code.as_str() == "22012"));
        client.query("select 1").unwrap();
        cluster.node(0).stop(Stop::Fast).unwrap();
        let ended = client.query("select 1").unwrap_err();
        assert!(matches!(ended, ClientError::Ended { code, .. } if code.as_str() == "57P01"), "{ended:?}");
        cluster.node(0).start().unwrap();
        let wrong = Client::connect(port, "bench", "wrong", "bench").unwrap_err();
        assert!(matches!(wrong, ClientError::Ended { code, .. } if code.as_str() == "28P01"));
    });
}

#[test]
fn nothing_is_left_behind() {
    limited(|| {
        let cluster = Cluster::start(&shape()).unwrap();
        let folder = cluster.folder().to_owned();
        cluster.node(0).kill().unwrap();
        cluster.node(1).freeze().unwrap();
        drop(cluster);
        assert!(!folder.exists());
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!command_lines().iter().any(|line| line.contains(&name)));
    });
}

fn command_lines() -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect()
}
