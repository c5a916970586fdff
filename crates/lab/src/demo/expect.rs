//! Expected results, and their check.

use super::table::Table;

/// Exit code of curl for an operation that timed out.
const CURL_TIMED_OUT: i32 = 28;

/// Title of the page that nginx, the upstream image and the lab's built-in web server all show.
const WELCOME: &str = "Welcome to nginx!";

/// Result of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Its exit code; that of the remote command, where there is one.
    pub(super) code: i32,
    /// Its output.
    pub(super) stdout: String,
    /// Its error output.
    pub(super) stderr: String,
}

/// The expected result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Success, and this in the output.
    Says(&'static str),
    /// HTTP 200 and the page.
    Page,
    /// Silence until the client gives up: a dropped packet, not a refusal.
    TimeOut,
    /// Every node is ready.
    NodesReady,
    /// The node agents run, one on each node.
    AgentsRunning,
    /// Every pod runs and is ready.
    PodsRunning {
        /// Each shows its address and node.
        wide: bool,
        /// At least so many of the default namespace and the tour's.
        least: usize,
    },
}

/// The observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    /// True if it is what was expected.
    pub(super) agrees: bool,
    /// In a few words.
    pub(super) text: String,
}

impl Expect {
    /// In a few words.
    pub(super) fn text(self) -> String {
        match self {
            Self::Says(text) => text.to_owned(),
            Self::Page => format!("HTTP 200 and \"{WELCOME}\""),
            Self::TimeOut => "no answer: the connection times out".to_owned(),
            Self::NodesReady => "every node is Ready".to_owned(),
            Self::AgentsRunning => "an agent of Ringfence is Running on each node".to_owned(),
            Self::PodsRunning { wide: false, .. } => "every pod is Running".to_owned(),
            Self::PodsRunning { wide: true, .. } => "every pod is Running and has an IP and a node".to_owned(),
        }
    }

    /// Compares.
    pub(super) fn judge(self, outcome: &Outcome) -> Observation {
        let (agrees, text) = match self {
            Self::Says(text) => (outcome.code == 0 && outcome.stdout.contains(text), said(outcome)),
            Self::Page => {
                let status = outcome.stdout.lines().next().unwrap_or_default().trim();
                let welcome = outcome.stdout.contains(WELCOME);
                let agrees = outcome.code == 0 && status.split(' ').nth(1) == Some("200") && welcome;
                (agrees, if welcome { format!("{status}, \"{WELCOME}\"") } else { said(outcome) })
            }
            Self::TimeOut => {
                let agrees = outcome.code == CURL_TIMED_OUT && outcome.stdout.trim().is_empty();
                let complaint = outcome.stderr.lines().find(|line| line.starts_with("curl:"));
                (agrees, complaint.map_or_else(|| said(outcome), str::to_owned))
            }
            Self::NodesReady => rows(outcome, 1, |row| row.get("STATUS") == Some("Ready")),
            Self::AgentsRunning => agents(outcome),
            Self::PodsRunning { wide, least } => rows(outcome, least, |row| {
                let set = |column| row.get(column).is_some_and(|value| !value.is_empty() && value != "<none>");
                let runs = row.get("STATUS") == Some("Running") && row.get("READY").is_some_and(all_ready);
                runs && (!wide || set("IP") && set("NODE"))
            }),
        };
        Observation { agrees, text }
    }
}

/// True if `1/1` and not `0/1`.
fn all_ready(ready: &str) -> bool {
    ready.split_once('/').is_some_and(|(is, of)| is == of)
}

fn agents(outcome: &Outcome) -> (bool, String) {
    let table = Table::parse(&outcome.stdout);
    let agents: Vec<_> =
        table.rows().filter(|row| row.get("NAME").is_some_and(|name| name.contains("ringfence"))).collect();
    let running = agents.iter().filter(|row| row.get("STATUS") == Some("Running")).count();
    (
        outcome.code == 0 && running > 0 && running == agents.len(),
        format!("{running} of {} agents Running", agents.len()),
    )
}

