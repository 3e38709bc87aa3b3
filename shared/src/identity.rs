//! Who we are: a container's own address.
//!
//! Source: wire contract, "Address". A container learns its id from its mounts (the host name can be
//! set by the operator, the mount of `/etc/hostname` cannot) or from its host name, and its service
//! from `SERVICE_NAME` or from its label. A bare process gives itself an id.

use std::{sync::OnceLock, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    contract::{Address, ServiceName},
    discovery::docker::Engine,
    ops::Check,
};

/// First and longest wait while the engine does not list us.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Our address.
    pub address: Address,
    /// Our stack, where we know it.
    pub stack: Option<String>,
    /// Our image, where we know it.
    pub image: Option<String>,
}

/// The id of the container that this process runs in, if it does.
pub fn own_container_id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    ID.get_or_init(|| {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        container_id_in(&mounts).map(str::to_owned)
    })
    .as_deref()
}

/// `…/containers/<64 hex digits>/hostname` in a list of mounts. It stands there also where cgroup v2
/// hides the id from `/proc/self/cgroup`.
fn container_id_in(mounts: &str) -> Option<&str> {
    mounts
        .match_indices("/containers/")
        .map(|(at, before)| &mounts[at + before.len()..])
        .find_map(|rest| {
            let (id, after) = rest.split_at_checked(64)?;
            let is_id = id.bytes().all(|b| b.is_ascii_hexdigit());
            (is_id && after.starts_with("/hostname")).then_some(id)
        })
}

/// A bare process, or a container that was told its service: needs no engine.
pub fn of_process(service: ServiceName, stack: Option<String>, image: Option<String>) -> Identity {
    let id = match own_container_id() {
        Some(id) => id.to_owned(),
        None => format!(
            "{:032x}{:032x}",
            rand::random::<u128>(),
            rand::random::<u128>()
        ),
    };
    let container = id.parse().expect("64 hex digits are not empty");
    Identity {
        address: Address { container, service },
        stack,
        image,
    }
}

/// The container that this process runs in, as the engine lists it. Waits for the engine.
/// `None` when told to stop first.
pub async fn of_container(
    engine: &Engine,
    check: &Check,
    stop: &CancellationToken,
) -> Option<Identity> {
    let mut backoff = BACKOFF.0;
    loop {
        let listing = tokio::select! {
            listing = engine.list() => listing,
            () = stop.cancelled() => return None,
        };
        match listing {
            Ok(listed) => {
                let me = listed
                    .into_iter()
                    .find(|l| is_me(l.address.container.as_str()));
                if let Some(me) = me {
                    info!(container_id = %me.address.container, service = %me.address.service, "identified");
                    return Some(Identity {
                        address: me.address,
                        stack: me.stack.map(|stack| stack.to_string()),
                        image: me.image.map(|image| image.to_string()),
                    });
                }
                warn!(
                    "the Docker engine lists no container of a swarm service that is this one \
                     (set SERVICE_NAME, or DISCOVERY=presence)"
                );
            }
            Err(error) => {
                check.fail(&error);
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    "waiting for the Docker engine to learn our own address"
                );
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.cancelled() => return None,
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

fn is_me(id: &str) -> bool {
    match own_container_id() {
        Some(own) => own == id,
        None => {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let name = name.trim();
            // Docker's own choice of a host name is the first 12 digits of the id.
            name.len() >= 12 && id.contains(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stands_in_the_mounts() {
        let id = "0f".repeat(32);
        let mounts = format!(
            "612 600 8:1 /var/lib/docker/containers/short/hostname /x rw\n\
             613 600 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw\n\
             614 600 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
        );
        assert_eq!(container_id_in(&mounts), Some(&*id));
        assert_eq!(container_id_in("22 1 8:1 / / rw - ext4 /dev/vda rw"), None);
    }
}
