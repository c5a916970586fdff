//! Rows of figures with an engine and without.

use crate::figures::median;
use crate::traffic::client::Rates;

/// Measurements of a round, with Ringfence and without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) with: Rates,
    /// None where Ringfence cannot be taken away.
    pub(super) without: Option<Rates>,
}

/// Headings of the columns after the labels.
pub(super) const HEADINGS: [&str; 10] = [
    "Gbit/s",
    "without",
    "ratio",
    "request P50 µs",
    "without",
    "connections/s",
    "without",
    "ratio",
    "connect P99 µs",
    "without",
];

/// The columns for the rounds of one variant: medians; a ratio is the median of those of the rounds.
pub(super) fn columns(pairs: &[Pair]) -> [String; 10] {
    let with = |field: fn(&Rates) -> f64| median(&pairs.iter().map(|pair| field(&pair.with)).collect::<Vec<_>>());
    let without = |field: fn(&Rates) -> f64| pairs.iter().filter_map(|pair| pair.without.as_ref().map(field)).collect();
    let none = |field: fn(&Rates) -> f64, digits: usize| {
        let values: Vec<f64> = without(field);
        if values.is_empty() { "–".to_owned() } else { format!("{:.*}", digits, median(&values)) }
    };
    let ratio = |field: fn(&Rates) -> f64| {
        let of = |pair: &Pair| Some(field(&pair.with) / field(pair.without.as_ref()?));
        let values: Vec<f64> = pairs.iter().filter_map(of).collect();
        if values.is_empty() { "–".to_owned() } else { format!("{:.2}", median(&values)) }
    };
    [
        format!("{:.2}", with(|rates| rates.gigabits)),
        none(|rates| rates.gigabits, 2),
        ratio(|rates| rates.gigabits),
        format!("{:.1}", with(|rates| rates.request_p50)),
        none(|rates| rates.request_p50, 1),
        format!("{:.0}", with(|rates| rates.connections)),
        none(|rates| rates.connections, 0),
        ratio(|rates| rates.connections),
        format!("{:.1}", with(|rates| rates.connect_p99)),
        none(|rates| rates.connect_p99, 1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(all: f64) -> Rates {
        Rates {
            gigabits: all,
            request_p50: all,
            request_p99: all,
            connections: all,
            connect_p50: all,
            connect_p99: all,
        }
    }

    #[test]
    fn ratios_are_of_one_round() {
        let pair = |with, without| Pair { with: rates(with), without: Some(rates(without)) };
        let columns = columns(&[pair(1.0, 2.0), pair(30.0, 10.0), pair(4.0, 4.0)]);
        assert_eq!(columns[0], "4.00");
        assert_eq!(columns[1], "4.00");
        assert_eq!(columns[2], "1.00");
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let columns = columns(&[Pair { with: rates(1.0), without: None }]);
        assert_eq!(columns[0..3], ["1.00", "–", "–"]);
    }
}
