//! A chart as SVG: lines over two axes. A library for this would be the largest dependency of the
//! whole suite; this is what our three kinds of plots need.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 440.0;
/// Space beside the drawing: labels left and below, the legend right.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 260.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 50.0;
/// Colours that people with any kind of colour vision can tell apart (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
];
/// With more lines than colours, the second round is dashed.
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

/// One axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    title: String,
    is_log: bool,
    min: f64,
    max: f64,
    ticks: Vec<(f64, String)>,
}

/// One line, by its points; each may have a range that its repetitions lie in.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) ranges: Vec<(f64, f64, f64)>,
}

impl Axis {
    /// From 0 to the largest value.
    pub(super) fn linear(title: &str, values: impl Iterator<Item = f64>) -> Self {
        let largest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let step = round_step(largest / 5.0);
        let count = (largest / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|n| f64::from(n) * step);
        Self {
            title: title.to_owned(),
            is_log: false,
            min: 0.0,
            max: count * step,
            ticks: ticks.map(|value| (value, label(value))).collect(),
        }
    }

    /// Between the powers of ten around all values, or with the ticks given.
    pub(super) fn log(
        title: &str,
        values: impl Iterator<Item = f64>,
        ticks: Option<Vec<(f64, String)>>,
    ) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (min, max) = positive.fold((f64::INFINITY, 0.0_f64), |(min, max), value| {
            (min.min(value), max.max(value))
        });
        let (min, max) = if min.is_finite() {
            (min, max)
        } else {
            (1.0, 10.0)
        };
        if let Some(ticks) = ticks {
            let max = if max > min { max } else { min * 2.0 };
            return Self {
                title: title.to_owned(),
                is_log: true,
                min,
                max,
                ticks,
            };
        }
        let first = min.log10().floor();
        let last = max.log10().ceil().max(first + 1.0);
        let ticks = (first as i32..=last as i32).map(|power| 10_f64.powi(power));
        Self {
            title: title.to_owned(),
            is_log: true,
            min: 10_f64.powf(first),
            max: 10_f64.powf(last),
            ticks: ticks.map(|value| (value, label(value))).collect(),
        }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| {
            if self.is_log {
                value.max(self.min).log10()
            } else {
                value
            }
        };
        (scale(value) - scale(self.min)) / (scale(self.max) - scale(self.min))
    }
}

/// The whole picture.
pub(super) fn svg(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let mut svg = Svg(String::new());
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at_x = |value: f64| LEFT + x.place(value) * (right - LEFT);
    let at_y = |value: f64| bottom - y.place(value) * (bottom - TOP);
    svg.put(format_args!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>"##
    ));
    svg.text(LEFT, 22.0, "start", 15, title);
    for (value, label) in &x.ticks {
        let at = at_x(*value);
        svg.rule(at, TOP, at, bottom);
        svg.text(at, bottom + 18.0, "middle", 12, label);
    }
    for (value, label) in &y.ticks {
        let at = at_y(*value);
        svg.rule(LEFT, at, right, at);
        svg.text(LEFT - 8.0, at + 4.0, "end", 12, label);
    }
    svg.text(
        f64::midpoint(LEFT, right),
        HEIGHT - 12.0,
        "middle",
        12,
        &x.title,
    );
    svg.text(8.0, TOP - 14.0, "start", 12, &y.title);
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let dashes = DASHES[number / COLOURS.len() % DASHES.len()];
        for &(value, low, high) in &line.ranges {
            svg.line(at_x(value), at_y(low), at_x(value), at_y(high), colour, "");
        }
        let points: Vec<_> = line
            .points
            .iter()
            .map(|&(x, y)| (at_x(x), at_y(y)))
            .collect();
        svg.path(&points, colour, dashes);
        let legend = TOP + 10.0 + 18.0 * number as f64;
        svg.line(
            right + 14.0,
            legend - 4.0,
            right + 38.0,
            legend - 4.0,
            colour,
            dashes,
        );
        svg.text(right + 44.0, legend, "start", 12, &line.name);
    }
    svg.0.push_str("</svg>\n");
    svg.0
}

struct Svg(String);

impl Svg {
    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(what)
            .expect("a string takes what is written");
        self.0.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: u32, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.put(format_args!(
            r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222">{text}</text>"##
        ));
    }

    fn rule(&mut self, x1: f64, y1: f64, x2: f64, y2: f64) {
        self.put(format_args!(
            r##"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="#ddd"/>"##
        ));
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, colour: &str, dashes: &str) {
        self.path_of(&format!("M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}"), colour, dashes);
    }

    fn path(&mut self, points: &[(f64, f64)], colour: &str, dashes: &str) {
        let mut path = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            write!(path, "{command}{x:.1} {y:.1}").expect("a string takes what is written");
        }
        self.path_of(&path, colour, dashes);
        // A line of one point would not be seen; many points need no marks.
        if points.len() <= 12 {
            for (x, y) in points {
                self.put(format_args!(
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#
                ));
            }
        }
    }

    fn path_of(&mut self, path: &str, colour: &str, dashes: &str) {
        self.put(format_args!(
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>"#
        ));
    }
}

/// 1, 2 or 5 times a power of ten, at least as large.
fn round_step(step: f64) -> f64 {
    if step <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|digit| digit * power >= step * 0.999);
    digit.unwrap_or(10.0) * power
}

/// A tick's number; round ones without their zeros.
pub(super) fn label(value: f64) -> String {
    let text = crate::report::number(value);
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_reach_over_all_values() {
        let axis = Axis::linear("x", [3.0, 14_200.0].into_iter());
        assert_eq!(axis.max, 15_000.0);
        assert_eq!(axis.ticks.len(), 4);
        assert_eq!(axis.place(7_500.0), 0.5);
        let axis = Axis::log("x", [0.3, 42.0].into_iter(), None);
        assert_eq!((axis.min, axis.max), (0.1, 100.0));
        assert!((axis.place(1.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let line = Line {
            name: "a < b & c".into(),
            points: vec![(1.0, 2.0)],
            ranges: Vec::new(),
        };
        let axis = Axis::linear("x", [2.0].into_iter());
        let svg = svg("t", &axis, &axis, &[line]);
        assert!(svg.contains("a &lt; b &amp; c"), "{svg}");
    }
}
