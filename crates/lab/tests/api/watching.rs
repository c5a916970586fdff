//! Watching objects with kube-rs.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::client::{config_map, object};
use crate::fake;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until something holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

async fn reflects(config: watcher::Config) {
    let (server, _) = fake::start(None, false).await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &config_map(name, &json!({}))).await.unwrap();
    }
    let (reader, writer) = reflector::store();
    let stream = reflector(writer, watcher(api.clone(), config)).touched_objects();
    let task = tokio::spawn(stream.try_for_each(|_| async { Ok(()) }));
    timeout(TIMEOUT, reader.wait_until_ready()).await.unwrap().unwrap();
    let names = || reader.state().iter().map(|map| map.name_any()).filter(|name| name.len() == 1).collect::<Vec<_>>();
    until("both are there", || async { names().len() == 2 }).await;
    api.create(&PostParams::default(), &config_map("c", &json!({}))).await.unwrap();
    until("the new one comes", || async { names().contains(&"c".to_owned()) }).await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    until("the old one goes", || async { !names().contains(&"a".to_owned()) }).await;
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test]
async fn reflectors_follow_lists_and_watches() {
    reflects(watcher::Config::default().page_size(1)).await;
}

#[tokio::test]
async fn reflectors_follow_streamed_lists() {
    reflects(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let (server, _) = fake::start(None, false).await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let made = api.create(&PostParams::default(), &config_map("a", &json!({}))).await.unwrap();
    let parameters = WatchParams::default().fields("metadata.name=a").initial_events();
    let mut stream = Box::pin(api.watch(&parameters, "0").await.unwrap());
    let first = timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(map) if map.uid() == made.uid()));
    let second = timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Bookmark(bookmark) = second else { panic!("a bookmark was expected: {second:?}") };
    assert_eq!(bookmark.metadata.annotations["k8s.io/initial-events-end"], "true");
    assert!(bookmark.metadata.resource_version >= made.resource_version().unwrap());
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let (server, _) = fake::start(None, false).await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    api.create(&PostParams::default(), &config_map("a", &json!({}))).await.unwrap();
    let mut stream = Box::pin(api.watch(&WatchParams::default().fields("metadata.name=a"), &version).await.unwrap());
    let patch = Patch::Merge(json!({ "data": { "k": "v" } }));
    api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap() {
            WatchEvent::Added(_) => seen.push("added"),
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => seen.push("deleted"),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
}

#[tokio::test]
async fn objects_come_into_view_and_leave_it_by_their_labels() {
    let (server, _) = fake::start(None, false).await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut stream = Box::pin(api.watch(&WatchParams::default().labels("show=yes"), &version).await.unwrap());
    api.create(&PostParams::default(), &config_map("a", &json!({}))).await.unwrap();
    for value in ["yes", "no"] {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "show": value } } }));
        api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let first = timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first, WatchEvent::Added(_)), "{first:?}");
    let second = timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(second, WatchEvent::Deleted(_)), "{second:?}");
}

