//! The steps of the tour, as values.

use super::expect::Expect;
use super::request::{Listing, Manifest, PatchStyle, Pod, Reach, Request, Target};

const A: &str = "namespace-a";
const B: &str = "namespace-b";
const C: &str = "namespace-c";

/// The tenants of the tour.
pub(super) const NAMESPACES: [&str; 3] = [A, B, C];

static DENY_ALL: Manifest = Manifest { file: "deny-all.yaml", text: include_str!("deny-all.yaml") };
static ALLOW_A: Manifest = Manifest { file: "allow-namespace-a.yaml", text: include_str!("allow-namespace-a.yaml") };

static TENANTS_DENY: Manifest = Manifest { file: "tenants-deny.yaml", text: include_str!("tenants-deny.yaml") };
static TENANTS_ACCEPT: Manifest = Manifest { file: "tenants-accept.yaml", text: include_str!("tenants-accept.yaml") };
static ADDRESSES: Manifest = Manifest { file: "addresses.yaml", text: include_str!("addresses.yaml") };

/// Every file the tour applies.
#[cfg(test)]
pub(super) static MANIFESTS: [&Manifest; 5] = [&DENY_ALL, &ALLOW_A, &TENANTS_DENY, &TENANTS_ACCEPT, &ADDRESSES];

/// Objects that the tour makes outside of its namespaces: its ClusterNetworkPolicies.
pub(super) const CLUSTER_POLICIES: [&str; 2] = ["tenants-deny", "tenants-accept"];

/// A step of the tour.
#[derive(Debug)]
pub(super) struct Step {
    /// Its number.
    pub(super) number: u8,
    /// Its title.
    pub(super) title: &'static str,
    /// Commands and expected results, in this order.
    pub(super) actions: Vec<Action>,
}

/// A command and what must be seen.
#[derive(Debug)]
pub(super) struct Action {
    /// The command.
    pub(super) request: Request,
    /// The expected result.
    pub(super) expect: Expect,
}

impl Step {
    fn new(number: u8, title: &'static str, actions: impl IntoIterator<Item = (Request, Expect)>) -> Self {
        let actions = actions.into_iter().map(|(request, expect)| Action { request, expect });
        Self { number, title, actions: actions.collect() }
    }
}

/// All steps in order.
pub(super) fn steps() -> Vec<Step> {
    vec![
        Step::new(1, "a cluster gets a policy engine", cluster()),
        Step::new(2, "three tenants", tenants()),
        Step::new(3, "look", look()),
        Step::new(4, "open by default", [answers(C, A), answers(A, B), answers(C, B)]),
        Step::new(
            5,
            "isolation",
            [
                (Request::Apply(&DENY_ALL), Expect::Says("networkpolicy.networking.k8s.io/deny-all created")),
                silent(A, B),
                silent(C, B),
                silent(B, A),
            ],
        ),
        Step::new(
            6,
            "undo",
            [
                (Request::Delete(&DENY_ALL), Expect::Says("\"deny-all\" deleted")),
                answers(A, B),
                answers(C, B),
                answers(B, A),
            ],
        ),
        Step::new(7, "labels", labels()),
        Step::new(8, "only one tenant may enter", one_tenant()),
        Step::new(9, "by service", [service_answers(A, "nginx.namespace-b"), service_silent(C, "nginx.namespace-b")]),
        Step::new(10, "priority", priority()),
        Step::new(11, "addresses", addresses()),
    ]
}

fn cluster() -> Vec<(Request, Expect)> {
    let system = Listing { namespace: Some("kube-system"), wide: false, labels: false };
    vec![(Request::GetNodes, Expect::NodesReady), (Request::GetPods(system), Expect::AgentsRunning)]
}

fn tenants() -> Vec<(Request, Expect)> {
    let namespaces = NAMESPACES.map(|name| (Request::CreateNamespace(name), Expect::Says("created")));
    let deployments =
        NAMESPACES.map(|name| (Request::CreateDeployment(name), Expect::Says("deployment.apps/nginx created")));
    let services = NAMESPACES.map(|name| (Request::Expose(name), Expect::Says("service/nginx exposed")));
    [namespaces, deployments, services].concat()
}

fn look() -> [(Request, Expect); 2] {
    [false, true].map(|wide| {
        (Request::GetPods(Listing { namespace: None, wide, labels: false }), Expect::PodsRunning { wide, least: 3 })
    })
}

