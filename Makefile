# The same steps for people and CI; the work is in .ci/ and benches/.

SECONDS ?= 20

build:
	cargo build --release

# STEPS="fmt cores" runs only those.
test:
	.ci/test $(STEPS)

lint:
	.ci/test fmt clippy doc

demo:
	cargo run --release -- demo --seconds $(SECONDS)

# QUICK=1 for a first look; ROUNDS and CELL_SECONDS for a careful one.
bench:
	cargo build --release
	benches/compare

.PHONY: build test lint demo bench
