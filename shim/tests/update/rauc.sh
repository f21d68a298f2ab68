#!/bin/sh
# A stand-in for rauc: it prints what rauc 1.8 prints, and installs nothing. The second line of a bundle says what
# becomes of it.
set -eu
case "$1" in
status)
    if [ -e "$0.installed" ] && ! [ -e "$0.back" ]; then primary=system.1; else primary=system.0; fi
    version='"slot_status":{"bundle":{"compatible":"dpukit-virt","version":"0.2.0"}}'
    echo "{\"compatible\":\"dpukit-virt\",\"boot_primary\":\"$primary\",\"slots\":[" \
        "{\"system.0\":{\"class\":\"system\",\"bootname\":\"A\",\"boot_status\":\"good\"}}," \
        "{\"system.1\":{\"class\":\"system\",\"bootname\":\"B\",\"boot_status\":\"good\",$version}}]}"
    ;;
install)
    echo installing
    echo '  0% Installing'
    echo ' 20% Checking bundle'
    what=$(head -n 2 "$2" | tail -n 1)
    case "$what" in
    foreign)
        echo ' 40% Checking bundle failed.'
        echo '100% Installing failed.'
        echo 'LastError: signature verification failed: Verify error: self-signed certificate'
        echo idle
        echo "Installing \`$2\` failed" >&2
        exit 1
        ;;
    slow)
        touch "$0.waits"
        while [ -e "$0.waits" ]; do sleep 0.05; done
        ;;
    esac
    echo ' 80% Copying image to system.1'
    cp "$2" "$0.installed"
    echo '100% Installing done.'
    echo idle
    echo "Installing \`$2\` succeeded"
    ;;
*)
    echo "the stand-in for rauc knows no '$*'" >&2
    exit 2
    ;;
esac
