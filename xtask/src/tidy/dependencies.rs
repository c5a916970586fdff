//! Who may know whom.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};
use xshell::Shell;

use super::Finding;

/// The table: crate, and which of ours it may know. Dependencies point up only.
const TABLE: &[(&str, &[&str])] = &[
    ("ringfence-model", &[]),
    ("ringfence-engine", &["ringfence-model"]),
    ("ringfence-k8s", &["ringfence-model"]),
    ("ringfence-api", &["ringfence-model"]),
    ("ringfence-datapath", &["ringfence-model", "ringfence-engine", "ringfence-api"]),
    ("ringfence-netns", &[]),
    ("ringfence-console", &[]),
    ("ringfence-cni", &["ringfence-api"]),
    ("ringfence-routes", &["ringfence-model", "ringfence-netns"]),
    (
        "ringfence-agent",
        &[
            "ringfence-model",
            "ringfence-engine",
            "ringfence-k8s",
            "ringfence-api",
            "ringfence-datapath",
            "ringfence-netns",
            "ringfence-console",
            "ringfence-cni",
            "ringfence-routes",
        ],
    ),
    ("ringfence-install", &["ringfence-api", "ringfence-k8s"]),
    (
        "ringfence-lab",
        &["ringfence-api", "ringfence-console", "ringfence-datapath", "ringfence-netns", "ringfence-k8s"],
    ),
    ("ringfence-e2e", &["ringfence-datapath", "ringfence-install", "ringfence-netns"]),
    ("ringfence", &["ringfence-model", "ringfence-api", "ringfence-console", "ringfence-k8s", "ringfence-install"]),
    ("ringfence-bench", ALL),
    ("ringfence-fuzz", &[]),
    ("xtask", &[]),
];

const ALL: &[&str] = &[
    "ringfence-model",
    "ringfence-engine",
    "ringfence-k8s",
    "ringfence-api",
    "ringfence-datapath",
    "ringfence-netns",
    "ringfence-console",
    "ringfence-cni",
    "ringfence-routes",
    "ringfence-agent",
    "ringfence-install",
    "ringfence-lab",
    "ringfence-e2e",
];

/// What the tests of a crate may know beyond that: ours that do not know the crate, so that there is no circle.
const IN_TESTS: &[(&str, &[&str])] = &[
    ("ringfence-engine", &["ringfence-k8s"]),
    // The product tests have a lab, look into its nodes, and play container runtime.
    ("ringfence", &["ringfence-lab", "ringfence-netns", "ringfence-cni"]),
    ("ringfence-agent", &["ringfence-fuzz"]),
    ("ringfence-lab", &["ringfence-fuzz"]),
    ("ringfence-fuzz", &["ringfence-api", "ringfence-cni", "ringfence-k8s"]),
];

/// Crates that build without anything of the kernel, and the crate that has all of that.
const WITHOUT_KERNEL: &[&str] = &["ringfence", "ringfence-cni"];
const KERNEL: &str = "ringfence-datapath";

/// Crates that do no I/O.
const PURE: &[&str] = &["ringfence-model", "ringfence-engine"];

/// Beginnings of the names of foreign crates that a pure crate may not name.
const IMPURE: &[&str] = &["tokio", "kube", "k8s-openapi", "libbpf", "nix", "netlink", "hyper", "axum", "futures"];

/// Foreign crates that only some of ours may name, by the beginning of their names.
const RESERVED: &[(&str, &[&str])] = &[("libbpf", &["ringfence-datapath"])];

/// A package of the workspace, as far as the rules look at it.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its folder, from the root of the repository.
    pub(crate) folder: String,
    /// Its dependencies of every kind.
    pub(crate) dependencies: Vec<Dependency>,
}

/// What a package depends on.
pub(crate) struct Dependency {
    /// Its name.
    pub(crate) name: String,
    /// The name it has in the package.
    pub(crate) called: String,
    /// Whether only tests, examples and benchmarks do.
    pub(crate) in_tests: bool,
}

