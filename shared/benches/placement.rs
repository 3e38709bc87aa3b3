//! Choosing a container, with few and with many to choose from.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use shared::{contract::Address, discovery::Member, placement::Placement};
use tokio::sync::watch;

fn members(count: u32) -> Arc<[Member]> {
    (0..count)
        .map(|n| Member {
            address: Address::new(&format!("{n:064x}"), "app_backend").expect("it is one"),
            image: None,
            stack: Some("app".into()),
        })
        .collect()
}

fn choose(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose");
    for count in [1, 3, 50] {
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            let roster = watch::Sender::new(members(count));
            let mut placement = Placement::new(roster.subscribe(), Some("app".to_owned()));
            b.iter(|| {
                let chosen = placement.choose(black_box("backend"), &[]);
                if let Some(member) = &chosen {
                    placement.done(&member.address.container);
                }
                chosen
            });
        });
    }
}

criterion_group!(benches, choose);
criterion_main!(benches);
