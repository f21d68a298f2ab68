# Builds the card's programs over the dependencies of the step before.
# TARGET is Rust's target, PACKAGE the crate, PROGRAMS what it makes, JOBS the number of compilers at once,
# PROFILE is cargo's, FLAGS are further ones for rustc.
export CARGO_HOME=/build/cargo RUSTFLAGS="--remap-path-prefix=/build/source=dpukit --remap-path-prefix=/in/crates/vendor=crates $FLAGS"
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
only=""
for program in $PROGRAMS; do
    only="$only --bin $program"
done
cargo build --offline --profile "$PROFILE" --target "$TARGET" --package "$PACKAGE" $only --target-dir /build/target --jobs "$JOBS"
mkdir /out/bin
for program in $PROGRAMS; do
    cp "/build/target/$TARGET/$PROFILE/$program" /out/bin
done
