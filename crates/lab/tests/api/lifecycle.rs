//! Work of controllers, and state after a restart.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::client::{config_map, object, refusal};
use crate::fake;
use crate::watching::until;

const NAMESPACE: &str = "default";

fn api<T: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(client: &Client) -> Api<T> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn count<T>(client: &Client) -> usize
where
    T: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    api::<T>(client).list(&ListParams::default()).await.unwrap().items.len()
}

async fn deploy(client: &Client, replicas: i32) {
    let deployment: Deployment = object(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "main", "image": "nginx:1", "ports": [{ "name": "http",
                "containerPort": 80 }] }] } } } }));
    api(client).create(&PostParams::default(), &deployment).await.unwrap();
}

async fn ready(client: &Client, replicas: i32) {
    let deployments: Api<Deployment> = api(client);
    until("the deployment is complete", || async {
        let deployment = deployments.get("web").await.unwrap();
        let status = deployment.status.unwrap_or_default();
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == Some(replicas)
            && status.available_replicas == Some(replicas)
            && status.replicas == Some(replicas)
    })
    .await;
}

#[tokio::test]
async fn a_deployment_makes_pods_and_rolls_to_a_new_template() {
    let (server, _) = fake::start(None, true).await;
    let client = server.client();
    deploy(&client, 3).await;
    ready(&client, 3).await;
    let pods: Api<Pod> = api(&client);
    let first = pods.list(&ListParams::default()).await.unwrap().items;
    assert!(first.iter().all(|pod| pod.labels().contains_key("pod-template-hash")));
    let owner = &first[0].owner_references()[0];
    assert!(first[0].name_any().starts_with(&format!("{}-", owner.name)) && owner.kind == "ReplicaSet");
    let patch = Patch::Strategic(
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "main", "image": "nginx:2" }] } } } }),
    );
    api::<Deployment>(&client).patch("web", &PatchParams::default(), &patch).await.unwrap();
    ready(&client, 3).await;
    until("the old pods are gone", || async {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        pods.len() == 3
            && pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("nginx:2"))
    })
    .await;
    assert_eq!(count::<ReplicaSet>(&client).await, 2);
}

#[tokio::test]
async fn a_deleted_deployment_takes_its_pods_along_or_leaves_them() {
    let (server, _) = fake::start(None, true).await;
    let client = server.client();
    deploy(&client, 2).await;
    ready(&client, 2).await;
    let deployments: Api<Deployment> = api(&client);
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    deployments.delete("web", &orphan).await.unwrap();
    until("the deployment is gone", || async { deployments.get_opt("web").await.unwrap().is_none() }).await;
    let sets = api::<ReplicaSet>(&client).list(&ListParams::default()).await.unwrap().items;
    assert!(sets.len() == 1 && sets[0].owner_references().is_empty());
    deploy(&client, 2).await;
    ready(&client, 2).await;
    let adopted = api::<ReplicaSet>(&client).list(&ListParams::default()).await.unwrap().items;
    assert!(adopted.len() == 1 && adopted[0].uid() == sets[0].uid(), "the set is adopted");
    deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
    until("the deployment is gone", || async { deployments.get_opt("web").await.unwrap().is_none() }).await;
    assert_eq!((count::<ReplicaSet>(&client).await, count::<Pod>(&client).await), (0, 0), "dependents went first");
    deploy(&client, 1).await;
    ready(&client, 1).await;
    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    until("nothing is left", || async { count::<ReplicaSet>(&client).await + count::<Pod>(&client).await == 0 }).await;
}

