//! stub (the lead's placeholder: the real store replaces this file)
use super::AuditError;
use crate::settings::Durability;
/// stub
pub type MongoAuditLog = super::sqlite::SqliteAuditLog;
impl MongoAuditLog {
    /// stub
    ///
    /// # Errors
    /// stub
    pub fn new(_uri: &str, _db: &str, _d: Durability) -> Result<Self, AuditError> {
        Self::open(std::path::Path::new(""), super::sqlite::Synchronous::Full)
    }
}
