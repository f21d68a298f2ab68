# Cilium's agent for the card, and the programs that it compiles for the kernel, which have to be of the agent's commit:
# theirs in the image are hidden (image specification, layer.md, "Opaque Whiteout").
cp -r /in/source source
chmod -R u+w source
cd source
for patch in /in/patches/*.patch; do
    echo "patching: ${patch##*/}"
    patch -p1 --no-backup-if-mismatch <"$patch"
done
# What it is built from is all in its tree, under `vendor`.
export GOOS=linux GOARCH=arm64 CGO_ENABLED=0 GOFLAGS=-mod=vendor GOPROXY=off GOTOOLCHAIN=local GOCACHE=/build/cache
# Version, commit and date, as pkg/version takes them apart.
version="$(cat VERSION) $COMMIT 2026-01-01T00:00:00Z"
mkdir -p /out/layer/usr/bin /out/layer/var/lib/cilium
go build -p "$JOBS" -trimpath -buildvcs=false -tags osusergo \
    -ldflags "-s -w -buildid= -X 'github.com/cilium/cilium/pkg/version.ciliumVersion=$version'" \
    -o /out/layer/usr/bin/cilium-agent ./daemon
cp -r bpf /out/layer/var/lib/cilium/bpf
: >/out/layer/var/lib/cilium/bpf/.wh..wh..opq
