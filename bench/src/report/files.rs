//! Reports as files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::plot;

use super::{Report, markdown};

/// Where a report goes if nothing else is said: `target/bench/<scenario>-<time>`.
pub(crate) fn folder(report: &Report, target: &Path) -> PathBuf {
    let moment: String = report
        .date
        .chars()
        .take_while(|&c| c != '.' && c != 'Z')
        .filter(|&c| c != '-' && c != ':')
        .collect();
    target
        .join("bench")
        .join(format!("{}-{moment}", report.scenario))
}

/// Writes everything.
///
/// # Errors
/// The folder or a file cannot be written.
pub(crate) fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    put("report.json", serde_json::to_string_pretty(report)? + "\n")?;
    put("report.md", markdown(report))?;
    for (name, picture) in plot::plots(report) {
        put(&name, picture)?;
    }
    Ok(())
}
