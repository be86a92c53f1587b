#!/usr/bin/env bash
# Throws generated inputs at the parsers, one target after the other: tests/fuzz/run.sh [TARGET [EXECUTIONS]]
# What is found on the way is kept in target/fuzz, and what fails in tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../.."

targets=(bots_ini configuration xmlrpc health_request log_lines fnmatch settings_json)
[ -z "${1:-}" ] || targets=("$1")
executions=${2:-10000000}
# Files of a run are small and many.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
for target in "${targets[@]}"; do
    found=target/fuzz/corpus/$target
    mkdir -p "$found"
    # What comparisons would tell is in the dictionaries: without them twice as many inputs are tried.
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer none --no-trace-compares "$target" \
        "$found" "tests/fuzz/corpus/$target" -- \
        -runs="$executions" -max_len=1024 -timeout=10 -print_final_stats=1 -dict="tests/fuzz/dictionaries/$target.dict"
done
