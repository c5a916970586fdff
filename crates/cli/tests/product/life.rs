//! The life of pods as kubectl shows it: images, restarts, readiness, deletion, logs, terminals.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use super::kit::{Lab, Need, can_run, eventually, text};
use super::limited;

fn lab(test: &str) -> Option<Lab> {
    can_run(&[Need::Root, Need::Kubectl]).then(|| Lab::up(test, &["--nodes", "1", "--without-agents"]))
}

#[test]
fn an_image_that_is_not_known_is_told_with_those_that_are() {
    let Some(lab) = lab("image") else { return };
    lab.must("run strange --image=example.com/strange:1");
    eventually("the column says so", || lab.must("get pod strange").contains("ErrImagePull"));
    let events = lab.must("events --for pod/strange");
    assert!(
        events.contains("Failed to pull image \"example.com/strange:1\"") && events.contains("it knows nginx"),
        "{events}"
    );
    let log = text(&lab.kubectl("logs strange"));
    assert!(log.contains("is waiting to start: trying and failing to pull image"), "{log}");
    assert!(text(&lab.kubectl("exec strange -- true")).contains("is not running"));
    // A better image is taken as soon as it is there.
    lab.must("set image pod/strange strange=nginx");
    lab.ready(&["strange"]);
    lab.down();
}

#[test]
fn a_container_that_crashes_is_started_again_with_growing_pauses() {
    let Some(lab) = lab("crash") else { return };
    lab.must_with(
        "apply -f -",
        &json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "crash"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "c", "image": "busybox", "command": ["sh", "-c", "echo trying; exit 3"]}]},
        })
        .to_string(),
    );
    eventually("it is told", || lab.must("get pod crash").contains("CrashLoopBackOff"));
    let state = |path: &str| lab.field("pod/crash", &format!(".status.containerStatuses[0].{path}"));
    assert_eq!(state("lastState.terminated.exitCode"), "3");
    assert_eq!(state("state.waiting.reason"), "CrashLoopBackOff");
    assert!(state("restartCount").parse::<u32>().unwrap() >= 1);
    let described = lab.must("describe pod crash");
    assert!(described.contains("BackOff") && described.contains("Exit Code:    3"), "{described}");
    assert_eq!(lab.must("logs crash"), "trying\n");
    assert_eq!(lab.must("logs crash -p"), "trying\n");
    lab.must("run once --image=busybox --restart=Never -- sh -c true");
    eventually("it is through", || lab.must("get pod once").contains("Completed"));
    let previous = text(&lab.kubectl("logs once -p"));
    assert!(previous.contains("previous terminated container \"once\" in pod \"once\" not found"), "{previous}");
    lab.down();
}

#[test]
fn the_life_of_a_container_is_told_in_events() {
    let Some(lab) = lab("events") else { return };
    lab.must("run web --image=nginx:1.27");
    lab.ready(&["web"]);
    lab.must("delete pod web --wait=false");
    let format =
        "-o jsonpath={range.items[*]}{.type}|{.reason}|{.message}|{.source.component}|{.source.host}{'\\n'}{end}";
    let events = || lab.must(&format!("get events --field-selector=involvedObject.name=web {format}"));
    for told in [
        "Normal|Pulled|Container image \"nginx:1.27\" already present on machine|kubelet|node-1",
        "Normal|Started|Started container web|kubelet|node-1",
        "Normal|Killing|Stopping container web|kubelet|node-1",
    ] {
        eventually(told, || events().lines().any(|line| line == told));
    }
    // One that has ended by itself is not ended.
    lab.must("run once --image=busybox --restart=Never -- true");
    lab.must("wait --for=jsonpath={.status.phase}=Succeeded pod/once --timeout=60s");
    lab.must("delete pod once");
    let events = lab.must("get events --field-selector=involvedObject.name=once");
    assert!(events.contains("Started") && !events.contains("Killing"), "{events}");
    lab.down();
}

