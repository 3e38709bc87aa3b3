//! Opening the file: what can be wrong with it, said so that it can be put right.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{SyncMode, checkpoint::Checkpoints, store::Store};
use crate::audit::AuditError;

/// How long to wait for another process that has the file locked: readers never have, another
/// writer for one batch.
const BUSY_MAX: Duration = Duration::from_secs(3);
/// Pages of the log beside the file (WAL) at which it is begun anew, 64 MB: at the usual 1,000, a
/// busy service would sync the file several times a second. It is also what has to be read again
/// after a crash. Most of them are in the file by then ([`Checkpoints`]).
const CHECKPOINT_PAGES: i64 = 16_384;
/// Largest size to which the log beside the file is cut back.
const WAL_BYTES_MAX: i64 = 128 << 20;
/// Memory for pages, in KiB as SQLite takes it, negative: 32 MB.
const CACHE_KIB: i64 = -32_768;

pub(super) fn for_writing(path: &Path, sync: SyncMode) -> Result<Store, AuditError> {
    let at = path.display().to_string();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opening = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_MAX)?;
        // SQLite opens a file that it cannot write without a word.
        if connection.is_readonly(rusqlite::MAIN_DB)? {
            return Ok(None);
        }
        // Readers do not block the writer, nor it them; a commit is one write to one file.
        connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        let synchronous = match sync {
            SyncMode::Full => "full",
            SyncMode::Normal => "normal",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
        connection.pragma_update(None, "cache_size", CACHE_KIB)?;
        Ok(Some((connection, Checkpoints::start(path)?)))
    };
    match opening() {
        Ok(Some((connection, checkpoints))) => Ok(Store::new(connection, at, Some(checkpoints))),
        Ok(None) => Err(AuditError::Unusable {
            at,
            why: "the file cannot be written".to_owned(),
        }),
        Err(error) => Err(not_opened(path, at, &error)),
    }
}

pub(super) fn for_reading(path: &Path) -> Result<Store, AuditError> {
    let at = path.display().to_string();
    if !path.exists() {
        return Err(AuditError::Unusable {
            at,
            why: "there is no such file".to_owned(),
        });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opening = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_MAX)?;
        let tables =
            "select count(*) from sqlite_schema where name in ('tasks', 'requests', 'responses')";
        let count: i64 = connection.query_row(tables, [], |row| row.get(0))?;
        let is_of_today = has_column(&connection, "response")?;
        Ok((connection, count == 3, is_of_today))
    };
    let unusable = |at, why: &str| AuditError::Unusable {
        at,
        why: why.to_owned(),
    };
    match opening() {
        Ok((connection, true, true)) => Ok(Store::new(connection, at, None)),
        Ok((_, true, false)) => Err(unusable(
            at,
            "the file was written by an older version; start the service on it once",
        )),
        Ok((_, false, _)) => Err(unusable(at, "the file holds no audit log")),
        Err(error) => Err(not_opened(path, at, &error)),
    }
}

/// Whether the records have this column.
pub(super) fn has_column(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let columns = "select count(*) from pragma_table_info('tasks') where name = ?1";
    let count: i64 = connection.query_row(columns, [name], |row| row.get(0))?;
    Ok(count == 1)
}

fn not_opened(path: &Path, at: String, error: &rusqlite::Error) -> AuditError {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let why = match error.sqlite_error_code() {
        _ if path.is_dir() => "it is a folder, not a file".to_owned(),
        Some(ErrorCode::CannotOpen) => match folder.filter(|folder| !folder.is_dir()) {
            Some(folder) => format!("there is no folder {}", folder.display()),
            None => "the file cannot be opened or made; check who may write there".to_owned(),
        },
        Some(ErrorCode::NotADatabase) => {
            "the file is no SQLite database; name another file, or move it away".to_owned()
        }
        _ => return classify(&at, error),
    };
    AuditError::Unusable { at, why }
}

/// Sorts an error into what can be tried again (a lock, a full disk) and what cannot.
pub(super) fn classify(at: &str, error: &rusqlite::Error) -> AuditError {
    if matches!(error, rusqlite::Error::SqlInputError { .. }) {
        // A table that is not there, or has other columns.
        let why = format!("the file holds something else than an audit log ({error})");
        return AuditError::Unusable {
            at: at.to_owned(),
            why,
        };
    }
    let why = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => "the file is damaged",
        Some(ErrorCode::NotADatabase) => "the file is no SQLite database",
        Some(ErrorCode::ReadOnly) => "the file cannot be written",
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            "we have no permission to use the file"
        }
        Some(ErrorCode::CannotOpen) => "the file, or the one beside it, cannot be opened",
        _ => {
            return AuditError::Unavailable {
                at: at.to_owned(),
                source: error.to_string().into(),
            };
        }
    };
    AuditError::Unusable {
        at: at.to_owned(),
        why: format!("{why} ({error})"),
    }
}
