//! Problems of a policy, as the conditions of its status.

use std::fmt::Write as _;

use ringfence_k8s::Severity;
use serde_json::{Value, json};

use crate::problem::{Account, Problem};

/// The types of our conditions; they are always both there.
pub(super) const TYPES: [&str; 2] = ["Accepted", "HasWarnings"];

/// Problems named in a condition, and the longest text one may have (the API takes 32,768 characters).
const NAMED: usize = 20;
const LONGEST: usize = 16_384;

/// The conditions of a policy, without the times of their transitions.
///
/// `Accepted` is false if part of the policy is not enforced as written because it is not understood; it says which and
/// what is enforced instead. `HasWarnings` is true if something may not be meant as it is written, or if there is no
/// room for the policy on the node of whoever writes this: of other nodes their status and Events tell.
pub(super) fn conditions(account: &Account) -> Vec<Value> {
    let of = |severity: Severity| -> Vec<&Problem> {
        account.problems.iter().filter(|problem| problem.severity == severity && problem.is_everywhere()).collect()
    };
    let (errors, mut warnings) = (of(Severity::Error), of(Severity::Warning));
    warnings.extend(account.problems.iter().filter(|problem| !problem.is_everywhere()));
    let accepted = match errors.first() {
        None if warnings.iter().all(|problem| problem.is_everywhere()) => {
            ("True", "Accepted", "enforced as written".to_owned())
        }
        None => ("True", "Accepted", "understood as written".to_owned()),
        Some(first) => ("False", first.reason.as_str(), words(&errors)),
    };
    let warned = match warnings.first() {
        None => ("False", "NoWarnings", String::new()),
        Some(first) => ("True", first.reason.as_str(), words(&warnings)),
    };
    let condition = |(name, (status, reason, message)): (&str, (&str, &str, String))| {
        json!({
            "type": name, "status": status, "observedGeneration": account.generation,
            "reason": reason, "message": message,
        })
    };
    TYPES.into_iter().zip([accepted, warned]).map(condition).collect()
}

fn words(problems: &[&Problem]) -> String {
    let mut text = problems.iter().take(NAMED).map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n");
    if problems.len() > NAMED {
        let _infallible = write!(text, "\nand {} more", problems.len() - NAMED);
    }
    shorten(text, LONGEST)
}

/// Cuts a text off where it is too long; lengths in bytes.
pub(super) fn shorten(mut text: String, longest: usize) -> String {
    const MARK: &str = "…";
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest - MARK.len()));
        text.push_str(MARK);
    }
    text
}

/// The conditions with the times of their transitions: those stored where the status is the same, else now.
pub(super) fn dated(conditions: &[Value], stored: &[Value], now: &str) -> Vec<Value> {
    let dated = |condition: &Value| {
        let same = |stored: &&Value| ["type", "status"].into_iter().all(|field| stored[field] == condition[field]);
        let since = stored.iter().find(same).map(|stored| stored["lastTransitionTime"].clone());
        let mut condition = condition.clone();
        condition["lastTransitionTime"] = since.filter(Value::is_string).unwrap_or_else(|| now.into());
        condition
    };
    conditions.iter().map(dated).collect()
}

/// True if the stored conditions say the same, whatever their times.
pub(super) fn agree(conditions: &[Value], stored: &[Value]) -> bool {
    const FIELDS: [&str; 5] = ["type", "status", "observedGeneration", "reason", "message"];
    let text = |value: &Value| value.as_str().is_some_and(str::is_empty) || value.is_null();
    let same = |one: &Value, other: &Value| one == other || (text(one) && text(other));
    conditions.iter().all(|condition| {
        stored.iter().any(|stored| FIELDS.into_iter().all(|field| same(&condition[field], &stored[field])))
    })
}

#[cfg(test)]
mod tests {
    use ringfence_k8s::convert::{Kind, cluster_network_policy};

    use super::*;
    use crate::problem::{NO_CAPACITY, SAME_PRIORITY};