#[test]
fn pods_are_ready_and_in_services_only_while_their_probe_says_so() {
    let Some(lab) = lab("ready") else { return };
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": "nginx",
            "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1,
            "failureThreshold": 1}}]},
    }));
    lab.must("expose pod web --port=80");
    let endpoints = || {
        lab.field(
            "endpointslices",
            ".items[?(@.metadata.labels.kubernetes\\.io/service-name==\"web\")].endpoints[*].conditions.ready",
        )
    };
    eventually("it runs and is not ready", || lab.must("get pod web").contains("0/1     Running"));
    eventually("nor is its endpoint", || endpoints() == "false");
    lab.exec("web", &["touch", "/tmp/ready"]);
    lab.ready(&["web"]);
    eventually("its endpoint is ready", || endpoints() == "true");
    lab.exec("web", &["rm", "/tmp/ready"]);
    eventually("it is not ready any more", || lab.must("get pod web").contains("0/1     Running"));
    eventually("nor is its endpoint", || endpoints() == "false");
    assert!(lab.must("describe pod web").contains("Readiness probe failed"));
    lab.down();
}

#[test]
fn a_container_has_its_time_to_end() {
    let Some(lab) = lab("grace") else { return };
    let pod = |name: &str, script: &str, grace: u32| {
        lab.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": grace, "containers": [{
                "name": "c", "image": "busybox", "command": ["sh", "-c", script]}]},
        }));
        lab.ready(&[name]);
    };
    pod("polite", "trap 'echo going; sleep 8; exit 0' TERM; echo up; while true; do sleep 0.1; done", 30);
    pod("deaf", "trap '' TERM; echo up; while true; do sleep 0.1; done", 2);
    eventually("both have their traps", || {
        ["polite", "deaf"].iter().all(|pod| lab.must(&format!("logs {pod}")).contains("up"))
    });
    let begun = Instant::now();
    lab.must("delete pod polite --wait=false");
    eventually("its end is told", || lab.must("get pod polite").contains("Terminating"));
    eventually("it was asked to end", || lab.must("logs polite").contains("going"));
    lab.must("wait --for=delete pod/polite --timeout=60s");
    assert!(begun.elapsed().as_secs_f32() >= 8.0, "it had the time it took: {:?}", begun.elapsed());
    let begun = Instant::now();
    lab.must("delete pod deaf");
    assert!(begun.elapsed().as_secs_f32() >= 2.0, "it had the time it may take: {:?}", begun.elapsed());
    pod("hasty", "trap '' TERM; while true; do sleep 0.1; done", 300);
    lab.must("delete pod hasty --grace-period=1");
    lab.down();
}

#[test]
fn logs_are_shown_in_part_with_times_and_as_they_come() {
    let Some(lab) = lab("logs") else { return };
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talk"},
        "spec": {"terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [{
            "name": "c", "image": "busybox",
            "command": ["sh", "-c",
            "echo one; echo two; while [ ! -e /tmp/more ]; do sleep 0.1; done; echo three; echo four; while [ ! -e \
             /tmp/end ]; do sleep 0.1; done; printf five"]}]},
    }));
    lab.ready(&["talk"]);
    eventually("both lines are there", || lab.must("logs talk").lines().count() == 2);
    let follower = lab.kubectl_streaming("logs -f talk --tail=1", Stdio::piped());
    let times = lab.must("logs talk --timestamps");
    let first = times.lines().next().unwrap().split_once(' ').unwrap();
    assert!(
        first.0.ends_with('Z') && first.0.len() == "2026-01-01T00:00:00.000000000Z".len() && first.1 == "one",
        "{times}"
    );
    // Times are compared by the second at most, so the next lines come in another.
    eventually("a second has passed", || lab.must("logs talk --since=1s").is_empty());
    let now = lab.exec("talk", &["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"]);
    lab.exec("talk", &["touch", "/tmp/more"]);
    eventually("the next lines are there", || lab.must("logs talk").lines().count() == 4);
    assert_eq!(lab.must("logs talk --since=1h").lines().count(), 4);
    assert_eq!(lab.must(&format!("logs talk --since-time={}", now.trim())), "three\nfour\n");
    assert_eq!(lab.must("logs talk --tail=1"), "four\n");
    assert_eq!(lab.must("logs talk --limit-bytes=6"), "one\ntw");
    lab.exec("talk", &["touch", "/tmp/end"]);
    let followed = follower.end();
    assert!(followed.status.success(), "{}", text(&followed));
    let all = b"two\nthree\nfour\nfive";
    assert_eq!(followed.stdout, all, "all of it, and the end of the container is the end of the log");
    lab.down();
}

