# Builds the programs over the libraries of the step before.
# TARGET is Rust's target, PACKAGE the crate, FOLDER its folder, PROGRAMS what it makes, JOBS the number of
# compilers at once, PROFILE is cargo's.
cp -a /in/libraries/source /in/libraries/cargo .
chmod -R u+w source cargo
# Half a gigabyte that cargo only reads, but for its locks and what is of the empty crate.
cp -as /in/libraries/target .
find target -type l \( -name '.cargo-*lock' -o -path "*/$PACKAGE*" -o -name "*$(echo "$PACKAGE" | tr - _)-*" \) -delete
# As for the libraries. What of them lies in this folder is built.
(cd /in/source && find . -mindepth 1 -type d -exec test -e {}/Cargo.toml \; -prune -o -type f ! -name Cargo.toml -print) |
    while read -r file; do
        mkdir -p "$(dirname "source/$FOLDER/$file")"
        cp "/in/source/$file" "source/$FOLDER/$file"
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