fn rows(outcome: &Outcome, least: usize, good: impl Fn(&super::table::Row<'_>) -> bool) -> (bool, String) {
    let table = Table::parse(&outcome.stdout);
    let all = table.rows().count();
    let bad: Vec<String> = table.rows().filter(|row| !good(row)).map(|row| row.to_string()).collect();
    let agrees = outcome.code == 0 && all >= least && bad.is_empty();
    let text = match bad.as_slice() {
        [] if outcome.code != 0 || all == 0 => said(outcome),
        [] => format!("all {all} are"),
        [first, ..] => format!("{} of {all} are not: {first}", bad.len()),
    };
    (agrees, text)
}

/// The last line of what a command said, or its exit code.
fn said(outcome: &Outcome) -> String {
    let mut lines = outcome.stdout.lines().chain(outcome.stderr.lines());
    let last = lines.rfind(|line| !line.trim().is_empty());
    match last {
        Some(line) if outcome.code == 0 => line.trim().to_owned(),
        Some(line) => format!("{} (exit code {})", line.trim(), outcome.code),
        None => format!("nothing (exit code {})", outcome.code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n<h1>Welcome to nginx!</h1>\n";
    const TIMED_OUT: &str =
        "curl: (28) Connection timed out after 2001 milliseconds\ncommand terminated with exit code 28\n";
    const REFUSED: &str = "curl: (7) Failed to connect to 10.0.0.1 port 80\ncommand terminated with exit code 7\n";

    #[track_caller]
    fn check(expect: Expect, code: i32, stdout: &str, stderr: &str, agrees: bool) {
        let outcome = Outcome { code, stdout: stdout.to_owned(), stderr: stderr.to_owned() };
        let seen = expect.judge(&outcome);
        assert_eq!(seen.agrees, agrees, "{expect:?} saw {}", seen.text);
        assert!(!seen.text.is_empty());
    }

    #[test]
    fn pages_and_silence_are_told_apart() {
        check(Expect::Page, 0, PAGE, "", true);
        check(Expect::Page, 0, "HTTP/1.1 404 Not Found\r\n\r\nWelcome to nginx!", "", false);
        check(Expect::Page, 0, "HTTP/1.1 200 OK\r\n\r\nsomething else", "", false);
        check(Expect::Page, 28, "", TIMED_OUT, false);
        check(Expect::TimeOut, 28, "", TIMED_OUT, true);
        check(Expect::TimeOut, 7, "", REFUSED, false);
        check(Expect::TimeOut, 0, PAGE, "", false);
        check(Expect::TimeOut, 28, PAGE, TIMED_OUT, false);
    }

    #[test]
    fn a_command_must_succeed_to_have_said_something() {
        check(Expect::Says("created"), 0, "namespace/x created\n", "", true);
        check(Expect::Says("created"), 1, "namespace/x created\n", "", false);
        check(Expect::Says("created"), 0, "", "created", false);
    }

    #[test]
    fn pods_must_all_run() {
        let running = Expect::PodsRunning { wide: false, least: 2 };
        let pods = "NAMESPACE   NAME   READY   STATUS    RESTARTS      AGE\n\
                    a           x      1/1     Running   1 (2s ago)    2s\n\
                    b           y      1/1     Running   0             2s\n";
        check(running, 0, pods, "", true);
        check(Expect::PodsRunning { wide: false, least: 3 }, 0, pods, "", false);
        check(Expect::PodsRunning { wide: true, least: 2 }, 0, pods, "", false);
        check(running, 0, &pods.replace("1/1     Running   0 ", "0/1     Running   0 "), "", false);
        check(running, 0, &pods.replace("Running   0", "Pending   0"), "", false);
        check(running, 0, "", "No resources found", false);
    }

    #[test]
    fn wide_rows_show_where_a_pod_is() {
        let wide = Expect::PodsRunning { wide: true, least: 1 };
        let pods = "NAME   READY   STATUS    IP         NODE     NOMINATED NODE\nx      1/1     Running   10.0.0.1   \
            node-1   <none>\n";
        check(wide, 0, pods, "", true);
        check(wide, 0, &pods.replace("10.0.0.1", "<none>  "), "", false);
    }

    #[test]
    fn agents_must_run() {
        let pods = "NAME                 READY   STATUS\nringfence-agent-a    1/1     Running\n";
        check(Expect::AgentsRunning, 0, pods, "", true);
        check(Expect::AgentsRunning, 0, &pods.replace("Running", "Pending"), "", false);
        check(Expect::AgentsRunning, 0, "NAME   READY   STATUS\nother  1/1     Running\n", "", false);
    }
}
