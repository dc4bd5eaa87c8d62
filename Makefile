# The same steps for people and CI; the work is in .ci/ and benches/.


build:
	cargo build --release

# What `make build` has made, its man page, its unit, and files to begin with or to be used. DESTDIR=FOLDER PREFIX=/usr is for packages;
# PROGRAM=PATH takes another program.
PREFIX = /usr/local
PROGRAM = target/release/trunkline
installed = $(DESTDIR)$(PREFIX)
install:
	install -D -m 755 $(PROGRAM) $(installed)/bin/trunkline
	install -D -m 644 packaging/trunkline.1 -t $(installed)/share/man/man1
	install -D -m 644 systemd/trunkline.service -t $(installed)/lib/systemd/system
	sed -i 's|/usr/bin/trunkline|$(PREFIX)/bin/trunkline|' $(installed)/lib/systemd/system/trunkline.service
	install -D -m 644 tests/golden/config/reference.toml $(installed)/share/trunkline/examples/trunkline.toml
	install -D -m 644 tests/golden/config/full.toml -t $(installed)/share/trunkline/examples
	install -D -m 644 rules/*.toml -t $(installed)/share/trunkline/rules
	install -D -m 755 patroni/before_stop -t $(installed)/share/trunkline/patroni
	install -D -m 644 several/haproxy.cfg -t $(installed)/share/trunkline/several
	install -D -m 644 grafana/* -t $(installed)/share/trunkline/grafana

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

.PHONY: build install test lint deny regress messages alike drivers demo bench
