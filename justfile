# The project's checks by name: scripts/check has what each of them does.

# Every check, as .ci/run runs them
all:
    scripts/check

# Rust and Python are formatted
format:
    scripts/check format

# clippy and ruff find nothing
lint:
    scripts/check lint

# mypy finds nothing
types:
    scripts/check types

# Pages are wrapped, and their links lead somewhere
prose:
    scripts/check prose

# Rust's documentation builds without a warning
docs:
    scripts/check docs

# Licences, sources and duplicates of the dependencies, and NOTICES
dependencies:
    scripts/check dependencies

# This file has a recipe for each step
recipes:
    scripts/check recipes

# The README's first command: what placement is worth, modelled
demo:
    scripts/check demo

# The README's second command: all tests
test:
    scripts/check test

# The Windows build, under wine
windows:
    scripts/check windows

# The fuzz targets build
fuzz:
    scripts/check fuzz

# Twenty seconds of the soak
soak:
    scripts/check soak

# A quick form of valgrind, the sanitizers and Miri
sanitize:
    scripts/check sanitize

# The Rust example runs
example:
    scripts/check example

# A release is made, and not published
release:
    scripts/check release
