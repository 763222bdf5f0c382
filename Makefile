# The ways into this tree. Each target installs what it needs on Debian 12, says what and why, and finds it there the
# next time. Nothing is skipped: what cannot run fails.
#
#   make demo        two disks under load, a crash in the middle, backups all the while, every byte verified; needs
#                    only cargo
#   make test        everything that has to pass before a change lands
#   make sim         the simulator alone: SEEDS=n seeds (2000), from START=s on (1)
#   make qcow2-oracle  random requests to qcow2 images beside a model, imago and QEMU: SEEDS=n sequences (10000), from
#                    START=s on (1)
#   make qcow2-kill  the daemon of qcow2 images killed under load ROUNDS=n times (200)
#   make changes-kill  the daemon of images with persistent bitmaps killed under load ROUNDS=n times (200), backups made
#                    by these bitmaps compared with the disk; about ten minutes
#   make nbd-hostile  a guest beside HOSTILE_CONNECTIONS=n (500) hostile NBD clients for HOSTILE_SECONDS=n (60)
#   make backup-kill a directory of backups: one full, nine incremental under load, pruned, restored, the program killed
#                    ROUNDS=n times (200: 50 for each of both daemons with raw and qcow2 disks)
#   make fuzz        bytes that libFuzzer makes up, to what reads untrusted bytes: SECONDS_EACH=n for each (20)
#   make qcow2-cuts  power cuts at any write of recorded loads of qcow2 images: CUTS=n cuts (10000), from recording
#                    START=s on (0)
#   make qcow2-mutations
#                    takes barriers of the qcow2 code away in a copy of it; fails for each that no test sees missing
#   make changes-cuts  the same for images with change journals and persistent bitmaps: CUTS=n cuts (10000), from image
#                    START=s on (0)
#   make changes-mutations
#                    takes barriers of change journals away in a copy; fails for each that no test sees missing
#   make chains-mutations
#                    takes away what snapshots under load rely on in a copy; fails for each that the simulator does not
#                    see missing
#   make bench       measurements beside qemu-storage-daemon and fio; about three quarters of an hour
#   make lint        formatting, clippy, licences and sources of dependencies
#   make docs        the API documentation
#   make guest-deps  QEMU and the guest image of tests/guest
#   make clean       removes target/

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.NOTPARALLEL:

QEMU_QMP := 0.0.6
CARGO_DENY := 0.20.2

# Output of the targets that are not cargo's business.
OUT := target
VENV := $(OUT)/venv/.qemu.qmp-$(QEMU_QMP)
DENY := $(OUT)/tools/bin/cargo-deny
# Where tests that start thousands of programs keep what these work on.
SCRATCH := $(if $(wildcard /dev/shm),/dev/shm,$(or $(TMPDIR),/tmp))
# What `make test` has run so far.
RAN := $(OUT)/ran

TEST_PACKAGES := \
  'qemu-utils: qemu-img makes and checks images, qemu-storage-daemon is what the daemon is compared with' \
  'qemu-system-x86: runs the Linux guest of tests/guest' \
  'seabios: the firmware that guest boots through' \
  'busybox-static: the programs inside the guest' \
  'jq: runs the rules of bitmap chains beside tidemark bitmap check' \
  'e2fsprogs: mkfs.ext4, e2fsck and resize2fs inside the guest' \
  'util-linux: blkdiscard inside the guest' \
  'cpio: packs the file system of the guest' \
  'xz-utils: unpacks the kernel of the guest' \
  'lz4: unpacks the kernel of the guest' \
  'syslinux: makes the disk that boots through SeaBIOS' \
  'mtools: copies files onto that disk' \
  'build-essential: compiles the static fio of the guest' \
  'libaio-dev: asynchronous I/O for that fio' \
  'zlib1g-dev: compression for that fio' \
  'libnbd-bin: nbdinfo and nbdcopy, NBD clients beside those of QEMU' \
  'python3-libnbd: reads disks over NBD as backup tools do' \
  'nbdkit: an NBD server with filters that make it slow and faulty' \
  'nbd-client: lists exports as the client of the kernel does' \
  'openssl: certificates for TLS, right and wrong ones'

BENCH_PACKAGES := \
  'qemu-utils: qemu-storage-daemon, the daemon compared with; qemu-img makes images' \
  'fio: what io_uring can do on the same file; a client of NBD servers' \
  'libnbd-bin: nbdcopy reads disks over NBD, nbdinfo asks what has changed' \
  'python3-libnbd: asks what has changed, as backup tools do' \
  'linux-perf: counts instructions and system calls' \
  'strace: counts system calls where perf may not'

