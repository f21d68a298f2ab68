# Makes the configuration: the base, the fragment over it, then what Kconfig makes of them.
# BASE is a make target; WANTED names the options that are looked at afterwards.
make="make -C /in/source O=/build/u-boot $MAKE_WITH"
mkdir u-boot
$make "$BASE" </dev/null
# Later lines win, so the fragment can take back what the base sets.
cat /in/fragment.config >>u-boot/.config
$make olddefconfig </dev/null
cp u-boot/.config /out/config
$make -s ubootversion </dev/null | tail -n1 >/out/version

# Why options did not take, in Kconfig's terms.
cd /in/source
export srctree=/in/source CC="${CROSS_COMPILE:-}gcc" LD="${CROSS_COMPILE:-}ld" UBOOTVERSION="$(cat /out/version)"
export KERNELVERSION="$UBOOTVERSION"
python3 /in/explain.py /out/config $WANTED >/out/explained.json
