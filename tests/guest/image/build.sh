#!/bin/sh
# Builds the guest image without root: a stock Debian cloud kernel (downloaded, not installed), a
# static fio, the initramfs and the boot disk. Everything lands in $TIDEMARK_GUEST_CACHE, by default
# target/guest of this work tree; what is there already is kept.
set -eu
here=$(dirname "$(readlink -f "$0")")
cache=${TIDEMARK_GUEST_CACHE:-$here/../../../target/guest}
mkdir -p "$cache"
cache=$(readlink -f "$cache")
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

say() { echo "guest-deps: $*"; }

# A private package index, with sources, for apt-get and apt-cache in the directory of work: the
# system's own lists are neither needed nor touched, and no root.
private_index() {
    [ ! -e "$work/apt" ] || return 0
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/parts"
    for kind in deb deb-src; do
        echo "$kind http://deb.debian.org/debian bookworm main"
        echo "$kind http://deb.debian.org/debian-security bookworm-security main"
    done >"$work/apt/sources.list"
    cat >"$work/apt/conf" <<CONF
APT::Sandbox::User "$(id -un)";
Dir::Etc::SourceList "$work/apt/sources.list";
Dir::Etc::SourceParts "$work/apt/parts";
Dir::State::Lists "$work/apt/lists";
Dir::Cache "$work/apt/cache";
CONF
    export APT_CONFIG="$work/apt/conf"
    apt-get update -qq
}

# The uncompressed kernel inside a bzImage: booting it (PVH) spares the emulated CPU the decompression.
# Offsets: Documentation/arch/x86/boot.rst, setup_sects, payload_offset, payload_length.
extract_vmlinux() {
    number() { od -An -t "u$2" -j "$3" -N "$2" "$1" | tr -d ' '; }
    sectors=$(number "$1" 1 497)
    start=$(((${sectors:-4} + 1) * 512 + $(number "$1" 4 584)))
    tail -c +$((start + 1)) "$1" | head -c "$(number "$1" 4 588)" >"$work/payload"
    case $(od -An -t x1 -N 4 "$work/payload" | tr -d ' ') in
    02214c18) unpack="lz4 -dc" ;;
    fd377a58) unpack="xz -dc --single-stream" ;;
    1f8b*) unpack="gzip -dc" ;;
    *) say "the kernel is packed in a way this script does not know" >&2; return 1 ;;
    esac
    # Complains about trailing bytes: the kernel's build appends the unpacked size to the payload.
    $unpack <"$work/payload" >"$2" 2>"$work/unpack.log" || true
    [ "$(head -c 4 "$2" | tr -d '\177')" = ELF ] || { cat "$work/unpack.log" >&2; return 1; }
}

build_kernel() {
    say "downloading a stock Debian cloud kernel 6.1"
    private_index
    mkdir "$work/kernel"
    (
        cd "$work/kernel"
        package=$(apt-cache depends linux-image-cloud-amd64 |
            sed -n 's/^ *Depends: \(linux-image-6\.1\.[^ ]*\)$/\1/p' | head -n 1)
        apt-get download -qq "$package"
        dpkg -x ./*.deb .
    )
    cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
    extract_vmlinux "$work/vmlinuz" "$work/vmlinux"
    mkdir "$work/modules"
    order=0 # init loads them by number: each needs the ones before it
    for module in drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev \
        drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk; do
        cp "$work"/kernel/lib/modules/*/kernel/$module.ko "$work/modules/$order-${module##*/}.ko"
        order=$((order + 1))
    done
    rm -rf "$cache/modules"
    mv "$work/modules" "$cache/modules"
    mv "$work/vmlinuz" "$cache/vmlinuz"
    mv "$work/vmlinux" "$cache/vmlinux" # last: its presence says that the kernel is complete
}

# Debian's fio pulls in 80 MB of storage client libraries; the same source, static, is 3 MB.
build_fio() {
    say "building a static fio from Debian's source (about a minute)"
    private_index
    mkdir "$work/fio"
    (
        cd "$work/fio"
        apt-get source -qq --download-only fio
        tar -xf fio_*.orig.tar.?z
        cd fio-*/
        ./configure --build-static --disable-native --disable-http --disable-rdma --disable-rados --disable-rbd \
            --disable-gfapi --disable-pmem --disable-numa --disable-xnvme --disable-libzbc --disable-libnfs \
            --disable-tcmalloc >configure.out 2>&1 || { tail -n 20 configure.out >&2; exit 1; }
        make -j"$(nproc)" fio >make.out 2>&1 || { tail -n 20 make.out >&2; exit 1; }
        strip fio
    )
    mv "$work"/fio/fio-*/fio "$cache/fio"
}

# Copies a program and the libraries it loads into the tree.
add_program() {
    path=$(readlink -f "$(command -v "$1")")
    rm -f "$work/tree/bin/$1"
    cp "$path" "$work/tree/bin/$1"
    ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$work/tree${library%/*}"
        [ -e "$work/tree$library" ] || cp -L "$library" "$work/tree$library"
    done
}

# Not compressed: the emulated CPU reads bytes faster than it unpacks them.
build_initramfs() {
    mkdir "$work/tree"
    (cd "$work/tree" && mkdir -p bin dev proc sys tmp mnt etc)
    ln -s bin "$work/tree/sbin"
    cp "$(command -v busybox)" "$work/tree/bin/busybox"
    for applet in $(busybox --list | grep -vx busybox); do
        ln -sf busybox "$work/tree/bin/$applet" # here rather than 270 times in the guest
    done
    for program in mkfs.ext4 e2fsck resize2fs blkdiscard; do add_program $program; done
    cp "$cache/fio" "$work/tree/bin/fio"
    cp -r "$cache/modules" "$work/tree/modules"
    cp "$here/init" "$work/tree/init"
    chmod 755 "$work/tree/init"
    (cd "$work/tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$work/initramfs"
    mv "$work/initramfs" "$cache/initramfs"
}

# A FAT disk that SeaBIOS boots by itself: syslinux, kernel and initramfs are all read from the disk.
build_boot_disk() {
    PATH=$PATH:/usr/sbin:/sbin
    truncate -s 48M "$work/boot.img"
    mformat -i "$work/boot.img" -F -v TIDEMARK ::
    mcopy -i "$work/boot.img" "$cache/vmlinuz" ::vmlinuz
    mcopy -i "$work/boot.img" "$cache/initramfs" ::initrd
    mcopy -i "$work/boot.img" "$here/syslinux.cfg" ::syslinux.cfg
    syslinux --install "$work/boot.img"
    mv "$work/boot.img" "$cache/boot.img"
}

export PATH="$PATH:/usr/sbin:/sbin"
[ -e "$cache/vmlinux" ] || build_kernel
[ -e "$cache/fio" ] || build_fio
# The tests compare these copies with the sources and ask for a rebuild when they differ.
if ! cmp -s "$here/init" "$cache/init" || ! cmp -s "$here/build.sh" "$cache/build.sh" || ! cmp -s "$here/syslinux.cfg" "$cache/syslinux.cfg"; then
    say "building the initramfs and the boot disk"
    build_initramfs
    build_boot_disk
    cp "$here/init" "$here/build.sh" "$here/syslinux.cfg" "$cache/"
fi
say "the guest image is in $cache"
