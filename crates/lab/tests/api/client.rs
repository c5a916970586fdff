//! Writing and reading objects with kube-rs.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fake;

pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn config_map(name: &str, data: &Value) -> ConfigMap {
    object(json!({ "metadata": { "name": name }, "data": data }))
}

fn deployment(name: &str, image: &str) -> Deployment {
    object(json!({
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "main", "image": image,
                "ports": [{ "containerPort": 80 }] }] } } } }))
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

async fn configs() -> (ringfence_lab::api::RunningServer, Client, Api<ConfigMap>) {
    let (server, _) = fake::start(None, false).await;
    let client = server.client();
    let api = Api::namespaced(client.clone(), "default");
    (server, client, api)
}

#[tokio::test]
async fn writes_of_an_old_version_conflict() {
    let (_server, _, api) = configs().await;
    let first = api.create(&PostParams::default(), &config_map("a", &json!({ "n": "1" }))).await.unwrap();
    let mut newer = first.clone();
    newer.data.get_or_insert_default().insert("n".into(), "2".into());
    let newer = api.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_ne!(first.resource_version(), newer.resource_version());
    assert_eq!((first.uid(), first.creation_timestamp()), (newer.uid(), newer.creation_timestamp()));
    let status = refusal(api.replace("a", &PostParams::default(), &first).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let again = refusal(api.create(&PostParams::default(), &config_map("a", &json!({}))).await);
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(again.message, "configmaps \"a\" already exists");
    let precondition = Preconditions { uid: Some("another".into()), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(precondition), ..DeleteParams::default() };
    assert_eq!(refusal(api.delete("a", &parameters).await).reason, "Conflict");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (_server, client, api) = configs().await;
    let status = refusal(api.get("a").await);
    assert_eq!((status.code, status.message.as_str()), (404, "configmaps \"a\" not found"));
    let nowhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    let status = refusal(nowhere.create(&PostParams::default(), &config_map("a", &json!({}))).await);
    assert_eq!((status.code, status.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    let request = http::Request::get("/apis/example.com/v1/things").body(Vec::new()).unwrap();
    assert_eq!(refusal(client.request::<Value>(request).await).code, 404);
    let request = http::Request::get("/api/v1/namespaces/default/pods/p/portforward").body(Vec::new()).unwrap();
    assert_eq!(
        refusal(client.request::<Value>(request).await).message,
        "pods/portforward is not served by the lab's API; kubectl exec reaches a pod's ports from inside"
    );
    let immortal = Api::<Namespace>::all(client.clone()).delete("default", &DeleteParams::default()).await;
    assert_eq!(refusal(immortal).reason, "Forbidden");
    let request =
        http::Request::delete("/api/v1/namespaces/default/configmaps?labelSelector=%ff%zz").body(Vec::new()).unwrap();
    assert_eq!(
        refusal(client.request::<Value>(request).await).code,
        400,
        "a selector that cannot be read selects nothing"
    );
    let request = http::Request::post("/api/v1/configmaps").body(b"{}".to_vec()).unwrap();
    assert_eq!(refusal(client.request::<Value>(request).await).reason, "MethodNotAllowed");
    let request =
        http::Request::post("/api/v1/namespaces").header("content-type", "text/plain").body(b"{}".to_vec()).unwrap();
    assert_eq!(refusal(client.request::<Value>(request).await).reason, "UnsupportedMediaType");
}

#[tokio::test]
async fn invalid_objects_name_their_fields() {
    let (_server, client, _) = configs().await;
    let api: Api<NetworkPolicy> = Api::namespaced(client.clone(), "default");
    let policy = object(json!({
        "metadata": { "name": "bad" },
        "spec": { "podSelector": {}, "ingress": [{ "ports": [{ "port": 80, "endPort": 70 }] }] } }));
    let status = refusal(api.create(&PostParams::default(), &policy).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let causes = status.details.unwrap().causes;
    assert_eq!(causes[0].field, "spec.ingress[0].ports[0].endPort");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let mut mismatch = deployment("web", "nginx");
    mismatch.spec.as_mut().unwrap().selector.match_labels = Some([("app".into(), "other".into())].into());
    let status = refusal(deployments.create(&PostParams::default(), &mismatch).await);
    assert_eq!(status.details.unwrap().causes[0].field, "spec.template.metadata.labels");
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_dropped() {
    let (_server, client, _) = configs().await;
    let create = |name: &'static str, validation: &str| {
        let path =
            format!("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies?fieldValidation={validation}");
        let body = json!({ "metadata": { "name": name }, "spec": { "podSelector": {}, "ingres": [] } });
        http::Request::post(path).header("content-type", "application/json").body(body.to_string().into_bytes().into())
    };
    let strict = client.send(create("a", "Strict").unwrap()).await.unwrap();
    assert_eq!(strict.status(), 400);
    let warned = client.send(create("b", "Warn").unwrap()).await.unwrap();
    assert_eq!(warned.status(), 201);
    assert_eq!(warned.headers()["warning"], "299 - \"unknown field \\\"spec.ingres\\\"\"");
    let ignored = client.send(create("c", "Ignore").unwrap()).await.unwrap();
    assert!(ignored.status() == 201 && !ignored.headers().contains_key("warning"));
    let api: Api<NetworkPolicy> = Api::namespaced(client, "default");
    let stored = serde_json::to_value(api.get("c").await.unwrap().spec).unwrap();
    assert_eq!(stored, json!({ "podSelector": {}, "policyTypes": ["Ingress"] }));
}

#[tokio::test]
async fn defaults_are_those_of_kubernetes() {
    let (_server, client, _) = configs().await;
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let made =
        serde_json::to_value(api.create(&PostParams::default(), &deployment("web", "nginx")).await.unwrap()).unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(
        spec["strategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } })
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(
        (&pod["restartPolicy"], &pod["dnsPolicy"], &pod["terminationGracePeriodSeconds"]),
        (&json!("Always"), &json!("ClusterFirst"), &json!(30))
    );
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
    let policies: Api<NetworkPolicy> = Api::namespaced(client, "default");
    let policy = json!({ "metadata": { "name": "p" }, "spec": { "podSelector": {},
        "egress": [{ "ports": [{ "port": 53 }] }] } });
    let made = policies.create(&PostParams::default(), &object(policy)).await.unwrap().spec.unwrap();
    assert_eq!(made.policy_types.unwrap(), ["Ingress", "Egress"]);
    assert_eq!(made.egress.unwrap()[0].ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
}

#[tokio::test]
async fn services_are_given_addresses_of_their_families() {
    let (_server, client, _) = configs().await;
    let api: Api<Service> = Api::namespaced(client, "default");
    let create = |name: &str, spec: Value| {
        let mut service = json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let (api, service) = (api.clone(), object(service));
        async move { api.create(&PostParams::default(), &service).await }
    };
    let single = create("single", json!({})).await.unwrap().spec.unwrap();
    assert_eq!(
        (single.ip_families.unwrap(), single.cluster_ips.unwrap()),
        (vec!["IPv4".into()], vec!["10.97.0.33".into()])
    );
    let dual = create("dual", json!({ "ipFamilyPolicy": "PreferDualStack" })).await.unwrap().spec.unwrap();
    assert_eq!(dual.ip_families.unwrap(), ["IPv4", "IPv6"]);
    assert_eq!(dual.cluster_ips.unwrap()[0], "10.97.0.34");
    let chosen = create("chosen", json!({ "clusterIP": "10.97.0.10" })).await.unwrap().spec.unwrap();
    assert_eq!(chosen.cluster_ip.as_deref(), Some("10.97.0.10"));
    assert_eq!(refusal(create("taken", json!({ "clusterIP": "10.97.0.10" })).await).code, 422);
    assert_eq!(refusal(create("outside", json!({ "clusterIP": "10.98.0.10" })).await).code, 422);
    let headless = create("headless", json!({ "clusterIP": "None" })).await.unwrap().spec.unwrap();
    assert_eq!(headless.cluster_ips.unwrap(), ["None"]);
    let node_port = create("node-port", json!({ "type": "NodePort" })).await.unwrap().spec.unwrap();
    assert_eq!(node_port.ports.unwrap()[0].node_port, Some(30_000));
}

#[tokio::test]
async fn four_kinds_of_patches_change_an_object() {
    let (_server, client, api) = configs().await;
    api.create(&PostParams::default(), &config_map("a", &json!({ "one": "1", "two": "2" }))).await.unwrap();
    let parameters = PatchParams::apply("tests");
    let merged =
        api.patch("a", &parameters, &Patch::Merge(json!({ "data": { "one": null, "three": "3" } }))).await.unwrap();
    assert_eq!(serde_json::to_value(merged.data).unwrap(), json!({ "two": "2", "three": "3" }));
    let operations = serde_json::from_value(json!([{ "op": "replace", "path": "/data/two", "value": "II" }])).unwrap();
    let changed = api.patch("a", &parameters, &Patch::Json::<()>(operations)).await.unwrap();
    assert_eq!(changed.data.unwrap()["two"], "II");
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod = object(
        json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "a", "image": "x" }, { "name": "b",
            "image": "y" }] } }),
    );
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let patch = Patch::Strategic(json!({ "spec": { "containers": [{ "name": "b", "image": "z" }] } }));
    let patched = pods.patch("p", &parameters, &patch).await.unwrap();
    let images: Vec<_> =
        patched.spec.unwrap().containers.into_iter().map(|container| container.image.unwrap()).collect();
    assert_eq!(images, ["x", "z"]);
    let applied =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "new" }, "data": { "k": "v" } });
    let made = api.patch("new", &parameters, &Patch::Apply(&applied)).await.unwrap();
    assert_eq!(made.metadata.managed_fields.unwrap()[0].manager.as_deref(), Some("tests"));
    let version = api.patch("new", &parameters, &Patch::Apply(&applied)).await.unwrap().resource_version();
    assert_eq!(version, made.metadata.resource_version, "applying the same again changes nothing");
    let stale = Patch::Merge(json!({ "metadata": { "resourceVersion": "1" }, "data": {} }));
    assert_eq!(refusal(api.patch("a", &parameters, &stale).await).reason, "Conflict");
}