# $(call ran,TEXT): notes a step of `make test` that has passed.
ran = echo $(1) >>$(RAN)

.PHONY: demo
demo:
	cargo run --release --locked -p tidemark -- demo

.PHONY: test
test: test-begin guest-deps venv test-dependencies test-clippy test-workspace test-docs test-loom
	@echo; echo 'make test: passed:'; sed 's/^/  /' $(RAN)

.PHONY: test-begin
test-begin:
	@mkdir -p $(OUT); : >$(RAN)

.PHONY: test-dependencies
test-dependencies: $(DENY)
	$(DENY) --locked check --hide-inclusion-graph bans licenses sources
	@$(call ran,'licences and sources of the dependencies (cargo deny)')

.PHONY: test-clippy
test-clippy:
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	@$(call ran,'clippy without a warning')

# The tests beside the code, tests/it, tests/guest, tests/sim and tests/tidy.
.PHONY: test-workspace
test-workspace:
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --locked --workspace --all-features --no-fail-fast 2>&1 | tee $(OUT)/tests.log; \
	else \
	  cargo test --locked --workspace --all-features --no-fail-fast --lib --bins --tests 2>&1 | tee $(OUT)/tests.log; \
	fi
	@$(call ran,"tests of the workspace: $$(grep -E '^ *Summary|^test result' $(OUT)/tests.log | sed 's/^ *//' | paste -sd ' ')")

SEEDS ?= 2000
START ?= 1

# A finding is printed with its seed. That the judge sees what it must see is tested beside it.
.PHONY: sim
sim:
	SEEDS=$(SEEDS) START=$(START) cargo test --locked -p tidemark --test sim -- --nocapture

# Images are in memory where there is such a file system: thousands of programs are started on them.
.PHONY: qcow2-oracle
qcow2-oracle: SEEDS = 10000
qcow2-oracle:
	@.ci/install 'qemu-utils: qemu-img and qemu-io make, change, read and check the images'
	TMPDIR=$(SCRATCH) SEEDS=$(SEEDS) START=$(START) cargo test --locked -p tidemark-backend --features sim --lib \
	  images_agree_with_the_model -- --nocapture

ROUNDS ?= 200

.PHONY: qcow2-kill
qcow2-kill:
	@.ci/install 'qemu-utils: qemu-img and qemu-io make and check the images'
	TMPDIR=$(SCRATCH) ROUNDS=$(ROUNDS) cargo test --locked -p tidemark --test it \
	  when_daemons_are_killed_at_any_moment -- --nocapture

.PHONY: changes-kill
changes-kill:
	@.ci/install 'qemu-utils: qemu-img makes and checks the images'
	TMPDIR=$(SCRATCH) ROUNDS=$(ROUNDS) cargo test --locked -p tidemark --test it bitmaps_lose_their_daemon -- --nocapture

HOSTILE_SECONDS ?= 60
HOSTILE_CONNECTIONS ?= 500

.PHONY: nbd-hostile
nbd-hostile:
	HOSTILE_SECONDS=$(HOSTILE_SECONDS) HOSTILE_CONNECTIONS=$(HOSTILE_CONNECTIONS) cargo test --locked -p tidemark \
	  --test it besieged_by_hostile_clients -- --nocapture

.PHONY: backup-kill
backup-kill:
	@.ci/install 'qemu-utils: qemu-img makes and compares the images, qemu-storage-daemon is backed up from, too'
	TMPDIR=$(SCRATCH) ROUNDS=$(ROUNDS) cargo test --locked -p tidemark --test it \
	  a_directory_is_good_whenever -- --nocapture

CUTS ?= 10000

# Recordings begin at 0, seeds of the simulator at 1.
.PHONY: qcow2-cuts
qcow2-cuts:
	@.ci/install 'qemu-utils: qemu-img and qemu-io make and check images'
	CUTS=$(CUTS) START=$(if $(filter file,$(origin START)),0,$(START)) cargo test --locked -p tidemark-backend \
	  --features sim --lib qcow2::tests::replay -- --nocapture

.PHONY: qcow2-mutations
qcow2-mutations:
	@.ci/install 'qemu-utils: qemu-img and qemu-io make and check images' 'perl-base: puts the mutations in place'
	@tests/mutations/run qcow2

.PHONY: changes-cuts
changes-cuts:
	@.ci/install 'qemu-utils: qemu-img, qemu-io and qemu-storage-daemon make the images and read the bitmaps'
	CUTS=$(CUTS) START=$(if $(filter file,$(origin START)),0,$(START)) cargo test --locked -p tidemark-backend \
	  --features sim --lib qcow2::tests::changes -- --nocapture

