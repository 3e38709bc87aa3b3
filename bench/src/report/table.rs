//! Reports as tables: aligned for the terminal, and in Markdown for documents. Both show the same.

use super::{Better, Figure, Point, Report};

/// For the terminal.
pub(crate) fn terminal(report: &Report) -> String {
    let mut text = format!("\n{}\n", report.title);
    for table in tables(&report.points) {
        text.push('\n');
        text += &aligned(&table, 2);
    }
    for (title, lines) in [
        ("", &report.findings),
        ("the same work by others:", &report.others),
    ] {
        if !lines.is_empty() {
            text.push('\n');
            if !title.is_empty() {
                text.extend([title, "\n"]);
            }
            lines
                .iter()
                .for_each(|line| text.extend([line.as_str(), "\n"]));
        }
    }
    text
}

/// Rows as lines, the first as a head; so many columns are text and begin at the left.
pub(crate) fn aligned(table: &[Vec<String>], texts: usize) -> String {
    let mut text = String::new();
    let widths: Vec<usize> = (0..table[0].len())
        .map(|column| {
            table
                .iter()
                .map(|row| width(&row[column]))
                .max()
                .unwrap_or(0)
        })
        .collect();
    for (number, row) in table.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - width(cell));
            let gap = if column == 0 { "" } else { "  " };
            let (before, after) = if column < texts {
                ("", &*pad)
            } else {
                (&*pad, "")
            };
            line.extend([gap, before, cell.as_str(), after]);
        }
        text.extend([line.trim_end(), "\n"]);
        if number == 0 {
            let all = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
            text.extend(["─".repeat(all).as_str(), "\n"]);
        }
    }
    text
}

/// For documents.
pub(crate) fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let mut blocks = vec![
        format!("# {}", report.scenario),
        report.title.clone(),
        format!(
            "Measured {} at commit `{}` by `{}`; {}, {} cores, {} MiB, {}, Linux {}.",
            report.date,
            report.commit,
            report.command,
            machine.processor,
            machine.cores,
            machine.memory_mib,
            machine.system,
            machine.kernel
        ),
    ];
    let settings = report
        .settings
        .iter()
        .map(|(name, value)| format!("- {name}: {value}"));
    blocks.push(settings.collect::<Vec<_>>().join("\n"));
    for table in tables(&report.points) {
        let row = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let rule: Vec<_> = (0..table[0].len())
            .map(|column| if column < 2 { "---" } else { "---:" }.to_owned())
            .collect();
        let mut lines = vec![row(&table[0]), row(&rule)];
        lines.extend(table[1..].iter().map(|cells| row(cells)));
        blocks.push(lines.join("\n"));
    }
    let findings = report.findings.iter().map(|finding| format!("- {finding}"));
    blocks.push(findings.collect::<Vec<_>>().join("\n"));
    if !report.others.is_empty() {
        let commands = report.others.join("\n");
        blocks.push(format!(
            "The same work by other programs:\n\n```sh\n{commands}\n```"
        ));
    }
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n\n") + "\n"
}

/// Points with the same figures share a table; what the work cost stands in one of its own.
fn tables(points: &[Point]) -> Vec<Vec<Vec<String>>> {
    let mut groups: Vec<(Vec<&Figure>, Vec<&Point>)> = Vec::new();
    for point in points {
        let columns: Vec<_> = point
            .figures
            .iter()
            .filter(|figure| !is_cost(figure))
            .collect();
        if columns.is_empty() {
            continue;
        }
        let same = |(others, _): &&mut (Vec<&Figure>, Vec<&Point>)| {
            let names = others.iter().map(|figure| &figure.name);
            names.eq(columns.iter().map(|figure| &figure.name))
        };
        match groups.iter_mut().find(same) {
            Some((_, points)) => points.push(point),
            None => groups.push((columns, vec![point])),
        }
    }
    let mut tables: Vec<_> = groups
        .iter()
        .map(|(columns, points)| {
            let columns = columns.iter().map(|figure| {
                let title = match figure.unit.as_str() {
                    "" => figure.name.clone(),
                    unit => format!("{} [{unit}]", figure.name),
                };
                (figure.name.as_str(), title)
            });
            table("what", &columns.collect::<Vec<_>>(), points)
        })
        .collect();
    tables.extend(cost(points));
    tables
}

/// Figures of [`tables`]' last table.
fn is_cost(figure: &Figure) -> bool {
    figure.name.starts_with(COST)
}

/// What the names of costs begin with.
const COST: &str = "cpu ";

/// The processor time of each process for each request.
fn cost(points: &[Point]) -> Option<Vec<Vec<String>>> {
    let mut columns: Vec<(&str, String)> = Vec::new();
    let with: Vec<_> = points
        .iter()
        .filter(|point| point.figures.iter().any(is_cost))
        .collect();
    for figure in with
        .iter()
        .flat_map(|point| &point.figures)
        .filter(|figure| is_cost(figure))
    {
        if !columns.iter().any(|(name, _)| *name == figure.name) {
            columns.push((&figure.name, figure.name[COST.len()..].to_owned()));
        }
    }
    // The sum last.
    columns.sort_by_key(|(_, title)| title == "all");
    let title = format!(
        "processor time, {}",
        with.first()?
            .figures
            .iter()
            .find(|figure| is_cost(figure))?
            .unit
    );
    Some(table(&title, &columns, &with))
}

/// Columns by the name of their figure and their own title.
fn table(title: &str, columns: &[(&str, String)], points: &[&Point]) -> Vec<Vec<String>> {
    let mut head = vec![title.to_owned(), "load".to_owned()];
    head.extend(columns.iter().map(|(_, title)| title.clone()));
    let rows = points.iter().map(|point| {
        let cells = columns
            .iter()
            .map(|(name, _)| point.figure(name).map_or_else(String::new, cell));
        [point.series.clone(), point.load.clone()]
            .into_iter()
            .chain(cells)
            .collect()
    });
    std::iter::once(head).chain(rows).collect()
}

/// The median, and how far the repetitions lie apart.
fn cell(figure: &Figure) -> String {
    let median = number(figure.median());
    if figure.values.len() < 2 || figure.better == Better::Neither {
        return median;
    }
    let (min, max) = figure.spread();
    format!("{median} ({}..{})", number(min), number(max))
}

/// A number with as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let places = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.places$}");
    let (whole, fraction) = text
        .split_once('.')
        .map_or((&*text, ""), |(whole, _)| (whole, &text[whole.len()..]));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        for (value, text) in [
            (14_532.7, "14,533"),
            (1_234_567.0, "1,234,567"),
            (99.95, "100.0"),
            (12.34, "12.3"),
            (0.567, "0.57"),
            (0.0567, "0.0567"),
            (0.0, "0"),
            (-1234.0, "-1,234"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
