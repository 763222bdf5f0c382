//! Directories and bits, from QEMU to us and from us to QEMU.

use super::image::Bitmapped;
use crate::node::qcow2::bitmap_directory::{BitmapEntry, parse, table_words};
use crate::node::qcow2::bitmap_directory::{TableEntry, load, parse_table, store, table_entries, to_bytes};
use crate::node::qcow2::header::{BitmapsExtension, Header};
use std::ops::Range;
use tidemark_cbt::{Bitmap, Granularity};

fn empty(size: u64, entry: &BitmapEntry) -> Bitmap {
    Bitmap::new(size, Granularity::new(1 << entry.granularity_bits).unwrap()).unwrap()
}

/// The first bitmap of the image, as we read it.
fn bitmap_of(image: &Bitmapped) -> Bitmap {
    let entry = image.parse().unwrap().remove(0);
    let geometry = image.image().geometry;
    let bitmap = empty(image.image().size, &entry);
    let ones = vec![0xff; usize::try_from(geometry.cluster()).unwrap()];
    let table = parse_table(&entry.name, &image.table(&entry), geometry, image.file_length()).unwrap();
    for (index, place) in table.into_iter().enumerate() {
        match place {
            TableEntry::Zeroes => {}
            TableEntry::Ones => load(&bitmap, index as u64, &ones, geometry),
            TableEntry::Cluster(at) => {
                load(&bitmap, index as u64, &image.read(at, geometry.cluster()), geometry);
            }
        }
    }
    bitmap
}

fn runs(bitmap: &Bitmap) -> Vec<Range<u64>> {
    let next = |run: &Range<u64>| bitmap.next_marked(run.end);
    std::iter::successors(bitmap.next_marked(0), next).collect()
}

#[test]
fn a_directory_of_qemu_is_understood_and_written_again_byte_for_byte() {
    let image = Bitmapped::create("", "64M", &["one", "-g 4096 another", "--disable a-third-of-some-length"]);
    let entries = image.parse().unwrap();
    let facts = |entry: &BitmapEntry| (entry.name.clone(), entry.granularity_bits, entry.auto, entry.in_use);
    let expected =
        [("one", 16, true, false), ("another", 12, true, false), ("a-third-of-some-length", 16, false, false)];
    assert_eq!(
        entries.iter().map(facts).collect::<Vec<_>>(),
        expected.map(|(name, bits, auto, in_use)| (name.to_owned(), bits, auto, in_use))
    );
    assert_eq!(to_bytes(&entries).unwrap(), image.directory());
    let len: u64 = entries.iter().map(BitmapEntry::encoded_len).sum();
    assert_eq!(len, image.header().bitmaps.unwrap().size);
}

#[test]
fn the_longest_name_is_kept() {
    let name = "n".repeat(1023);
    let image = Bitmapped::create("", "1M", &[&name]);
    assert_eq!(image.parse().unwrap()[0].name, name);
    assert_eq!(to_bytes(&image.parse().unwrap()).unwrap(), image.directory());
}

#[test]
fn a_table_has_as_many_entries_as_those_of_qemu() {
    let images = [("512", "512", "4M"), ("512", "512", "2097664"), ("4096", "65536", "1T"), ("65536", "512", "1000M")];
    for (cluster, granularity, size) in images {
        let options = format!("-o cluster_size={cluster}");
        let image = Bitmapped::create(&options, size, &[&format!("-g {granularity} b")]);
        let entry = image.parse().unwrap().remove(0);
        let needed = table_entries(image.image().size, entry.granularity_bits, image.image().geometry);
        assert_eq!(u64::from(entry.table_entries), needed, "{cluster} {granularity} {size}");
    }
}

