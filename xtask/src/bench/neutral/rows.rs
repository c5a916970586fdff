//! The table: a figure of another engine, without an engine, with Ringfence.

use anyhow::Context as _;
use serde_json::Value;

use super::figures::Figures;

/// Everything that can be measured without an engine as well, as the measurements tell it.
pub(super) struct Side {
    pub(super) blocks: Value,
    pub(super) pods: Value,
    pub(super) leak: Value,
    pub(super) first: Value,
    pub(super) open: Value,
}

/// The rows so far.
pub(super) struct Table<'a> {
    others: &'a Figures,
    rows: Vec<String>,
}

impl<'a> Table<'a> {
    pub(super) fn new(others: &'a Figures) -> Self {
        let [first, second] = &others.columns;
        let heading = format!("| measure | {first} | {second} | no engine | Ringfence |");
        Self { others, rows: vec![heading, "|---|---|---|---|---|".to_owned()] }
    }

    pub(super) fn text(&self) -> String {
        self.rows.join("\n")
    }

    fn row(&mut self, figure: &str, what: &str, control: &str, ringfence: &str) {
        let [first, second] = self.others.get(figure);
        self.rows.push(format!("| {what} | {first} | {second} | {control} | {ringfence} |"));
    }

    /// How long changes take among so many other policies.
    pub(super) fn changes(&mut self, policies: u64, figures: &Value) -> anyhow::Result<()> {
        let [all, relabelled] = [percentiles(&numbers(figures, "all")?), percentiles(&numbers(figures, "relabelled")?)];
        let strays = number(figures, "strays")?;
        self.row(
            &format!("changes/{policies}"),
            &format!("change → decided across nodes, P50 / P99, {policies} other policies"),
            "never",
            &format!("{all}; {strays} strays"),
        );
        let what = format!("pod relabelled → decided, P50 / P99, {policies} other policies");
        self.row(&format!("relabelled/{policies}"), &what, "never", &relabelled);
        Ok(())
    }

    /// What is measured with and without.
    pub(super) fn sides(&mut self, control: &Side, with: &Side) -> anyhow::Result<()> {
        self.connections("ipBlock", &control.blocks, &with.blocks)?;
        self.connections("pod", &control.pods, &with.pods)?;
        self.most(last(&control.blocks)?, last(&with.blocks)?)?;
        let leaked = |side: &Side| -> anyhow::Result<String> {
            let [leaked, pods] = [number(&side.leak, "leaked")?, number(&side.leak, "pods")?];
            let unwatched = number(&side.leak, "unwatched")?;
            let aside = if unwatched > 0.0 { format!("; {unwatched} not watched") } else { String::new() };
            Ok(format!("{leaked} of {pods}{aside}"))
        };
        self.row("leaked", "leaked, pods that start under a deny-all", &leaked(control)?, &leaked(with)?);
        let first = |side: &Side| -> anyhow::Result<String> {
            let [lost, failed, pods] =
                [number(&side.first, "lost")?, number(&side.first, "failed")?, number(&side.first, "pods")?];
            let took = percentiles(&numbers(&side.first, "connect_ms")?);
            Ok(format!("{lost} lost, {failed} failed of {pods}; connect {took}"))
        };
        self.row("first", "first SYN of pods that start and may", &first(control)?, &first(with)?);
        self.row("open", "an open connection after a deny", &open(&control.open)?, &open(&with.open)?);
        Ok(())
    }

    fn connections(&mut self, peers: &str, control: &Value, with: &Value) -> anyhow::Result<()> {
        for with in list(with)? {
            let policies = number(with, "policies")?;
            let same = list(control)?.iter().find(|control| control["policies"] == with["policies"]);
            let control = same.or_else(|| list(control).ok()?.first()).context("nothing was measured without")?;
            let what = format!("new connections per second, {policies} policies, {peers} peers");
            let figure = format!("connections/{peers}/{policies}");
            self.beside(
                &figure,
                &what,
                best(control, "connections", f64::max)?,
                best(with, "connections", f64::max)?,
                0,
            );
        }
        Ok(())
    }

    /// Under the most policies.
    fn most(&mut self, control: &Value, with: &Value) -> anyhow::Result<()> {
        let policies = number(with, "policies")?;
        for (figure, what, key, choose, digits) in [
            ("connect", "connect P50, µs", "connect_us", f64::min as fn(f64, f64) -> f64, 0),
            ("throughput", "Gbit/s", "gigabits", f64::max, 2),
            ("round-trip", "round trip P50, µs", "request_us", f64::min, 1),
        ] {
            let what = format!("{what}, {policies} policies");
            let [control, with] = [best(control, key, choose)?, best(with, key, choose)?];
            self.beside(&format!("{figure}/{policies}"), &what, control, with, digits);
        }
        let last = format!("{:.1} ms", number(with, "last_ms")?);
        self.row(
            &format!("enforced/{policies}"),
            &format!("last of {policies} policies created → enforced"),
            "–",
            &last,
        );
        let processor = format!("{:.1} s", number(with, "processor_s")?);
        self.row(
            &format!("processor/{policies}"),
            &format!("processor of the agents for {policies} policies"),
            "–",
            &processor,
        );
        let memory = format!("{:.0} MB", number(with, "resident_mb")?);
        self.row(&format!("memory/{policies}"), "memory of the larger node agent then", "–", &memory);
        Ok(())
    }