/// What cargo says of the workspace.
pub(crate) struct Workspace {
    /// Its packages.
    pub(crate) packages: Vec<Package>,
    /// First file of each library, program, test and so on (from the root of the repository) → name of its package.
    pub(crate) roots: BTreeMap<String, String>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read(sh: &Shell) -> anyhow::Result<Self> {
        let metadata = MetadataCommand::new().current_dir(sh.current_dir()).no_deps().exec()?;
        let mut roots = BTreeMap::new();
        for package in &metadata.packages {
            for target in &package.targets {
                let path = target.src_path.strip_prefix(&metadata.workspace_root)?;
                roots.insert(path.to_string(), package.name.to_string());
            }
        }
        let folder = |manifest: &cargo_metadata::camino::Utf8Path| {
            let folder = manifest.parent().and_then(|folder| folder.strip_prefix(&metadata.workspace_root).ok());
            folder.map(ToString::to_string).unwrap_or_default()
        };
        let packages = metadata.packages.iter().map(|package| Package {
            name: package.name.to_string(),
            folder: folder(&package.manifest_path),
            dependencies: package.dependencies.iter().cloned().map(Dependency::from).collect(),
        });
        Ok(Self { packages: packages.collect(), roots })
    }
}

impl From<cargo_metadata::Dependency> for Dependency {
    fn from(dependency: cargo_metadata::Dependency) -> Self {
        let called = dependency.rename.unwrap_or_else(|| dependency.name.clone());
        Self { name: dependency.name, called, in_tests: dependency.kind == DependencyKind::Development }
    }
}

/// Whether the tests of a crate may know another of ours.
fn may_in_tests(package: &str, dependency: &str) -> bool {
    IN_TESTS.iter().any(|(name, more)| *name == package && more.contains(&dependency))
}

/// Findings: a dependency against the table.
pub(crate) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let mut find = |message: String| findings.push(Finding::new(&package.name, None, message));
        let Some((_, may)) = TABLE.iter().find(|(name, _)| *name == package.name) else {
            find("this crate is not in the table of dependencies (xtask/src/tidy/dependencies.rs)".to_owned());
            continue;
        };
        for Dependency { name: dependency, in_tests, .. } in &package.dependencies {
            let dependency = dependency.as_str();
            let ours = packages.iter().any(|package| package.name == dependency);
            let may = may.contains(&dependency) || (*in_tests && may_in_tests(&package.name, dependency));
            if ours && dependency != package.name && !may {
                find(format!("may not depend on {dependency}: dependencies point up the table only"));
            }
            if PURE.contains(&package.name.as_str()) && IMPURE.iter().any(|begin| dependency.starts_with(begin)) {
                find(format!("is pure and may not name {dependency}"));
            }
            let reserved = RESERVED.iter().find(|(begin, _)| dependency.starts_with(begin));
            if let Some((_, owners)) = reserved.filter(|(_, owners)| !owners.contains(&package.name.as_str())) {
                find(format!("may not depend on {dependency}: only {} may", owners.join(", ")));
            }
        }
    }
    for name in WITHOUT_KERNEL {
        if let Some(path) = path_to(packages, name, KERNEL) {
            findings.push(Finding::new(name, None, format!("builds without the kernel's parts, but: {path}")));
        }
    }
    findings
}

/// The dependencies that lead from one crate to another when it is built, if any do.
fn path_to(packages: &[Package], from: &str, to: &str) -> Option<String> {
    let package = packages.iter().find(|package| package.name == from)?;
    let built = package.dependencies.iter().filter(|dependency| !dependency.in_tests && dependency.name != from);
    built.into_iter().find_map(|Dependency { name, .. }| {
        if name == to {
            Some(format!("{from} → {to}"))
        } else {
            Some(format!("{from} → {}", path_to(packages, name, to)?))
        }
    })
}

