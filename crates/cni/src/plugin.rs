//! The commands.

use std::thread;
use std::time::{Duration, Instant};

use ringfence_api::{CollectRequest, ReleaseRequest, WaitRequest, blocking};
use serde_json::{Value, json};

use crate::{CURRENT, Command, Error, NetConf, Request, SUPPORTED, presence, result};

/// The time that all but `ADD` wait for the agent: they ask about now.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The time that an agent that is away may take to come before a pod gets a network.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Output and exit code of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// For standard output; none: nothing.
    pub output: Option<Value>,
    /// 0 or 1.
    pub code: u8,
}

/// Carries out the command that the environment names, with the configuration on standard input.
pub fn run(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> Outcome {
    let conf = NetConf::read(input);
    let version = conf.as_ref().map_or(CURRENT, |conf| match conf.cni_version.as_str() {
        "" => CURRENT,
        version => version,
    });
    let request = Request::read(variable);
    let status = matches!(&request, Ok(request) if request.command == Command::Status);
    match request.and_then(|request| carry_out(&request, &conf, version)) {
        Ok(output) => Outcome { output, code: 0 },
        Err(error) if status => Outcome { output: Some(error.status_object(version)), code: 1 },
        Err(error) => Outcome { output: Some(error.object(version)), code: 1 },
    }
}

fn carry_out(
    request: &Request,
    conf: &Result<NetConf, serde_json::Error>,
    version: &str,
) -> Result<Option<Value>, Error> {
    if request.command == Command::Version {
        return Ok(Some(json!({ "cniVersion": version, "supportedVersions": SUPPORTED })));
    }
    let conf = conf.as_ref().map_err(|error| Error::Decode(error.to_string()))?;
    conf.supported()?;
    if conf.gate {
        return pass(request, conf);
    }
    if request.is_of_no_pod() {
        return let_alone(request, conf);
    }
    match request.command {
        Command::Add => add(request, conf).map(Some),
        Command::Check => check(request, conf).map(|()| None),
        Command::Status => status(conf),
        Command::Del => {
            del(request, conf);
            Ok(None)
        }
        Command::Gc => {
            gc(conf);
            Ok(None)
        }
        Command::Version => Ok(None),
    }
}

/// A container that is no pod, as other tools start them by the same configuration: there is no policy about it, and
/// nobody to ask. Where its address is one of the node's pods' it is closed in the kernel all the same.
fn let_alone(request: &Request, conf: &NetConf) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => Ok(Some(result::in_version(conf.previous()?, &conf.cni_version))),
        Command::Check | Command::Del | Command::Gc | Command::Status | Command::Version => Ok(None),
    }
}

/// As the entry at the beginning of a list: nothing is made, and nothing is to be taken away, but no pod gets a network
/// while the agent is not there to guard it.
fn pass(request: &Request, conf: &NetConf) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => {
            if !request.is_of_no_pod() {
                come(conf)?;
            }
            Ok(Some(json!({ "cniVersion": conf.cni_version })))
        }
        Command::Status => status(conf),
        Command::Check | Command::Del | Command::Gc | Command::Version => Ok(None),
    }
}

/// True if an `ADD` could succeed. An agent that was there a moment ago is expected back: `ADD` waits for it.
fn status(conf: &NetConf) -> Result<Option<Value>, Error> {
    match blocking::serving(conf.socket(), REQUEST_TIMEOUT) {
        Err(_) if presence::was_there(conf.socket()) => Ok(None),
        answer => Ok(answer.map(|()| None)?),
    }
}

/// Waits a little for an agent that is just coming: a pod whose network failed is tried again only after a while.
fn come(conf: &NetConf) -> Result<(), Error> {
    let end = Instant::now() + conf.timeout().min(STARTUP_TIMEOUT);
    loop {
        match blocking::serving(conf.socket(), REQUEST_TIMEOUT) {
            Err(_) if Instant::now() < end => thread::sleep(POLL_INTERVAL),
            answer => return Ok(answer?),
        }
    }
}

/// Waits until the pod's policy is in the kernel and hands on the result of the plugin before.
fn add(request: &Request, conf: &NetConf) -> Result<Value, Error> {
    let previous = conf.previous()?;
    blocking::wait(conf.socket(), &question(request, conf, conf.timeout())?)?;
    Ok(result::in_version(previous, &conf.cni_version))
}

/// True if the policy of a connected pod is in the kernel now.
fn check(request: &Request, conf: &NetConf) -> Result<(), Error> {
    blocking::check(conf.socket(), REQUEST_TIMEOUT, &question(request, conf, REQUEST_TIMEOUT)?)?;
    Ok(())
}

/// Closes the pod's addresses at once: they may be given to another pod before the API says that this one is gone.
///
/// Never fails: whoever is given an address has it alone from then on, whether the agent hears of this or not.
fn del(request: &Request, conf: &NetConf) {
    let Ok(pod) = request.pod() else { return };
    let release =
        ReleaseRequest { namespace: pod.namespace, name: pod.name, uid: pod.uid, container: request.container.clone() };
    let _ = blocking::release(conf.socket(), REQUEST_TIMEOUT, &release);
}

/// Closes the addresses of sandboxes that are gone without anybody having said so. Never fails, as `DEL` does not.
fn gc(conf: &NetConf) {
    let Some(containers) = conf.sandboxes() else { return };
    let _ =
        blocking::collect(conf.socket(), REQUEST_TIMEOUT, &CollectRequest { network: conf.name.clone(), containers });
}

fn question(request: &Request, conf: &NetConf, timeout: Duration) -> Result<WaitRequest, Error> {
    let pod = request.pod()?;
    let previous = conf.previous()?;
    Ok(WaitRequest {
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        container: Some(request.container.clone()),
        network: Some(conf.name.clone()),
        addresses: result::addresses(previous, &request.interface)?,
        links: result::links(previous),
        hardware_address: result::hardware_address(previous, &request.interface),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    })
}
