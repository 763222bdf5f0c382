//! What reading a QMP command costs: our reader, which takes text as it comes and gives QEMU's errors, beside
//! `serde_json` on the same line.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qmp_lite::wire::Reader;

const SHORT: &str = r#"{"execute": "query-block-exports", "id": 17}"#;
const LONG: &str = concat!(
    r#"{"execute": "blockdev-add", "arguments": {"driver": "raw", "node-name": "node0", "discard": "unmap", "#,
    r#""cache": {"direct": true, "no-flush": false}, "file": {"driver": "file", "filename": "/var/lib/vm/disk.raw", "#,
    r#""locking": "auto", "aio": "io_uring"}}, "id": {"session": 4, "request": [1, 2, 3]}}"#
);

fn compare(c: &mut Criterion) {
    for (name, line) in [("short", SHORT), ("long", LONG)] {
        let mut group = c.benchmark_group(format!("qmp/{name}"));
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function("own", |b| {
            let text = format!("{line}\n");
            let mut reader = Reader::default();
            b.iter(|| {
                let mut commands = 0;
                reader.feed(black_box(text.as_bytes()), |command| commands += usize::from(command.is_ok()));
                assert_eq!(commands, 1);
            });
        });
        group.bench_function("serde_json", |b| {
            b.iter(|| serde_json::from_str::<serde_json::Value>(black_box(line)).is_ok_and(|value| value.is_object()));
        });
        group.finish();
    }
}

criterion_group!(benches, compare);
criterion_main!(benches);
