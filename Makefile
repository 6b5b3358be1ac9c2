# Everything that a person does with this repository. `make` alone says what there is.

PREFIX ?= /usr/local
BINDIR = $(DESTDIR)$(PREFIX)/bin
UNITDIR = $(DESTDIR)/etc/systemd/system
SYSUSERSDIR = $(DESTDIR)/etc/sysusers.d

PROGRAMS = adit adit-capture adit-server
UNITS = adit-capture.service adit-capture.socket adit-server.service

# The lab makes network namespaces, which needs root; building does not.
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo -E)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
ifneq ($(SUDO),)
export CARGO_TARGET_$(HOST)_RUNNER = $(SUDO)
endif
# End-to-end tests. Some measure time, or take all there is of the machine; the others wait most of the time, so two run
# at once, or AT_ONCE of them.
END_TO_END := $(patsubst tests/tests/%.rs,%,$(wildcard tests/tests/*.rs))
ALONE := bench bursts crowd fairness honest_fairness honest_programs
# What a flow's way may be in either order. The others say themselves which one they are about, or are about something else.
ONE_ORDER := honest_% early handed rules_for_users agents algorithms bench identity lab lasting why host_certificates host_keys jumps logins notices proxies security_keys ssh_config probe
BOTH_ORDERS := $(filter-out $(ONE_ORDER),$(END_TO_END))
# The other tests, most of which wait as well: so many at once.
WAITING := 6
BESIDE_CODE := $(patsubst %,--test %,$(notdir $(patsubst %.rs,%,$(wildcard [!t]*/tests/*.rs)) $(patsubst %/main.rs,%,$(wildcard [!t]*/tests/*/main.rs))))
end_to_end = sh tests/side-by-side.sh $(filter-out $(ALONE),$(1)) -- $(filter $(ALONE),$(1))
# An error tells what failed; where it was made is no news.
export RUST_LIB_BACKTRACE ?= 0

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z][a-z0-9]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: demo
demo: deps programs ## What Adit does, shown by running it: three hosts, real programs, under a minute once built (installs packages)
	@$(SUDO) target/debug/adit-demo

.PHONY: lab
lab: deps programs ## The demo's three hosts with a shell in the client, for trying by hand (installs packages)
	@$(SUDO) target/debug/adit-lab

.PHONY: test
test: deps ## Everything that must hold before a change goes in; .ci/run is the same
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	@sh tests/advisories.sh
	$(MAKE) --no-print-directory programs
	@red=0; \
	RUST_TEST_THREADS=$(WAITING) cargo test --workspace --locked --no-fail-fast --lib --bins $(BESIDE_CODE) || red=1; \
	cargo test --workspace --locked --doc || red=1; \
	$(call end_to_end,$(END_TO_END)) || red=1; \
	ADIT_TEST_CONNECT=early $(call end_to_end,$(BOTH_ORDERS)) || red=1; \
	exit $$red

.PHONY: e2e
e2e: deps programs ## Only the end-to-end tests, with the programs built first; TEST=name for one file
	@red=0; \
	$(call end_to_end,$(or $(TEST),$(END_TO_END))) || red=1; \
	ADIT_TEST_CONNECT=early $(call end_to_end,$(filter $(BOTH_ORDERS),$(or $(TEST),$(END_TO_END)))) || red=1; \
	exit $$red

.PHONY: fuzz
fuzz: deps ## Rule files, keys, lists and what strangers send that nobody would write, for a minute each or SECONDS=…; bad files' time
	ADIT_FUZZ_SECONDS=$(or $(SECONDS),60) cargo test --release --locked -p adit-rules --test fuzz -- --nocapture
	ADIT_FUZZ_SECONDS=$(or $(SECONDS),60) cargo test --release --locked -p adit-server --test fuzz -- --nocapture
	ADIT_FUZZ_SECONDS=$(or $(SECONDS),60) cargo test --release --locked -p adit-server --test it -- before_login any_bytes
	PROPTEST_CASES=$(or $(SECONDS),60)0000 cargo test --release --locked -p adit-broker --lib -- known_hosts
	cargo bench --locked -p adit-rules --bench bad_files

.PHONY: probe
probe: deps ## What connect() tells a program through Adit, redsocks + ssh -D and sshuttle (installs them when missing)
	@sh tests/packages.sh bench
	cargo build --release --locked --workspace --bins
	$(SUDO) target/release/adit-probe

.PHONY: bench
bench: ## Adit beside redsocks + ssh -D and sshuttle, in one run (installs them when missing)
	@sh tests/packages.sh && sh tests/packages.sh bench
	cargo build --release --locked --workspace --bins
	$(SUDO) target/release/adit-bench $(BENCH)

.PHONY: build
build: ## target/release/{adit,adit-capture,adit-server}
	cargo build --release --locked -p adit-broker -p adit-capture -p adit-server --bins

# Optimized where it counts (see Cargo.toml), and shared by the demo, the lab and the tests.
.PHONY: programs
programs:
	cargo build --locked --workspace --bins

.PHONY: deps
deps: ## Installs the Debian packages that building, the lab and the tests need, as far as they are missing
	@sh tests/packages.sh

.PHONY: install
install: ## Installs what `make build` made, and the systemd units: DESTDIR=, PREFIX=/usr/local
	@test -x target/release/adit || { echo 'run "make build" first' >&2; exit 1; }
	install -d $(BINDIR) $(UNITDIR) $(SYSUSERSDIR)
	install -m 755 $(PROGRAMS:%=target/release/%) $(BINDIR)
	for unit in $(UNITS); do \
		sed 's|/usr/bin/adit|$(PREFIX)/bin/adit|' packaging/$$unit >$(UNITDIR)/$$unit && chmod 644 $(UNITDIR)/$$unit || exit; \
	done
	install -m 644 packaging/sysusers-adit.conf $(SYSUSERSDIR)/adit.conf

.PHONY: uninstall
uninstall: ## Removes what `make install` installed
	rm -f $(PROGRAMS:%=$(BINDIR)/%) $(UNITS:%=$(UNITDIR)/%) $(SYSUSERSDIR)/adit.conf

.PHONY: clean
clean: ## Removes what was built
	cargo clean
