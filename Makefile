# The same steps for people and CI; the work is in .ci/ and benches/.


build:
	cargo build --release

# STEPS="fmt cores" runs only those.
test:
	.ci/install
	.ci/test $(STEPS)

lint:
	.ci/test fmt clippy doc

# Licences, sources and known faults of what is built in: needs cargo-deny and the network.
deny:
	cargo deny check

# PostgreSQL's own regression suite through Trunkline, compared with a direct run. TESTS="test_setup boolean" runs only those.
regress:
	.ci/install
	cargo build
	tests/suites/regress $(TESTS)

# Pgpool-II's scripts of protocol messages through Trunkline, compared with a direct run. SCRIPTS="079 080" runs only those.
messages:
	.ci/install
	cargo build
	tests/suites/messages $(SCRIPTS)

# Sessions made up at random through Trunkline, compared with direct ones. FROM=100 TO=1000 runs others.
alike:
	.ci/install
	cargo build
	tests/suites/alike $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO))

# Test suites of other people's drivers through Trunkline, compared with a direct run. SUITES="asyncpg django" runs only those.
drivers:
	.ci/install
	cargo build
	tests/drivers/run $(SUITES)

# SECONDS=20 ends by itself; without it, Ctrl-C does.
demo:
	.ci/install demo
	cargo run --release -- demo $(if $(SECONDS),--seconds $(SECONDS))

# QUICK=1 for a first look; ROUNDS and CELL_SECONDS for a careful one.
bench:
	.ci/install
	cargo build --release
	benches/compare

.PHONY: build test lint deny regress messages alike drivers demo bench
