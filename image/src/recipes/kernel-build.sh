# Builds Image and modules from one configuration; a module of another build would not load (BTF).
# JOBS is the number of compilers at once.
export KBUILD_BUILD_TIMESTAMP="@$SOURCE_DATE_EPOCH" KBUILD_BUILD_USER=dpukit KBUILD_BUILD_HOST=dpukit KBUILD_BUILD_VERSION=1
# BTF is all that is kept of the debugging information. To follow variables through optimized code, for a debugger,
# takes GCC a seventh of its time, and makes no other code. Not `-fno-var-tracking`: without a place for its parameters
# pahole leaves a function out.
export KCFLAGS="-fno-var-tracking-assignments -gno-statement-frontiers"
mkdir kernel
cp /in/config kernel/.config
make="make -C /in/source O=/build/kernel ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-"
$make olddefconfig </dev/null
if ! cmp kernel/.config /in/config; then
    echo "the configuration changed between its check and the build"
    exit 1
fi
$make -j"$JOBS" Image modules </dev/null
$make INSTALL_MOD_PATH=/build/modules INSTALL_MOD_STRIP=1 modules_install </dev/null
# Links into the build tree.
rm -f modules/lib/modules/*/build modules/lib/modules/*/source
mkdir /out/modules
cp -r modules/lib/modules/* /out/modules
cp kernel/arch/arm64/boot/Image kernel/.config kernel/System.map /out
mv /out/.config /out/config
cat kernel/include/config/kernel.release >/out/release
