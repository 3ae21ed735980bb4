# make             build the programs into bin/
# make test        format, lints, documentation, tests, and scenarios 3, 8 and 16
# make test-root   what needs root: full disks, read-only folders, too few open files
# make scenarios   the lab's scenarios, all or TESTS="3 12", ROUNDS=5 times, JOBS=4 rounds side by side
# make sim         the simulator: SEEDS=500 fresh seeds, those that once failed, and three mistakes that it must find
# make test-page   pages of traces, opened in a headless chromium, check themselves; PAGES=DIR keeps them
# make run         three nodes lose their primary while lock_tester runs, and get it back
# make lecture     a replicated bank goes wrong, and is repaired, step by step, in half a minute; STEP=3 one step. The
#                  programs (srv, client, coord, cut; each has --help) are in target/release, pictures of what happened in
#                  lecture.html
# make kills       real nodes killed, stopped and cut off under load: six checks with their figures, some 4 minutes;
#                  CHECKS="gaps stops" only these, ROUNDS=5 fewer rounds
# make soak        all of that at once for SECONDS=600: calls stay linearizable, memory, threads, files and disks flat
# make clean       remove what was built
# make help        this list

PROGRAMS = lock_server lock_tester lock_demo rsm_tester rpctest
# What isn't part of a service. The simulator compiles a second backend into rt.
TOOLS    = linear sim trace processes torture lecture
TARGET   = $(or $(CARGO_TARGET_DIR),target)
TESTS    =
STEP     =
CHECKS   =
ROUNDS   = 1
SECONDS  = 600
JOBS     = 4
PAGES    =
SEEDS    = 500
START   := $(shell date +%s)000

need = @command -v $(1) >/dev/null || { echo "make: $(1) is missing: install $(2)" >&2; exit 1; }

.PHONY: build test test-root scenarios sim test-page run lecture torture kills soak clean help

build:
	$(call need,cargo,Rust (https://rustup.rs))
	$(call need,perl,perl (Debian: perl-base))
	cargo build --release
	mkdir -p bin
	install $(PROGRAMS:%=$(TARGET)/release/%) bin/

test: build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --workspace
	cargo test
	cargo test $(TOOLS:%=--package %)
	test-scripts/scenarios.pl 3 8 16

test-root: build
	test-scripts/test-root.pl

scenarios: build
	test-scripts/scenarios.pl --rounds $(ROUNDS) --jobs $(JOBS) $(TESTS)

sim:
	$(call need,cargo,Rust (https://rustup.rs))
	cargo build --release --package sim
	$(TARGET)/release/sim --regressions sim/regressions.txt
	$(TARGET)/release/sim --canaries H1 S10 mutant-nothing-inherited
	$(TARGET)/release/sim --seeds $(SEEDS) --start $(START)

test-page:
	$(call need,cargo,Rust (https://rustup.rs))
	$(call need,chromium,chromium (Debian: apt-get install chromium))
	cargo build --release --package sim --package trace
	cargo build --release --package lecture
	test-scripts/test-page.pl --bin $(TARGET)/release $(if $(PAGES),--keep $(PAGES))

run: build
	test-scripts/demo.pl

lecture:
	$(call need,cargo,Rust (https://rustup.rs))
	cargo build --release --package lecture
	$(TARGET)/release/lecture --html lecture.html $(STEP)

torture: build
	cargo build --release --package torture

# Without ROUNDS on the command line each check has its own number.
kills: torture
	$(TARGET)/release/torture kills --bin bin $(if $(filter command line,$(origin ROUNDS)),--rounds $(ROUNDS)) $(CHECKS)

soak: torture
	$(TARGET)/release/torture soak --bin bin --seconds $(SECONDS)

clean:
	cargo clean
	rm -rf bin

help:
	@sed -n '/^$$/q; s/^# //p' Makefile
