# Builds the card's programs over the dependencies of the step before.
# TARGET is Rust's target, PACKAGE the crate, PROGRAMS what it makes, JOBS the number of compilers at once.
export CARGO_HOME=/build/cargo RUSTFLAGS="--remap-path-prefix=/build/source=dpukit --remap-path-prefix=/in/crates/vendor=crates"
cp -r /in/dependencies/source /in/dependencies/cargo .
cp -a /in/dependencies/target .
chmod -R u+w source cargo target
# The manifests stay those without what only tests need. Copied without its times, the real source is
# newer than the empty crates that were built before.
for folder in /in/source/*; do
    (cd "$folder" && find . -type f ! -name Cargo.toml) | while read -r file; do
        mkdir -p "source/$(basename "$folder")/$(dirname "$file")"
        cp "$folder/$file" "source/$(basename "$folder")/$file"
    done
done
cd source
cargo build --offline --release --target "$TARGET" --package "$PACKAGE" --target-dir /build/target --jobs "$JOBS"
mkdir /out/bin
for program in $PROGRAMS; do
    cp "/build/target/$TARGET/release/$program" /out/bin
done