    /// The report about a policy with this rule.
    fn about(action: &str, peer: &Value, ports: &Value) -> Account {
        let mut rule = json!({"action": action, "to": [peer]});
        if !ports.is_null() {
            rule["protocols"] = json!([ports]);
        }
        let spec = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [rule]});
        let object = json!({"metadata": {"name": "p", "uid": "u", "generation": 7}, "spec": spec});
        let (policy, diagnostics) = cluster_network_policy(&object);
        let problems = diagnostics.iter().map(Problem::from).collect();
        assert_eq!(Kind::ClusterNetworkPolicy.policy(), Some(policy.id.kind));
        Account { id: policy.id, uid: policy.uid, generation: policy.generation, problems }
    }

    /// Status, reason and message of each condition.
    fn told(account: &Account) -> [(String, String, String); 2] {
        let all = conditions(account);
        assert!(all.iter().all(|condition| condition["observedGeneration"] == 7));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let told = |name: &str| {
            let found = all.iter().find(|condition| condition["type"] == name).unwrap();
            (text(&found["status"]), text(&found["reason"]), text(&found["message"]))
        };
        TYPES.map(told)
    }

    #[test]
    fn a_policy_that_is_understood_is_accepted() {
        let [accepted, warned] = told(&about("Deny", &json!({"networks": ["10.0.0.0/8"]}), &Value::Null));
        assert_eq!(accepted, ("True".into(), "Accepted".into(), "enforced as written".into()));
        assert_eq!(warned, ("False".into(), "NoWarnings".into(), String::new()));
    }

    #[test]
    fn what_is_not_supported_is_named_by_its_field_with_what_is_done_instead() {
        let network = json!({"networks": ["10.0.0.0/8"]});
        let named = json!({"destinationNamedPort": "http"});
        for (action, peer, ports, reason, starts, ends) in [
            (
                "Accept",
                json!({"planets": {}}),
                Value::Null,
                "UnknownField",
                "spec.egress[0].to[0].planets: ",
                "the rule matches nothing",
            ),
            (
                "Deny",
                json!({"planets": {}}),
                Value::Null,
                "UnknownField",
                "spec.egress[0].to[0].planets: ",
                "the rule denies everything",
            ),
            (
                "Accept",
                network.clone(),
                json!({"quic": {}}),
                "UnknownField",
                "spec.egress[0].protocols[0].quic: ",
                "the rule matches nothing",
            ),
            (
                "Log",
                network.clone(),
                Value::Null,
                "UnknownAction",
                "spec.egress[0].action: ",
                "the rule denies everything",
            ),
            (
                "Deny",
                json!({"domainNames": ["a.net"]}),
                Value::Null,
                "DomainNamesNotAccepted",
                "spec.egress[0].to[0].domainNames: ",
                "the rule denies everything",
            ),
            (
                "Deny",
                network.clone(),
                named.clone(),
                "NamedPortOfAddresses",
                "spec.egress[0].protocols: ",
                "the rule denies everything",
            ),
            (
                "Deny",
                json!({"networks": ["x"]}),
                Value::Null,
                "Invalid",
                "spec.egress[0].to[0].networks[0]: ",
                "the rule denies everything",
            ),
        ] {
            let [accepted, warned] = told(&about(action, &peer, &ports));
            assert_eq!((accepted.0.as_str(), accepted.1.as_str()), ("False", reason), "{action} {peer} {ports}");
            assert!(accepted.2.starts_with(starts) && accepted.2.contains(ends), "{}", accepted.2);
            assert_eq!(warned.0, "False");
        }
        let [accepted, warned] = told(&about("Accept", &network, &named));
        assert_eq!(
            (accepted.0.as_str(), warned.0.as_str(), warned.1.as_str()),
            ("True", "True", "NamedPortOfAddresses")
        );
    }

    #[test]
    fn what_has_no_room_on_a_node_is_not_called_enforced() {
        let mut account = about("Deny", &json!({"networks": ["10.0.0.0/8"]}), &Value::Null);
        account
            .problems
            .push(Problem { severity: Severity::Error, ..Problem::warning(NO_CAPACITY, "node n: no room".into()) });
        let [accepted, warned] = told(&account);
        assert_eq!(accepted, ("True".into(), "Accepted".into(), "understood as written".into()));
        assert_eq!(warned, ("True".into(), NO_CAPACITY.into(), "node n: no room".into()));
        account.problems.insert(0, Problem::warning(SAME_PRIORITY, "as b".into()));
        assert_eq!(told(&account)[1], ("True".into(), SAME_PRIORITY.into(), "as b\nnode n: no room".into()));
    }

    #[test]
    fn however_much_there_is_to_say_it_fits() {
        let mut account = about("Deny", &json!({"networks": ["10.0.0.0/8"]}), &Value::Null);
        account.problems = vec![Problem::warning(SAME_PRIORITY, "ß".repeat(600)); 50];
        assert!(told(&account)[1].2.len() <= LONGEST);
        account.problems = vec![Problem::warning(SAME_PRIORITY, "x".into()); 50];
        assert!(told(&account)[1].2.ends_with("\nand 30 more"));
    }

    #[test]
    fn the_time_of_a_transition_stays_while_the_status_does() {
        let before = about("Log", &json!({"networks": ["10.0.0.0/8"]}), &Value::Null);
        let stored = dated(&conditions(&before), &[], "then");
        assert!(agree(&conditions(&before), &stored));
        let after = about("Deny", &json!({"planets": {}}), &Value::Null);
        assert!(!agree(&conditions(&after), &stored));
        let now = dated(&conditions(&after), &stored, "now");
        assert!(
            now.iter().all(|condition| condition["lastTransitionTime"] == "then"),
            "still false, for another reason"
        );
        let good = about("Deny", &json!({"networks": ["10.0.0.0/8"]}), &Value::Null);
        let times =
            dated(&conditions(&good), &now, "now").iter().map(|c| c["lastTransitionTime"].clone()).collect::<Vec<_>>();
        assert_eq!(times, ["now", "then"]);
    }
}
