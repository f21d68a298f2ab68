# Builds this workspace's libraries behind an empty crate for the programs; the next step finds them built.
# TARGET is Rust's target, PACKAGE the programs' crate, LIBRARIES the folders of the libraries, JOBS the number of
# compilers at once, PROFILE is cargo's.
cp -a /in/dependencies/source /in/dependencies/cargo /in/dependencies/target .
chmod -R u+w source cargo target
# The manifests stay those without what only tests need. Copied without its times, the real source is
# newer than the empty crates that were built before.
for folder in $LIBRARIES; do
    (cd "/in/source/$folder" && find . -type f ! -name Cargo.toml) | while read -r file; do
        mkdir -p "$(dirname "source/$folder/$file")"
        cp "/in/source/$folder/$file" "source/$folder/$file"
    done
done
cd source
cargo build --offline --profile "$PROFILE" --target "$TARGET" --package "$PACKAGE" --target-dir /build/target --jobs "$JOBS"
# As behind the dependencies.
rm -f /build/cargo/.global-cache /build/target/.rustc_info.json
mv /build/target /build/cargo /build/source /out