#[tokio::test]
async fn a_stateful_set_makes_pods_with_names_of_their_own() {
    let (server, _) = fake::start(None, true).await;
    let client = server.client();
    let sets: Api<StatefulSet> = api(&client);
    let set: StatefulSet = object(json!({
        "metadata": { "name": "db" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "db" } },
            "template": {
                "metadata": { "labels": { "app": "db" } },
                "spec": { "containers": [{ "name": "main", "image": "nginx:1" }] } } } }));
    sets.create(&PostParams::default(), &set).await.unwrap();
    until("both pods are ready", || async {
        sets.get("db").await.unwrap().status.unwrap_or_default().ready_replicas == Some(2)
    })
    .await;
    let names = || async {
        let pods = api::<Pod>(&client).list(&ListParams::default()).await.unwrap().items;
        pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["db-0", "db-1"]);
    let fewer = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
    sets.patch("db", &PatchParams::default(), &fewer).await.unwrap();
    until("the last one goes", || async { names().await == ["db-0"] }).await;
    sets.delete("db", &DeleteParams::background()).await.unwrap();
    until("the set takes its pod along", || async { count::<Pod>(&client).await == 0 }).await;
}

#[tokio::test]
async fn endpoints_follow_pods_in_both_families() {
    let (server, _) = fake::start(None, true).await;
    let client = server.client();
    deploy(&client, 2).await;
    let service: Service = object(json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 8080,
        "targetPort": "http" }] } }));
    api(&client).create(&PostParams::default(), &service).await.unwrap();
    let slices: Api<EndpointSlice> = api(&client);
    let endpoints = |family: &'static str| {
        let slices = slices.clone();
        async move {
            let mine = ListParams::default().labels("kubernetes.io/service-name=web");
            let slices = slices.list(&mine).await.unwrap().items;
            let slices = slices.into_iter().filter(|slice| slice.address_type == family);
            slices.map(|slice| serde_json::to_value(slice).unwrap()).collect::<Vec<Value>>()
        }
    };
    let both = || async {
        let (v4, v6) = (endpoints("IPv4").await, endpoints("IPv6").await);
        let two = |slices: &[Value]| {
            slices.len() == 1 && slices[0]["endpoints"].as_array().is_some_and(|list| list.len() == 2)
        };
        two(&v4) && two(&v6)
    };
    until("both families have two endpoints", both).await;
    let slice = &endpoints("IPv4").await[0];
    assert_eq!(slice["ports"][0]["port"], 80);
    assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    let pods: Api<Pod> = api(&client);
    let name = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
    let unready = Patch::Strategic(json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }));
    pods.patch_status(&name, &PatchParams::default(), &unready).await.unwrap();
    api::<Service>(&client).delete("web", &DeleteParams::default()).await.unwrap();
    until("the slices go with the service", || async { endpoints("IPv4").await.is_empty() }).await;
}

#[tokio::test]
async fn pods_wait_for_a_node_that_suits_them() {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let pods: Api<Pod> = api(&client);
    let pod: Pod = object(json!({
        "metadata": { "name": "p" }, "spec": { "nodeSelector": { "kubernetes.io/hostname": "b" },
        "containers": [{ "name": "c", "image": "i" }] } }));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    fake::add_node(&client, "a").await;
    let condition = || async {
        let status = pods.get("p").await.unwrap().status.unwrap();
        status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "PodScheduled")
    };
    let refused = || async {
        condition().await.and_then(|condition| condition.message).is_some_and(|text| text.starts_with("0/1 nodes"))
    };
    until("the pod is refused by the first node", refused).await;
    fake::add_node(&client, "b").await;
    until("the pod is bound", || async {
        pods.get("p").await.unwrap().spec.unwrap().node_name.as_deref() == Some("b")
    })
    .await;
    let moved = Patch::Merge(json!({ "spec": { "nodeName": "a" } }));
    assert_eq!(refusal(pods.patch("p", &PatchParams::default(), &moved).await).code, 422);
}

