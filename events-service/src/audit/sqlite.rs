//! stub in memory (the lead's placeholder: the real store replaces this file)
use std::{collections::HashMap, path::Path, sync::Mutex};
use async_trait::async_trait;
use super::*;

/// stub
#[derive(Debug, Clone, Copy)]
pub enum Synchronous {
    /// stub
    Full,
    /// stub
    Normal,
}
/// stub
pub struct SqliteAuditLog { records: Mutex<HashMap<RecordId, Record>> }
impl SqliteAuditLog {
    /// stub
    ///
    /// # Errors
    /// stub
    pub fn open(_path: &Path, _s: Synchronous) -> Result<Self, AuditError> { Ok(Self { records: Mutex::default() }) }
}
#[async_trait]
impl AuditLog for SqliteAuditLog {
    async fn prepare(&self) -> Result<(), AuditError> { Ok(()) }
    async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        let mut records = self.records.lock().unwrap_or_else(|e| e.into_inner());
        Ok(batch.iter().map(|w| match w {
            Write::Insert(r) => { records.insert(r.id, r.clone()); Written::Done }
            Write::Complete(r) => match records.get_mut(&r.id) {
                Some(old) if old.end.is_none() => { *old = r.clone(); Written::Done }
                _ => Written::AlreadyEnded,
            },
        }).collect())
    }
    async fn find_answers(&self, q: &[Question]) -> Result<Vec<Option<Answer>>, AuditError> { Ok(vec![None; q.len()]) }
    async fn close_overdue(&self, _b: u64, _n: u64) -> Result<u64, AuditError> { Ok(0) }
    async fn has_answers(&self) -> Result<bool, AuditError> { Ok(false) }
    async fn list(&self, _f: &Filter) -> Result<Vec<StoredRecord>, AuditError> { Ok(vec![]) }
    async fn show(&self, _id: RecordId) -> Result<Option<StoredRecord>, AuditError> { Ok(None) }
    async fn ping(&self) -> Result<(), AuditError> { Ok(()) }
    async fn close(&self) {}
}
