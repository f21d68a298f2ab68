# The life of the package of the host's drivers in a fresh system with the headers of one kernel, which has neither of
# both. Run inside the system, with the package as /package.deb; there is no network.
set -eu
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
kernel=$(ls /lib/modules)
config=/lib/modules/$kernel/build/.config

has() {
    step=$1
    shift
    echo "- $step"
    found=$(find "/lib/modules/$kernel/updates" -name 'octeon*.ko*' -printf '%f\n' 2>/dev/null | sort | tr '\n' ' ')
    [ "$found" = "$*" ] || {
        echo "FAILED: $step: wanted '$*', found '$found'" >&2
        cat /var/lib/dkms/dpukit-octeon-ep/*/build/make.log >&2 || true
        exit 1
    }
}

install() {
    dpkg --install /package.deb
}

remove() {
    dpkg --purge dpukit-octeon-ep-dkms
    [ ! -e /var/lib/dkms/dpukit-octeon-ep ] && ! ls -d /usr/src/dpukit-octeon-ep-* 2>/dev/null
}

install
has "a kernel that lacks both gets both" "octeon_ep.ko.xz octeon_ep_vf.ko.xz "
install
has "installed again it is the same" "octeon_ep.ko.xz octeon_ep_vf.ko.xz "
remove
has "removed, both are gone"
echo CONFIG_OCTEON_EP=m >>"$config"
install
has "a kernel that has the first gets the second" "octeon_ep_vf.ko.xz "
remove
echo CONFIG_OCTEON_EP_VF=m >>"$config"
install
has "a kernel that has both gets none"
remove
has "removed, nothing is left"