.PHONY: changes-mutations
changes-mutations:
	@.ci/install 'qemu-utils: qemu-img, qemu-io and qemu-storage-daemon make the images and read the bitmaps' \
	  'perl-base: puts the mutations in place'
	@tests/mutations/run changes

.PHONY: chains-mutations
chains-mutations:
	@.ci/install 'perl-base: puts the mutations in place'
	@SEEDS=60 LIMIT=300 tests/mutations/run chains

FUZZERS := qcow2_open nbd_server nbd_client
SECONDS_EACH ?= 20
# What `cargo fuzz` passes on, but for the address sanitizer, which needs a nightly compiler; the code below has no
# `unsafe`. The target is named so that build scripts go without.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

# What is found stays in the directory, with the input that shows it: run the program on that file alone.
.PHONY: fuzz
fuzz:
	@.ci/install 'build-essential: compiles libFuzzer'
	RUSTFLAGS='$(FUZZ_FLAGS)' cargo build --locked -p tidemark-fuzz --target $(FUZZ_TARGET) --target-dir $(OUT)/fuzz
	@for fuzzer in $(FUZZERS); do \
	  mkdir -p $(OUT)/fuzz/found/$$fuzzer $(OUT)/fuzz/corpus/$$fuzzer; \
	  $(OUT)/fuzz/$(FUZZ_TARGET)/debug/$$fuzzer -max_total_time=$(SECONDS_EACH) -max_len=512 -timeout=20 \
	    -rss_limit_mb=1024 -malloc_limit_mb=256 -artifact_prefix=$(OUT)/fuzz/found/$$fuzzer/ \
	    $(OUT)/fuzz/corpus/$$fuzzer $$(find tests/fuzz/seeds -name $$fuzzer); \
	done

.PHONY: test-docs
test-docs:
	cargo test --locked --workspace --all-features --doc
	@$(call ran,'examples in the documentation')

# A build of its own: the flag reaches every crate.
.PHONY: test-loom
test-loom:
	RUSTFLAGS='--cfg loom' cargo test --locked -p tidemark-backend -p tidemark-cbt --lib --target-dir $(OUT)/loom model
	@$(call ran,'loom models of mailbox and epochs and tables and bitmaps and copy maps')

.PHONY: bench
bench:
	@.ci/install $(BENCH_PACKAGES)
	cargo build --release --locked -p tidemark
	cargo run --release --locked -p tidemark-benches --bin macro-bench
	cargo run --release --locked -p tidemark-benches --bin points-bench
	cargo run --release --locked -p tidemark-benches --bin qcow2-bench
	cargo run --release --locked -p tidemark-benches --bin nbd-bench
	cargo run --release --locked -p tidemark-benches --bin convert-bench
	cargo bench --locked -p tidemark-benches

.PHONY: lint
lint: $(DENY)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(DENY) --locked check --hide-inclusion-graph bans licenses sources

.PHONY: docs
docs:
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
	@echo 'the API documentation is in $(OUT)/doc/tidemark_backend/index.html'

.PHONY: guest-deps
guest-deps:
	@.ci/install $(TEST_PACKAGES)
	@tests/guest/image/install.sh

.PHONY: venv
venv: $(VENV)

# Debian splits venv from Python; other Pythons have it.
$(VENV):
	@echo 'installing qemu.qmp $(QEMU_QMP) from PyPI into $(OUT)/venv: a QMP client nobody here wrote'
	@python3 -c 'import ensurepip' 2>/dev/null || .ci/install 'python3-venv: the Python environment of tests/it'
	@rm -rf $(OUT)/venv
	@python3 -m venv $(OUT)/venv
	@$(OUT)/venv/bin/pip install --quiet --disable-pip-version-check 'qemu.qmp==$(QEMU_QMP)'
	@touch $@

# No registry has it compiled in a version that reads today's manifests.
$(DENY): Makefile
	@if [ "$$($(DENY) --version 2>/dev/null)" != 'cargo-deny $(CARGO_DENY)' ]; then \
	  echo 'installing cargo-deny $(CARGO_DENY) from crates.io into $(OUT)/tools: checks licences and sources of' \
	    'dependencies; compiles for about two minutes'; \
	  cargo install --quiet --locked --debug --force --version '=$(CARGO_DENY)' --root $(OUT)/tools \
	    --target-dir $(OUT)/tools/build cargo-deny; \
	  rm -rf $(OUT)/tools/build; \
	fi
	@touch $@

.PHONY: clean
clean:
	rm -rf $(OUT)