#[tokio::test]
async fn a_watch_of_an_unknown_revision_is_told_so_in_its_stream() {
    let (server, _) = fake::start(None, false).await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let mut stream = Box::pin(api.watch(&WatchParams::default(), "999999999").await.unwrap());
    let event = timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap();
    let WatchEvent::Error(status) = event else { panic!("an error was expected: {event:?}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(timeout(TIMEOUT, stream.next()).await.unwrap().is_none(), "nothing follows");
}

#[tokio::test]
async fn reflectors_list_again_when_their_revision_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let state = || Some(dir.path().to_path_buf());
    let (server, url) = fake::start(state(), false).await;
    let client = over_tls(Kubeconfig::from_yaml(&server.kubeconfig(&url)).unwrap()).await;
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    api.create(&PostParams::default(), &config_map("a", &json!({}))).await.unwrap();
    let (reader, writer) = reflector::store();
    let (sender, mut errors) = tokio::sync::mpsc::unbounded_channel();
    let stream = reflector(writer, watcher(api, watcher::Config::default()).default_backoff());
    let task = tokio::spawn(stream.for_each(move |event| {
        let _test_is_over = event.err().map(|error| sender.send(error));
        async {}
    }));
    timeout(TIMEOUT, reader.wait_until_ready()).await.unwrap().unwrap();
    let names = || reader.state().iter().map(|map| map.name_any()).filter(|name| name.len() == 1).collect::<Vec<_>>();
    assert_eq!(names(), ["a"]);
    // While the server is away much happens, and the next one does not know what.
    drop(server);
    let (other, _) = fake::start(state(), false).await;
    let behind: Api<ConfigMap> = Api::namespaced(other.client(), "default");
    behind.create(&PostParams::default(), &config_map("b", &json!({}))).await.unwrap();
    behind.delete("a", &DeleteParams::default()).await.unwrap();
    drop(other);
    let _server = fake::start_at(url.trim_start_matches("https://"), state(), false).await;
    until("what happened is known", || async { names() == ["b"] }).await;
    let mut gone = false;
    while let Ok(error) = errors.try_recv() {
        gone |= matches!(&error, watcher::Error::WatchError(status) if status.code == 410);
    }
    assert!(gone, "it was told that its revision is forgotten");
    task.abort();
}

#[tokio::test]
async fn a_watch_ends_with_a_bookmark_to_go_on_from() {
    let (server, _) = fake::start(None, false).await;
    let api: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let version = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let parameters = WatchParams::default().fields("metadata.name=wanted").timeout(1);
    let mut stream = Box::pin(api.watch(&parameters, &version).await.unwrap());
    // Of no interest to the watch, but it moves the revision on.
    let other = api.create(&PostParams::default(), &config_map("other", &json!({}))).await.unwrap();
    let mut bookmark = None;
    while let Some(event) = timeout(TIMEOUT, stream.next()).await.unwrap() {
        match event.unwrap() {
            WatchEvent::Bookmark(mark) => bookmark = Some(mark.metadata.resource_version),
            event => panic!("nothing happened to what is watched: {event:?}"),
        }
    }
    let bookmark = bookmark.expect("the end is marked");
    let number = |text: &str| text.parse::<u64>().unwrap();
    assert!(number(&bookmark) >= number(&other.resource_version().unwrap()));
    api.create(&PostParams::default(), &config_map("wanted", &json!({}))).await.unwrap();
    let mut stream = Box::pin(api.watch(&parameters, &bookmark).await.unwrap());
    let event = timeout(TIMEOUT, stream.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.name_any() == "wanted"));
}

async fn over_tls(kubeconfig: Kubeconfig) -> kube::Client {
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

#[tokio::test]
async fn commands_run_by_the_client_library() {
    let (server, url) = fake::start(None, true).await;
    let client = over_tls(Kubeconfig::from_yaml(&server.kubeconfig(&url)).unwrap()).await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    pods.create(&PostParams::default(), &object(pod)).await.unwrap();
    let parameters = AttachParams::default().stdin(true).stderr(true);
    let mut process = pods.exec("p", ["sh", "-c", "cat; echo problem >&2; exit 4"], &parameters).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(b"input").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let (mut out, mut error) = (String::new(), String::new());
    timeout(TIMEOUT, process.stdout().unwrap().read_to_string(&mut out)).await.unwrap().unwrap();
    timeout(TIMEOUT, process.stderr().unwrap().read_to_string(&mut error)).await.unwrap().unwrap();
    assert_eq!((out.as_str(), error.as_str()), ("input", "problem\n"));
    let status = timeout(TIMEOUT, process.take_status().unwrap()).await.unwrap().unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    assert_eq!(status.details.unwrap().causes.unwrap()[0].message.as_deref(), Some("4"));
}

#[tokio::test]
async fn clients_over_tls_need_the_certificate_of_the_lab() {
    let (server, url) = fake::start(None, false).await;
    let mut kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&url)).unwrap();
    let known = over_tls(kubeconfig.clone()).await;
    assert_eq!(known.apiserver_version().await.unwrap().major, "1");
    Api::<ConfigMap>::namespaced(known, "default").list(&ListParams::default()).await.unwrap();
    kubeconfig.auth_infos.clear();
    kubeconfig.contexts[0].context.as_mut().unwrap().user = None;
    let anonymous = over_tls(kubeconfig).await;
    assert_eq!(anonymous.apiserver_version().await.unwrap().major, "1");
    let list = Api::<ConfigMap>::namespaced(anonymous, "default").list(&ListParams::default()).await;
    assert_eq!(crate::client::refusal(list).reason, "Unauthorized");
}
