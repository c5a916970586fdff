//! Figures of other engines: a file of data, with where they come from.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Map, Value};

/// What is known of Calico.
const CALICO: &str = include_str!("../../../figures/calico.json");

/// Figures of another engine, in two modes.
#[derive(Debug)]
pub(super) struct Figures {
    /// What the modes are called.
    pub(super) columns: [String; 2],
    figures: BTreeMap<String, [String; 2]>,
}

impl Figures {
    /// Those of Calico.
    pub(super) fn of_calico() -> anyhow::Result<Self> {
        Self::read(CALICO).context("xtask/figures/calico.json")
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let file: Map<String, Value> = serde_json::from_str(text)?;
        let member = |name: &str| file.get(name).with_context(|| format!("{name} is missing"));
        anyhow::ensure!(member("provenance")?.is_object(), "figures without provenance say nothing");
        let figures = member("figures")?.as_object().context("figures is no object")?;
        let figures = figures.iter().map(|(name, values)| Ok((name.clone(), pair(values)?)));
        Ok(Self { columns: pair(member("columns")?)?, figures: figures.collect::<anyhow::Result<_>>()? })
    }

    /// A figure in both modes; empty where it is not known.
    pub(super) fn get(&self, name: &str) -> [String; 2] {
        self.figures.get(name).cloned().unwrap_or_default()
    }
}

fn pair(values: &Value) -> anyhow::Result<[String; 2]> {
    let texts = values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let texts: Vec<String> = texts.collect();
    texts.try_into().ok().with_context(|| format!("{values} is not two texts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_a_provenance() {
        let calico = Figures::of_calico().unwrap();
        assert_eq!(calico.columns[0], "Calico, iptables");
        assert_eq!(calico.get("leaked"), ["0 of 50", ""]);
        assert_eq!(calico.get("nothing"), ["", ""]);
        assert!(Figures::read(r#"{"columns": ["a", "b"], "figures": {}}"#).is_err());
    }
}
