//! Fair shares: who has to go without where there is not enough for all.
//!
//! Shares are max-min fair: whoever asks for no more than an equal part gets it whole, and what they leave is shared
//! equally among the others. So nobody can take from others by asking for more. Those who pay are namespaces, and all
//! cluster-wide policies together.

use std::collections::BTreeSet;
use std::hash::Hash;

use foldhash::{HashMap, HashSet};

/// Something that takes up room.
#[derive(Clone, Debug)]
pub(super) struct Want<Key, Payer> {
    /// What it is. Of what one payer wants, the smallest is admitted first, and of the equal the first by this.
    pub(super) key: Key,
    /// Whose share it is taken from.
    pub(super) payer: Payer,
    /// What it is made of, and how much room each part takes. Equal parts of one payer are there once.
    pub(super) parts: Vec<(u64, usize)>,
}

/// Those that are not admitted, where there is room for so much: none if all fits, what several payers want counted
/// once. Else everybody pays for all that is theirs. Depends on what is wanted alone, not on its order.
pub(super) fn refused<Key, Payer>(room: usize, wants: &[Want<Key, Payer>]) -> BTreeSet<Key>
where
    Key: Ord + Copy,
    Payer: Eq + Hash + Copy,
{
    if total(&wants.iter().collect::<Vec<_>>()) <= room {
        return BTreeSet::new();
    }
    let mut by_payer: HashMap<Payer, Vec<&Want<Key, Payer>>> = HashMap::default();
    for want in wants {
        by_payer.entry(want.payer).or_default().push(want);
    }
    let payers: Vec<_> = by_payer.into_values().map(|wants| (total(&wants), wants)).collect();
    let share = fair_share(room, payers.iter().map(|(total, _)| *total).collect());
    payers.iter().filter(|(total, _)| *total > share).flat_map(|(_, wants)| beyond(share, wants)).collect()
}

/// The same of things that take up one place each: of what one payer wants, the first by rank have theirs.
pub fn left_out<Payer, Rank>(room: usize, wants: impl IntoIterator<Item = (Payer, Rank)>) -> Vec<Rank>
where
    Payer: Eq + Hash,
    Rank: Ord,
{
    let mut by_payer: HashMap<Payer, Vec<Rank>> = HashMap::default();
    for (payer, rank) in wants {
        by_payer.entry(payer).or_default().push(rank);
    }
    let share = fair_share(room, by_payer.values().map(Vec::len).collect());
    let mut out = Vec::new();
    for mut wanted in by_payer.into_values().filter(|wanted| wanted.len() > share) {
        wanted.sort_unstable();
        out.extend(wanted.drain(share..));
    }
    out
}

/// How much is wanted.
fn total<Key, Payer>(wants: &[&Want<Key, Payer>]) -> usize {
    let parts: HashMap<u64, usize> = wants.iter().flat_map(|want| want.parts.iter().copied()).collect();
    parts.values().fold(0, |sum, size| sum.saturating_add(*size))
}

/// The most that anybody gets where there is so much room and this is what each payer wants in all. Whoever wants no
/// more has all of it.
pub fn fair_share(room: usize, mut totals: Vec<usize>) -> usize {
    totals.sort_unstable();
    let mut left = room;
    for (served, total) in totals.iter().enumerate() {
        let equal = left / (totals.len() - served);
        if *total > equal {
            return equal;
        }
        left -= total;
    }
    room
}

/// What of this does not fit into a share, the smallest first.
fn beyond<Key: Ord + Copy, Payer>(share: usize, wants: &[&Want<Key, Payer>]) -> Vec<Key> {
    beside(share, HashSet::default(), wants)
}

/// What does not fit beside what is admitted, whoever pays for it.
pub(super) fn beyond_all<Key: Ord + Copy, Payer>(
    room: usize,
    admitted: &[Want<Key, Payer>],
    wants: &[Want<Key, Payer>],
) -> Vec<Key> {
    let left = room.saturating_sub(total(&admitted.iter().collect::<Vec<_>>()));
    let held = admitted.iter().flat_map(|want| want.parts.iter().map(|(part, _)| *part)).collect();
    beside(left, held, &wants.iter().collect::<Vec<_>>())
}

