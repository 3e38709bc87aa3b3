//! What the driver's errors mean to us, and how they are told without credentials.

use mongodb::{
    error::{Error, ErrorKind},
    options::ConnectionString,
};

use crate::audit::AuditError;

/// Server error codes that only an operator can do something about.
const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;

/// Sorts an error into what can be tried again and what cannot. What is not known to be hopeless is
/// tried again: a network, a failover, a server that stops.
pub(super) fn classify(at: &str, error: &Error) -> AuditError {
    let why = match &*error.kind {
        ErrorKind::Authentication { message, .. } => Some(format!(
            "the server refuses the login ({message}); check user, password and authSource"
        )),
        ErrorKind::Command(command) if command.code == AUTHENTICATION_FAILED => Some(format!(
            "the server refuses the login ({}); check user, password and authSource",
            command.message
        )),
        ErrorKind::Command(command) if command.code == UNAUTHORIZED => Some(format!(
            "the server does not permit it ({}); the user needs the role readWrite on the database",
            command.message
        )),
        ErrorKind::InvalidArgument { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. } => Some(words(error)),
        _ => None,
    };
    match why {
        Some(why) => AuditError::Unusable {
            at: at.to_owned(),
            why,
        },
        None => AuditError::Unavailable {
            at: at.to_owned(),
            source: words(error).into(),
        },
    }
}

/// Whether the driver found no server to talk to.
pub(super) fn is_no_server(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::ServerSelection { .. })
}

/// What went wrong, without the driver's wrapping.
pub(super) fn words(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::InvalidArgument { message, .. } => message.clone(),
        ErrorKind::Command(command) => {
            format!(
                "{} (code {}, {})",
                command.message, command.code, command.code_name
            )
        }
        kind => kind.to_string(),
    }
}

/// The hosts of an address that may be malformed: what certainly holds no credentials.
pub(super) fn host_part(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((_, rest)) => format!("mongodb://…@{}", before_options(rest)),
        None => before_options(address).to_owned(),
    }
}

fn before_options(address: &str) -> &str {
    address.split('?').next().unwrap_or_default()
}

/// What is wrong with an address that the driver does not take. Its own words may quote any piece of
/// the credentials, so they are those about the address without them.
pub(super) fn why_no_address(address: &str, error: &Error) -> String {
    let Some((credentials, rest)) = address.rsplit_once('@') else {
        return words(error);
    };
    let scheme = match credentials.split_once("://") {
        Some((scheme @ ("mongodb" | "mongodb+srv"), _)) => scheme,
        _ => return "it does not begin with mongodb://".to_owned(),
    };
    match ConnectionString::parse(format!("{scheme}://{rest}")) {
        Ok(_) => "user or password hold a character that has to be written as %XX".to_owned(),
        Err(error) => words(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::mongo::MongoAuditLog, settings::Durability};

    #[test]
    fn credentials_of_a_bad_address_are_not_told() {
        for address in [
            "mongodb://someone:s3cret@host:port",
            "mongodb://someone:s3cret@host:27017/?tls=perhaps",
            "mongodb://someone:s3c:ret@host",
            "mongodb://someone:s3cret/x@host",
            "mongodb://someone:s3cret?x@host",
            "mongodb://someone:s3cret%@host",
            "mongodb+srv://someone:s3cret@host:27017",
            "http://someone:s3cret@host",
            "someone:s3cret@host",
        ] {
            let error = MongoAuditLog::new(address, "test", Durability::Majority)
                .err()
                .unwrap_or_else(|| panic!("{address} is no address"));
            let told = format!("{error} {error:?}");
            assert!(
                !told.contains("s3c") && !told.contains("someone"),
                "{address}: {told}"
            );
            assert!(matches!(error, AuditError::Unusable { .. }));
        }
    }

    #[test]
    fn credentials_of_a_good_address_are_not_told() {
        let address = "mongodb://someone:s3cret@one:1,two:2/admin?authSource=admin";
        let log = MongoAuditLog::new(address, "test", Durability::Majority).unwrap();
        assert_eq!(log.at, "mongodb://one:1,two:2/test");
    }

    #[test]
    fn a_database_name_is_checked() {
        for name in ["", "a b", "a.b", "a/b", "$x", &"x".repeat(64)] {
            let log = MongoAuditLog::new("mongodb://host", name, Durability::Majority);
            assert!(matches!(log, Err(AuditError::Unusable { .. })), "{name:?}");
        }
    }
}
