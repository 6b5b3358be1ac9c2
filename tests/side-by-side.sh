#!/bin/sh
# Runs files of end-to-end tests: those before `--` as many at a time as AT_ONCE says (2), those behind it one after another. What a
# file says is printed when it is done.
#
# usage: side-by-side.sh [FILE…] -- [FILE…]
set -u

# Always of the whole workspace: for one crate alone cargo builds the libraries again, with fewer of their features.
build='cargo test --workspace --locked --no-run'
run='said=$(cargo test --workspace --locked --no-fail-fast --test "$0" 2>&1)
code=$?
flock tests/side-by-side.sh printf "%s\n" "$said"
exit $code'

together='' alone='' to=together
for file; do
	case $file in
	--) to=alone ;;
	*) eval "$to=\"\$$to --test \$file\"" ;;
	esac
done
[ -n "$together$alone" ] || exit 0
$build $together $alone || exit

red=0
for at_once in "${AT_ONCE:-2} $together" "1 $alone"; do
	set -- $at_once
	count=$1
	shift
	[ $# -eq 0 ] || printf '%s\n' "$@" | grep -v '^--' | xargs -P "$count" -n 1 sh -c "$run" || red=1
done
exit $red
