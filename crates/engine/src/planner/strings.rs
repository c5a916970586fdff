//! Interned strings, and label sets, selectors and named ports made of them.

use foldhash::{HashMap, HashSet};
use ringfence_model::{Labels, Name, NamespaceSelection, PodSelection, Protocol, Requirement, Selector};

use super::digest::Content;
use super::slab::Slab;

/// An interned string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sym(u32);

/// All strings in use.
#[derive(Debug, Default)]
pub(super) struct Strings {
    names: Slab<Name>,
    numbers: HashMap<Name, u32>,
}

impl Strings {
    pub(super) fn intern(&mut self, name: &Name) -> Sym {
        if let Some(number) = self.numbers.get(name) {
            return Sym(*number);
        }
        let number = self.names.insert(Name::clone(name));
        self.numbers.insert(Name::clone(name), number);
        Sym(number)
    }

    pub(super) fn get(&self, name: &str) -> Option<Sym> {
        self.numbers.get(name).copied().map(Sym)
    }

    pub(super) fn name(&self, sym: Sym) -> &Name {
        &self.names[sym.0]
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Drops all other strings.
    pub(super) fn retain(&mut self, live: &HashSet<Sym>) {
        let names = &mut self.names;
        self.numbers.retain(|_, number| {
            let keep = live.contains(&Sym(*number));
            if !keep {
                names.remove(*number);
            }
            keep
        });
    }

    /// A label set; equal sets give equal values.
    pub(super) fn labels(&mut self, labels: &Labels) -> Pairs {
        labels.iter().map(|(key, value)| (self.intern(key), self.intern(value))).collect()
    }

    /// A selector; equal selectors give equal values.
    pub(super) fn selector(&mut self, selector: &Selector) -> Compiled {
        selector.requirements().map(|requirement| self.requirement(requirement)).collect()
    }

    fn requirement(&mut self, requirement: &Requirement) -> Condition {
        let (key, values, wanted, absent) = match requirement {
            Requirement::In { key, values } => (key, Some(values), true, false),
            Requirement::NotIn { key, values } => (key, Some(values), false, true),
            Requirement::Exists { key } => (key, None, true, false),
            Requirement::DoesNotExist { key } => (key, None, false, true),
        };
        let values = values.map(|values| values.iter().map(|value| self.intern(value)).collect());
        Condition { key: self.intern(key), values, wanted, absent }
    }

    /// A selection of pods; equal selections give equal values.
    pub(super) fn selection(&mut self, selection: &PodSelection) -> Selection {
        let namespaces = match &selection.namespaces {
            NamespaceSelection::Named(name) => Namespaces::Named(self.intern(name)),
            NamespaceSelection::Matching(selector) => Namespaces::Matching(self.selector(selector)),
        };
        Selection { namespaces, pods: self.selector(&selection.pods) }
    }
}

/// A label set.
pub(super) type Pairs = Box<[(Sym, Sym)]>;

/// A selector: all conditions hold.
pub(super) type Compiled = Box<[Condition]>;

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    key: Sym,
    /// None: any value.
    values: Option<Box<[Sym]>>,
    /// The result for a value among `values`.
    wanted: bool,
    /// The result for a missing key.
    absent: bool,
}

impl Condition {
    fn holds(&self, labels: &[(Sym, Sym)]) -> bool {
        let Some((_, value)) = labels.iter().find(|(key, _)| *key == self.key) else { return self.absent };
        self.values.as_ref().is_none_or(|values| values.contains(value)) == self.wanted
    }

    /// The labels of which an object must have one; none if the condition can hold without.
    pub(super) fn one_of(&self) -> Option<impl Iterator<Item = (Sym, Sym)>> {
        let values = self.values.as_ref().filter(|_| self.wanted && !self.absent)?;
        Some(values.iter().map(|value| (self.key, *value)))
    }

    /// The key of the label it is about.
    pub(super) fn key(&self) -> Sym {
        self.key
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        self.values.iter().flatten().copied().chain([self.key])
    }
}

/// Writes the content of a selector, to be hashed.
pub(super) fn describe(selector: &[Condition], strings: &Strings, content: &mut Content) {
    content.length(selector.len());
    for Condition { key, values, wanted, absent } in selector {
        content.text(strings.name(*key));
        content.bytes(&[u8::from(values.is_some()), u8::from(*wanted), u8::from(*absent)]);
        content.length(values.as_ref().map_or(0, |values| values.len()));
        values.iter().flatten().for_each(|value| content.text(strings.name(*value)));
    }
}

/// True if an object with these labels is selected.
pub(super) fn matches(selector: &[Condition], labels: &[(Sym, Sym)]) -> bool {
    selector.iter().all(|condition| condition.holds(labels))
}

/// Pods by namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selection {
    pub(super) namespaces: Namespaces,
    pub(super) pods: Compiled,
}

/// Namespaces by name or by labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Namespaces {
    Named(Sym),
    Matching(Compiled),
}

impl Selection {
    /// True if pods of a namespace can be selected. `labels`: those of its object, if it is known.
    pub(super) fn admits(&self, namespace: Sym, labels: Option<&[(Sym, Sym)]>) -> bool {
        match &self.namespaces {
            Namespaces::Named(name) => *name == namespace,
            Namespaces::Matching(selector) => labels.is_some_and(|labels| matches(selector, labels)),
        }
    }

    /// Every pod of every known namespace.
    pub(super) fn selects_any_pod(&self) -> bool {
        self.pods.is_empty() && matches!(&self.namespaces, Namespaces::Matching(selector) if selector.is_empty())
    }

    /// Writes the content, so that equal selections have equal hashes in every process.
    pub(super) fn describe(&self, strings: &Strings, content: &mut Content) {
        match &self.namespaces {
            Namespaces::Named(name) => {
                content.number(0);
                content.text(strings.name(*name));
            }
            Namespaces::Matching(selector) => {
                content.number(1);
                describe(selector, strings, content);
            }
        }
        describe(&self.pods, strings, content);
    }

    pub(super) fn symbols(&self) -> impl Iterator<Item = Sym> {
        let (name, selector) = match &self.namespaces {
            Namespaces::Named(name) => (Some(*name), None),
            Namespaces::Matching(selector) => (None, Some(selector)),
        };
        name.into_iter().chain(selector.into_iter().flatten().chain(&self.pods).flat_map(Condition::symbols))
    }
}

/// A port a pod declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NamedPort {
    pub(super) name: Sym,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}
