# Builds octep_cp_lib and octep_cp_agent with the variables that their makers document. Debian's libconfig is
# linked in: the card needs no library for this one program.
cp -r /in/source source
chmod -R u+w source
mkdir libconfig
cp /usr/lib/aarch64-linux-gnu/libconfig.a libconfig
tools="CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar LD=aarch64-linux-gnu-ld"
lib=/build/source/target/libs/octep_cp_lib
agent=/build/source/target/apps/octep_cp_agent
# Paths of this machine in the programs would be harmless, and differ from nobody's: the sandbox has the same.
make -C "$lib" $tools CFLAGS="-Wno-error=unused-result -DUSE_PEM_AND_DPI_PF=1"
make -C "$agent" $tools CFLAGS="-I$lib/bin/include -I/usr/include" LDFLAGS="-L$lib/bin/lib -L/build/libconfig"
mkdir -p /out/root/usr/bin /out/root/usr/lib/dpukit/octep
cp "$agent/bin/bin/octep_cp_agent" /out/root/usr/bin
# MAC, VFS and SPEED are the board's; the editor runs here, so it is not cross-built.
gcc -o octep-config /in/octep-config.c -lconfig
./octep-config "$agent/cn106xx.cfg" /out/root/usr/lib/dpukit/octep/cn106xx.cfg "$MAC" "$VFS" "$SPEED"
aarch64-linux-gnu-strip /out/root/usr/bin/octep_cp_agent
# A library of the makers that the program was linked with goes with it.
for name in $(aarch64-linux-gnu-readelf -d /out/root/usr/bin/octep_cp_agent | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
    if [ -e "$lib/bin/lib/$name" ]; then
        mkdir -p /out/root/usr/lib/aarch64-linux-gnu
        cp -L "$lib/bin/lib/$name" /out/root/usr/lib/aarch64-linux-gnu
    fi
done
