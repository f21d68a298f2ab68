# The life of the host's package in a fresh system, beside the files of another CNI. Run inside the system,
# with the package as /package.deb; there is no network, and no systemd runs.
set -eu
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

step() {
    step="$*"
    echo "- $step"
}

must() {
    "$@" || {
        echo "FAILED while: $step: $*" >&2
        exit 1
    }
}

is_gone() {
    [ ! -e "$1" ] && [ ! -L "$1" ]
}

ends_with() {
    wanted=$1
    shift
    got=0
    "$@" >/tmp/out 2>&1 || got=$?
    [ "$got" = "$wanted" ] || {
        cat /tmp/out >&2
        return 1
    }
}

# Kind, mode, owner and target of everything, and the contents of what may be configured.
listing() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/lib/dpkg \
        -o -path /var/log -o -path /var/cache -o -path /package.deb \) -prune -o -printf '%M %u:%g %p %l\n' | sort
    find /etc /opt -type f -exec sha256sum {} + | sort -k 2
}

theirs() {
    stat -c '%A %U %Y %n' /etc/cni/net.d/10-theirs.conflist /etc/cni/net.d/90-later.conf /opt/cni/bin/offload-cni
    cat /etc/cni/net.d/10-theirs.conflist /etc/cni/net.d/90-later.conf /opt/cni/bin/offload-cni
}

# The package in another version, whose configuration has another line.
other() {
    rm -rf /tmp/other
    dpkg-deb -R /package.deb /tmp/other
    sed -i "s/^Version: .*/Version: $1/" /tmp/other/DEBIAN/control
    echo "# of version $1" >>/tmp/other/etc/dpukit/host.toml
    dpkg-deb -b /tmp/other "/tmp/$1.deb" >/dev/null
    rm -rf /tmp/other
}

# What the service does once the card is up, by the same program's rules.
put_aside() {
    mv /etc/cni/net.d/10-theirs.conflist /etc/cni/net.d/10-theirs.conflist.dpukit-aside
    mv /opt/cni/bin/offload-cni /opt/cni/bin/offload-cni.dpukit-aside
    ln -s /usr/lib/cni/offload-cni /opt/cni/bin/offload-cni
}

is_aside() {
    [ -e /etc/cni/net.d/10-theirs.conflist.dpukit-aside ] && is_gone /etc/cni/net.d/10-theirs.conflist &&
        [ "$(readlink /opt/cni/bin/offload-cni)" = /usr/lib/cni/offload-cni ]
}

mkdir -p /etc/cni/net.d /opt/cni/bin
echo theirs >/etc/cni/net.d/10-theirs.conflist
chmod 600 /etc/cni/net.d/10-theirs.conflist
echo later >/etc/cni/net.d/90-later.conf
echo 'their plugin' >/opt/cni/bin/offload-cni
chmod 700 /opt/cni/bin/offload-cni
other 0.0.1
other 9.0
listing >/tmp/before
theirs >/tmp/theirs
unit=/etc/systemd/system/multi-user.target.wants/dpu-host.service

step install
must dpkg -i /package.deb >/dev/null
theirs | must cmp - /tmp/theirs
must test -L $unit
must systemd-analyze verify --man=no /usr/lib/systemd/system/dpu-host.service
must ends_with 0 dpu-host --version
must ends_with 1 dpu-host doctor
must grep -q 'this host has no PF with the id `177d:b900`' /tmp/out
must ends_with 1 dpu-host status --json
echo '{"cniVersion":"1.0.0"}' | CNI_COMMAND=VERSION /usr/lib/cni/offload-cni >/tmp/out
must grep -q '"supportedVersions"' /tmp/out

step 'upgrade, with a configuration that the administrator has changed'
put_aside
echo '# mine' >>/etc/dpukit/host.toml
must dpkg -i --force-confdef --force-confold /tmp/9.0.deb >/dev/null 2>&1
must is_aside
must grep -q '^# mine' /etc/dpukit/host.toml
must test -L $unit

step 'downgrade, with the service switched off'
must systemctl disable dpu-host.service 2>/dev/null
must dpkg -i --force-confdef --force-confold /tmp/0.0.1.deb >/dev/null 2>&1
must is_aside
must is_gone $unit
must grep -q '^# mine' /etc/dpukit/host.toml
must systemctl enable dpu-host.service 2>/dev/null

step remove
must dpkg --remove dpukit-host >/dev/null
theirs | must cmp - /tmp/theirs
must grep -q '^# mine' /etc/dpukit/host.toml
must is_gone /usr/lib/cni/offload-cni
must is_gone /usr/sbin/dpu-host

step 'install again'
must dpkg -i --force-confdef --force-confold /package.deb >/dev/null 2>&1
must grep -q '^# mine' /etc/dpukit/host.toml
must test -L $unit
theirs | must cmp - /tmp/theirs

step 'an installation that breaks off is finished'
must dpkg --unpack --force-confold /tmp/9.0.deb >/dev/null 2>&1
must dpkg --configure --force-confdef --force-confold dpukit-host >/dev/null 2>&1

step 'purge, with keys and claims'
put_aside
mkdir -p /etc/dpukit/tls /var/lib/dpukit/claims /var/log/dpukit
echo key >/etc/dpukit/tls/host.key
must dpkg --purge dpukit-host >/dev/null
listing >/tmp/after
must diff /tmp/before /tmp/after
