#!/bin/sh
# Installs what the guest tests need on Debian 12 and says what it installs, then builds the guest
# image (build.sh). Running it again changes nothing. Needs root, or sudo, only for missing packages.
set -eu
here=$(dirname "$(readlink -f "$0")")

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
say() { echo "guest-deps: $*"; }
# True if the installed package is there, and at least of the given version.
have() {
    found=$(dpkg-query -W -f='${db:Status-Abbrev}${Version}' "$1" 2>/dev/null) || return 1
    case $found in "ii "*) ;; *) return 1 ;; esac
    [ -z "${2:-}" ] || dpkg --compare-versions "${found#ii }" ge "$2"
}

. /etc/os-release
suite=${VERSION_CODENAME:-}

# QEMU 10: the option reconnect-ms and qemu-storage-daemon 10 as a peer. Bookworm itself has 7.2.
qemu=
for package in qemu-system-x86 qemu-utils; do
    have "$package" 1:10 || qemu="$qemu $package"
done
# Image: busybox, cpio, ext4 tools, blkdiscard. Boot disk: syslinux, mtools. Static fio: compiler, libaio, zlib.
tools=
for package in busybox-static cpio e2fsprogs util-linux xz-utils lz4 syslinux mtools build-essential libaio-dev zlib1g-dev; do
    have "$package" || tools="$tools $package"
done

if [ -n "$qemu" ] && [ "$suite" = bookworm ] && ! apt-cache policy | grep -q 'n=bookworm-backports'; then
    say "adding the suite bookworm-backports (/etc/apt/sources.list.d/bookworm-backports.list)"
    root sh -c 'echo "deb http://deb.debian.org/debian bookworm-backports main" >/etc/apt/sources.list.d/bookworm-backports.list'
fi
if [ -n "$qemu$tools" ]; then
    root apt-get update -qq
fi
if [ -n "$qemu" ]; then
    say "installing$qemu"
    if [ "$suite" = bookworm ]; then backports="-t bookworm-backports"; else backports=; fi
    # shellcheck disable=SC2086
    root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $backports $qemu seabios
fi
if [ -n "$tools" ]; then
    say "installing$tools"
    # shellcheck disable=SC2086
    root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $tools
fi
[ -n "$qemu$tools" ] || say "all packages are installed"

exec "$here/build.sh"