#[test]
fn bits_that_qemu_stored_are_what_was_written() {
    let image = Bitmapped::create("-o cluster_size=512", "4096512", &["-g 512 b"]);
    image.io("write 512 1024");
    image.io("write 1M 2M");
    image.io("write 4096000 512");
    let written = [512..1536, 1 << 20..3 << 20, 4_096_000..4_096_512];
    assert_eq!(runs(&bitmap_of(&image)), written);
}

#[test]
fn bits_that_we_store_are_what_qemu_reads() {
    let image = Bitmapped::create("-o cluster_size=512", "4M", &["-g 512 b"]);
    // Clusters for the data, counted: a snapshot of QEMU's own bitmap with everything marked.
    image.io("write 0 4M");
    let entry = image.parse().unwrap().remove(0);
    let geometry = image.image().geometry;
    let marked = [0..512, 4096..8192, (2 << 20) - 512..(2 << 20) + 1024, (4 << 20) - 512..4 << 20];
    let bitmap = empty(4 << 20, &entry);
    marked.iter().for_each(|run| bitmap.mark(run.start, run.end - run.start));
    for (index, word) in image.table(&entry).into_iter().enumerate() {
        image.write(word, &store(&bitmap, index as u64, geometry).unwrap());
    }
    assert_eq!(runs(&bitmap_of(&image)), marked);
    assert_eq!(seen_by_qemu(&image), marked);
}

/// The dirty extents of the bitmap `b`, as QEMU hands them out.
fn seen_by_qemu(image: &Bitmapped) -> Vec<Range<u64>> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket").display().to_string();
    // It listens when the command ends, and goes when its client has gone.
    image.tool("qemu-nbd", &format!("--fork -r -k {socket} -B b -f qcow2 {}", image.path())).unwrap();
    let options = format!("driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:b");
    let map = image.tool("qemu-img", &format!("map --output json --image-opts {options}")).unwrap();
    // What is dirty is shown as what is no data.
    let dirty = map.lines().filter(|line| line.contains("\"data\": false"));
    let number = |line: &str, name: &str| {
        let rest = line.split_once(&format!("\"{name}\": ")).unwrap().1;
        rest.split([',', '}']).next().unwrap().parse::<u64>().unwrap()
    };
    dirty.map(|line| number(line, "start")..number(line, "start") + number(line, "length")).collect()
}

#[test]
fn a_table_written_by_us_is_read_by_qemu() {
    let image = Bitmapped::create("-o cluster_size=512", "4M", &["-g 512 b"]);
    let entry = image.parse().unwrap().remove(0);
    let table = table_words(&[TableEntry::Ones, TableEntry::Zeroes]);
    image.write(entry.table_offset, &table.into_iter().flat_map(u64::to_be_bytes).collect::<Vec<_>>());
    let first_half = vec![Range { start: 0, end: 2 << 20 }];
    assert_eq!(seen_by_qemu(&image), first_half);
    assert_eq!(runs(&bitmap_of(&image)), first_half);
}

#[test]
fn a_directory_written_by_us_is_read_by_qemu() {
    let image = Bitmapped::create("", "64M", &["one", "-g 4096 another"]);
    let mut entries = image.parse().unwrap();
    entries.reverse();
    entries[0].auto = false;
    entries[1].in_use = true;
    let directory = to_bytes(&entries).unwrap();
    let header = image.header();
    let size = directory.len() as u64;
    let bitmaps = header.bitmaps.map(|old| BitmapsExtension { size, ..old });
    image.write(bitmaps.unwrap().offset, &directory);
    image.write(0, &Header { bitmaps, ..header }.to_bytes().unwrap());
    assert_eq!(parse(&directory, 2, image.image()), Ok(entries));
    let info = image.tool("qemu-img", &format!("info --output json {}", image.path())).unwrap();
    let at = |text: &str| info.find(text).unwrap_or_else(|| panic!("{text}: {info}"));
    assert!(at("\"another\"") < at("\"in-use\"") && at("\"in-use\"") < at("\"one\""));
    image.tool("qemu-img", &format!("check {}", image.path())).unwrap();
}
