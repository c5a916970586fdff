//! Fair shares: the choice of demands that are refused if there is not enough for all.
//!
//! Shares are max-min fair: a payer that demands no more than an equal part gets all of it, and the rest is shared
//! equally among the others. So no payer can take from others by demanding more. Payers are namespaces, and all
//! cluster-wide policies together.

use std::collections::BTreeSet;
use std::hash::Hash;

use foldhash::{HashMap, HashSet};

/// A demand for a resource.
#[derive(Clone, Debug)]
pub(super) struct Demand<Key, Payer> {
    /// Identifies the demand. The smallest demands of a payer are admitted first; equal ones in the order of keys.
    pub(super) key: Key,
    /// The payer whose share it is taken from.
    pub(super) payer: Payer,
    /// The parts of the demand, and the space of each. Equal parts of one payer count once.
    pub(super) parts: Vec<(u64, usize)>,
}

/// The refused demands. None if all fit, where parts that several payers share count once. Otherwise every payer pays
/// for all of its parts. The result does not depend on the order of demands.
pub(super) fn refused<Key, Payer>(capacity: usize, demands: &[Demand<Key, Payer>]) -> BTreeSet<Key>
where
    Key: Ord + Copy,
    Payer: Eq + Hash + Copy,
{
    if total(&demands.iter().collect::<Vec<_>>()) <= capacity {
        return BTreeSet::new();
    }
    let mut by_payer: HashMap<Payer, Vec<&Demand<Key, Payer>>> = HashMap::default();
    for demand in demands {
        by_payer.entry(demand.payer).or_default().push(demand);
    }
    let payers: Vec<_> = by_payer.into_values().map(|demands| (total(&demands), demands)).collect();
    let share = fair_share(capacity, payers.iter().map(|(total, _)| *total).collect());
    payers.iter().filter(|(total, _)| *total > share).flat_map(|(_, demands)| over_share(share, demands)).collect()
}

/// Same as [`refused`], for demands of size one: of each payer the first by rank are admitted.
pub fn left_out<Payer, Rank>(capacity: usize, demands: impl IntoIterator<Item = (Payer, Rank)>) -> Vec<Rank>
where
    Payer: Eq + Hash,
    Rank: Ord,
{
    let mut by_payer: HashMap<Payer, Vec<Rank>> = HashMap::default();
    for (payer, rank) in demands {
        by_payer.entry(payer).or_default().push(rank);
    }
    let share = fair_share(capacity, by_payer.values().map(Vec::len).collect());
    let mut out = Vec::new();
    for mut wanted in by_payer.into_values().filter(|wanted| wanted.len() > share) {
        wanted.sort_unstable();
        out.extend(wanted.drain(share..));
    }
    out
}

/// The sum of all demands.
fn total<Key, Payer>(demands: &[&Demand<Key, Payer>]) -> usize {
    let parts: HashMap<u64, usize> = demands.iter().flat_map(|demand| demand.parts.iter().copied()).collect();
    parts.values().fold(0, |sum, size| sum.saturating_add(*size))
}

/// The largest share of a payer, for the total demand of each. A payer whose demand is not larger gets all of it.
pub fn fair_share(capacity: usize, mut totals: Vec<usize>) -> usize {
    totals.sort_unstable();
    let mut left = capacity;
    for (served, total) in totals.iter().enumerate() {
        let equal = left / (totals.len() - served);
        if *total > equal {
            return equal;
        }
        left -= total;
    }
    capacity
}

/// The demands of a payer beyond its share; the smallest fit first.
fn over_share<Key: Ord + Copy, Payer>(share: usize, demands: &[&Demand<Key, Payer>]) -> Vec<Key> {
    not_fitting(share, HashSet::default(), demands)
}

/// The demands that do not fit beside the admitted ones, of all payers.
pub(super) fn over_capacity<Key: Ord + Copy, Payer>(
    capacity: usize,
    admitted: &[Demand<Key, Payer>],
    demands: &[Demand<Key, Payer>],
) -> Vec<Key> {
    let left = capacity.saturating_sub(total(&admitted.iter().collect::<Vec<_>>()));
    let held = admitted.iter().flat_map(|demand| demand.parts.iter().map(|(part, _)| *part)).collect();
    not_fitting(left, held, &demands.iter().collect::<Vec<_>>())
}

