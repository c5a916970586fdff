//! Deployment, ReplicaSet and StatefulSet, `apps/v1`.

use serde_json::Value;

use super::metadata::{check_labels, unchanged};
use super::{Errors, FieldError, Naming, metadata, pod, selector};
use crate::convert;
use crate::json::{at, entries, get, items};
use crate::path::Path;

/// Validates a Deployment.
pub fn deployment(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check(object, &mut errors);
    let (spec, path) = (get(object, "spec"), Path::ROOT.field("spec"));
    for field in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        errors.not_negative(get(spec, field), &path.field(field));
    }
    let strategy = path.field("strategy");
    errors.one_of(at(spec, &["strategy", "type"]), &strategy.field("type"), &["Recreate", "RollingUpdate"]);
    errors.into_vec()
}

/// Validates a ReplicaSet.
pub fn replica_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check(object, &mut errors);
    errors.into_vec()
}

/// Validates a StatefulSet.
pub fn stateful_set(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check(object, &mut errors);
    let (spec, path) = (get(object, "spec"), Path::ROOT.field("spec"));
    let policies = ["OrderedReady", "Parallel"];
    errors.one_of(get(spec, "podManagementPolicy"), &path.field("podManagementPolicy"), &policies);
    let strategy = path.field("updateStrategy");
    errors.one_of(at(spec, &["updateStrategy", "type"]), &strategy.field("type"), &["OnDelete", "RollingUpdate"]);
    errors.into_vec()
}

/// Validates that an update of one of them leaves alone what may never change.
pub fn workload_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let path = Path::ROOT.field("spec");
    let way = ["spec", "selector"];
    unchanged(at(new, &way), at(old, &way), &path.field("selector"), &mut errors);
    errors.into_vec()
}

fn check(object: &Value, errors: &mut Errors) {
    metadata::check(object, true, Naming::Subdomain, errors);
    let path = Path::ROOT.field("spec");
    let spec = errors.object(get(object, "spec"), &path).unwrap_or(&Value::Null);
    for field in ["replicas", "minReadySeconds"] {
        errors.not_negative(get(spec, field), &path.field(field));
    }
    check_selector(spec, &path, errors);
    let template_path = path.field("template");
    let template = errors.object(get(spec, "template"), &template_path).unwrap_or(&Value::Null);
    let pod_path = template_path.field("spec");
    // The API server leaves `metadata` out of this path.
    check_labels(at(template, &["metadata", "labels"]), &template_path.field("labels"), errors);
    pod::check_spec(get(template, "spec"), &pod_path, errors);
    let restart = get(get(template, "spec"), "restartPolicy");
    if restart.as_str().is_some_and(|restart| restart != "Always" && pod::RESTART_POLICIES.contains(&restart)) {
        errors.not_supported(&pod_path.field("restartPolicy"), restart.clone(), &["Always"]);
    }
}

fn check_selector(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let value = get(spec, "selector");
    let selector_path = path.field("selector");
    let selector = if value.is_null() {
        errors.required(&selector_path, "");
        None
    } else {
        selector::check(value, &selector_path, errors);
        if entries(get(value, "matchLabels")).is_empty() && items(get(value, "matchExpressions")).is_empty() {
            return errors.invalid(&selector_path, value.clone(), "an empty selector would select every pod");
        }
        let Ok(selector) = convert::selector(value) else {
            return errors.invalid(&selector_path, value.clone(), "not a valid selector");
        };
        Some(selector)
    };
    let labels = at(spec, &["template", "metadata", "labels"]);
    if !selector.is_some_and(|selector| selector.matches(&convert::labels(labels))) {
        let template = path.field("template");
        let metadata = template.field("metadata");
        errors.invalid(&metadata.field("labels"), labels.clone(), "the labels do not match `selector`");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn web() -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web", "more": "x"}},
                    "spec": {"containers": [{"name": "web", "image": "nginx"}]},
                },
            },
        })
    }

    fn check(change: impl FnOnce(&mut Value), expect: &[&str]) {
        let mut object = web();
        change(&mut object["spec"]);
        let found: Vec<_> = deployment(&object).iter().map(FieldError::to_string).collect();
        assert_eq!(found.len(), expect.len(), "{found:#?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.starts_with(expect), "{found}\n{expect}");
        }
    }

    #[test]
    fn the_selector_is_needed_and_matches_the_template() {
        check(|_| (), &[]);
        check(
            |spec| spec["selector"] = Value::Null,
            &["spec.selector: Required value", "spec.template.metadata.labels: Invalid value"],
        );
        check(|spec| spec["selector"] = json!({}), &["spec.selector: Invalid value: {}"]);
        check(
            |spec| spec["template"]["metadata"]["labels"]["app"] = json!("api"),
            &["spec.template.metadata.labels: Invalid value: {\"app\":\"api\""],
        );
    }

    #[test]
    fn the_template_is_a_pod_that_restarts() {
        check(|spec| spec["replicas"] = json!(-1), &["spec.replicas: Invalid value: -1: must be 0 or more"]);
        check(
            |spec| spec["template"] = Value::Null,
            &["spec.template.metadata.labels: Invalid value: null", "spec.template.spec.containers: Required value"],
        );
        check(
            |spec| spec["template"]["spec"]["containers"] = json!([]),
            &["spec.template.spec.containers: Required value"],
        );
        check(
            |spec| spec["template"]["spec"]["restartPolicy"] = json!("Never"),
            &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        );
    }

    #[test]
    fn the_selector_never_changes() {
        let mut new = web();
        assert_eq!(workload_update(&new, &web()), []);
        new["spec"]["selector"] = json!({"matchLabels": {"app": "web", "more": "x"}});
        assert_eq!(workload_update(&new, &web())[0].path.to_string(), "spec.selector");
    }
}
