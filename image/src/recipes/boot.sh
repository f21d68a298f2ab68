# The boot partition (kernel, U-Boot's script), the data partition, and the partition with the script that chooses a slot,
# on boards that have one.
# Sizes are in bytes; UUIDs are fixed by what the root is made of.
make_script() {
    mkimage -A arm64 -T script -C none -n "dpukit" -d "$1" "$2/boot.scr"
}
mkdir boot
cp /in/Image boot
make_script /in/boot.cmd boot
make_ext4() {
    # The label says what it is; hash_seed and lazy tables would differ between builds.
    mke2fs -q -t ext4 -b 4096 -I 256 -L "$2" -U "$3" -d "$4" -m 0 \
        -E "hash_seed=$3,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0" "$1" "$(($5 / 1024))k"
}
make_ext4 /out/boot.img boot "$BOOT_UUID" boot "$BOOT_SIZE"
make_ext4 /out/data.img data "$DATA_UUID" /in/data "$DATA_SIZE"
if [ -e /in/start.cmd ]; then
    mkdir start
    make_script /in/start.cmd start
    make_ext4 /out/start.img start "$START_UUID" start "$START_SIZE"
fi
