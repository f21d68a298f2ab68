# Builds all dependencies behind empty crates; the next step finds them built.
# TARGET is Rust's target, PACKAGE the crate, JOBS the number of compilers at once, PROFILE is cargo's.
mkdir cargo
cat >cargo/config.toml <<'TOML'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/in/crates/vendor"
[target.aarch64-unknown-linux-gnu]
linker = "aarch64-linux-gnu-gcc"
TOML
cd source
# Cargo notes the times of sources in what it makes.
find . -exec touch --date=@"$SOURCE_DATE_EPOCH" {} +
cargo build --offline --profile "$PROFILE" --target "$TARGET" --package "$PACKAGE" --target-dir /build/target --jobs "$JOBS"
# When what was used last, and what was asked of rustc in which order: it is found again, and no two builds agree on it.
rm -f /build/cargo/.global-cache /build/target/.rustc_info.json
mv /build/target /build/cargo /build/source /out
