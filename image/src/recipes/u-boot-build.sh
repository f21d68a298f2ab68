# Builds U-Boot from the checked configuration. JOBS is the number of compilers at once; RESULT is what is kept.
cmp u-boot/.config /out/config
# An option that is still open would be asked for, and wait for ever.
make -C /in/source O=/build/u-boot $MAKE_WITH -j"$JOBS" "$TARGET" </dev/null
cd u-boot
cp $RESULT /out