fn labels() -> Vec<(Request, Expect)> {
    let label =
        |namespace, value| (Request::LabelNamespace { namespace, label: ("ns", value) }, Expect::Says("labeled"));
    let pod = Request::LabelPod { pod: Pod::Nginx(B), label: ("environment", "QA") };
    let shown = Listing { namespace: Some(B), wide: false, labels: true };
    vec![
        label(A, "namespacea"),
        label(B, "namespaceb"),
        label(C, "namespacec"),
        (pod, Expect::Says("labeled")),
        (Request::GetPods(shown), Expect::Says("environment=QA")),
    ]
}

fn one_tenant() -> Vec<(Request, Expect)> {
    let other = Pod::Named(B, "other");
    vec![
        (Request::Apply(&ALLOW_A), Expect::Says("networkpolicy.networking.k8s.io/allow-namespace-a created")),
        answers(A, B),
        silent(C, B),
        (Request::Run(other), Expect::Says("pod/other created")),
        (Request::Curl { from: Pod::Nginx(C), to: Target::Pod(other) }, Expect::Page),
    ]
}

/// The smaller number decides; Pass hands over to the policy of step 8.
fn priority() -> Vec<(Request, Expect)> {
    let created = |manifest, said| (Request::Apply(manifest), Expect::Says(said));
    let patched = |name, style, patch| (Request::Patch { name, style, patch }, Expect::Says("patched"));
    let deleted = |manifest| (Request::Delete(manifest), Expect::Says("deleted"));
    let pass = r#"[{"op":"replace","path":"/spec/ingress/0/action","value":"Pass"}]"#;
    vec![
        created(&TENANTS_DENY, "clusternetworkpolicy.policy.networking.k8s.io/tenants-deny created"),
        created(&TENANTS_ACCEPT, "clusternetworkpolicy.policy.networking.k8s.io/tenants-accept created"),
        silent(A, B),
        patched("tenants-deny", PatchStyle::Merge, r#"{"spec":{"priority":20}}"#),
        patched("tenants-accept", PatchStyle::Merge, r#"{"spec":{"priority":10}}"#),
        answers(A, B),
        answers(C, B),
        patched("tenants-accept", PatchStyle::Json, pass),
        answers(A, B),
        silent(C, B),
        deleted(&TENANTS_DENY),
        deleted(&TENANTS_ACCEPT),
    ]
}

fn addresses() -> Vec<(Request, Expect)> {
    let reach = |to, expect| (Request::Curl { from: Pod::Nginx(A), to: Target::Reach(to) }, expect);
    vec![
        reach(Reach::Excepted, Expect::Page),
        reach(Reach::Outside, Expect::Page),
        (Request::Apply(&ADDRESSES), Expect::Says("networkpolicy.networking.k8s.io/addresses created")),
        reach(Reach::Inside, Expect::Page),
        reach(Reach::Excepted, Expect::TimeOut),
        reach(Reach::Outside, Expect::TimeOut),
        (Request::Delete(&ADDRESSES), Expect::Says("deleted")),
        reach(Reach::Outside, Expect::Page),
    ]
}

fn curl(from: &'static str, to: &'static str) -> Request {
    Request::Curl { from: Pod::Nginx(from), to: Target::Pod(Pod::Nginx(to)) }
}

fn answers(from: &'static str, to: &'static str) -> (Request, Expect) {
    (curl(from, to), Expect::Page)
}

fn silent(from: &'static str, to: &'static str) -> (Request, Expect) {
    (curl(from, to), Expect::TimeOut)
}

fn service_answers(from: &'static str, host: &'static str) -> (Request, Expect) {
    (Request::Curl { from: Pod::Nginx(from), to: Target::Host(host) }, Expect::Page)
}

fn service_silent(from: &'static str, host: &'static str) -> (Request, Expect) {
    (Request::Curl { from: Pod::Nginx(from), to: Target::Host(host) }, Expect::TimeOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_and_do_something() {
        for (number, step) in (1..).zip(steps()) {
            assert_eq!(step.number, number);
            assert!(!step.actions.is_empty(), "step {number}");
        }
    }

    #[test]
    fn every_manifest_is_applied_and_written_out() {
        for step in steps() {
            for action in step.actions {
                if let Request::Apply(manifest) | Request::Delete(manifest) = action.request {
                    assert!(MANIFESTS.contains(&manifest), "{}", manifest.file);
                }
            }
        }
    }
}
