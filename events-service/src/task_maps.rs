//! `task-maps.json`: which service does which task.
//!
//! Two forms, freely mixed: `{"NUMBER": "backend"}` of old deployments, and
//! `{"NUMBER": {"service": "backend", "pure": true, "timeoutMs": 2000}}`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the file is looked at. It is often a mount, where changes cannot be listened for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time that a task may be given.
const TIMEOUT_MS_MAX: u64 = 600_000;
/// What a process without a file does: the tasks of our own backend.
const BUILT_IN: &str = include_str!("../../task-maps.json");

/// Which service does which task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskMaps {
    tasks: HashMap<String, TaskMap>,
}

/// Who does a task, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskMap {
    /// A container does it whose service name contains this.
    pub service: String,
    /// It has no effect: its answer may be given again, and it may run twice.
    pub pure: bool,
    /// It is given no more time than this.
    pub timeout: Option<Duration>,
}

/// Why a map was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TaskMapsError {
    /// The file cannot be read.
    #[error("the task map `{}` cannot be read", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no task map.
    #[error("the task map `{}` is not valid: {why}", path.display())]
    Invalid {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a service name or an object with `service`, `pure`, `timeoutMs`"
)]
enum Entry {
    Plain(String),
    Extended(Extended),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extended {
    service: String,
    #[serde(default)]
    pure: bool,
    timeout_ms: Option<u64>,
}

impl TaskMaps {
    /// Who does this task.
    pub fn get(&self, task: &str) -> Option<&TaskMap> {
        self.tasks.get(task)
    }

    /// The names of all tasks, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.tasks.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The map that comes with the program.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test parses the built-in map")
    }

    /// Reads a map.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and at which task.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries: HashMap<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let tasks = entries.into_iter().map(|(name, entry)| {
            let entry =
                Entry::deserialize(entry).map_err(|error| format!("task `{name}`: {error}"))?;
            let map = match entry {
                Entry::Plain(service) => TaskMap {
                    service,
                    pure: false,
                    timeout: None,
                },
                Entry::Extended(Extended {
                    service,
                    pure,
                    timeout_ms,
                }) => {
                    if let Some(ms) = timeout_ms
                        && !(1..=TIMEOUT_MS_MAX).contains(&ms)
                    {
                        return Err(format!(
                            "task `{name}`: timeoutMs is {ms}, expected 1 to {TIMEOUT_MS_MAX}"
                        ));
                    }
                    TaskMap {
                        service,
                        pure,
                        timeout: timeout_ms.map(Duration::from_millis),
                    }
                }
            };
            if map.service.trim().is_empty() {
                return Err(format!("task `{name}`: the service is empty"));
            }
            Ok((name, map))
        });
        Ok(Self {
            tasks: tasks.collect::<Result<_, String>>()?,
        })
    }

    fn read(path: &Path) -> Result<Self, TaskMapsError> {
        let text = std::fs::read_to_string(path).map_err(|source| TaskMapsError::Unreadable {
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|why| TaskMapsError::Invalid {
            path: path.into(),
            why,
        })
    }
}

/// A map that follows its file.
pub struct TaskMapsFile {
    path: Option<PathBuf>,
    /// The state of the file before it was read: what changes from then on is noticed.
    seen: Option<Stamp>,
    maps: watch::Sender<Arc<TaskMaps>>,
}

/// What tells one state of a file from another.
type Stamp = (SystemTime, u64);

impl TaskMapsFile {
    /// Reads the file; without one, the map that comes with the program serves.
    ///
    /// # Errors
    /// [`TaskMapsError`]: at start there is no older map to keep.
    pub fn open(path: Option<PathBuf>) -> Result<Self, TaskMapsError> {
        let seen = path.as_deref().and_then(stamp);
        let maps = match &path {
            Some(path) => TaskMaps::read(path)?,
            None => TaskMaps::built_in(),
        };
        Ok(Self {
            path,
            seen,
            maps: watch::Sender::new(Arc::new(maps)),
        })
    }

    /// The map, now and on every change.
    pub fn maps(&self) -> watch::Receiver<Arc<TaskMaps>> {
        self.maps.subscribe()
    }

    /// Follows the file until `stop`; a bad file keeps the old map and says so.
    pub async fn follow(self, stop: CancellationToken) {
        let Some(path) = self.path else {
            return stop.cancelled().await;
        };
        let mut seen = self.seen;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            seen = now;
            match TaskMaps::read(&path) {
                Ok(maps) => {
                    info!(path = %path.display(), tasks = maps.tasks.len(), "task map reloaded");
                    self.maps.send_replace(Arc::new(maps));
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "the old task map stays in use");
                }
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let maps = TaskMaps::parse(
            r#"{"A": "back", "B": {"service": "b", "pure": true, "timeoutMs": 20}}"#,
        )
        .unwrap();
        assert_eq!(maps.names(), ["A", "B"]);
        assert_eq!(
            maps.get("A"),
            Some(&TaskMap {
                service: "back".into(),
                pure: false,
                timeout: None
            })
        );
        assert_eq!(
            maps.get("B").unwrap().timeout,
            Some(Duration::from_millis(20))
        );
        assert_eq!(maps.get("C"), None);
    }

    #[test]
    fn the_built_in_map_does_our_own_tasks() {
        assert!(TaskMaps::built_in().get("NUMBER").unwrap().pure);
    }

    #[test]
    fn a_bad_map_says_at_which_task() {
        for (text, part) in [
            ("[]", "expected a map"),
            (r#"{"A": 1}"#, "task `A`: expected a service name"),
            (
                r#"{"A": {"service": "b", "timeoutMs": 0}}"#,
                "task `A`: timeoutMs is 0",
            ),
            (r#"{"A": {"service": "b", "cached": true}}"#, "task `A`"),
            (r#"{"A": ""}"#, "task `A`: the service is empty"),
        ] {
            let error = TaskMaps::parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_is_read_and_a_bad_one_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("task-maps.json");
        std::fs::write(&path, r#"{"A": "one"}"#).unwrap();
        let file = TaskMapsFile::open(Some(path.clone())).unwrap();
        let mut maps = file.maps();
        let stop = CancellationToken::new();
        let following = tokio::spawn(file.follow(stop.clone()));
        std::fs::write(&path, r#"{"A": "three"}"#).unwrap();
        tokio::time::timeout(LOOK_EVERY * 10, maps.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(maps.borrow_and_update().get("A").unwrap().service, "three");
        std::fs::write(&path, "not a map").unwrap();
        tokio::time::sleep(LOOK_EVERY * 2).await;
        std::fs::write(&path, r#"{"A": "fourth"}"#).unwrap();
        tokio::time::timeout(LOOK_EVERY * 10, maps.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(maps.borrow_and_update().get("A").unwrap().service, "fourth");
        stop.cancel();
        following.await.unwrap();
    }
}