/// Runs a command on a terminal of its own, types this, and gives what the terminal showed.
fn on_a_terminal(lab: &Lab, command: &str, typed: &[(&str, &str)]) -> String {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut program = lab.on_it("setsid");
    program.args(["--ctty", "sh", "-c", command]).stdin(slave()).stdout(slave()).stderr(slave());
    // Its end is that of its session, by the terminal.
    let child = limited::start(&mut program);
    drop((program, terminal.slave));
    let mut reader = std::fs::File::from(terminal.master);
    let mut writer = reader.try_clone().unwrap();
    let shown = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&shown);
    let screen = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The terminal ends with an error when its last program has.
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            seen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    });
    for (after, line) in typed {
        eventually(&format!("the terminal shows {after:?}"), || shown.lock().unwrap().contains(after));
        writer.write_all(line.as_bytes()).unwrap();
    }
    child.end();
    eventually("nothing has the terminal any more", || screen.is_finished());
    shown.lock().unwrap().clone()
}

#[test]
fn a_shell_on_a_terminal_is_run_used_and_removed() {
    let Some(lab) = lab("terminal") else { return };
    // What it prints differs from what is typed, so that the echo is not taken for the answer.
    let shown = on_a_terminal(
        &lab,
        "kubectl run -it --rm shell --image=busybox --restart=Never --env=PS1=ready: -- sh",
        &[
            ("If you don't see", "\n"),
            ("ready:", "echo $((40 + 2)); test -t 0 && echo on-a-$TERM\n"),
            ("on-a-xterm", "exit\n"),
        ],
    );
    assert!(shown.contains("42") && shown.contains("pod \"shell\" deleted"), "{shown}");
    assert!(!lab.kubectl("get pod shell").status.success(), "it was removed");

    lab.must("run stays --image=busybox --restart=Never -- sleep 3600");
    lab.ready(&["stays"]);
    let shown = on_a_terminal(
        &lab,
        "stty cols 91 rows 37; kubectl exec -it stays -- sh",
        &[("#", "stty size; echo $((40 + 2))\n"), ("42", "exit 5\n")],
    );
    assert!(shown.contains("37 91") && shown.contains("exit code 5"), "{shown}");
    lab.down();
}

#[test]
fn what_is_attached_to_hears_and_is_heard() {
    let Some(lab) = lab("attach") else { return };
    // Input by a pipe, to its end.
    let run = lab.kubectl_with("run -i --rm count --image=busybox --restart=Never -- wc -c", "twelve bytes");
    assert!(run.status.success() && text(&run).contains("12"), "{}", text(&run));
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ticks"},
        "spec": {"terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [{
            "name": "c", "image": "busybox",
            "command": ["sh", "-c", "while [ ! -e /tmp/end ]; do echo tick; sleep 0.1; done"]}]},
    }));
    lab.ready(&["ticks"]);
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| lab.kubectl("attach ticks"));
        eventually("it ticks", || lab.must("logs ticks").lines().count() > 5);
        lab.exec("ticks", &["touch", "/tmp/end"]);
        let attached = attached.join().unwrap();
        assert!(attached.status.success() && text(&attached).contains("tick"), "{}", text(&attached));
    });
    // What is not served says so.
    lab.must("run web --image=nginx");
    lab.ready(&["web"]);
    let refused = text(&lab.kubectl("port-forward pod/web 18080:80"));
    assert!(refused.contains("pods/portforward is not served by the lab's API"), "{refused}");
    lab.down();
}
