# The few entry points; CI runs the same ones.
.PHONY: demo up test check clean tools

demo up: tools
	@[ -e target/release/demo ] || \
		echo "building tidegate and the demo: some $$(grep -c '^\[\[package' Cargo.lock) crates, 10 to 20 minutes the first time"
	cargo build --locked --release -p tidegate-controller -p tidegate-tests --bin tidegate --bin demo
	target/release/demo $(if $(filter up,$@),--up)

# Unit tests, architecture, and the suite on real parts (tests/suite), which needs the program built.
# FULL=1: the slow cases of the suite too (each part away for 20 s).
test: tools
	cargo build --locked -p tidegate-controller
	cargo test --locked --workspace
	$(if $(FULL),cargo test --locked -p tidegate-tests --test suite -- --ignored)

# Form, lints, import directions, generated files.
check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked -p tidegate-tests --test architecture

clean:
	cargo clean

# Named, not installed: only apt needs root.
tools:
	@missing=; need() { command -v $$1 >/dev/null || missing="$$missing $$2"; }; \
	need cc build-essential; need unshare util-linux; need ip iproute2; need openssl openssl; \
	need python3 python3; python3 -m pip --version >/dev/null 2>&1 || missing="$$missing python3-pip"; \
	[ -z "$$missing" ] || { echo "missing: sudo apt-get install$$missing" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "missing: Rust, see https://rustup.rs" >&2; exit 1; }
	@command -v go >/dev/null || { echo "missing: Go, see https://go.dev/dl" >&2; exit 1; }