/// Findings: what the table permits and nobody uses. So the table says who knows whom, not only who might.
pub(crate) fn unused(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Those that may know all of ours need not.
    for (name, may) in TABLE.iter().filter(|(_, may)| *may != ALL) {
        let Some(package) = packages.iter().find(|package| package.name == *name) else { continue };
        let known = |name: &str| package.dependencies.iter().any(|dependency| dependency.name == name);
        for unused in may.iter().filter(|name| !known(name)) {
            findings.push(Finding::new(name, None, format!("does not depend on {unused}: take it out of the table")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(packages: &[(&str, &[&str])]) -> Vec<String> {
        check(&packages_of(packages)).iter().map(ToString::to_string).collect()
    }

    fn packages_of(packages: &[(&str, &[&str])]) -> Vec<Package> {
        // `test:` before those that only tests have.
        let dependency = |text: &&str| match text.strip_prefix("test:") {
            Some(name) => Dependency { name: name.to_owned(), called: name.to_owned(), in_tests: true },
            None => Dependency { name: (*text).to_owned(), called: (*text).to_owned(), in_tests: false },
        };
        let package = |(name, dependencies): &(&str, &[&str])| Package {
            name: (*name).to_owned(),
            folder: String::new(),
            dependencies: dependencies.iter().map(dependency).collect(),
        };
        packages.iter().map(package).collect()
    }

    #[test]
    fn upwards_is_allowed() {
        let packages: &[(&str, &[&str])] = &[
            ("ringfence-model", &["ipnet"]),
            ("ringfence-engine", &["ringfence-model", "blake3", "ringfence-engine"]),
        ];
        assert_eq!(findings(packages), [""; 0]);
    }

    #[test]
    fn what_the_table_permits_and_nobody_uses_is_found() {
        let found =
            |dependencies| unused(&packages_of(&[("ringfence-model", &[]), ("ringfence-engine", dependencies)]));
        assert_eq!(found(&["ringfence-model"]), []);
        assert!(found(&[])[0].message.contains("does not depend on ringfence-model"));
    }

    #[test]
    fn downwards_is_not() {
        let packages: &[(&str, &[&str])] = &[("ringfence-model", &["ringfence-engine"]), ("ringfence-engine", &[])];
        assert_eq!(findings(packages).len(), 1);
        assert!(findings(packages)[0].contains("may not depend on ringfence-engine"));
    }

    #[test]
    fn tests_may_know_more_where_it_says_so() {
        let with = |dependency| {
            findings(&[("ringfence-engine", &[dependency]), ("ringfence-k8s", &[]), ("ringfence-agent", &[])])
        };
        assert_eq!(with("test:ringfence-k8s"), [""; 0]);
        for other in ["ringfence-k8s", "test:ringfence-agent"] {
            assert_eq!(with(other).len(), 1, "{other}");
        }
        assert_eq!(findings(&[("ringfence-model", &["test:ringfence-engine"]), ("ringfence-engine", &[])]).len(), 1);
    }

    #[test]
    fn pure_crates_do_no_io() {
        for impure in ["tokio", "tokio-util", "kube", "kube-client", "libbpf-rs"] {
            assert!(!findings(&[("ringfence-model", &[impure])]).is_empty(), "{impure}");
            assert!(!findings(&[("ringfence-engine", &[impure])]).is_empty(), "{impure}");
        }
    }

    #[test]
    fn only_the_datapath_talks_bpf() {
        assert_eq!(findings(&[("ringfence-datapath", &["libbpf-rs"])]), [""; 0]);
        assert_eq!(findings(&[("ringfence-agent", &["libbpf-rs"])]).len(), 1);
    }

    #[test]
    fn the_command_for_people_builds_without_the_kernels_parts() {
        let lab = ("ringfence-lab", &["ringfence-datapath"][..]);
        let datapath = ("ringfence-datapath", &["libbpf-rs"][..]);
        assert_eq!(findings(&[("ringfence", &["test:ringfence-lab"]), lab, datapath]), [""; 0]);
        let found = findings(&[
            ("ringfence", &["ringfence-install"]),
            ("ringfence-install", &["ringfence-k8s"]),
            ("ringfence-k8s", &["ringfence-datapath"]),
            datapath,
        ]);
        let path = "ringfence → ringfence-install → ringfence-k8s → ringfence-datapath";
        assert!(found.iter().any(|finding| finding.contains(path)), "{found:?}");
    }

    #[test]
    fn a_new_crate_needs_a_line_in_the_table() {
        assert!(findings(&[("ringfence-new", &[])])[0].contains("not in the table"));
    }
}
