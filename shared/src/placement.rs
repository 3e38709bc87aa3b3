//! Choosing a container: of two candidates taken at random, the one with fewer requests of ours in
//! flight. Nearly as even as asking all of them, and no two senders run after the same idle one.

use std::{collections::HashMap, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::watch;

use crate::{
    contract::{Address, ContainerId},
    discovery::Member,
};

/// Chooses among the members of a roster. One owner.
#[derive(Debug)]
pub struct Placement {
    members: watch::Receiver<Arc<[Member]>>,
    own_stack: Option<String>,
    /// Candidates by keyword, until the members change.
    candidates: HashMap<String, Arc<[Member]>>,
    in_flight: HashMap<ContainerId, u32>,
    random: SmallRng,
}

impl Placement {
    /// Chooses among these members; those of our own stack come first.
    pub fn new(members: watch::Receiver<Arc<[Member]>>, own_stack: Option<String>) -> Self {
        let seed = rand::random();
        Self {
            members,
            own_stack,
            candidates: HashMap::new(),
            in_flight: HashMap::new(),
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Takes a container whose service the keyword means, and counts one in flight for it until
    /// [`Placement::done`]. Those in `except` have been tried and are not taken.
    pub fn choose(&mut self, keyword: &str, except: &[ContainerId]) -> Option<Member> {
        let candidates = self.candidates(keyword);
        let chosen = if except.is_empty() {
            self.better_of_two(&candidates)
        } else {
            let rest: Vec<Member> = candidates
                .iter()
                .filter(|member| !except.contains(&member.address.container))
                .cloned()
                .collect();
            self.better_of_two(&rest)
        }?;
        *self
            .in_flight
            .entry(chosen.address.container.clone())
            .or_default() += 1;
        Some(chosen)
    }

    /// Takes this container, also when it is not known; counts like [`Placement::choose`].
    pub fn choose_this(&mut self, address: Address) -> Member {
        let known = self.members.borrow();
        let known = known.iter().find(|member| member.address == address);
        let chosen = known.cloned().unwrap_or(Member {
            address,
            image: None,
            stack: None,
        });
        *self
            .in_flight
            .entry(chosen.address.container.clone())
            .or_default() += 1;
        chosen
    }

    /// One that was chosen has ended.
    pub fn done(&mut self, container: &ContainerId) {
        if let Some(count) = self.in_flight.get_mut(container) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(container);
            }
        }
    }

    fn better_of_two(&mut self, candidates: &[Member]) -> Option<Member> {
        let load = |member: &Member| self.in_flight.get(&member.address.container).copied();
        match candidates {
            [] => None,
            [only] => Some(only.clone()),
            _ => {
                let first = self.random.random_range(0..candidates.len());
                let mut second = self.random.random_range(0..candidates.len() - 1);
                if second >= first {
                    second += 1;
                }
                let (first, second) = (&candidates[first], &candidates[second]);
                Some(
                    if load(second) < load(first) {
                        second
                    } else {
                        first
                    }
                    .clone(),
                )
            }
        }
    }

    fn candidates(&mut self, keyword: &str) -> Arc<[Member]> {
        if self.members.has_changed().unwrap_or(false) {
            self.members.borrow_and_update();
            self.candidates.clear();
        }
        if let Some(candidates) = self.candidates.get(keyword) {
            return candidates.clone();
        }
        let members = self.members.borrow();
        let matching = members.iter().filter(|member| member.matches(keyword));
        let own = |member: &&Member| {
            self.own_stack.is_some() && self.own_stack.as_deref() == member.stack.as_deref()
        };
        let of_own_stack: Vec<Member> = matching.clone().filter(own).cloned().collect();
        let found: Arc<[Member]> = if of_own_stack.is_empty() {
            matching.cloned().collect()
        } else {
            of_own_stack.into()
        };
        drop(members);
        self.candidates.insert(keyword.to_owned(), found.clone());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, service: &str, stack: Option<&str>) -> Member {
        Member {
            address: Address::new(id, service).unwrap(),
            image: None,
            stack: stack.map(Into::into),
        }
    }

    fn among(members: Vec<Member>) -> (watch::Sender<Arc<[Member]>>, Placement) {
        let sender = watch::Sender::new(members.into());
        let placement = Placement::new(sender.subscribe(), Some("own".into()));
        (sender, placement)
    }

    #[test]
    fn the_keyword_means_services_that_contain_it_in_any_case() {
        let (_keep, mut placement) = among(vec![
            member("1", "Stack-Backend-2", None),
            member("2", "frontend", None),
        ]);
        for _ in 0..20 {
            assert_eq!(
                placement
                    .choose("backend", &[])
                    .unwrap()
                    .address
                    .container
                    .as_str(),
                "1"
            );
        }
        assert_eq!(placement.choose("database", &[]), None);
    }

    #[test]
    fn the_name_of_the_stack_is_not_part_of_the_service() {
        let (_keep, mut placement) = among(vec![
            member("1", "events_backend", Some("events")),
            member("2", "events_events-service", Some("events")),
        ]);
        for _ in 0..20 {
            assert_eq!(
                placement
                    .choose("event", &[])
                    .unwrap()
                    .address
                    .container
                    .as_str(),
                "2"
            );
        }
    }

    #[test]
    fn the_own_stack_comes_first() {
        let (sender, mut placement) = among(vec![
            member("1", "own_backend", Some("own")),
            member("2", "other_backend", Some("other")),
        ]);
        for _ in 0..20 {
            assert_eq!(
                placement
                    .choose("backend", &[])
                    .unwrap()
                    .address
                    .container
                    .as_str(),
                "1"
            );
        }
        sender.send_replace(vec![member("2", "other_backend", Some("other"))].into());
        assert!(placement.choose("backend", &[]).is_some());
    }

    #[test]
    fn load_is_spread_and_falls_when_done() {
        let (_keep, mut placement) = among(
            (0..4)
                .map(|n| member(&n.to_string(), "backend", None))
                .collect(),
        );
        let chosen: Vec<_> = (0..400)
            .filter_map(|_| placement.choose("backend", &[]))
            .map(|member| member.address.container)
            .collect();
        assert!(
            placement
                .in_flight
                .values()
                .all(|count| (80..120).contains(count))
        );
        chosen
            .iter()
            .for_each(|container| placement.done(container));
        assert!(placement.in_flight.is_empty());
    }

    #[test]
    fn an_excepted_container_is_not_chosen() {
        let (_keep, mut placement) = among(vec![
            member("1", "backend", None),
            member("2", "backend", None),
        ]);
        let except = ["1".parse().unwrap()];
        assert_eq!(
            placement
                .choose("backend", &except)
                .unwrap()
                .address
                .container
                .as_str(),
            "2"
        );
    }
}
