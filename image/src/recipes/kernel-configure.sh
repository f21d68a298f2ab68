# Makes the configuration: the base, the fragments over it, then what Kconfig makes of them.
# BASE is a make target; WANTED names the options that are looked at afterwards.
make="make -C /in/source O=/build/kernel ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-"
mkdir kernel
$make "$BASE" </dev/null
# Later lines win, so the fragments can take back what the base sets.
cat /in/fragment.config >>kernel/.config
$make olddefconfig </dev/null
cp kernel/.config /out/config
$make -s kernelversion </dev/null >/out/version

# Why options did not take, in Kconfig's terms.
cd /in/source
export srctree=/in/source ARCH=arm64 SRCARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-
export CC=aarch64-linux-gnu-gcc LD=aarch64-linux-gnu-ld KERNELVERSION="$(cat /out/version)" RUSTC=rustc BINDGEN=bindgen PAHOLE=pahole
python3 /in/explain.py /out/config $WANTED >/out/explained.json