#[tokio::test]
async fn pods_are_deleted_in_their_time_and_finalizers_are_waited_for() {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let pods: Api<Pod> = api(&client);
    let pod: Pod = object(json!({
        "metadata": { "name": "p" }, "spec": { "nodeName": "n", "terminationGracePeriodSeconds": 7,
        "containers": [{ "name": "c", "image": "i" }] } }));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let ending = pods.get("p").await.unwrap().metadata;
    assert!(ending.deletion_timestamp.is_some() && ending.deletion_grace_period_seconds == Some(7));
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
    let configs: Api<ConfigMap> = api(&client);
    let mut map = config_map("m", &json!({}));
    map.metadata.finalizers = Some(vec!["example.com/wait".into()]);
    configs.create(&PostParams::default(), &map).await.unwrap();
    configs.delete("m", &DeleteParams::default()).await.unwrap();
    assert!(configs.get("m").await.unwrap().metadata.deletion_timestamp.is_some());
    configs
        .patch("m", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } })))
        .await
        .unwrap();
    assert!(configs.get_opt("m").await.unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let (server, _) = fake::start(None, true).await;
    let client = server.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({ "metadata": { "name": "team" } }))).await.unwrap();
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "team");
    let mut map = config_map("kept", &json!({}));
    map.metadata.finalizers = Some(vec!["example.com/wait".into()]);
    configs.create(&PostParams::default(), &map).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let phase = || async { namespaces.get_opt("team").await.unwrap().and_then(|namespace| namespace.status?.phase) };
    assert_eq!(phase().await.as_deref(), Some("Terminating"));
    let refused = refusal(configs.create(&PostParams::default(), &config_map("late", &json!({}))).await);
    assert_eq!((refused.code, refused.details.unwrap().causes[0].reason.as_str()), (403, "NamespaceTerminating"));
    configs
        .patch("kept", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } })))
        .await
        .unwrap();
    until("the namespace is gone", || async { phase().await.is_none() }).await;
    assert_eq!(configs.list(&ListParams::default()).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn the_pods_of_a_namespace_go_before_everything_else_in_it() {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({ "metadata": { "name": "team" } }))).await.unwrap();
    let (configs, pods): (Api<ConfigMap>, Api<Pod>) =
        (Api::namespaced(client.clone(), "team"), Api::namespaced(client.clone(), "team"));
    configs.create(&PostParams::default(), &config_map("kept", &json!({}))).await.unwrap();
    let pod: Pod = object(json!({
        "metadata": { "name": "p" }, "spec": { "nodeName": "n", "terminationGracePeriodSeconds": 60,
        "containers": [{ "name": "c", "image": "i" }] } }));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    until("the pod is being deleted", || async { pods.get("p").await.unwrap().metadata.deletion_timestamp.is_some() })
        .await;
    assert!(configs.get_opt("kept").await.unwrap().is_some());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    until("the namespace is gone", || async { namespaces.get_opt("team").await.unwrap().is_none() }).await;
    assert!(configs.get_opt("kept").await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_starts_again_has_the_same_objects() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = fake::start(Some(dir.path().into()), false).await;
    let before = api::<ConfigMap>(&server.client())
        .create(&PostParams::default(), &config_map("a", &json!({ "k": "v" })))
        .await
        .unwrap();
    let kubeconfig = server.kubeconfig("https://127.0.0.1:1");
    drop(server);
    let (server, _) = fake::start(Some(dir.path().into()), false).await;
    assert_eq!(api::<ConfigMap>(&server.client()).get("a").await.unwrap(), before);
    assert_eq!(server.kubeconfig("https://127.0.0.1:1"), kubeconfig, "clients need no new certificate");
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let modern: k8s_openapi::api::events::v1::Event = object(json!({
        "metadata": { "name": "e" }, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Try", "reason": "Tried",
        "type": "Normal",
        "note": "it was tried", "reportingController": "tests", "reportingInstance": "here",
        "regarding": { "kind": "Pod", "name": "p", "namespace": NAMESPACE } }));
    api(&client).create(&PostParams::default(), &modern).await.unwrap();
    let about = ListParams::default().fields("involvedObject.name=p");
    let events = api::<k8s_openapi::api::core::v1::Event>(&client).list(&about).await.unwrap().items;
    assert_eq!(events[0].message.as_deref(), Some("it was tried"));
    assert_eq!(events[0].reporting_component.as_deref(), Some("tests"));
    let about = ListParams::default().fields("regarding.name=p");
    let events = api::<k8s_openapi::api::events::v1::Event>(&client).list(&about).await.unwrap().items;
    assert_eq!((events.len(), events[0].note.as_deref()), (1, Some("it was tried")));
}