    /// A figure, and its ratio to that without an engine.
    fn beside(&mut self, figure: &str, what: &str, control: f64, with: f64, digits: usize) {
        let ringfence = format!("{with:.digits$} ({:.2})", with / control);
        self.row(figure, what, &format!("{control:.digits$}"), &ringfence);
    }
}

/// The best of all rounds: what disturbs makes each of them worse.
fn best(figures: &Value, key: &str, choose: fn(f64, f64) -> f64) -> anyhow::Result<f64> {
    let rates = figures["rates"].as_array().into_iter().flatten();
    let values = rates.map(|rates| number(rates, key)).collect::<anyhow::Result<Vec<_>>>()?;
    values.into_iter().reduce(choose).with_context(|| format!("no round tells {key}"))
}

/// What became of an open connection, in words.
fn open(figures: &Value) -> anyhow::Result<String> {
    let told = ["ingress", "egress"].map(|direction| {
        let figures = &figures[direction];
        let new = if figures["new_connects"].as_bool().context("new_connects")? { "let in" } else { "refused" };
        let [answers, silence] =
            [number(&figures["open"], "answers")?, number(&figures["open"], "longest_silence_ms")?];
        let state = figures["open"]["state"].as_str().context("state")?;
        anyhow::Ok(format!("{direction}: new ones {new}, {answers} answers in 10 s, silent for {silence} ms, {state}"))
    });
    Ok(told.into_iter().collect::<anyhow::Result<Vec<_>>>()?.join("; "))
}

fn list(figures: &Value) -> anyhow::Result<&Vec<Value>> {
    figures.as_array().context("the figures are no list")
}

fn last(figures: &Value) -> anyhow::Result<&Value> {
    list(figures)?.last().context("nothing was measured")
}

fn number(figures: &Value, key: &str) -> anyhow::Result<f64> {
    figures[key].as_f64().with_context(|| format!("no {key} in {figures}"))
}

fn numbers(figures: &Value, key: &str) -> anyhow::Result<Vec<f64>> {
    let values = figures[key].as_array().with_context(|| format!("no {key}"))?;
    Ok(values.iter().filter_map(Value::as_f64).collect())
}

/// P50 and P99 in milliseconds.
fn percentiles(times: &[f64]) -> String {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    match (at(50), at(99)) {
        (Some(half), Some(most)) => format!("{half:.1} / {most:.1} ms"),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(connections: [f64; 2]) -> Side {
        let rates = connections
            .map(|rate| json!({"gigabits": 10.0, "request_us": 9.0, "connections": rate, "connect_us": 1e6 / rate}));
        let figure = json!({
            "policies": 10, "enforced": true, "last_ms": 1.5, "processor_s": 2.0, "resident_mb": 70.0, "rates": rates,
        });
        let open =
            json!({"new_connects": false, "open": {"answers": 198, "longest_silence_ms": 8000, "state": "open"}});
        Side {
            blocks: json!([figure]),
            pods: json!([figure]),
            leak: json!({"pods": 50, "leaked": 0, "unwatched": 1}),
            first: json!({"pods": 2, "lost": 0, "failed": 0, "connect_ms": [1.0, 2.0]}),
            open: json!({"ingress": open, "egress": open}),
        }
    }

    #[test]
    fn the_best_round_counts_and_the_ratio_is_told() {
        let others = Figures::of_calico().unwrap();
        let mut table = Table::new(&others);
        table.sides(&side([100.0, 200.0]), &side([180.0, 90.0])).unwrap();
        let text = table.text();
        let row = "| new connections per second, 10 policies, ipBlock peers | 8,300 | 8,700 | 200 | 180 (0.90) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| 0 of 50; 1 not watched | 0 of 50; 1 not watched |"), "{text}");
        assert!(text.contains("ingress: new ones refused, 198 answers in 10 s, silent for 8000 ms, open;"), "{text}");
    }

    #[test]
    fn changes_are_told_by_percentiles() {
        let others = Figures::of_calico().unwrap();
        let mut table = Table::new(&others);
        let all: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        table.changes(1000, &json!({"all": all, "relabelled": [3.0], "strays": 0})).unwrap();
        assert!(table.text().contains("| 112 / 230 ms |  | never | 101.0 / 199.0 ms; 0 strays |"), "{}", table.text());
        assert!(table.changes(0, &json!({"all": []})).is_err());
    }
}
