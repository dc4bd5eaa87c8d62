//! What the cores take: a text classified, a node chosen, frames walked over, a statement and its answer relayed. The same
//! rounds as those whose instructions are counted.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

mod scenarios;

use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use scenarios::SCENARIOS;

fn cores(criterion: &mut Criterion) {
    for (name, scenario) in SCENARIOS {
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let begun = Instant::now();
                scenario(usize::try_from(rounds).unwrap_or(usize::MAX));
                begun.elapsed()
            });
        });
    }
}

criterion_group!(benches, cores);
criterion_main!(benches);
