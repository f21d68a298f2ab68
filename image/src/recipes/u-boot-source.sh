# U-Boot's source as Debian builds it: the upstream archive, Debian's part, and its patches.
tar -xf /in/*.orig.tar.* --strip-components=1 --no-same-owner -C /out
tar -xf /in/*.debian.tar.* --no-same-owner -C /out
cd /out
while read -r patch; do
    case $patch in '' | '#'*) continue ;; esac
    patch -p1 --no-backup-if-mismatch <"debian/patches/$patch"
done <debian/patches/series
