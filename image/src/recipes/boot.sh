# The boot partition (kernel, U-Boot's script) and the empty data partition.
# Sizes are in bytes; UUIDs are fixed by what the root is made of.
mkdir boot data
cp /in/Image boot
mkimage -A arm64 -T script -C none -n "dpukit" -d /in/boot.cmd boot/boot.scr
make_ext4() {
    # The label says what it is; hash_seed and lazy tables would differ between builds.
    mke2fs -q -t ext4 -b 4096 -I 256 -L "$2" -U "$3" -d "$4" -m 0 \
        -E "hash_seed=$3,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0" "$1" "$(($5 / 1024))k"
}
make_ext4 /out/boot.img boot "$BOOT_UUID" boot "$BOOT_SIZE"
make_ext4 /out/data.img data "$DATA_UUID" data "$DATA_SIZE"
