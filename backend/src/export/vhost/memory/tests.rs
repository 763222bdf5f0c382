//! What the memory table promises: translation, its refusals, and survival of truncated files.

use super::*;

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

fn memfd(len: u64) -> File {
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(len).unwrap();
    file
}

fn spec(guest_addr: u64, len: u64, user_addr: u64) -> RegionSpec {
    RegionSpec { guest_addr, len, user_addr, file_offset: 0 }
}

fn table(specs: &[RegionSpec]) -> Result<MemTable, MemoryError> {
    let regions: Vec<_> = specs.iter().map(|s| (*s, memfd(s.len.clamp(1, 1 << 20) + s.file_offset))).collect();
    MemTable::new(regions, MemoryFault::new().unwrap())
}

#[test]
fn regions_in_any_order_are_found_by_guest_and_user_address() {
    let t = table(&[spec(8 * PAGE, PAGE, 0x7000_0000), spec(0, 2 * PAGE, 0x9000_0000)]).unwrap();
    let low = t.translate(PAGE, PAGE).unwrap();
    assert_eq!(Some(low), t.translate_user(0x9000_0000 + PAGE, PAGE));
    assert_eq!(t.translate(8 * PAGE, 1), t.translate_user(0x7000_0000, 1));
    for (addr, len) in [(2 * PAGE, 1), (PAGE, PAGE + 1), (9 * PAGE, 1), (u64::MAX, 1), (1, u64::MAX)] {
        assert_eq!(t.translate(addr, len), None, "{addr:#x}+{len:#x}");
    }
}

#[test]
fn remembered_region_never_changes_the_answer() {
    let t = table(&[spec(0, PAGE, 0), spec(4 * PAGE, PAGE, 4 * PAGE)]).unwrap();
    let mut last = 0;
    for addr in [0, 4 * PAGE, 0, 5 * PAGE, 4 * PAGE, 3 * PAGE, 0] {
        assert_eq!(t.translate_near(&mut last, addr, 16), t.translate(addr, 16), "{addr:#x}");
    }
}

#[test]
fn overlapping_empty_overflowing_and_short_regions_are_refused() {
    let overlap = |a, b| matches!(table(&[a, b]), Err(MemoryError::Overlap(..)));
    assert!(overlap(spec(0, 2 * PAGE, 0), spec(PAGE, PAGE, 8 * PAGE)));
    assert!(overlap(spec(0, 2 * PAGE, 0), spec(8 * PAGE, PAGE, PAGE)));
    assert!(table(&[spec(PAGE, PAGE, PAGE), spec(0, PAGE, 0)]).is_ok());
    for bad in [spec(0, 0, 0), spec(u64::MAX - 1, PAGE, 0), spec(0, PAGE, u64::MAX)] {
        assert!(matches!(table(&[bad]), Err(MemoryError::BadRegion(_))), "{bad:?}");
    }
    let short = MemTable::new([(spec(0, 2 * PAGE, 0), memfd(PAGE))], MemoryFault::new().unwrap());
    assert!(matches!(short, Err(MemoryError::FileTooShort { .. })));
}

