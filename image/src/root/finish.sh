# Turns declarations into files, on a copy of the root's configuration at /build/tree.
# DAYS is the fixed date in days since 1970, as shadow(5) wants it.
tree=/build/tree

# base-passwd's master files have the locked password in passwd itself; it belongs into shadow.
awk -F: -v OFS=: -v days="$DAYS" -v shadow="$tree/etc/shadow" \
    '{ print $1, "*", days, 0, 99999, 7, "", "", "" > shadow; $2 = "x"; print }' "$tree/etc/passwd" >passwd
awk -F: -v OFS=: -v gshadow="$tree/etc/gshadow" \
    '{ print $1, "*", "", $4 > gshadow; $2 = "x"; print }' "$tree/etc/group" >group
mv passwd group "$tree/etc"

systemd-sysusers --root="$tree"
# Backups of the account tools, and their locks.
rm -f "$tree"/etc/{passwd,group,shadow,gshadow}- "$tree"/etc/.pwd.lock

systemctl --root="$tree" preset-all
systemctl --root="$tree" --global preset-all

# update-ca-certificates: one bundle, and links by hash for programs that look up single files.
certificates=$tree/etc/ssl/certs
mkdir -p "$certificates"
find "$tree/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | while read -r file; do
    name=$(basename "$file" .crt)
    ln -s "${file#"$tree"}" "$certificates/$name.pem"
    cat "$file"
done >"$certificates/ca-certificates.crt"
# rehash follows the links, which point into the card's root.
mkdir -p work
find "$tree/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | while read -r file; do
    cp "$file" "work/$(basename "$file" .crt).pem"
done
openssl rehash work
find work -type l | while read -r link; do
    ln -s "$(readlink "$link")" "$certificates/$(basename "$link")"
done
