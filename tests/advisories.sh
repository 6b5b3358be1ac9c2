#!/bin/sh
# Known vulnerabilities of dependencies, from the advisories that are on this machine: a test run asks nobody.
# To have it done: cargo install cargo-deny, then cargo deny fetch db; again whenever news are wanted.
set -eu

if ! command -v cargo-deny >/dev/null; then
    echo "NOT DONE: checking dependencies for known vulnerabilities, because cargo-deny is not installed"
elif ! ls -d "${CARGO_HOME:-$HOME/.cargo}"/advisory-db*/* >/dev/null 2>&1; then
    echo "NOT DONE: checking dependencies for known vulnerabilities, because \`cargo deny fetch db\` never ran"
else
    cargo deny --offline check advisories sources
fi