/// The demands that do not fit into the rest of the space, where some parts are there already; the smallest fit first.
fn not_fitting<Key: Ord + Copy, Payer>(
    mut left: usize,
    mut held: HashSet<u64>,
    demands: &[&Demand<Key, Payer>],
) -> Vec<Key> {
    let mut sorted: Vec<_> = demands.iter().map(|demand| (total(&[*demand]), demand.key, *demand)).collect();
    sorted.sort_unstable_by_key(|(size, key, _)| (*size, *key));
    let mut refused = Vec::new();
    for (_, key, demand) in sorted {
        let fresh: HashMap<u64, usize> =
            demand.parts.iter().copied().filter(|(part, _)| !held.contains(part)).collect();
        let size = fresh.values().fold(0_usize, |sum, size| sum.saturating_add(*size));
        if size > left {
            refused.push(key);
            continue;
        }
        left -= size;
        held.extend(fresh.into_keys());
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(key: u32, payer: &'static str, parts: &[(u64, usize)]) -> Demand<u32, &'static str> {
        Demand { key, payer, parts: parts.to_vec() }
    }

    #[test]
    fn while_there_is_enough_everybody_gets_everything() {
        let demands = [demand(1, "a", &[(1, 90)]), demand(2, "b", &[(2, 10)])];
        assert_eq!(refused(100, &demands), BTreeSet::new());
        assert_eq!(refused(0, &[demand(1, "a", &[])]), BTreeSet::new());
    }

    #[test]
    fn who_asks_for_no_more_than_an_equal_part_gets_it() {
        let mut demands = vec![demand(1, "a", &[(1, 33)]), demand(2, "b", &[(2, 30)]), demand(3, "c", &[(3, 1000)])];
        assert_eq!(refused(100, &demands), BTreeSet::from([3]));
        // The rest of the small payers goes to the large one, and its smallest demands fit first.
        demands.extend([demand(4, "c", &[(4, 30)]), demand(5, "c", &[(5, 7)]), demand(6, "c", &[(6, 1)])]);
        assert_eq!(refused(100, &demands), BTreeSet::from([3, 4]));
    }

    #[test]
    fn of_single_places_nobody_has_more_than_a_share_and_the_first_have_theirs() {
        let demands = |payer: &'static str, ranks: std::ops::Range<u32>| ranks.map(move |rank| (payer, rank));
        let all = || demands("a", 0..3).chain(demands("b", 10..20)).chain(demands("c", 20..25));
        let out = |capacity| {
            let mut out = left_out(capacity, all());
            out.sort_unstable();
            out
        };
        assert_eq!(out(18), Vec::<u32>::new());
        assert_eq!(out(17), [19]);
        assert_eq!(out(12), [14, 15, 16, 17, 18, 19, 24], "3 and 4 and 4");
        assert_eq!(out(0).len(), 18);
    }

    #[test]
    fn equal_parts_of_one_payer_are_there_once() {
        let demands = [
            demand(1, "a", &[(1, 50), (2, 5)]),
            demand(2, "a", &[(1, 50), (3, 5), (3, 5)]),
            demand(3, "b", &[(4, 40)]),
        ];
        assert_eq!(refused(100, &demands), BTreeSet::new());
        assert_eq!(refused(99, &demands), BTreeSet::from([2]));
    }

    #[test]
    fn whatever_is_wanted_what_is_admitted_fits_and_the_order_does_not_matter() {
        use crate::generate::Rng;
        for seed in 0..300 {
            let rng = &mut Rng::new(seed);
            let payers = ["a", "b", "c", "d"];
            let mut demands: Vec<_> = (0..rng.below(20))
                .map(|key| {
                    let payer = *rng.pick(&payers);
                    let part = |number: usize| (number as u64, 1 + number * 3);
                    let parts = (0..rng.below(4)).map(|_| part(rng.below(12))).collect();
                    Demand { key, payer, parts }
                })
                .collect();
            let capacity = rng.below(120);
            let gone = refused(capacity, &demands);
            let of = |payer: Option<&str>, admitted: bool| {
                let of = demands.iter().filter(|demand| payer.is_none_or(|payer| demand.payer == payer));
                let of: Vec<_> = of.filter(|demand| !admitted || !gone.contains(&demand.key)).collect();
                payers
                    .iter()
                    .map(|payer| total(&of.iter().copied().filter(|demand| demand.payer == *payer).collect::<Vec<_>>()))
                    .sum::<usize>()
            };
            let admitted: Vec<_> = demands.iter().filter(|demand| !gone.contains(&demand.key)).collect();
            assert!(total(&admitted) <= capacity, "seed {seed}: what several want counts once");
            assert!(gone.is_empty() || of(None, true) <= capacity, "seed {seed}: everybody pays for what is theirs");
            for payer in payers.iter().filter(|payer| of(Some(payer), false) <= capacity / payers.len()) {
                assert!(
                    demands.iter().all(|demand| demand.payer != *payer || !gone.contains(&demand.key)),
                    "seed {seed}: {payer}"
                );
            }
            rng.shuffle(&mut demands);
            assert_eq!(refused(capacity, &demands), gone, "seed {seed}");
        }
    }
}
