use std::time::Duration;

use super::*;

fn address(id: &str) -> Address {
    Address::new(id, "backend").unwrap()
}

fn listed(id: &str) -> Listed {
    Listed {
        address: address(id),
        image: Some("old".into()),
        stack: Some("s".into()),
        is_starting: false,
    }
}

fn present(id: &str) -> Present {
    Present {
        address: address(id),
        image: Some("ours".into()),
        stack: None,
        is_draining: false,
        in_flight: 0,
        takes_lines: true,
        clock_ahead_ms: None,
    }
}

fn ids(roster: &Roster) -> Vec<String> {
    roster
        .members()
        .borrow()
        .iter()
        .map(|m| m.address.container.to_string())
        .collect()
}

#[tokio::test]
async fn the_list_of_the_engine_replaces_the_one_before() {
    let roster = Roster::default();
    roster.list(vec![listed("b"), listed("a")]);
    assert_eq!(ids(&roster), ["a", "b"]);
    roster.list(vec![listed("b"), listed("c")]);
    assert_eq!(ids(&roster), ["b", "c"]);
    roster.died(&"b".parse().unwrap());
    assert_eq!(ids(&roster), ["c"]);
    assert!(roster.is_listed(&"c".parse().unwrap()) && !roster.is_ours(&"c".parse().unwrap()));
}

#[tokio::test]
async fn what_both_know_is_one_member_with_the_image_of_the_engine() {
    let roster = Roster::default();
    assert!(roster.present(present("a")));
    roster.list(vec![listed("a")]);
    assert!(!roster.present(present("a")));
    let members = roster.members().borrow().clone();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].image.as_deref(), Some("old"));
    assert_eq!(members[0].stack.as_deref(), Some("s"));
}

#[tokio::test]
async fn a_container_whose_health_check_has_not_passed_gets_nothing_unless_it_speaks() {
    let roster = Roster::default();
    let starting = |id| Listed {
        is_starting: true,
        ..listed(id)
    };
    roster.list(vec![starting("old"), starting("ours")]);
    assert_eq!(ids(&roster), [""; 0]);
    roster.present(present("ours"));
    assert_eq!(ids(&roster), ["ours"]);
    roster.list(vec![listed("old"), starting("ours")]);
    assert_eq!(ids(&roster), ["old", "ours"]);
}

#[tokio::test]
async fn a_draining_container_gets_nothing_new_although_it_is_listed() {
    let roster = Roster::default();
    roster.list(vec![listed("a")]);
    roster.present(Present {
        is_draining: true,
        ..present("a")
    });
    assert_eq!(ids(&roster), [""; 0]);
    assert!(roster.is_alive(&"a".parse().unwrap()));
    roster.goodbye(&"a".parse().unwrap());
    assert!(!roster.is_alive(&"a".parse().unwrap()));
    roster.list(vec![]);
    assert!(!roster.is_listed(&"a".parse().unwrap()));
}

#[tokio::test]
async fn a_suspect_is_passed_over_until_it_is_heard_of() {
    let roster = Roster::default();
    roster.present(present("a"));
    roster.suspect(&"a".parse().unwrap());
    assert_eq!(ids(&roster), [""; 0]);
    roster.present(present("a"));
    assert_eq!(ids(&roster), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn silence_is_for_those_who_spoke() {
    let roster = Roster::default();
    roster.list(vec![listed("foreign")]);
    roster.present(present("ours"));
    tokio::time::advance(Duration::from_secs(10)).await;
    roster.silence(Instant::now() - Duration::from_secs(7));
    assert_eq!(ids(&roster), ["foreign"]);
}

#[tokio::test]
async fn only_a_change_is_told() {
    let roster = Roster::default();
    let mut members = roster.members();
    roster.present(present("a"));
    assert!(members.has_changed().unwrap());
    members.borrow_and_update();
    roster.present(Present {
        in_flight: 7,
        ..present("a")
    });
    assert!(!members.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_off_is_known_by_the_announcement_that_came_soonest() {
    let roster = Roster::default();
    let (it, hear) = ("a".parse().unwrap(), |ahead| {
        roster.present(Present {
            clock_ahead_ms: ahead,
            ..present("a")
        })
    });
    assert_eq!(roster.clock_ahead_ms(&it), 0);
    for (ahead, known) in [
        (Some(-400), 0),
        (Some(-20_300), 0),
        (Some(30_000), 30_000),
        (Some(21_000), 30_000),
        (None, 30_000),
    ] {
        hear(ahead);
        assert_eq!(roster.clock_ahead_ms(&it), known, "{ahead:?}");
    }
    // It was set, or its machine slept.
    tokio::time::advance(Duration::from_secs(11)).await;
    hear(Some(-20_300));
    assert_eq!(roster.clock_ahead_ms(&it), -20_300);
}