#[tokio::test]
async fn names_are_generated_and_generations_counted() {
    let (_server, client, api) = configs().await;
    let generated = object(json!({ "metadata": { "generateName": "job-" } }));
    let made = api.create(&PostParams::default(), &generated).await.unwrap();
    assert!(made.name_any().starts_with("job-") && made.name_any().len() == 9);
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let made = deployments.create(&PostParams::default(), &deployment("web", "nginx")).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let patch = |patch: Value| {
        let deployments = deployments.clone();
        async move {
            deployments.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap().metadata.generation
        }
    };
    assert_eq!(patch(json!({ "metadata": { "labels": { "a": "b" } } })).await, Some(1));
    assert_eq!(patch(json!({ "spec": { "replicas": 2 } })).await, Some(2));
    let scale = deployments.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(2));
    let scaled = Patch::Merge(json!({ "spec": { "replicas": 5 } }));
    deployments.patch_scale("web", &PatchParams::default(), &scaled).await.unwrap();
    assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(5));
    let namespaces: Api<Namespace> = Api::all(deployments.into_client());
    let labels = namespaces.get("default").await.unwrap().metadata.labels.unwrap();
    assert_eq!(labels["kubernetes.io/metadata.name"], "default");
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let (_server, _, api) = configs().await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    assert_eq!(api.create(&dry, &config_map("a", &json!({}))).await.unwrap().name_any(), "a");
    assert!(api.get_opt("a").await.unwrap().is_none());
    api.create(&PostParams::default(), &config_map("a", &json!({}))).await.unwrap();
    api.delete("a", &DeleteParams::default().dry_run()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_some());
}