#[test]
fn buffer_across_adjacent_regions_comes_in_pieces() {
    let t = table(&[spec(0, PAGE, 0), spec(PAGE, PAGE, 8 * PAGE)]).unwrap();
    let pieces: Vec<_> = t.pieces(PAGE - 10, 30).map(Option::unwrap).collect();
    assert_eq!(pieces.iter().map(|piece| piece.len).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(pieces[1].start, t.translate(PAGE, 20).unwrap());
    assert_eq!(t.pieces(2 * PAGE - 5, 6).map(|p| p.is_some()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn bytes_written_across_pieces_are_read_back_from_the_file() {
    use std::os::unix::fs::FileExt;
    let (a, b) = (memfd(PAGE + 100), memfd(PAGE));
    let regions = [
        (RegionSpec { file_offset: 100, ..spec(0, PAGE, 0) }, a.try_clone().unwrap()),
        (spec(PAGE, PAGE, PAGE), b.try_clone().unwrap()),
    ];
    let t = MemTable::new(regions, MemoryFault::new().unwrap()).unwrap();
    let pieces: Vec<_> = t.pieces(PAGE - 4, 8).map(Option::unwrap).collect();
    assert_eq!(t.write(&pieces, 1, b"abcdefghij"), 7);
    let (mut tail, mut head) = ([0; 4], [0; 4]);
    a.read_exact_at(&mut tail, PAGE + 96).unwrap();
    b.read_exact_at(&mut head, 0).unwrap();
    assert_eq!((&tail, &head), (b"\0abc", b"defg"));
    let mut back = [0; 16];
    assert_eq!(t.read(&pieces, 2, &mut back), 6);
    assert_eq!(&back[..6], b"bcdefg");
    assert_eq!(t.zero(&pieces, 3, 2), 2);
    assert_eq!(t.read(&pieces, 0, &mut back), 8);
    assert_eq!(&back[..8], b"\0ab\0\0efg");
}

#[test]
fn segments_of_another_table_are_not_touched() {
    let (t, other) = (table(&[spec(0, PAGE, 0)]).unwrap(), table(&[spec(0, PAGE, 0)]).unwrap());
    let foreign: Vec<_> = other.pieces(0, 16).map(Option::unwrap).collect();
    assert_eq!(t.write(&foreign, 0, &[1; 16]), 0);
    assert!(!t.write_byte(foreign[0], 1));
    assert!(other.write_byte(foreign[0], 1));
}

#[test]
fn hot_plug_keeps_the_old_table_and_shares_its_mappings() {
    let first = table(&[spec(0, PAGE, 0)]).unwrap();
    let added = spec(PAGE, PAGE, PAGE);
    let second = first.with_region(added, &memfd(PAGE)).unwrap();
    assert_eq!(first.translate(0, 1), second.translate(0, 1));
    assert!(first.translate(PAGE, 1).is_none() && second.translate(PAGE, 1).is_some());
    assert!(matches!(second.with_region(added, &memfd(PAGE)), Err(MemoryError::Overlap(..))));
    let wrong = RegionSpec { user_addr: 7, ..added };
    assert!(matches!(second.without_region(wrong), Err(MemoryError::NoSuchRegion(_))));
    let third = second.without_region(RegionSpec { file_offset: 99, ..added }).unwrap();
    assert_eq!((third.region_count(), third.translate(PAGE, 1)), (1, None));
}

#[test]
fn truncated_memory_file_raises_the_fault_and_not_a_crash() {
    let file = memfd(4 * PAGE);
    let other = table(&[spec(0, PAGE, 0)]).unwrap();
    let regions = [(spec(0, 4 * PAGE, 0), file.try_clone().unwrap())];
    let t = MemTable::new(regions, MemoryFault::new().unwrap()).unwrap();
    let all: Vec<_> = t.pieces(0, 4 * PAGE).map(Option::unwrap).collect();
    assert_eq!(t.write(&all, 0, &[7; 4 * PAGE_LEN]), 4 * PAGE_LEN);
    file.set_len(PAGE).unwrap();
    assert!(!t.is_broken());

    let mut bytes = vec![9; 4 * PAGE_LEN];
    assert_eq!(t.read(&all, 0, &mut bytes), bytes.len());
    assert!(t.is_broken() && !other.is_broken());
    assert!(bytes[..PAGE_LEN].iter().all(|b| *b == 7) && bytes[PAGE_LEN..].iter().all(|b| *b == 0));
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(t.fault().event(), &mut count).unwrap(), 8);
    assert_eq!(t.write(&all, 0, &bytes), bytes.len());
}

#[test]
fn faults_elsewhere_still_end_the_process() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "TIDEMARK_TEST_SIGBUS";
    if std::env::var_os(CHILD).is_some() {
        let _table = table(&[spec(0, PAGE, 0)]).unwrap();
        let file = memfd(PAGE);
        let base = rustix::param::page_size();
        // SAFETY: a fresh mapping whose address the kernel chooses; reading it is meant to fail.
        unsafe {
            let (prot, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
            let page = rustix::mm::mmap(std::ptr::null_mut(), base, prot, flags, &file, 0).unwrap();
            file.set_len(0).unwrap();
            page.cast::<u8>().read_volatile();
        }
        unreachable!("the access did not fault");
    }
    let test = "export::vhost::memory::tests::faults_elsewhere_still_end_the_process";
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS));
}
