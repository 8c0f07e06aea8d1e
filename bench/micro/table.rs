//! Places for sessions, in a table as full as a busy worker's.

use divan::{Bencher, black_box};
use fanin::op::SessionKey;
use fanin::worker::table::Table;

const SESSIONS: u32 = 10_000;

/// As large as what a worker keeps of a session.
type Tenant = [u64; 40];

fn full() -> (Table<Tenant>, Vec<SessionKey>) {
    let mut table = Table::new(2 * SESSIONS);
    let keys = (0..SESSIONS).map(|n| {
        let key = table.vacancy().unwrap();
        table.insert(key, [n.into(); 40]);
        key
    });
    let keys = keys.collect();
    (table, keys)
}

#[divan::bench]
fn found_by_key(bencher: Bencher<'_, '_>) {
    let (mut table, keys) = full();
    let mut place = 0;
    bencher.bench_local(|| {
        place = (place + 4099) % keys.len();
        table.of(black_box(keys[place])).map(|tenant| tenant[0])
    });
}

#[divan::bench]
fn moved_in_and_out(bencher: Bencher<'_, '_>) {
    let (mut table, _) = full();
    bencher.bench_local(|| {
        let key = table.vacancy().unwrap();
        table.insert(key, black_box([1; 40]));
        table.remove(key).map(|tenant| tenant[0])
    });
}
