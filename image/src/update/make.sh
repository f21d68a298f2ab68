# Makes and signs a bundle. COMPATIBLE and VERSION are what cards compare.
mkdir content
cp /in/boot.img /in/root.img content
cat >content/manifest.raucm <<MANIFEST
[update]
compatible=$COMPATIBLE
version=$VERSION

[bundle]
format=verity

[image.boot]
filename=boot.img

[image.system]
filename=root.img
MANIFEST
# RAUC signs the whole folder, which may have no folders, and the card takes these from there (`before-update` of its
# root).
if [ -d /in/images ]; then
    cp /in/images/root/usr/lib/dpukit/images.toml /in/images/data/images/*.tar content
fi
# The card's kernel reads squashfs with zstd alone.
rauc bundle --cert=/in/certificate --key=/in/key --keyring=/in/keyring \
    --mksquashfs-args="-comp zstd -Xcompression-level 3 -no-progress" content update.raucb
mv update.raucb /out
