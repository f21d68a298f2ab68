# The read-only file system with its verity tree behind it.
# SALT and UUID are fixed by what the root is made of; JOBS is the number of threads.
# `/` itself is not in the archive: without its mode all may write to it, and sshd trusts no key below it.
sqfstar -quiet -no-progress -comp zstd -Xcompression-level 9 -b 512K -no-hardlinks \
    -root-mode 0755 -root-uid 0 -root-gid 0 -processors "$JOBS" root.img </in/root.tar
# dm-verity counts in blocks of 4096 bytes.
size=$(stat -c %s root.img)
blocks=$(((size + 4095) / 4096))
truncate -s $((blocks * 4096)) root.img
veritysetup format --salt="$SALT" --uuid="$UUID" --hash-offset=$((blocks * 4096)) root.img root.img | tee verity.txt
root_hash=$(sed -n 's/^Root hash:[[:space:]]*//p' verity.txt)
printf '{"root_hash":"%s","salt":"%s","data_blocks":%s}\n' "$root_hash" "$SALT" "$blocks" >/out/verity.json
mv root.img /out