#[tokio::test]
async fn lists_come_in_pages_of_one_moment_and_by_selectors() {
    let (_server, client, api) = configs().await;
    for name in ["a", "b", "c", "d"] {
        let mut map = config_map(name, &json!({}));
        map.metadata.labels = Some([("even".to_owned(), (name > "b").to_string())].into());
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let mine = ListParams::default().labels("even");
    let first = api.list(&mine.clone().limit(3)).await.unwrap();
    assert_eq!(first.items.len(), 3);
    api.delete("d", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = api.list(&mine.clone().limit(3).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["d"], "the list is of one revision");
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    let even = api.list(&ListParams::default().labels("even=true")).await.unwrap();
    assert_eq!(even.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
    let named = api.list(&ListParams::default().fields("metadata.name=b")).await.unwrap();
    assert_eq!(named.items.len(), 1);
    let unknown = refusal(Api::<Pod>::all(client).list(&ListParams::default().fields("spec.colour=red")).await);
    assert_eq!(unknown.code, 400);
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("even=false")).await.unwrap();
    assert_eq!(api.list(&mine).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn bodies_of_any_shape_are_answered() {
    let (_server, client, _) = configs().await;
    let bodies = [
        "[]",
        "null",
        "1",
        "\"x\"",
        "{",
        "{\"metadata\":[]}",
        "{\"metadata\":{\"labels\":[]},\"spec\":1}",
        "{\"spec\":[{}]}",
    ];
    let collections = [
        "api/v1/namespaces",
        "api/v1/nodes",
        "api/v1/namespaces/default/pods",
        "api/v1/namespaces/default/services",
        "apis/apps/v1/namespaces/default/deployments",
        "apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
        "apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "apis/events.k8s.io/v1/namespaces/default/events",
        "apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    ];
    let types = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let patches = ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"];
    let send = async |method: &str, path: String, kind: String, body: &str| {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        client.send(request.body(body.as_bytes().to_vec().into()).unwrap()).await.unwrap().status().as_u16()
    };
    for body in bodies {
        for collection in collections {
            for kind in types {
                let code = send("POST", format!("/{collection}"), kind.into(), body).await;
                assert!(code < 500, "{code} for {body} as {kind} to {collection}");
            }
        }
        for kind in patches {
            for path in [
                "/api/v1/namespaces/default",
                "/api/v1/namespaces/default/services/kubernetes",
                "/api/v1/namespaces/default/status",
            ] {
                let code =
                    send("PATCH", format!("{path}?fieldManager=x&dryRun=All"), format!("application/{kind}"), body)
                        .await;
                assert!(code < 500, "{code} for {body} as {kind} to {path}");
            }
        }
    }
}
