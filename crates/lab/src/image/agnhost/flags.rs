//! Flags as Go programs take them: `--name=value`, `--name value`, `-name`, `--switch`.

use std::collections::BTreeMap;

/// Parsed flags and what is left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    values: BTreeMap<String, String>,
    /// Positional arguments, in order.
    pub(super) rest: Vec<String>,
}

impl Flags {
    /// Parses; `known` names the flags with values, `switches` those without.
    pub(super) fn parse(arguments: &[String], known: &[&str], switches: &[&str]) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                flags.rest.push(argument.clone());
                continue;
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let value = if switches.contains(&name) {
                value.unwrap_or_else(|| "true".to_owned())
            } else if known.contains(&name) {
                value
                    .or_else(|| arguments.next().cloned())
                    .ok_or_else(|| format!("flag needs an argument: --{name}"))?
            } else {
                return Err(format!("unknown flag: --{name}"));
            };
            flags.values.insert(name.to_owned(), value);
        }
        Ok(flags)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A port number; 0 and what is no number are errors, −1 and absence are none.
    pub(super) fn port(&self, name: &str) -> Result<Option<u16>, String> {
        match self.text(name) {
            None | Some("-1") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_detail| format!("invalid argument {text:?} for --{name}: no port"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_mean_the_same() {
        for spelling in [&["--port=80"][..], &["--port", "80"], &["-port", "80"], &["-port=80"]] {
            let arguments: Vec<String> = spelling.iter().map(ToString::to_string).collect();
            let flags = Flags::parse(&arguments, &["port"], &["udp"]).unwrap();
            assert_eq!(flags.port("port"), Ok(Some(80)));
            assert!(!flags.is_set("udp") && flags.rest.is_empty());
        }
        let wrong = |words: &[&str]| {
            Flags::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>(), &["port"], &[]).unwrap_err()
        };
        assert_eq!(wrong(&["--prot=1"]), "unknown flag: --prot");
        assert_eq!(wrong(&["--port"]), "flag needs an argument: --port");
    }
}
