//! A report as pictures.

mod chart;

use crate::report::{Figure, Point, Report};

use chart::{Axis, Line, label, svg};

/// Figures that are drawn over their load.
const OVER_LOAD: [(&str, &str); 5] = [
    ("throughput", "requests per second"),
    ("p99", "99th percentile, ms"),
    ("records", "records per second"),
    ("resident", "MiB"),
    ("deliveries", "messages delivered per request"),
];

/// All pictures of a report, by file name.
pub(crate) fn plots(report: &Report) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    let series = series(&report.points);
    for (figure, title) in OVER_LOAD {
        if let Some(picture) = over_load(&series, figure, title) {
            plots.push((format!("{figure}.svg"), picture));
        }
    }
    for (name, points) in &series {
        let measured: Vec<_> = points
            .iter()
            .filter(|point| !point.runs.is_empty())
            .collect();
        if !measured.is_empty() {
            let file = file_name(name);
            plots.push((format!("latency-{file}.svg"), latencies(name, &measured)));
            plots.push((format!("time-{file}.svg"), over_time(name, &measured)));
        }
    }
    plots
}

fn series(points: &[Point]) -> Vec<(&str, Vec<&Point>)> {
    let mut series: Vec<(&str, Vec<&Point>)> = Vec::new();
    for point in points {
        match series.iter_mut().find(|(name, _)| *name == point.series) {
            Some((_, points)) => points.push(point),
            None => series.push((&point.series, vec![point])),
        }
    }
    series
}

/// One figure against the load, a line for each series; its repetitions as a range.
fn over_load(series: &[(&str, Vec<&Point>)], figure: &str, title: &str) -> Option<String> {
    let mut x_name = "";
    let mut lines = Vec::new();
    for (name, points) in series {
        let mut line = Line {
            name: (*name).to_owned(),
            points: Vec::new(),
            ranges: Vec::new(),
        };
        for point in points {
            if let (Some(x), Some(figure)) = (point.x, point.figure(figure)) {
                x_name = &point.x_name;
                line.points.push((x, figure.median()));
                line.ranges.push(range(x, figure));
            }
        }
        if !line.points.is_empty() {
            lines.push(line);
        }
    }
    let loads: Vec<f64> = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|&(x, _)| x)
        .collect();
    // A line needs two loads; one alone says what the table says.
    if !loads.iter().any(|&load| load > loads[0]) {
        return None;
    }
    let mut ticks = loads.clone();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let ticks = ticks.into_iter().map(|load| (load, label(load)));
    let x = Axis::log(x_name, loads.iter().copied(), Some(ticks.collect()));
    let highest = lines
        .iter()
        .flat_map(|line| &line.ranges)
        .map(|&(_, _, high)| high);
    let y = Axis::linear(title, highest);
    Some(svg(
        &format!("{}, by {x_name}", capital(title)),
        &x,
        &y,
        &lines,
    ))
}

fn range(x: f64, figure: &Figure) -> (f64, f64, f64) {
    let (low, high) = figure.spread();
    (x, low, high)
}

/// The latencies by percentile, a line for each load. Both axes are logarithmic, the lower one such
/// that each step is a nine more.
fn latencies(name: &str, points: &[&&Point]) -> String {
    let lines: Vec<Line> = points
        .iter()
        .map(|point| {
            let run = middle(point);
            let quantiles = run.quantiles.iter().filter(|quantile| quantile.q < 1.0);
            Line {
                name: point.load.clone(),
                points: quantiles
                    .map(|quantile| (1.0 / (1.0 - quantile.q), quantile.ms))
                    .collect(),
                ranges: Vec::new(),
            }
        })
        .collect();
    let values = lines.iter().flat_map(|line| &line.points);
    let y = Axis::log("latency, ms", values.clone().map(|&(_, ms)| ms), None);
    let nines = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
    let ticks = (0..)
        .zip(nines)
        .map(|(power, label)| (10_f64.powi(power), label.to_owned()));
    let x = Axis::log("percentile", values.map(|&(x, _)| x), Some(ticks.collect()));
    svg(&format!("Latency: {name}"), &x, &y, &lines)
}

/// Throughput over time, a line for each load.
fn over_time(name: &str, points: &[&&Point]) -> String {
    let lines: Vec<Line> = points
        .iter()
        .map(|point| Line {
            name: point.load.clone(),
            points: middle(point)
                .slices
                .iter()
                .map(|slice| (slice.begins_s, slice.per_second))
                .collect(),
            ranges: Vec::new(),
        })
        .collect();
    let values = lines.iter().flat_map(|line| &line.points);
    let x = Axis::linear("seconds", values.clone().map(|&(seconds, _)| seconds));
    let y = Axis::linear("requests per second", values.map(|&(_, count)| count));
    svg(&format!("Throughput over time: {name}"), &x, &y, &lines)
}

/// The repetition whose throughput lies in the middle.
fn middle(point: &Point) -> &crate::report::Run {
    let mut runs: Vec<_> = point.runs.iter().collect();
    runs.sort_by(|one, other| one.per_second().total_cmp(&other.per_second()));
    runs[runs.len() / 2]
}

fn capital(title: &str) -> String {
    let mut letters = title.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

fn file_name(name: &str) -> String {
    let mut file: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    while file.contains("--") {
        file = file.replace("--", "-");
    }
    file.trim_matches('-').to_owned()
}