/// What does not fit where so much is left and these parts are there, the smallest first.
fn beside<Key: Ord + Copy, Payer>(mut left: usize, mut held: HashSet<u64>, wants: &[&Want<Key, Payer>]) -> Vec<Key> {
    let mut sorted: Vec<_> = wants.iter().map(|want| (total(&[*want]), want.key, *want)).collect();
    sorted.sort_unstable_by_key(|(size, key, _)| (*size, *key));
    let mut refused = Vec::new();
    for (_, key, want) in sorted {
        let fresh: HashMap<u64, usize> = want.parts.iter().copied().filter(|(part, _)| !held.contains(part)).collect();
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

    fn want(key: u32, payer: &'static str, parts: &[(u64, usize)]) -> Want<u32, &'static str> {
        Want { key, payer, parts: parts.to_vec() }
    }

    #[test]
    fn while_there_is_enough_everybody_gets_everything() {
        let wants = [want(1, "a", &[(1, 90)]), want(2, "b", &[(2, 10)])];
        assert_eq!(refused(100, &wants), BTreeSet::new());
        assert_eq!(refused(0, &[want(1, "a", &[])]), BTreeSet::new());
    }

    #[test]
    fn who_asks_for_no_more_than_an_equal_part_gets_it() {
        let mut wants = vec![want(1, "a", &[(1, 33)]), want(2, "b", &[(2, 30)]), want(3, "c", &[(3, 1000)])];
        assert_eq!(refused(100, &wants), BTreeSet::from([3]));
        // What the small ones leave is the great one's, who gets of it what fits, the smallest first.
        wants.extend([want(4, "c", &[(4, 30)]), want(5, "c", &[(5, 7)]), want(6, "c", &[(6, 1)])]);
        assert_eq!(refused(100, &wants), BTreeSet::from([3, 4]));
    }

    #[test]
    fn of_single_places_nobody_has_more_than_a_share_and_the_first_have_theirs() {
        let wants = |payer: &'static str, ranks: std::ops::Range<u32>| ranks.map(move |rank| (payer, rank));
        let all = || wants("a", 0..3).chain(wants("b", 10..20)).chain(wants("c", 20..25));
        let out = |room| {
            let mut out = left_out(room, all());
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
        let wants =
            [want(1, "a", &[(1, 50), (2, 5)]), want(2, "a", &[(1, 50), (3, 5), (3, 5)]), want(3, "b", &[(4, 40)])];
        assert_eq!(refused(100, &wants), BTreeSet::new());
        assert_eq!(refused(99, &wants), BTreeSet::from([2]));
    }

    #[test]
    fn whatever_is_wanted_what_is_admitted_fits_and_the_order_does_not_matter() {
        use crate::generate::Rng;
        for seed in 0..300 {
            let rng = &mut Rng::new(seed);
            let payers = ["a", "b", "c", "d"];
            let mut wants: Vec<_> = (0..rng.below(20))
                .map(|key| {
                    let payer = *rng.pick(&payers);
                    let part = |number: usize| (number as u64, 1 + number * 3);
                    let parts = (0..rng.below(4)).map(|_| part(rng.below(12))).collect();
                    Want { key, payer, parts }
                })
                .collect();
            let room = rng.below(120);
            let gone = refused(room, &wants);
            let of = |payer: Option<&str>, admitted: bool| {
                let of = wants.iter().filter(|want| payer.is_none_or(|payer| want.payer == payer));
                let of: Vec<_> = of.filter(|want| !admitted || !gone.contains(&want.key)).collect();
                payers
                    .iter()
                    .map(|payer| total(&of.iter().copied().filter(|want| want.payer == *payer).collect::<Vec<_>>()))
                    .sum::<usize>()
            };
            let admitted: Vec<_> = wants.iter().filter(|want| !gone.contains(&want.key)).collect();
            assert!(total(&admitted) <= room, "seed {seed}: what several want counts once");
            assert!(gone.is_empty() || of(None, true) <= room, "seed {seed}: everybody pays for what is theirs");
            for payer in payers.iter().filter(|payer| of(Some(payer), false) <= room / payers.len()) {
                assert!(
                    wants.iter().all(|want| want.payer != *payer || !gone.contains(&want.key)),
                    "seed {seed}: {payer}"
                );
            }
            rng.shuffle(&mut wants);
            assert_eq!(refused(room, &wants), gone, "seed {seed}");
        }
    }
}
